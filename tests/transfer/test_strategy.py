"""The rule, the cut and the rates: pure functions of counts, blocks and settings."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.errors import SettingsError
from headstart.records import Block
from headstart.settings import Settings
from headstart.transfer.strategy import (
    MOST_VIEWS,
    Situation,
    choose,
    cut_index,
    frozen_blocks,
    plan,
    rates,
    with_rate,
    with_views,
)


def block(name: str, parameters: int = 10) -> Block:
    entries = (f"{name}.0.weight",) if parameters else ()
    return Block(name, entries, (f"{name}.0", f"{name}.1"), parameters)


BLOCKS = tuple(map(block, ("stem", "layer1", "layer2")))
GAPPED = (block("stem"), block("pool", 0), block("layer1"), block("layer2"), block("norm", 0))


def made(n: int = 100, blocks: tuple[Block, ...] = BLOCKS, gpu: bool = False, **options: Any) -> Any:
    return plan(Settings.of(**options), Situation(n, 2, blocks, gpu))


# --- the rule ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "classes", "gpu", "wanted"),
    [
        (100, 2, False, "frozen"),
        (100, 2, True, "frozen"),
        (1999, 2, True, "frozen"),
        (2000, 2, False, "frozen"),
        (2000, 2, True, "discriminative"),
        (0, 0, True, "frozen"),
    ],
)
def test_auto_follows_the_table_and_gives_its_reason(n: int, classes: int, gpu: bool, wanted: str) -> None:
    name, why = choose(Situation(n, classes, BLOCKS, gpu))
    assert name == wanted
    assert "training images a class" in why
    found = plan(Settings(), Situation(n, classes, BLOCKS, gpu))
    assert found.strategy == wanted
    assert any(why in reason for reason in found.reasons)


@pytest.mark.parametrize(
    ("options", "strategy", "start", "cut", "trained"),
    [
        ({"strategy": "scratch"}, "scratch", "random", "input", 3),
        ({"strategy": "full"}, "full", "pretrained", "input", 3),
        ({"strategy": "discriminative"}, "discriminative", "pretrained", "input", 3),
        ({"strategy": "partial"}, "partial", "pretrained", "layer2", 1),
        ({"strategy": "partial", "cut": "layer1"}, "partial", "pretrained", "layer1", 2),
        ({"strategy": "partial", "cut": "input"}, "partial", "pretrained", "input", 3),
        ({"strategy": "partial", "cut": "head"}, "partial", "pretrained", "head", 0),
        ({"strategy": "frozen"}, "frozen", "pretrained", "head", 0),
        ({"cut": "layer2"}, "partial", "pretrained", "layer2", 1),
        ({"train_last": 2}, "partial", "pretrained", "layer1", 2),
        ({"head": "knn"}, "frozen", "pretrained", "head", 0),
    ],
    ids=str,
)
def test_a_strategy_is_a_start_a_cut_and_rates(
    options: dict[str, Any], strategy: str, start: str, cut: str, trained: int
) -> None:
    found = made(**options)
    assert (found.strategy, found.start, found.cut) == (strategy, start, cut)
    assert frozen_blocks(found, BLOCKS) == 3 - trained
    wanted = [b.name for b in BLOCKS[3 - trained :]]
    assert list(found.rates) == ([] if strategy == "frozen" else [*wanted, "head"])
    assert (found.epochs > 0) is (strategy != "frozen")
    assert found.probe_first is (strategy not in ("frozen", "scratch"))
    assert found.reasons


@pytest.mark.parametrize(("n", "epochs"), [(10, 40), (320, 15), (999, 15), (1000, 10), (9_999, 10), (10_000, 5)])
def test_fewer_pictures_get_more_epochs(n: int, epochs: int) -> None:
    found = made(n, strategy="full")
    assert found.epochs == epochs
    assert f"{epochs} epochs" in " ".join(found.reasons)
    assert made(n, strategy="scratch").epochs >= 2 * epochs
    assert made(n, strategy="full", epochs=3).epochs == 3


def test_patience_and_decay_have_defaults_by_epochs_and_optimiser() -> None:
    assert made(strategy="full", epochs=3).schedule["patience"] == 3
    assert made(strategy="full", epochs=30).schedule["patience"] == 15
    assert made(strategy="full", epochs=30, patience=1).schedule["patience"] == 1
    assert made(strategy="full").schedule["weight_decay"] == 0.05
    assert made(strategy="full", optimizer="sgd").schedule["weight_decay"] == 5e-4
    assert made(strategy="full", weight_decay=0.0).schedule["weight_decay"] == 0.0


# --- the cut ----------------------------------------------------------------------------------------------------


def test_a_cut_is_named_counted_or_a_module_inside_a_block() -> None:
    assert cut_index(BLOCKS, cut="input") == 0
    assert cut_index(BLOCKS, cut="stem") == 0
    assert cut_index(BLOCKS, cut="layer2") == 2
    assert cut_index(BLOCKS, cut="layer1.1") == 1
    assert cut_index(BLOCKS, cut="layer1.0.weight") == 1
    assert cut_index(BLOCKS, cut="head") == 3
    assert [cut_index(BLOCKS, train_last=n) for n in range(4)] == [3, 2, 1, 0]


def test_blocks_without_weights_are_not_counted() -> None:
    assert [cut_index(GAPPED, train_last=n) for n in range(4)] == [5, 3, 2, 0]


@given(st.lists(st.booleans(), min_size=1, max_size=8))
@settings(deadline=None, max_examples=30)
def test_the_last_n_blocks_are_n_blocks_with_weights_from_their_first_name_on(weights: list[bool]) -> None:
    blocks = tuple(block(f"b{i}", int(has)) for i, has in enumerate(weights))
    for n in range(sum(weights) + 1):
        index = cut_index(blocks, train_last=n)
        assert sum(b.parameters for b in blocks[index:]) == n
        if n:
            assert blocks[index].parameters
            assert index == cut_index(blocks, cut=blocks[index].name)
    with pytest.raises(SettingsError, match="train_last"):
        cut_index(blocks, train_last=sum(weights) + 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cut": "layer3"}, "Did you mean layer"),
        ({"cut": "nothing like it"}, "stem, layer1, layer2"),
        ({"cut": "layer"}, "no block or module 'layer'"),
        ({"cut": ""}, "no block or module"),
        ({"train_last": 4}, "between 0 and 3"),
        ({"train_last": -1}, "between 0 and 3"),
        ({}, "one of the two"),
        ({"cut": "stem", "train_last": 1}, "one of the two"),
    ],
)
def test_a_cut_that_is_not_there_is_refused_with_what_is(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        cut_index(BLOCKS, **arguments)  # type: ignore[arg-type]


# --- rates ------------------------------------------------------------------------------------------------------


def test_two_groups_or_a_rate_that_decays_towards_the_input() -> None:
    assert rates(BLOCKS, 1, backbone_lr=0.1, head_lr=1.0) == {"layer1": 0.1, "layer2": 0.1, "head": 1.0}
    decayed = rates(BLOCKS, 0, backbone_lr=0.1, head_lr=1.0, layer_decay=0.5)
    assert decayed == {"stem": 0.025, "layer1": 0.05, "layer2": 0.1, "head": 1.0}
    assert rates(BLOCKS, 3, backbone_lr=0.1, head_lr=1.0) == {"head": 1.0}
    gapped = rates(GAPPED, 0, backbone_lr=0.1, head_lr=1.0, layer_decay=0.5)
    assert (gapped["stem"], gapped["layer1"], gapped["layer2"]) == (0.025, 0.05, 0.1)
    with pytest.raises(SettingsError, match="layer_decay"):
        rates(BLOCKS, 0, backbone_lr=0.1, head_lr=1.0, layer_decay=0.0)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"strategy": "full"}, [3e-4, 3e-4, 3e-4, 3e-4]),
        ({"strategy": "full", "optimizer": "sgd"}, [2e-3, 2e-3, 2e-3, 2e-3]),
        ({"strategy": "scratch"}, [1e-3, 1e-3, 1e-3, 1e-3]),
        ({"strategy": "full", "lr": "0.01"}, [0.01, 0.01, 0.01, 0.01]),
        ({"strategy": "full", "lr": "0.01", "head_lr": 0.5}, [0.01, 0.01, 0.01, 0.5]),
        ({"strategy": "discriminative"}, [1e-4, 1e-4, 1e-4, 1e-3]),
        ({"strategy": "discriminative", "backbone_lr": 0.01}, [0.01, 0.01, 0.01, 0.1]),
        ({"strategy": "discriminative", "backbone_lr": 0.01, "head_lr": 1.0}, [0.01, 0.01, 0.01, 1.0]),
        ({"strategy": "discriminative", "lr": "0.8", "layer_decay": 0.5}, [0.1, 0.2, 0.4, 0.8]),
        ({"strategy": "full", "backbone_lr": 0.4, "layer_decay": 0.5, "head_lr": 2.0}, [0.1, 0.2, 0.4, 2.0]),
    ],
    ids=str,
)
def test_every_way_of_giving_rates(options: dict[str, Any], wanted: list[float]) -> None:
    assert list(made(**options).rates.values()) == pytest.approx(wanted)


def test_a_found_rate_scales_all_in_proportion_and_says_so() -> None:
    before = made(strategy="discriminative", lr="find")
    after = with_rate(before, 0.5)
    assert after.rates["head"] == pytest.approx(0.5)
    assert after.rates["stem"] == pytest.approx(0.05)
    assert "found by a range test" in after.reasons[-1]


# --- views at the cut --------------------------------------------------------------------------------------------


def viewed(width: int, n: int = 100, **options: Any) -> Any:
    wanted = Settings.of(**{"strategy": "partial", **options})
    whole = plan(wanted, Situation(n, 2, BLOCKS))
    return with_views(whole, wanted, n_train=n, n_items=2 * n, width=width, why_not="it loops")


@pytest.mark.parametrize(
    ("width", "options", "views", "reason"),
    [
        (1_000, {"epochs": 3}, 3, "computed once up to the cut: 3"),
        (1_000, {"epochs": 30}, MOST_VIEWS, "cut: 8 (2 MB"),
        (1_000, {"epochs": 30, "views": 20}, 20, "as asked"),
        (1_000, {"epochs": 30, "views": 0}, 0, "as asked"),
        (0, {"epochs": 30, "views": 4}, 4, "as asked"),
        (0, {"epochs": 30}, 0, "it loops"),
        (1_000, {"augment": False}, 1, "every image is computed once"),
        (1_000, {"augment": False, "views": 5}, 1, "as asked"),
        (1_000, {"epochs": 30, "cache_size": "3MB"}, 3, "the cut: 3"),
        (1_000, {"epochs": 30, "cache_size": "2MB"}, 0, "would take 1 MB"),
        (10_000_000, {"epochs": 30}, 0, "would take 12.0 GB"),
        (1_000, {"epochs": 1}, 1, "the cut: 1"),
    ],
)
def test_as_many_views_are_kept_as_there_are_epochs_within_bounds(
    width: int, options: dict[str, Any], views: int, reason: str
) -> None:
    found = viewed(width, **options)
    assert found.schedule["views"] == views
    assert reason in found.reasons[-1]


@settings(max_examples=50, deadline=None)
@given(width=st.integers(0, 10**8), n=st.integers(1, 10**6), epochs=st.integers(1, 50), augment=st.booleans())
def test_what_is_kept_by_the_rule_fits_into_half_of_the_bound(width: int, n: int, epochs: int, augment: bool) -> None:
    views = viewed(width, n, epochs=epochs, augment=augment, cache_size="1GB").schedule["views"]
    assert 0 <= views <= min(epochs, MOST_VIEWS)
    assert views == 0 or 8 * n * width + 2 * n * width * views * augment <= 500_000_000
