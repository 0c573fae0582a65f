"""Sufficient statistics of ridge: those of parts add up, and give the very head that a fit on all items gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from headstart.judge.calibration import softmax
from headstart.transfer import _heads_linear, statistics
from headstart.transfer.heads import fit_head
from headstart.transfer.statistics import Statistics, ridge_layer

ALPHAS = (0.1, 1.0, 30.0, 1e4)


def problem(seed: int, n: int, d: int, k: int, *, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Features of overlapping classes, some features larger than others, one constant; classes may be empty."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n)
    X = rng.normal(size=(n, d)) + 0.5 * rng.normal(size=(k, d))[y]
    X = X * 10.0 ** rng.uniform(-2, 2, d) + offset
    X[:, 0] = 3.25
    return X.astype(np.float32), y


problems = st.tuples(
    st.integers(0, 10_000),
    st.integers(2, 60),
    st.integers(2, 40),
    st.integers(2, 6),
    st.sampled_from([0.0, 5.0, 300.0]),
)


def near(found: tuple[np.ndarray, np.ndarray], wanted: dict[str, np.ndarray], X: np.ndarray) -> None:
    """The same layer to 1e-6: weights beside the largest of all, probabilities as they are."""
    size = max(1e-12, float(np.abs(wanted["weight"]).max()))
    assert np.abs(found[0] - wanted["weight"]).max() <= 1e-6 * size
    answers = [
        X.astype(np.float64) @ W.T.astype(np.float64) + b for W, b in (found, (wanted["weight"], wanted["bias"]))
    ]
    chances = [softmax(table) for table in answers]
    assert np.abs(chances[0] - chances[1]).max() <= 1e-6


@given(problems, st.integers(1, 4), st.sampled_from(ALPHAS), st.sampled_from([1.0, 0.2]))
@settings(max_examples=120, deadline=None)
def test_statistics_of_parts_give_the_head_that_all_items_give(
    drawn: tuple[int, int, int, int, float], parts: int, alpha: float, temperature: float
) -> None:
    seed, n, d, k, offset = drawn
    X, y = problem(seed, n, d, k, offset=offset)
    part = np.random.default_rng(seed).integers(0, parts, n)
    total = Statistics.of(X[:0], y[:0], n_classes=1)
    for number in range(parts):
        rows = part == number
        known = int(y[rows].max(initial=0)) + 1  # a part knows no class beyond its own
        total = total.merged(Statistics.of(X[rows], y[rows], n_classes=known))
    fixed = {"alpha": alpha, "temperature": temperature}
    head = fit_head("ridge", X, y, n_classes=len(total.counts), fixed=fixed)
    near(total.layer(alpha, temperature=temperature), head.arrays, X)
    assert total.give(head.arrays, head.chosen)


@given(problems)
@settings(max_examples=60, deadline=None)
def test_the_order_of_items_and_of_parts_does_not_matter(drawn: tuple[int, int, int, int, float]) -> None:
    seed, n, d, k, offset = drawn
    X, y = problem(seed, n, d, k, offset=offset)
    order = np.random.default_rng(seed + 1).permutation(n)
    a, b = Statistics.of(X[: n // 2], y[: n // 2], n_classes=k), Statistics.of(X[n // 2 :], y[n // 2 :], n_classes=k)
    whole = Statistics.of(X[order], y[order], n_classes=k)
    for found in (a.merged(b), b.merged(a)):
        assert np.array_equal(found.counts, whole.counts)
        assert np.array_equal(found.largest, whole.largest)
        scale = np.sqrt(np.outer(np.diag(whole.scatter), np.diag(whole.scatter))) + 1e-12 * (1 + whole.largest**2).max()
        assert np.allclose(found.means, whole.means, rtol=1e-12, atol=1e-12)
        assert (np.abs(found.scatter - whole.scatter) / scale).max() < 1e-9


@pytest.mark.parametrize(("n", "d", "k"), [(12, 30, 3), (30, 30, 2), (200, 17, 5)])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_few_items_and_many_items_are_solved_alike(n: int, d: int, k: int, alpha: float) -> None:
    X, y = problem(n, n, d, k)
    weight, bias = ridge_layer(X, y, k, alpha)
    near(Statistics.of(X, y, n_classes=k).layer(alpha), {"weight": weight, "bias": bias}, X)


def test_it_is_scikit_learns_ridge_on_scaled_features() -> None:
    X, y = problem(0, 80, 12, 3)
    std = X.std(axis=0, dtype=np.float64)
    varies = std > 1e-6 * np.abs(X).max(axis=0)
    divisor = np.where(varies, np.sqrt(std * std[varies].mean()), 1.0)
    scaled = (X - X.mean(axis=0, dtype=np.float64)) / divisor
    plain = Ridge(alpha=2.0).fit(scaled, np.eye(3)[y]).predict(scaled)
    weight, bias = Statistics.of(X, y, n_classes=3).layer(2.0)
    found = X.astype(np.float64) @ weight.T.astype(np.float64) + bias
    assert np.abs(found - (plain - plain.mean(axis=1, keepdims=True))).max() < 1e-5


def test_the_solver_by_steps_ends_at_the_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = problem(3, 300, 20, 4)
    exact = fit_head("ridge", X, y, n_classes=4, fixed={"alpha": 3.0})
    monkeypatch.setattr(_heads_linear, "WIDEST", 0)
    stepped = fit_head("ridge", X, y, n_classes=4, fixed={"alpha": 3.0})
    assert not np.array_equal(exact.arrays["weight"], stepped.arrays["weight"])
    assert np.abs(exact.logits(X) - stepped.logits(X)).max() < 1e-4


@given(problems)
@settings(max_examples=30, deadline=None)
def test_statistics_come_back_bit_for_bit(drawn: tuple[int, int, int, int, float]) -> None:
    seed, n, d, k, offset = drawn
    X, y = problem(seed, n, d, k, offset=offset)
    found = Statistics.of(X, y, n_classes=k)
    again = Statistics.from_tensors(found.tensors())
    for name in ("counts", "means", "largest"):
        assert np.array_equal(getattr(found, name), getattr(again, name))
    assert np.array_equal(np.triu(found.scatter), np.triu(again.scatter))
    assert np.array_equal(again.scatter, again.scatter.T)
    assert len(found.tensors()["scatter"]) == d * (d + 1) // 2


def test_a_class_without_items_gets_next_to_no_probability() -> None:
    X, y = problem(5, 40, 10, 3)
    weight, bias = Statistics.of(X, y, n_classes=5).layer(1.0)
    assert np.all(weight[3:] == 0)
    assert softmax(X @ weight.T + bias)[:, 3:].max() < 1 / 40


def test_other_items_are_not_taken_for_those_of_a_head() -> None:
    X, y = problem(6, 60, 10, 3)
    head = fit_head("ridge", X, y, n_classes=3, fixed={"alpha": 1.0})
    assert Statistics.of(X, y, n_classes=3).give(head.arrays, head.chosen)
    assert not Statistics.of(X[1:], y[1:], n_classes=3).give(head.arrays, head.chosen)


def test_statistics_of_another_width_are_refused() -> None:
    a, b = (Statistics.of(*problem(0, 20, d, 2), n_classes=2) for d in (5, 6))
    with pytest.raises(ValueError, match="5 and 6 features"):
        a.merged(b)


def test_many_blocks_of_rows_are_one_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = problem(8, 90, 7, 3)
    whole = Statistics.of(X, y, n_classes=3)

    def narrow(n: int, width: int) -> Any:
        return (slice(i, min(i + 8, n)) for i in range(0, n, 8))

    monkeypatch.setattr(statistics, "blocks", narrow)
    found = Statistics.of(X, y, n_classes=3)
    assert np.allclose(found.scatter, whole.scatter, rtol=1e-12)
    assert np.array_equal(found.largest, whole.largest)
