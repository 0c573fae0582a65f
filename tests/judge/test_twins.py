"""Scores with and without twins: every test item is counted once, on the right side."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.judge.intervals import wilson
from headstart.judge.twins import split_scores


def test_accuracy_is_split_by_whether_training_holds_a_twin() -> None:
    found = split_scores(
        [True, True, False, False],
        ["t0", "t1", "t2", "t3"],
        train_names=["a", "b"],
        groups=[("a", "t0"), ("b", "t1", "t2"), ("t3", "x")],
    )
    assert found["with_twin"] == {"n": 3, "accuracy": 2 / 3, "accuracy_interval": list(wilson(2, 3))}
    assert found["without_twin"] == {"n": 1, "accuracy": 0.0, "accuracy_interval": list(wilson(0, 1))}


def test_without_twins_there_is_no_accuracy_to_tell() -> None:
    found = split_scores([True], ["t"], train_names=["a"], groups=[])
    assert found["with_twin"] == {"n": 0, "accuracy": None, "accuracy_interval": None}
    assert found["without_twin"]["n"] == 1


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="2 test items but 1 answers"):
        split_scores([True], ["t", "u"], train_names=[], groups=[])


@given(st.lists(st.booleans(), max_size=12), st.sets(st.integers(0, 11)))
def test_the_two_sides_add_up(correct: list[bool], twins: set[int]) -> None:
    names = [f"t{n}" for n in range(len(correct))]
    found = split_scores(correct, names, train_names=["a"], groups=[["a", *(f"t{n}" for n in sorted(twins))]])
    one, other = found["with_twin"], found["without_twin"]
    assert one["n"] == sum(n < len(correct) for n in twins)
    assert one["n"] + other["n"] == len(correct)
    hits = sum(side["n"] * side["accuracy"] for side in (one, other) if side["n"])
    assert hits == pytest.approx(sum(correct))
