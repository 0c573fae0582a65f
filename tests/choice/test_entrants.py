"""The arena and who takes part: nothing of the sealed test set is in it, and all are judged on unseen items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.choice.entrants import Arena, Entrant, on_fold, probe, rows_of, short, try_fold
from headstart.judge.calibration import log_softmax
from headstart.progress import Silent
from headstart.settings import Settings
from headstart.stages import Bench, prepare
from headstart.transfer.interrupt import Stop


def bench_of(data: Any, **options: Any) -> Bench:
    settings = Settings.of(**{"source": "toy", "folds": 3, "engine": "torch", **options})
    return prepare(data, settings=settings, reporter=Silent(), stop=Stop())


@pytest.fixture(scope="module")
def bench(split_shapes: Path) -> Bench:
    return bench_of(split_shapes, cache=False)


@pytest.fixture(scope="module")
def arena(bench: Bench) -> Arena:
    return Arena.of(bench)


def entrant(bench: Bench, arena: Arena, **options: Any) -> Entrant:
    settings = bench.settings.changed(**{"strategy": "partial", "head": "linear", "precision": "fp32", **options})
    shape = (len(arena.labels), bench.n_classes)
    return Entrant(settings, "toy", settings.strategy, "linear", "", np.full(shape, np.nan), "trial")


def test_the_arena_is_train_and_val_and_every_item_is_held_out_once(bench: Bench, arena: Arena) -> None:
    assert {item.split for item in arena.items} == {"train", "val"}
    held = np.concatenate([out for _, out in arena.pairs])
    assert sorted(held.tolist()) == list(range(len(arena.items)))


def test_no_fold_holds_a_sealed_item_and_none_is_on_two_sides(bench: Bench, arena: Arena) -> None:
    sealed = {item.name for item in bench.dataset.split("test")}
    for number in range(len(arena.pairs)):
        own = on_fold(bench, arena, number)
        names = [{item.name for item in own.dataset.split(split)} for split in ("train", "val", "test")]
        assert all(names)
        assert not sealed & set().union(*names)
        assert sum(map(len, names)) == len(set().union(*names)) == len(arena.items)
        assert names[2] == {arena.items[i].name for i in arena.pairs[number][1]}


def test_a_probe_is_judged_out_of_fold_on_every_item(bench: Bench, arena: Arena) -> None:
    found = probe(bench, arena, bench.settings.changed(strategy="frozen", head="linear"))
    assert found is not None
    assert found.judged.all()
    entry = found.entry(arena.labels)
    assert entry.correct.tolist() == (found.logits.argmax(1) == arena.labels).tolist()
    losses = [-log_softmax(rows)[np.arange(len(arena.labels)), arena.labels] for rows in found.repeats]
    assert len(losses) == 3
    assert np.allclose(entry.loss, np.mean(losses, axis=0))
    assert (entry.cost, entry.told) == (0.0, 64 * 3 + 3)


def test_logistic_regression_is_the_simplest_then_the_other_linear_heads_then_the_rest(bench: Bench) -> None:
    def cost(strategy: str, head: str) -> float:
        return Entrant(bench.settings, "toy", strategy, head, "", np.zeros((1, 3)), "probe", trained=9).cost

    costs = [cost("frozen", head) for head in ("linear", "ridge", "svm", "knn")]
    assert costs == sorted(set(costs))
    assert cost("frozen", "knn") == cost("frozen", "mlp") < cost("partial", "linear")


def test_a_fine_tuning_is_judged_on_the_held_out_part_of_its_fold(bench: Bench, arena: Arena) -> None:
    one = entrant(bench, arena)
    try_fold(bench, arena, one, number=1, epochs=1, deadline=None)
    assert np.flatnonzero(one.judged).tolist() == arena.pairs[1][1].tolist()
    assert (one.folds, one.epochs, one.stopped) == (1, 1, None)
    try_fold(bench, arena, one, number=0, epochs=1, deadline=None)
    assert one.folds == 2
    try_fold(bench, arena, one, number=0, epochs=2, deadline=None)  # another schedule: what was before does not count
    assert np.flatnonzero(one.judged).tolist() == arena.pairs[0][1].tolist()
    entry = one.entry(arena.labels)
    assert np.isnan(entry.loss).tolist() == (~one.judged).tolist()


def test_a_training_that_the_time_cut_short_says_so(bench: Bench, arena: Arena) -> None:
    one = entrant(bench, arena)
    try_fold(bench, arena, one, number=0, epochs=3, deadline=0.0)
    assert one.stopped is not None
    assert "the time was over in epoch 1 of 3" in one.stopped


def test_the_table_tells_what_each_was_judged_on(bench: Bench, arena: Arena) -> None:
    first = probe(bench, arena, bench.settings.changed(strategy="frozen", head="ridge"))
    second = entrant(bench, arena)
    try_fold(bench, arena, second, number=0, epochs=1, deadline=None)
    assert first is not None
    rows = rows_of([first, second], arena.labels, [None, 0.5], 0)
    assert [row["items"] for row in rows] == [len(arena.labels), len(arena.pairs[0][1])]
    assert [row["repeats"] for row in rows] == [3, 1]
    assert rows[0]["score"] == pytest.approx(first.entry(arena.labels).correct.mean())
    assert rows[0]["score_over_repeats"] == pytest.approx(
        np.mean([(r.argmax(1) == arena.labels).mean() for r in first.repeats])
    )
    assert rows[0]["interval"][0] <= rows[0]["score"] <= rows[0]["interval"][1]
    assert [row["chosen"] for row in rows] == [True, False]
    assert rows[1]["p_against_best"] == 0.5


@pytest.mark.parametrize(("address", "name"), [("a/b/net", "net"), ("a/b/", "b"), ("timm:resnet18", "timm:resnet18")])
def test_a_source_is_told_by_the_end_of_its_address(address: str, name: str) -> None:
    assert short(address) == name
