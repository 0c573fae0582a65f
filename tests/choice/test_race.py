"""The race: honest, within its time, and the same whatever the sealed labels are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_entrants import bench_of

from headstart.choice.race import choose_entry, race
from headstart.records import Dataset
from headstart.stages import Bench, make_plan
from headstart.transfer.budget import Clock

QUICK: dict[str, Any] = {"epochs": 2, "precision": "fp32", "views": 1}


class Ticking:
    """A clock that moves on by so many seconds at every look."""

    def __init__(self, step: float) -> None:
        self.at, self.step = 0.0, step

    def __call__(self) -> float:
        self.at += self.step
        return self.at


def relabelled(dataset: Dataset) -> Dataset:
    """The same data with every label of the sealed test set moved on by one."""
    moved = tuple(
        replace(item, label=(int(item.label or 0) + 1) % len(dataset.classes)) if item.split == "test" else item
        for item in dataset.items
    )
    return dataset.with_items(moved)


@pytest.fixture(scope="module")
def bench(split_shapes: Path) -> Bench:
    return bench_of(split_shapes, cache=False, **QUICK)


def test_all_ways_of_transferring_race_and_one_is_chosen(bench: Bench) -> None:
    found = race([bench], Clock(None))
    ways = [(row["strategy"], row["head"]) for row in found.rows]
    assert [head for strategy, head in ways if strategy == "frozen"] == ["linear", "ridge", "svm", "mlp", "knn"]
    assert {"partial", "discriminative", "full"} <= {strategy for strategy, _ in ways}
    assert sum(row["chosen"] for row in found.rows) == 1
    chosen = next(row for row in found.rows if row["chosen"])
    assert (found.settings.strategy, found.settings.head) == (chosen["strategy"], chosen["head"])
    assert found.choice is not None
    assert found.choice["sentence"]
    assert found.ratios.keys() == {b.name for b in bench.source.blocks if b.parameters}


def test_the_sealed_labels_have_no_say(split_shapes: Path) -> None:
    first = bench_of(split_shapes, cache=False, **QUICK)
    second = replace(first, dataset=relabelled(first.dataset), _features={}, seconds={}, work=dict(first.work))
    a, b = race([first], Clock(None)), race([second], Clock(None))
    strip = [{k: v for k, v in row.items() if k != "seconds"} for row in a.rows]
    assert strip == [{k: v for k, v in row.items() if k != "seconds"} for row in b.rows]
    assert (a.settings, a.choice) == (b.settings, b.choice)


def test_a_head_that_was_asked_for_is_the_only_one_and_one_without_gradient_stays_frozen(split_shapes: Path) -> None:
    found = race([bench_of(split_shapes, cache=False, head="ridge", **QUICK)], Clock(None))
    assert [(row["strategy"], row["head"]) for row in found.rows] == [("frozen", "ridge")]


def test_where_the_time_is_short_a_usable_plan_is_chosen_and_what_was_left_out_is_told(split_shapes: Path) -> None:
    bench = bench_of(split_shapes, cache=False, **QUICK)
    found = race([bench], Clock(40.0, now=Ticking(2.0)))
    assert found.settings.strategy in ("frozen", "partial", "discriminative", "full")
    assert sum(row["chosen"] for row in found.rows) == 1
    assert found.stopped or any(row["stopped"] for row in found.rows)


def test_a_trial_whose_rows_alone_would_take_too_long_is_not_begun(split_shapes: Path) -> None:
    bench = bench_of(split_shapes, cache=False, **QUICK)
    bench.speed = 1.0  # an item a second: 45 s for one view of the arena
    found = race([bench], Clock(200.0, now=lambda: 0.0))
    assert {row["strategy"] for row in found.rows} == {"frozen"}
    assert sum("no time to try it" in line for line in found.stopped) >= 3


def test_the_first_fine_tuning_may_take_more_of_the_time_than_those_after_it(split_shapes: Path) -> None:
    from headstart.choice.race import _FIRST_SHARE, _TRIAL_SHARE, _Race

    bench = bench_of(split_shapes, cache=False, **QUICK)
    run = _Race([bench], Clock(1e5), {})
    first, second = run._candidates(bench)[-2:]
    run.full_epoch = (_FIRST_SHARE + _TRIAL_SHARE) / 2 * 1e5
    bench.speed = 1e9
    assert run._trial(bench, first)
    assert not run._trial(bench, second)
    assert "no time to try it" in run.stopped[-1]


def test_a_probe_that_is_nearly_always_right_leaves_no_room_for_fine_tuning(tmp_path: Path) -> None:
    from PIL import Image

    for name, colour in (("red", (200, 20, 20)), ("blue", (20, 20, 200))):
        for n in range(12):
            place = tmp_path / "data" / name
            place.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), tuple(c + 2 * n for c in colour)).save(place / f"{n}.png")  # type: ignore[arg-type]
    found = race([bench_of(tmp_path / "data", cache=False, **QUICK)], Clock(None))
    assert {row["strategy"] for row in found.rows} == {"frozen"}
    assert any("leaves no room" in line for line in found.stopped)


def test_a_winner_is_trained_for_its_usual_epochs_where_the_time_allows(bench: Bench) -> None:
    from headstart.choice.entrants import Entrant
    from headstart.choice.race import _Race

    settings = bench.settings.changed(strategy="full", head="linear", epochs=None)
    for seconds, epochs in ((1e6, None), (100.0, 7), (10.0, 4)):
        run = _Race([bench], Clock(seconds, now=lambda: 0.0), {})
        shape = (len(run.arena.labels), bench.n_classes)
        entrant = Entrant(
            settings, bench.source.address, "full", "linear", "input", np.zeros(shape), "folds", epochs=4,
            fold_seconds=40.0,
        )  # fmt: skip
        usual = make_plan(bench, settings).epochs
        assert usual > 7
        assert run._epochs_in_time(entrant) == (epochs or usual)


def test_no_further_fold_is_needed_once_chance_is_ruled_out(bench: Bench) -> None:
    from headstart.choice.entrants import Entrant
    from headstart.choice.race import _Race

    run = _Race([bench], Clock(None), {})
    labels, classes = run.arena.labels, bench.n_classes
    right, wrong = np.eye(classes)[labels], np.eye(classes)[(labels + 1) % classes]
    few = np.where(np.arange(len(labels))[:, None] < 3, wrong, right)

    def entrant(logits: np.ndarray) -> Entrant:
        return Entrant(bench.settings, "toy", "full", "linear", "input", logits, "folds")

    assert run._decided(entrant(right), entrant(wrong))
    assert not run._decided(entrant(right), entrant(few))


def test_each_pair_is_compared_at_five_percent_however_many_run(bench: Bench) -> None:
    from headstart.judge.choosing import Entry

    rng = np.random.default_rng(0)
    right = rng.random(400) < 0.8
    simple = right & (rng.random(400) < 0.93)  # seven points worse, which 400 items show
    entries = [
        Entry("large", right, np.where(right, 0.1, 2.0), 1000.0),
        Entry("simple", simple, np.where(simple, 0.1, 2.0), 10.0),
        *(Entry(f"{n}", simple, np.where(simple, 0.1, 2.0), 100.0 + n) for n in range(8)),
    ]
    assert choose_entry(entries).chosen == 0


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("name", ["hymenoptera", "hotdog", "rsscn7", "dtd10", "clothing"])
def test_the_winner_is_not_significantly_worse_than_any_other_head_on_the_sealed_test(
    shared: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.choice.race import _Race
    from headstart.judge.intervals import mcnemar
    from headstart.stages import groups_of
    from headstart.transfer.heads import fit_head

    monkeypatch.setattr(_Race, "_room", lambda *_: False)
    source = str(shared / "sources" / "mobilenetv2_035.keras_in1k")
    bench = bench_of(shared / "data" / name, source=source, image_size=96, folds=5)
    found = race([bench], Clock(None))
    X, y = bench.features("native", "train", "val"), bench.samples("train", "val").labels
    test, truth = bench.features("native", "test"), bench.samples("test").labels
    right = {}
    for row in found.rows:
        head = fit_head(row["head"], X, y, n_classes=bench.n_classes, groups=groups_of(bench, "train", "val"))
        right[row["head"]] = head.logits(test).argmax(1) == truth
    chosen = right[found.settings.head]
    for head, other in right.items():
        worse = other.mean() > chosen.mean() and mcnemar(chosen, other) < 0.05
        assert not worse, f"{head} is significantly better than the chosen {found.settings.head}"
