"""Intervals and paired tests against their definitions and published figures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from headstart.judge.intervals import bootstrap, difference, mcnemar, paired_bootstrap, wilson


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int]:
    n = draw(st.integers(1, 5000))
    return draw(st.integers(0, n)), n


@settings(max_examples=60, deadline=None)
@given(counts(), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_is_the_score_interval_of_scipy(pair: tuple[int, int], level: float) -> None:
    successes, n = pair
    reference = binomtest(successes, n).proportion_ci(level, method="wilson")
    assert wilson(successes, n, level=level) == pytest.approx((reference.low, reference.high), abs=1e-9)
    low, high = wilson(successes, n, level=level)
    assert 0 <= low <= successes / n <= high <= 1
    assert low < high


def test_wilson_covers_the_true_share_about_as_often_as_it_says() -> None:
    n, share = 60, 0.85
    hits = np.arange(n + 1)
    inside = [low <= share <= high for low, high in (wilson(int(k), n) for k in hits)]
    assert 0.93 <= binom.pmf(hits, n, share)[inside].sum() <= 0.98


def test_wilson_knows_nothing_without_items_and_refuses_impossible_counts() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    for successes, n in ((3, 2), (-1, 2), (0, -1)):
        with pytest.raises(ValueError, match="successes"):
            wilson(successes, n)
    with pytest.raises(ValueError, match="level"):
        wilson(1, 2, level=1.0)


def test_difference_gives_newcombes_published_figures() -> None:
    # Newcombe 1998, table II, method 10: (56/70, 48/80) and (9/10, 3/10)
    found = difference(56, 70, 48, 80)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    found = difference(9, 10, 3, 10)
    assert (found.value, found.low, found.high) == pytest.approx((0.6, 0.1705, 0.8090), abs=5e-5)


@settings(max_examples=40, deadline=None)
@given(counts(), counts())
def test_difference_turns_its_sign_with_the_order(a: tuple[int, int], b: tuple[int, int]) -> None:
    one, other = difference(*a, *b), difference(*b, *a)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low), abs=1e-12)
    assert -1 <= one.low <= one.value <= one.high <= 1


answers = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80)


@settings(max_examples=30, deadline=None)
@given(answers, st.integers(0, 3))
def test_paired_bootstrap_holds_the_difference_and_repeats_by_seed(pairs: list[tuple[bool, bool]], seed: int) -> None:
    a, b = np.array(pairs).T
    found = paired_bootstrap(a, b, seed=seed, n=500)
    assert found.value == pytest.approx(a.mean() - b.mean())
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert paired_bootstrap(a, b, seed=seed, n=500) == found
    assert paired_bootstrap(a, a, seed=seed, n=500).high == 0


def test_paired_bootstrap_is_the_resampling_of_items() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.random(200) < 0.8, generator.random(200) < 0.7
    rows = generator.integers(0, 200, (4000, 200))
    plain = np.quantile(a[rows].mean(1) - b[rows].mean(1), [0.025, 0.975])
    found = paired_bootstrap(a, b)
    assert (found.low, found.high) == pytest.approx(tuple(plain), abs=0.01)


def test_pairs_must_be_pairs_and_nothing_compared_says_nothing() -> None:
    assert paired_bootstrap([], []).low == -1
    with pytest.raises(ValueError, match="equal lengths"):
        paired_bootstrap([True], [True, False])
    with pytest.raises(ValueError, match="equal lengths"):
        mcnemar([True], [True, False])


def test_mcnemar_is_the_exact_binomial_test_of_the_items_that_differ() -> None:
    a = np.array([1] * 9 + [0] * 2 + [1] * 50)
    b = np.array([0] * 9 + [1] * 2 + [1] * 50)
    assert mcnemar(a, b) == pytest.approx(2 * binom.cdf(2, 11, 0.5))
    assert mcnemar(a, b) == mcnemar(b, a)
    assert mcnemar(a, a) == 1.0


def test_bootstrap_of_a_mean_agrees_with_its_standard_error() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    found = bootstrap(values, seed=5)
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert bootstrap(values, seed=5) == found
    assert bootstrap(values, lambda rows: np.max(rows), n=50).high == values.max()
    with pytest.raises(ValueError, match="at least one"):
        bootstrap([])
