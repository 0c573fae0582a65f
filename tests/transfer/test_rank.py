"""LogME and the H-score equal what they are defined as, see nothing else, and rank better features higher."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.covariance import LedoitWolf

from headstart.errors import DataError
from headstart.transfer.rank import h_score, log_me, rank, shrinkage, stratified

SHAPES = [(30, 5, 3, 1.0), (20, 40, 2, 1.0), (25, 25, 3, 0.3), (60, 8, 4, 0.5), (18, 30, 5, 0.2)]
shape = pytest.mark.parametrize(("n", "d", "classes", "apart"), SHAPES)


def made(n: int, d: int, classes: int, apart: float, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of classes whose means lie `apart` deviations from each other, and labels."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return rng.normal(size=(n, d)) + apart * rng.normal(size=(classes, d))[y], y


def turned(X: np.ndarray) -> np.ndarray:
    """The features in other axes."""
    basis = np.linalg.qr(np.random.default_rng(7).normal(size=(X.shape[1], X.shape[1])))[0]
    return np.asarray(X @ basis)


# --- LogME ------------------------------------------------------------------------------------------------------


def brute_force(X: np.ndarray, y: np.ndarray) -> float:
    """The largest log density of each one-hot column under N(0, X X' / alpha + I / beta), by a general optimiser."""
    n, kernel, best = len(y), X @ X.T, []
    for label in np.unique(y):
        t = (y == label).astype(float)

        def negative(logs: np.ndarray, t: np.ndarray = t) -> float:
            covariance = kernel * np.exp(-logs[0]) + np.eye(n) * np.exp(-logs[1])
            return float(n * np.log(2 * np.pi) + np.linalg.slogdet(covariance)[1] + t @ np.linalg.solve(covariance, t))

        starts = [(a, b) for a in (-3, 1, 5) for b in (-1, 3)]
        best.append(-min(minimize(negative, s, method="Nelder-Mead", tol=1e-9).fun for s in starts) / 2)
    return float(np.mean(best) / n)


def plainly(X: np.ndarray, y: np.ndarray) -> float:
    """The formula of the paper with its own iteration over alpha and beta, by whole matrices."""
    (n, d), best = X.shape, []
    power = np.linalg.eigvalsh(X.T @ X).clip(0)
    for label in np.unique(y):
        t, alpha, beta = (y == label).astype(float), 1.0, 1.0
        for _ in range(3000):
            matrix = alpha * np.eye(d) + beta * X.T @ X
            m = beta * np.linalg.solve(matrix, X.T @ t)
            error, gamma = float(((X @ m - t) ** 2).sum()), float((beta * power / (alpha + beta * power)).sum())
            value = n / 2 * np.log(beta) + d / 2 * np.log(alpha) - n / 2 * np.log(2 * np.pi)
            value -= beta / 2 * error + alpha / 2 * float(m @ m) + np.linalg.slogdet(matrix)[1] / 2
            if abs(alpha - gamma / float(m @ m)) < 1e-9 * alpha:
                break
            alpha, beta = gamma / float(m @ m), (n - gamma) / error
        best.append(value)
    return float(np.mean(best) / n)


@shape
def test_logme_is_the_largest_evidence(n: int, d: int, classes: int, apart: float) -> None:
    X, y = made(n, d, classes, apart)
    assert log_me(X, y) == pytest.approx(brute_force(X, y), abs=1e-5)


@pytest.mark.parametrize(("n", "d", "classes", "apart"), [SHAPES[0], SHAPES[3]])
def test_logme_is_the_papers_formula_where_its_iteration_stands_still(
    n: int, d: int, classes: int, apart: float
) -> None:
    X, y = made(n, d, classes, apart)
    assert log_me(X, y) == pytest.approx(plainly(X, y), abs=1e-9)


@shape
def test_logme_does_not_see_axes_scale_or_repetition(n: int, d: int, classes: int, apart: float) -> None:
    X, y = made(n, d, classes, apart)
    wanted = log_me(X, y)
    twice, padded = np.hstack([X, X]), np.hstack([X, np.zeros((n, 3))])
    for same in (turned(X), 1e3 * X, 1e-3 * X, twice, padded):
        assert log_me(same, y) == pytest.approx(wanted, abs=1e-6)
    assert log_me(X, 5 - y) == pytest.approx(wanted, abs=1e-12)


def test_labels_that_the_features_give_exactly_have_a_finite_and_high_evidence() -> None:
    y = np.arange(12) % 3
    exact = np.eye(3)[y]
    assert np.isfinite(log_me(exact, y))
    assert log_me(exact, y) > log_me(exact + np.random.default_rng(0).normal(0, 0.1, exact.shape), y)


# --- H-score ----------------------------------------------------------------------------------------------------


@shape
def test_the_h_score_is_the_trace_it_is_defined_as(n: int, d: int, classes: int, apart: float) -> None:
    X, y = made(n, d, classes, apart)
    fitted = LedoitWolf().fit(X)
    means = np.stack([X[y == label].mean(axis=0) for label in y]) - X.mean(axis=0)
    wanted = np.trace(np.linalg.pinv(fitted.covariance_) @ ((1 - fitted.shrinkage_) * means.T @ means / n))
    assert shrinkage(X) == pytest.approx(fitted.shrinkage_, abs=1e-12)
    assert h_score(X, y) == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    assert 0 <= h_score(X, y) <= classes - 1


@shape
def test_the_h_score_does_not_see_axes_scale_or_place(n: int, d: int, classes: int, apart: float) -> None:
    X, y = made(n, d, classes, apart)
    for same in (turned(X), 1e3 * X, X + 5):
        assert h_score(same, y) == pytest.approx(h_score(X, y), rel=1e-7, abs=1e-10)
    assert h_score(X[::-1], y[::-1]) == pytest.approx(h_score(X, y), rel=1e-7, abs=1e-10)


# --- both -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", [log_me, h_score])
@pytest.mark.parametrize("d", [6, 200])
def test_features_that_tell_the_classes_better_apart_rank_higher(measure: object, d: int) -> None:
    assert callable(measure)
    values = [measure(*made(90, d, 3, apart, seed=3)) for apart in (0.1, 0.7, 1.5, 3.0)]
    assert values == sorted(values)
    assert len(set(values)) == 4


@pytest.mark.parametrize("measure", [log_me, h_score])
def test_odd_features_and_labels_give_finite_numbers(measure: object) -> None:
    assert callable(measure)
    X, y = made(12, 4, 2, 1.0)
    single = np.where(np.arange(12) == 5, 9, y)
    constant = np.full((12, 4), 0.1, dtype=np.float32)
    one_constant = np.hstack([X, constant])
    for features, labels in (
        (X, single), (X, np.zeros(12)), (X, np.arange(12)), (constant, y), (0 * X, y), (one_constant, y), (X[:1], y[:1])
    ):  # fmt: skip
        assert np.isfinite(measure(features, labels))
    assert h_score(constant, y) == 0.0
    assert h_score(one_constant.astype(np.float32), y) > 0.1
    for features, labels in ((X, y[:3]), (X[:0], y[:0]), (X[:, :0], y)):
        with pytest.raises(DataError):
            measure(features, labels)


def test_rank_puts_the_better_source_first_and_leaves_missing_items_out_for_all() -> None:
    good, y = made(60, 10, 3, 3.0)
    poor = made(60, 20, 3, 0.1)[0].astype(np.float32)
    rows = rank({"poor": poor, "good": good}, y)
    assert [row["source"] for row in rows] == ["good", "poor"]
    assert rows[0] == {"source": "good", "logme": log_me(good, y), "h_score": h_score(good, y), "items": 60}
    poor[7] = np.nan
    kept = np.arange(60) != 7
    rows = rank({"poor": poor, "good": good}, y)
    assert [row["items"] for row in rows] == [59, 59]
    assert rows[0]["logme"] == log_me(good[kept], y[kept])
    with pytest.raises(DataError, match="labels"):
        rank({"good": good[:5]}, y)


def test_sources_that_are_equal_stand_by_name() -> None:
    X, y = made(20, 3, 2, 1.0)
    assert [row["source"] for row in rank({"b": X, "a": X.copy()}, y)] == ["a", "b"]


# --- the subset -------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    most=st.integers(1, 200),
    seed=st.integers(0, 5),
)
def test_a_stratified_part_is_in_proportion_with_every_class(counts: list[int], most: int, seed: int) -> None:
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    part = stratified(y, most, seed=seed)
    assert np.array_equal(part, np.unique(part))
    assert np.array_equal(part, stratified(y, most, seed=seed))
    assert len(part) == min(len(y), max(most, len(counts)))
    share = len(part) / len(y)
    got = np.bincount(y[part], minlength=len(counts))
    assert got.min() >= 1
    if most >= 2 * len(counts):
        assert np.all(np.abs(got - share * np.array(counts)) <= len(counts) + 1)
    if most < len(y):
        larger = stratified(y, most + 1, seed=seed)
        assert set(part) <= set(larger)


def test_other_seeds_draw_other_items() -> None:
    y = np.arange(100) % 2
    assert set(stratified(y, 20, seed=0)) != set(stratified(y, 20, seed=1))
