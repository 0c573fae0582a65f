"""Intervals and paired tests: how sure a measured accuracy, or a difference of two, is. NumPy and SciPy only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.records import Interval

__all__ = ["bootstrap", "difference", "mcnemar", "paired_bootstrap", "wilson"]

Array = npt.NDArray[Any]


def _critical(level: float) -> float:
    """The standard normal quantile of a two-sided interval."""
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    return NormalDist().inv_cdf(0.5 + level / 2.0)


def wilson(successes: float, n: float, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion `successes / n`; (0, 1) when n is 0.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    Raises ValueError when the counts do not make a proportion.
    """
    z = _critical(level)
    if n < 0 or not 0 <= successes <= n:
        raise ValueError(f"successes must lie between 0 and n, got {successes} of {n}")
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    spread = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    low = 0.0 if successes == 0 else max(0.0, centre - spread)
    high = 1.0 if successes == n else min(1.0, centre + spread)
    return min(low, share), max(high, share)


def difference(successes_a: float, n_a: float, successes_b: float, n_b: float, *, level: float = 0.95) -> Interval:
    """Difference of two independent proportions, a - b, with Newcombe's interval (his method 10).

    For proportions measured on different items, as train and validation accuracy are.
    Source: Newcombe 1998, "Interval estimation for the difference between independent proportions".
    """
    a, b = (successes_a / n_a if n_a else 0.0), (successes_b / n_b if n_b else 0.0)
    (low_a, high_a), (low_b, high_b) = wilson(successes_a, n_a, level=level), wilson(successes_b, n_b, level=level)
    low = a - b - math.hypot(a - low_a, high_b - b)
    high = a - b + math.hypot(high_a - a, b - low_b)
    return Interval(a - b, max(-1.0, low), min(1.0, high))


def _paired(correct_a: Sequence[bool] | Array, correct_b: Sequence[bool] | Array) -> tuple[int, int, int]:
    """Items that only a, that only b, and that both or neither answered rightly."""
    a, b = np.asarray(correct_a).astype(bool).ravel(), np.asarray(correct_b).astype(bool).ravel()
    if a.shape != b.shape:
        raise ValueError(f"paired answers need equal lengths, got {a.size} and {b.size}")
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    return only_a, only_b, a.size - only_a - only_b


def paired_bootstrap(
    correct_a: Sequence[bool] | Array,
    correct_b: Sequence[bool] | Array,
    *,
    seed: int = 0,
    n: int = 10_000,
    level: float = 0.95,
) -> Interval:
    """Difference in accuracy a - b on the same items, with a percentile bootstrap interval over the items.

    An item counts only through its outcome (only a right, only b right, both or neither), so a resample of the
    items is one multinomial draw: exact, and quick for any number of items. The same seed gives the same interval.
    Raises ValueError when the two sequences differ in length. No items: the difference is 0 in [-1, 1].
    """
    only_a, only_b, same = _paired(correct_a, correct_b)
    total = only_a + only_b + same
    if total == 0:
        return Interval(0.0, -1.0, 1.0)
    tail = (1.0 - level) / 2.0
    shares = np.array([only_a, only_b, same], dtype=float) / total
    draws = np.random.default_rng(seed).multinomial(total, shares, size=n)
    low, high = np.quantile((draws[:, 0] - draws[:, 1]) / total, [tail, 1.0 - tail])
    value = (only_a - only_b) / total
    return Interval(value, min(float(low), value), max(float(high), value))


def mcnemar(correct_a: Sequence[bool] | Array, correct_b: Sequence[bool] | Array) -> float:
    """Two-sided exact p value that a and b are equally accurate, from the items that exactly one got right.

    Source: McNemar 1947, in its exact binomial form. 1.0 when they never differ.
    """
    from scipy.stats import binomtest

    only_a, only_b, _ = _paired(correct_a, correct_b)
    if only_a + only_b == 0:
        return 1.0
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue)


def bootstrap(
    values: Sequence[float] | Array,
    statistic: Callable[[Array], Array] | None = None,
    *,
    seed: int = 0,
    n: int = 2_000,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap of a statistic (default: the mean) over rows of `values`.

    `statistic` takes an array [n, ...] of resampled rows and returns one number. Rows are items; resampling is
    by the seed alone. Raises ValueError without values.
    """
    rows = np.asarray(values, dtype=float)
    if rows.shape[0] == 0:
        raise ValueError("a bootstrap needs at least one value")
    measure = statistic if statistic is not None else lambda chosen: np.mean(chosen, axis=0)
    generator = np.random.default_rng(seed)
    draws = [float(measure(rows[generator.integers(0, len(rows), len(rows))])) for _ in range(n)]
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(draws, [tail, 1.0 - tail])
    value = float(measure(rows))
    return Interval(value, min(float(low), value), max(float(high), value))
