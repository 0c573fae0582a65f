"""The quadrants of size and similarity, and that the advice itself says how to leave each of them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.records import Block
from headstart.settings import Settings
from headstart.transfer.advice import BORDER, advice
from headstart.transfer.strategy import SMALL_PER_CLASS, Situation, plan

BLOCKS = (Block("pool", (), ("pool",)), *(Block(f"block{n}", (f"w{n}",), (), 10) for n in range(6)))
FEW, MANY = 5 * SMALL_PER_CLASS - 1, 5 * SMALL_PER_CLASS


def alike(value: float, threshold: float = 0.6) -> dict[str, object]:
    level = "similar" if value >= threshold else "different"
    return {"value": value, "threshold": threshold, "level": level, "measure": "the measure"}


@pytest.mark.parametrize(
    ("n", "value", "quadrant", "options"),
    [
        (FEW, 0.9, "small and similar", {"strategy": "frozen"}),
        (FEW, 0.2, "small and different", {"strategy": "partial", "train_last": 4}),
        (MANY, 0.9, "large and similar", {"strategy": "partial"}),
        (MANY, 0.2, "large and different", {"strategy": "full"}),
    ],
)
def test_each_quadrant_has_its_strategy(n: int, value: float, quadrant: str, options: dict[str, object]) -> None:
    found = advice(n, 5, similarity=alike(value), blocks=BLOCKS)
    assert (found["quadrant"], found["options"]) == (quadrant, options)
    assert found["strategy"] == options["strategy"]
    assert found["size"] == quadrant.split()[0]
    assert found["similarity"]["level"] == quadrant.split()[-1]


def test_few_and_different_images_train_more_blocks_than_partial_does_by_itself() -> None:
    found = advice(FEW, 5, similarity=alike(0.2), blocks=BLOCKS)
    situation = Situation(n_train=FEW, n_classes=5, blocks=BLOCKS)
    deeper = plan(Settings.of(**found["options"]), situation)
    usual = plan(Settings.of(strategy="partial"), situation)
    assert len(deeper.rates) > len(usual.rates)
    assert advice(FEW, 5, similarity=alike(0.2))["options"] == {"strategy": "partial"}


@given(n=st.integers(0, 5_000), classes=st.integers(1, 9), value=st.floats(0, 1))
def test_what_would_change_the_advice_does(n: int, classes: int, value: float) -> None:
    found = advice(n, classes, similarity=alike(value))
    size, likeness, race = found["would_change"]
    assert "race" in race
    moved = 0 if found["size"] == "large" else n + int(re.findall(r"[\d,]+", size)[1].replace(",", ""))
    other = advice(moved, classes, similarity=alike(value))
    assert other["size"] != found["size"]
    assert f"then {other['strategy']} (" in size
    turned = advice(n, classes, similarity=alike(0.0 if value >= 0.6 else 1.0))
    assert turned["similarity"]["level"] != found["similarity"]["level"]
    assert f"then {turned['strategy']} (" in likeness


def test_so_many_more_images_and_not_one_fewer_make_the_set_large() -> None:
    found = advice(1_234, 10, similarity=alike(0.9))
    assert found["images_per_class"] == 123.4
    assert found["would_change"][0].startswith("with 877 more images a class (8,770 in all)")
    assert advice(1_234 + 8_770, 10, similarity=alike(0.9))["size"] == "large"
    assert advice(1_234 + 8_760, 10, similarity=alike(0.9))["size"] == "small"


def test_the_reasons_name_the_numbers_and_a_near_border() -> None:
    told = " / ".join(advice(1_220, 10, similarity=alike(0.61))["reasons"])
    assert "122 training images a class are few" in told
    assert "the measure is 0.61, at least 0.60" in told
    assert "near its threshold" in told
    assert "near" not in " / ".join(advice(1_220, 10, similarity=alike(0.6 + 2 * BORDER))["reasons"])
