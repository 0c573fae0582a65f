"""Weights between start and end: the least loss on validation wins, and what is frozen stays out of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rigs import Rig, coloured

from headstart.transfer.interpolation import SHARES, interpolate, mixed_state
from headstart.transfer.steps import judged

Make = Callable[..., Rig]


@given(st.floats(0, 1))
def test_a_mixed_entry_lies_on_the_line_between_both_and_counters_are_the_ends(alpha: float) -> None:
    start = {"w": torch.tensor([0.0, 2.0]), "n": torch.tensor(3)}
    end = {"w": torch.tensor([1.0, -2.0]), "n": torch.tensor(7)}
    found = mixed_state(start, end, alpha)
    assert torch.allclose(found["w"], torch.tensor([alpha, 2.0 - 4.0 * alpha]), atol=1e-6)
    assert int(found["n"]) == 7


def test_at_its_end_the_mix_is_the_fine_tuned_state_bit_for_bit() -> None:
    end = {"w": torch.tensor([0.1, 0.7])}
    assert mixed_state({"w": torch.tensor([3.0, 4.0])}, end, 1.0)["w"] is end["w"]


def test_the_weights_of_the_least_loss_are_left_in_the_network(rig: Make) -> None:
    made = rig(epochs=3)
    start = made.trainer.trained_state()
    made.fit()
    found = interpolate(made.trainer, start, made.val)
    assert found is not None
    assert [row["alpha"] for row in found["tried"]] == list(SHARES)
    logits, there = made.trainer.predict(made.val.items)
    loss, _, choice = judged(logits[there], made.val.labels[there])
    mine = next(row for row in found["tried"] if row["alpha"] == found["alpha"])
    assert loss == pytest.approx(mine["log_loss"], rel=1e-5)
    made.trainer.frozen.check()
    for alpha in SHARES:
        assert found["alpha"] == alpha or choice <= _choice_at(made, start, alpha) + 1e-6


def _choice_at(made: Rig, start: dict[str, torch.Tensor], alpha: float) -> float:
    end = made.trainer.best
    made.trainer.take_state(mixed_state(start, {name: end[name] for name in start}, alpha))
    logits, there = made.trainer.predict(made.val.items)
    return judged(logits[there], made.val.labels[there])[2]


def test_nothing_is_mixed_where_no_epoch_was_better_than_the_start(rig: Make) -> None:
    made = rig(epochs=2)
    start = made.trainer.trained_state()
    made.judge_as([1.0, 2.0, 3.0])
    made.fit()
    assert interpolate(made.trainer, start, made.val) is None


def test_nothing_is_mixed_without_items_to_choose_by(rig: Make) -> None:
    made = rig(epochs=1)
    start = made.trainer.trained_state()
    made.fit()
    assert interpolate(made.trainer, start, coloured(0)) is None
