"""Training above a cut, whole: what is kept there is computed once, and what cannot be kept changes no result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart
from headstart import finetune
from headstart.errors import Interrupted, OutputError
from headstart.records import Plan
from headstart.settings import Settings
from headstart.stages import Bench, Candidate, make_plan, prepare, train_candidate
from headstart.transfer import _shelf, strategy
from headstart.transfer.engine import Engine
from headstart.transfer.feeds import ImageFeed, StoredFeed, predict_logits
from headstart.transfer.interrupt import Stop
from headstart.transfer.tuning import Trainer
from noting import Noting
from toydata import write_shapes

PARTIAL: dict[str, Any] = {
    "source": "toy", "strategy": "partial", "train_last": 1, "epochs": 3, "views": 2, "lr": "2e-3", "engine": "torch",
    "precision": "fp32", "batch_size": 10, "patience": 9,
}  # fmt: skip


def benched(data: Any, **options: Any) -> Bench:
    settings = Settings.of(**{**PARTIAL, **options})
    return prepare(data, settings=settings, reporter=Noting(), stop=Stop())


def trained(bench: Bench) -> Candidate:
    return train_candidate(bench, make_plan(bench, bench.settings), settings=bench.settings, folder=None)


def notes(bench: Bench) -> list[str]:
    assert isinstance(bench.reporter, Noting)
    return [note for note in bench.reporter.notes if "frozen" in note]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_HOME", str(tmp_path / "home"))


def rows_of(candidate: Candidate) -> np.ndarray:
    return np.array([[point["val_loss"], point["lr"] or 0.0] for point in candidate.curves["points"]])


def test_the_answers_are_those_of_the_whole_network_and_no_frozen_layer_computed_them(split_shapes: Path) -> None:
    bench = benched(split_shapes)
    found = trained(bench)
    assert found.plan.schedule["views"] == 2
    assert notes(bench) == []
    engine = Engine(bench.settings)
    found.net.to(device=engine.device)
    for split in ("train", "val", "test"):
        feed = ImageFeed(found.net, bench.settings)
        with engine.at_work():
            whole, there = predict_logits(feed, bench.samples(split).items, engine=engine)
        assert there.all()
        assert np.allclose(found.logits[split], whole, atol=1e-4 * max(1.0, float(np.abs(whole).max())))


def test_a_second_fit_makes_no_pass_below_the_cut(split_shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = benched(split_shapes)
    before = trained(first)
    n, train = len(first.dataset.items), len(first.samples("train").items)
    assert first.work["features_computed"] == 2 * n + 2 * train  # head and cut, and two views of the training images

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("an engine was opened")

    for name in ("pick_runner", "reopen_runner"):
        monkeypatch.setattr(_shelf, name, never)
    second = benched(split_shapes, lr="1e-3", head="mlp", batch_size=8)
    runs: list[str] = []
    copy = second.source.copy

    def watched() -> Any:
        source = copy()
        frozen = {
            leaf for block in source.blocks[: strategy.frozen_blocks(plan, source.blocks)] for leaf in block.modules
        }
        for name, module in source.network.named_modules():
            if name in frozen:
                module.register_forward_pre_hook(lambda *_, name=name: runs.append(name))  # type: ignore[misc]
        return source

    plan = make_plan(second, second.settings)
    monkeypatch.setattr(second.source, "copy", watched)
    train_candidate(second, plan, settings=second.settings, folder=None)
    assert second.work["features_computed"] == 0
    assert runs == []
    monkeypatch.undo()
    again = benched(split_shapes)
    assert np.array_equal(rows_of(trained(again)), rows_of(before))


@pytest.mark.parametrize("why", ["cut", "disk"])
def test_what_cannot_be_kept_is_computed_in_every_epoch_with_the_same_result(
    split_shapes: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    kept = trained(benched(split_shapes))

    def full(*_: Any, **more: Any) -> Any:
        if more["how"].cut != "head":
            raise OutputError("the disk is full")
        return embed(*_, **more)

    embed = finetune.embed
    if why == "cut":
        monkeypatch.setattr(finetune, "cut_source", lambda *_, told, **__: told.append("it loops"))
    else:
        monkeypatch.setattr(finetune, "embed", full)
    bench = benched(split_shapes)
    found = trained(bench)
    assert len(notes(bench)) == 1
    assert ("it loops" if why == "cut" else "the disk is full") in notes(bench)[0]
    assert found.plan.schedule == kept.plan.schedule
    assert np.allclose(rows_of(found), rows_of(kept), atol=2e-3)


def test_without_a_cut_and_without_a_wish_every_epoch_draws_its_views_anew(
    split_shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "cut_source", lambda *_, told, **__: told.append("it loops"))
    bench = benched(split_shapes, views=None)
    plan = make_plan(bench, bench.settings)
    assert plan.schedule["views"] == 0
    assert "computed in every epoch: it loops" in plan.reasons[-1]


@pytest.mark.parametrize("cache", [True, False])
def test_a_picture_that_vanishes_is_left_out_of_every_view(tmp_path: Path, cache: bool) -> None:
    data = write_shapes(tmp_path / "data", per_class=8)
    bench = benched(data, cache=cache)
    plan = make_plan(bench, bench.settings)
    gone = bench.samples("train").items[0]
    Path(gone.origin.path).unlink()  # type: ignore[union-attr]
    found = train_candidate(bench, plan, settings=bench.settings, folder=None)
    assert gone.name not in {item.name for item in bench.dataset.items}
    assert len(found.logits["train"]) == len(bench.samples("train").items)
    assert any(gone.name in note for note in bench.notes)


def test_strategies_with_nothing_below_the_cut_keep_nothing(split_shapes: Path) -> None:
    bench = benched(split_shapes, strategy="full", train_last=None)
    plan = make_plan(bench, bench.settings)
    assert "views" not in plan.schedule
    assert isinstance(finetune._feed(bench, trained(bench).net, plan, bench.settings), ImageFeed)


def test_a_cut_at_the_head_trains_on_features(split_shapes: Path) -> None:
    bench = benched(split_shapes, cut="head", train_last=None)
    plan: Plan = make_plan(bench, bench.settings)
    found = trained(bench)
    feed = finetune._feed(bench, found.net, plan, bench.settings)
    assert isinstance(feed, StoredFeed)
    assert feed.cutting is None
    assert found.trained_parameters == 64 * 3 + 3


def test_an_interrupted_run_reads_its_rows_again_and_ends_the_same(
    split_shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = headstart.fit(split_shapes, tmp_path / "whole", **PARTIAL).run
    step, count = Trainer._step, [0]

    def stopped(self: Trainer, *args: Any, **more: Any) -> None:
        count[0] += 1
        if count[0] == 5:
            self.stop.code = 130
        step(self, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", stopped)
        with pytest.raises(Interrupted):
            headstart.fit(split_shapes, tmp_path / "run", **PARTIAL)
    resumed = headstart.resume(tmp_path / "run").run
    assert resumed["work"]["features_computed"] == 0
    for name in ("plan", "scores", "curves", "frozen"):
        assert resumed[name] == whole[name]
