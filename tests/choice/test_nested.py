"""Cross-validation where no test set is held back: every answer comes from heads that did not see the item."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_entrants import bench_of

import headstart
from headstart.choice import nested
from headstart.choice.nested import cross_validate
from headstart.records import Plan
from headstart.stages import Bench, make_plan
from headstart.transfer.budget import Clock
from headstart.transfer.heads import FittedHead


def _plan(bench: Bench, **options: Any) -> Plan:
    return make_plan(bench, bench.settings.changed(strategy="frozen", **options))


def test_every_item_is_answered_once_a_repeat_and_the_score_is_theirs(shapes: Path) -> None:
    bench = bench_of(shapes, cache=False, test_fraction=0.0)
    found = cross_validate(bench, _plan(bench), bench.settings, heads=["linear", "ridge"], clock=Clock(None))
    labels = bench.samples("train", "val").labels
    assert len(labels) == 60
    assert found.told["accuracy"] == pytest.approx(np.mean(found.logits.argmax(1) == labels))
    assert (found.told["n"], found.told["folds"], found.told["repeats"]) == (60, 3, 3)
    low, high = found.told["accuracy_interval"]
    assert low < found.told["accuracy"] < high


def test_no_head_has_seen_the_items_that_it_answers(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = bench_of(shapes, cache=False, test_fraction=0.0)
    learned: list[np.ndarray] = []
    fit, answer = nested.fit_head, FittedHead.logits

    def fitting(kind: str, X: np.ndarray, y: np.ndarray, **more: Any) -> FittedHead:
        learned.append(X)
        return fit(kind, X, y, **more)

    def answering(self: FittedHead, X: np.ndarray) -> np.ndarray:
        seen = {row.tobytes() for row in learned[-1]}
        assert not any(row.tobytes() in seen for row in np.asarray(X))
        return answer(self, X)

    monkeypatch.setattr(nested, "fit_head", fitting)
    monkeypatch.setattr(FittedHead, "logits", answering)
    cross_validate(bench, _plan(bench), bench.settings, heads=["ridge"], clock=Clock(None))
    assert len(learned) == 9


def test_labels_without_meaning_are_not_predicted_better_than_chance(shapes: Path) -> None:
    from dataclasses import replace

    bench = bench_of(shapes, cache=False, test_fraction=0.0)
    rng = np.random.default_rng(5)
    items = tuple(replace(item, label=int(rng.integers(3))) for item in bench.dataset.items)
    bench.dataset = bench.dataset.with_items(items)
    found = cross_validate(bench, _plan(bench), bench.settings, heads=["linear", "svm", "knn"], clock=Clock(None))
    assert found.told["accuracy_interval"][0] < 0.4 < found.told["accuracy_interval"][1] + 0.15


def test_a_plan_that_trains_is_trained_anew_on_every_fold(shapes: Path) -> None:
    bench = bench_of(shapes, cache=False, test_fraction=0.0, strategy="partial", epochs=1, views=1, precision="fp32")
    found = cross_validate(
        bench, make_plan(bench, bench.settings), bench.settings, heads=["linear"], clock=Clock(None)
    )  # fmt: skip
    assert (found.told["n"], found.told["folds"]) == (60, 3)
    assert "had seen these items" in found.told["sentence"]


def test_a_run_without_a_test_set_is_scored_by_cross_validation_alone(shapes: Path, tmp_path: Path) -> None:
    run = headstart.fit(
        shapes, tmp_path / "run", source="toy", strategy="frozen", test_fraction=0, cache=False, folds=3
    ).run
    assert run["scores"].keys() == {"train", "val", "cross_validation"}
    assert run["scores"]["cross_validation"]["n"] == 60
    assert run["cross_validation"]["accuracy"] == pytest.approx(run["scores"]["cross_validation"]["accuracy"])
    assert "test_set" not in run
    lines = (tmp_path / "run" / "predictions.csv").read_text().splitlines()
    assert len(lines) == 61
