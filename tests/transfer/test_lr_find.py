"""The range test gives a usable rate, changes nothing, and says the same twice."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rigs import Rig

from headstart.errors import DataError
from headstart.progress import Silent
from headstart.records import Item, MemoryOrigin
from headstart.settings import Settings
from headstart.sources import open_source
from headstart.sources.base import Source
from headstart.transfer import strategy
from headstart.transfer.lr_find import _pick, find_rate
from headstart.transfer.steps import Samples

Make = Callable[..., Rig]


def find(made: Rig, **options: Any) -> tuple[float, list[dict[str, float]]]:
    settings = made.trainer.settings.changed(**options)
    return find_rate(
        made.trainer.feed, made.train, task=made.task, plan=made.plan, settings=settings, device="cpu",
        reporter=Silent(), index=strategy.frozen_blocks(made.plan, made.net.source.blocks),
    )  # fmt: skip


def test_the_rate_is_in_range_the_network_unchanged_and_the_answer_the_same_twice(rig: Make) -> None:
    made = rig(strategy="partial", train_last=2, norm_stats="updated")
    before, modes = made.state(), [m.training for m in made.net.modules()]
    torch.manual_seed(4)
    rate, curve = find(made)
    drawn = torch.rand(2)
    assert 1e-7 <= rate <= 0.1
    assert [point["rate"] for point in curve] == sorted(point["rate"] for point in curve)
    assert all(torch.equal(before[name], value) for name, value in made.state().items())
    assert [m.training for m in made.net.modules()] == modes
    assert find(made, workers=2) == (rate, curve)
    torch.manual_seed(4)
    assert torch.equal(drawn, torch.rand(2))


def test_training_with_the_found_rate_works(rig: Make) -> None:
    found, _ = find(rig())
    tuned = rig(lr=f"{found:g}", epochs=6).fit()
    assert min(row["val_loss"] for row in tuned.history) < tuned.history[0]["val_loss"]


def test_one_picture_is_enough_and_none_is_said(rig: Make) -> None:
    flat = open_source("random:resnet10t", image_size=32)
    rate, _ = find(rig(source=flat, n=1, norm_stats="updated"))
    assert rate > 0
    gone = Samples((Item("gone", MemoryOrigin(b""), 0),), rig().train.labels[:1])
    with pytest.raises(DataError, match="no training picture"):
        find(rig(train=gone))


def test_where_memory_runs_out_the_curve_is_that_of_micro_batches(rig: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"strategy": "partial", "train_last": 1, "norm_stats": "frozen", "batch_size": 6}
    _, wanted = find(rig(**options))
    usual, seen = Source.feature_map, []

    def narrow(self: Source, images: torch.Tensor) -> torch.Tensor:
        if len(images) > 3:
            seen.append(len(images))
            raise torch.OutOfMemoryError
        return usual(self, images)

    monkeypatch.setattr(Source, "feature_map", narrow)
    _, found = find(rig(**options))
    assert seen == [6]
    assert [row["loss"] for row in found[:20]] == pytest.approx([row["loss"] for row in wanted[:20]], rel=1e-3)


def test_the_rate_is_a_tenth_of_the_one_with_the_lowest_settled_loss() -> None:
    curve = [{"rate": 10.0**n, "loss": loss} for n, loss in enumerate([0.0, 5, 5, 5, 5, 4, 1, 2, math.inf])]
    assert _pick(curve) == pytest.approx(1e5)
    assert _pick(curve[:3]) == pytest.approx(0.1)


def test_the_found_rate_scales_the_plan() -> None:
    blocks = open_source("toy").blocks
    plan = strategy.plan(Settings.of(strategy="discriminative", lr="find"), strategy.Situation(100, 3, blocks))
    scaled = strategy.with_rate(plan, 0.5)
    assert scaled.rates["head"] == pytest.approx(0.5)
    for name in plan.rates:
        assert scaled.rates[name] / 0.5 == pytest.approx(plan.rates[name] / plan.rates["head"])
    assert "range test" in scaled.reasons[-1]
