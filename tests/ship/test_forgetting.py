"""What is told of the answers before and after: counted as anyone would count them, on the same rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart import files
from headstart.judge.calibration import softmax
from headstart.judge.intervals import wilson
from headstart.ship.forgetting import Measure
from headstart.ship.learned import Known
from headstart.ship.recall import Recalled
from headstart.transfer.heads import FittedHead


def head(seed: int, k: int, d: int = 5) -> FittedHead:
    rng = np.random.default_rng(seed)
    arrays = {"weight": rng.normal(size=(k, d)).astype(np.float32), "bias": rng.normal(size=k).astype(np.float32)}
    return FittedHead("linear", arrays)


def known(labels: np.ndarray) -> Known:
    return Known.of([files.hash_bytes(str(n).encode()) for n in range(len(labels))], labels)


@given(st.integers(0, 999), st.integers(1, 40), st.integers(2, 4), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_forgetting_counts_what_is_there_and_not_learned_now(seed: int, n: int, old: int, added: int) -> None:
    rng = np.random.default_rng(seed)
    rows, labels = rng.normal(size=(n, 5)).astype(np.float32), rng.integers(0, old, n)
    there, again = rng.random(n) < 0.8, rng.random(n) < 0.2
    pictures, before, after = known(labels), head(seed, old), head(seed + 1, old + added)
    found = Recalled((np.where(there[:, None], rows, np.nan),), there, 0)
    told = Measure(before, after, known_classes=old).forgetting(pictures, found, learned_now=pictures.only(again))
    kept = there & ~again
    assert told["n"] == int(kept.sum())
    if not kept.any():
        assert told["why"]
        return
    a, b = (np.argmax(one.logits(rows[kept]), axis=1) for one in (before, after))
    assert told["of"] == n
    assert told["accuracy_before"] == pytest.approx(float(np.mean(a == labels[kept])))
    assert told["accuracy_after"] == pytest.approx(float(np.mean(b == labels[kept])))
    assert told["change_points"] == pytest.approx(100 * (told["accuracy_after"] - told["accuracy_before"]))
    assert told["called_new"] == int((b >= old).sum())
    assert told["interval_points"][0] <= told["change_points"] <= told["interval_points"][1]


def test_the_same_head_forgets_nothing() -> None:
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(30, 5)).astype(np.float32), rng.integers(0, 3, 30)
    found = Recalled((rows,), np.ones(30, dtype=bool), 0)
    told = Measure(head(1, 3), head(1, 3), known_classes=3).forgetting(known(labels), found, learned_now=Known.of())
    assert told["change_points"] == told["called_new"] == 0
    assert told["interval_points"] == [0, 0]


def test_why_nothing_was_measured_is_said() -> None:
    measure, some = Measure(head(1, 3), head(2, 3), known_classes=3), known(np.zeros(2, dtype=np.int64))
    none = Recalled((np.full((2, 5), np.nan, dtype=np.float32),), np.zeros(2, dtype=bool), 0)
    told = measure.forgetting(some, none, learned_now=Known.of(), why="the data have gone")
    assert told["why"].endswith("neither features nor files: the data have gone")
    empty = Recalled((np.zeros((0, 5), dtype=np.float32),), np.zeros(0, dtype=bool), 0)
    assert "held out" in measure.forgetting(Known.of(), empty, learned_now=Known.of())["why"]
    gone = measure.new_pictures(np.zeros((0, 5), dtype=np.float32), np.zeros(0, dtype=np.int64), classes=(), kind="x")
    assert gone == {"n": 0, "why": "the test pictures could not be read any more"}


def test_new_pictures_are_counted_by_class_and_beside_the_old_head() -> None:
    rng = np.random.default_rng(3)
    rows, labels = rng.normal(size=(40, 5)).astype(np.float32), rng.integers(0, 3, 40)
    before, after = head(5, 2), head(6, 3)
    measure = Measure(before, after, known_classes=2, temperature=2.0)
    told = measure.new_pictures(rows, labels, classes=("a", "b", "c"), kind="held back")
    answers = after.logits(rows).argmax(axis=1)
    hits = int((answers == labels).sum())
    assert (told["n"], told["accuracy"], told["interval"]) == (40, hits / 40, list(wilson(hits, 40)))
    assert {name: row["n"] for name, row in told["per_class"].items()} == {
        name: int((labels == n).sum()) for n, name in enumerate("abc")
    }
    assert sum(row["right"] for row in told["per_class"].values()) == hits
    assert told["probability"] == pytest.approx(float(softmax(after.logits(rows) / 2.0).max(axis=1).mean()))
    old = labels < 2
    assert told["known_classes"]["n"] == int(old.sum())
    wanted = float((before.logits(rows[old]).argmax(axis=1) == labels[old]).mean())
    assert told["known_classes"]["accuracy_before"] == pytest.approx(wanted)
