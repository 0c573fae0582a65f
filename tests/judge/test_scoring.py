"""Every measure equals scikit-learn's, and odd inputs give finite numbers without a warning."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from headstart.judge.intervals import wilson
from headstart.judge.scoring import CONFUSION_LIMIT, calibration_error, hardest_classes, majority, score
from headstart.records import plain


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def answers(n: int, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    y = generator.integers(0, k, n)
    p = generator.dirichlet(np.full(k, 0.5), n)
    p[np.arange(n), y] += 0.5
    return y, p / p.sum(1, keepdims=True)


def names(k: int) -> list[str]:
    return [f"c{i}" for i in range(k)]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(2, 12), st.integers(0, 10_000))
def test_scores_are_those_of_scikit_learn(n: int, k: int, seed: int) -> None:
    y, p = answers(n, k, seed)
    found, guess = score(y, p, classes=names(k)), p.argmax(1)
    assert found.n == n
    assert found.accuracy == pytest.approx(metrics.accuracy_score(y, guess))
    assert found.accuracy_interval == wilson(int((y == guess).sum()), n)
    assert found.log_loss == pytest.approx(metrics.log_loss(y, p, labels=range(k)))
    assert found.macro_f1 == pytest.approx(metrics.f1_score(y, guess, average="macro", zero_division=0))
    table = metrics.confusion_matrix(y, guess, labels=range(k))
    assert np.array_equal(found.confusion, table)
    present = table.sum(1) > 0
    assert found.balanced_accuracy == pytest.approx((table.diagonal()[present] / table.sum(1)[present]).mean())
    rows = metrics.precision_recall_fscore_support(y, guess, labels=range(k), zero_division=0)
    for i, row in enumerate(found.per_class.values()):
        expected = [column[i] for column in rows]
        assert [row[name] for name in ("precision", "recall", "f1", "n")] == pytest.approx(expected)
    if k > 5:
        assert found.top5_accuracy == pytest.approx(metrics.top_k_accuracy_score(y, p, k=5, labels=range(k)))
    else:
        assert found.top5_accuracy is None


def test_calibration_error_is_the_gap_of_each_bin_weighted_by_its_items() -> None:
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    correct = np.array([True, True, True, False, True, False])
    assert calibration_error(correct, confidence) == pytest.approx((4 * 0.20 + 2 * 0.05) / 6)
    assert calibration_error(np.array([True]), np.array([1.0])) == 0.0
    assert calibration_error(np.array([]), np.array([])) == 0.0


def test_a_perfectly_calibrated_forecaster_has_a_small_calibration_error() -> None:
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.5, 1, 40_000)
    assert calibration_error(generator.random(40_000) < confidence, confidence) < 0.01


def test_classes_without_items_leave_the_balanced_accuracy_alone() -> None:
    found = score(np.array([0, 0, 1]), np.array([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.1, 0.9, 0]]), classes=names(3))
    assert found.balanced_accuracy == pytest.approx(0.75)
    assert found.macro_f1 == pytest.approx(2 / 3)
    assert found.per_class["c2"] == {"n": 0, "precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_impossible_answers_cost_much_but_never_infinity() -> None:
    found = score(np.array([0]), np.array([[0.0, 1.0]]), classes=names(2))
    assert found.log_loss == pytest.approx(-np.log(1e-15))
    lost = np.array([[np.nan, 1.0], [0.0, 0.0], [np.inf, 0.0], [-0.1, 1.0]])
    found = score(np.array([0, 1, 0, 1]), lost, classes=names(2))
    assert found.log_loss == pytest.approx(0.75 * np.log(2))
    assert None not in plain(found).values() or found.top5_accuracy is None
    assert all(np.isfinite(value) for value in (found.accuracy, found.macro_f1, found.calibration_error))


def test_no_items_score_zero() -> None:
    found = score(np.array([], dtype=int), np.zeros((0, 3)), classes=names(3))
    assert (found.n, found.accuracy, found.log_loss, found.balanced_accuracy) == (0, 0.0, 0.0, 0.0)
    assert found.accuracy_interval == (0.0, 1.0)


def test_very_many_classes_are_scored_without_a_confusion_matrix() -> None:
    k = 10_000
    y = np.arange(20)
    found = score(y, np.eye(k, dtype=np.float32)[y], classes=names(k))
    assert found.accuracy == found.balanced_accuracy == found.macro_f1 == found.top5_accuracy == 1.0
    assert found.confusion == ()
    assert len(score(y, np.eye(CONFUSION_LIMIT)[y], classes=names(CONFUSION_LIMIT)).confusion) == CONFUSION_LIMIT


@pytest.mark.parametrize(
    ("y", "p"),
    [([0, 1], np.ones((1, 2))), ([0], np.ones((1, 3))), ([2], np.ones((1, 2))), ([-1], np.ones((1, 2)))],
)
def test_answers_that_do_not_fit_the_classes_are_refused(y: list[int], p: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"do not fit|must lie"):
        score(np.array(y), p, classes=names(2))


def test_majority_answers_the_commonest_training_class() -> None:
    found = majority(np.array([0, 1, 1]), np.array([1, 0, 1, 1]), ["ant", "bee"])
    assert found == {"class": "bee", "accuracy": 0.75, "accuracy_interval": wilson(3, 4)}
    assert majority(np.array([0, 1]), np.array([], dtype=int), ["ant", "bee"])["class"] == "ant"


def test_judging_needs_neither_torch_nor_scikit_learn() -> None:
    code = (
        "import sys, headstart.judge.scoring, headstart.judge.diagnosis, headstart.judge.intervals as i;"
        "i.mcnemar([1, 0], [0, 0]);"
        "print(sorted({'torch', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_hardest_classes_are_those_of_lowest_recall_with_what_takes_their_items() -> None:
    y = np.array([0, 0, 0, 0, 1, 1, 2, 2, 3])
    predicted = np.array([0, 1, 1, 2, 1, 0, 2, 2, 0])
    assert hardest_classes(y, predicted, ["a", "b", "c", "d", "e"]) == [
        {"class": "d", "recall": 0.0, "n": 1, "confused_with": "a", "share": 1.0},
        {"class": "a", "recall": 0.25, "n": 4, "confused_with": "b", "share": 0.5},
        {"class": "b", "recall": 0.5, "n": 2, "confused_with": "a", "share": 0.5},
    ]
    assert hardest_classes(y, y, names(4)) == []
    assert len(hardest_classes(np.arange(9), (np.arange(9) + 1) % 9, names(9))) == 5
