"""The statistics keep their promises over a thousand simulated sets each: coverage, error rates, regret.

Every set is drawn from a known truth, seeded. The figures found stand beside the margins that are asserted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import ndtri
from scipy.stats import binom

from headstart.judge.choosing import Entry, choose
from headstart.judge.forecast import Point, first_class, fit_power_law
from headstart.judge.intervals import difference, mcnemar, paired_bootstrap, wilson

SETS = 1_000
NOISE = 3 * float(np.sqrt(0.05 * 0.95 / SETS))  # three standard errors of a rate of 5 % over the sets
Array = npt.NDArray[np.float64]


def correct_answers(accuracies: Sequence[float], n: int, *, seed: int, together: float = 0.7) -> npt.NDArray[np.bool_]:
    """[sets, candidates, items]: right where a normal score, `together` shared by the candidates, is low enough."""
    generator = np.random.default_rng(seed)
    shared = generator.standard_normal((SETS, 1, n), dtype=np.float32)
    own = generator.standard_normal((SETS, len(accuracies), n), dtype=np.float32)
    limits = ndtri(np.array(accuracies, dtype=np.float32))[None, :, None]
    return np.sqrt(np.float32(together)) * shared + np.sqrt(np.float32(1 - together)) * own < limits


# --- intervals ------------------------------------------------------------------------------------------------------


# Found: 0.949, 0.934, 0.942, 0.952 (exact: 0.956, 0.941, 0.955, 0.949). Near 1 the exact coverage jumps: the worst
# share between 0.8 and 0.999 is 0.9975 for 60 items (0.861) and 0.998 for 244 (0.914).
@pytest.mark.parametrize(("n", "share"), [(60, 0.85), (153, 0.94), (244, 0.8), (1000, 0.9)])
def test_wilson_covers_the_true_share_in_93_to_97_of_100_sets(n: int, share: float) -> None:
    hits = np.random.default_rng(0).binomial(n, share, SETS)
    inside = {int(k): wilson(int(k), n)[0] <= share <= wilson(int(k), n)[1] for k in np.unique(hits)}
    assert 0.93 <= np.mean([inside[int(k)] for k in hits]) <= 0.97


@pytest.mark.parametrize(("n", "floor"), [(60, 0.86), (244, 0.91)])
def test_wilsons_worst_coverage_near_one_is_bounded_where_the_plain_intervals_is_not(n: int, floor: float) -> None:
    hits = np.arange(n + 1)
    spread = 1.96 * np.sqrt(hits / n * (1 - hits / n) / n)
    bounds, ours, plain = np.array([wilson(int(k), n) for k in hits]), [], []
    for share in np.linspace(0.8, 0.999, 400):
        chance = binom.pmf(hits, n, share)
        ours.append(chance[(bounds[:, 0] <= share) & (share <= bounds[:, 1])].sum())
        plain.append(chance[np.abs(hits / n - share) <= spread].sum())
    assert min(ours) >= floor
    assert min(plain) < 0.3


# Found: 0.951, 0.953, 0.953. Small sets near 1 are covered too often: 60 items each at 0.99 and 0.97 in 0.996.
@pytest.mark.parametrize(
    ("n_a", "a", "n_b", "b"), [(120, 0.95, 60, 0.85), (600, 0.99, 153, 0.93), (244, 0.8, 244, 0.8)]
)
def test_newcombe_covers_the_true_difference_in_93_to_97_of_100_sets(n_a: int, a: float, n_b: int, b: float) -> None:
    generator = np.random.default_rng(1)
    found = [
        difference(int(hits_a), n_a, int(hits_b), n_b)
        for hits_a, hits_b in zip(generator.binomial(n_a, a, SETS), generator.binomial(n_b, b, SETS), strict=True)
    ]
    assert 0.93 <= np.mean([f.low <= a - b <= f.high for f in found]) <= 0.97


# Found: 0.944, 0.960, 0.949. With few differing items the percentile bootstrap is too narrow: 60 items at 0.93 and 0.88
# give 0.928, 30 items at 0.95 and 0.90 give 0.854.
@pytest.mark.parametrize(("n", "a", "b"), [(244, 0.93, 0.88), (500, 0.85, 0.85), (153, 0.9, 0.75)])
def test_the_paired_bootstrap_covers_the_true_difference_in_93_to_97_of_100_sets(n: int, a: float, b: float) -> None:
    answers = correct_answers([a, b], n, seed=2)
    found = [paired_bootstrap(one, other, seed=i, n=1_000) for i, (one, other) in enumerate(answers)]
    assert 0.93 <= np.mean([f.low <= a - b <= f.high for f in found]) <= 0.97


# Found: 0.023, 0.033, 0.032; an exact test of counts errs less often than its level.
@pytest.mark.parametrize(("n", "share"), [(60, 0.9), (244, 0.9), (1000, 0.8)])
def test_mcnemar_errs_in_5_of_100_sets_at_most_where_nothing_differs(n: int, share: float) -> None:
    answers = correct_answers([share, share], n, seed=3)
    assert np.mean([mcnemar(one, other) < 0.05 for one, other in answers]) <= 0.05 + NOISE


# --- choosing -------------------------------------------------------------------------------------------------------


def chosen(accuracies: Sequence[float], n: int, *, seed: int = 5, judged: int | None = None) -> npt.NDArray[np.int64]:
    """The chosen candidate of each set; they grow dearer by their place. The last may be judged on few items alone."""
    found = []
    for answers in correct_answers(accuracies, n, seed=seed):
        loss = np.where(answers, 0.1, 2.0)
        if judged is not None:
            loss[-1, judged:] = np.nan
        entries = [Entry(str(i), answers[i], loss[i], float(i)) for i in range(len(accuracies))]
        found.append(choose(entries).chosen)
    return np.array(found)


# Found: 0.908 to 0.957. Keeping what lies within one standard error (of the paired difference) of the best would keep
# it in about 0.8 of sets with two candidates, 0.7 with three and 0.6 with five.
@pytest.mark.parametrize("n", [40, 100, 244])
@pytest.mark.parametrize("candidates", [2, 3, 5])
def test_of_equally_good_candidates_the_simplest_is_chosen_in_90_of_100_sets(n: int, candidates: int) -> None:
    assert (chosen([0.9] * candidates, n) == 0).mean() >= 0.9


def test_a_candidate_judged_on_one_fold_alone_is_no_more_often_chosen_by_chance() -> None:
    assert (chosen([0.9] * 3, 200, judged=40) == 0).mean() >= 0.9


def test_a_far_better_candidate_is_chosen_nearly_always() -> None:
    assert (chosen([0.8, 0.93], 244) == 1).mean() >= 0.98
    assert (chosen([0.8, 0.8, 0.81, 0.93], 244) == 3).mean() >= 0.98
    assert (chosen([0.7, 0.9], 100) == 1).mean() >= 0.95


# The worst of four true leads. Found: 0.023, 0.047, 0.013, 0.030: the price of preferring the simplest.
@pytest.mark.parametrize(
    ("n", "candidates", "margin"), [(100, 2, 0.03), (100, 4, 0.055), (244, 2, 0.02), (244, 4, 0.035)]
)
def test_the_expected_regret_of_the_chosen_is_bounded(n: int, candidates: int, margin: float) -> None:
    worst = 0.0
    for lead in (0.02, 0.04, 0.06, 0.09):
        accuracies = 0.85 + lead * np.arange(candidates) / (candidates - 1)
        worst = max(worst, accuracies[-1] - accuracies[chosen(accuracies.tolist(), n)].mean())
    assert 0.0 < worst <= margin


# --- forecast -------------------------------------------------------------------------------------------------------

SIZES = np.array([24, 49, 98, 171, 244])  # the last is the whole pool, where every seed has the same items
EXTRA = (122, 244, 732)


def learned(curve: Callable[[Array], Array], *, tested: int, seed: int, seeds: int = 3) -> list[Point]:
    """Accuracies of a learner with this curve: items differ in difficulty, training sets in luck; all as a probit."""
    generator = np.random.default_rng(seed)
    difficulty = 2.0 * generator.standard_normal(tested)
    answer = generator.standard_normal((2, seeds, len(SIZES), tested))
    answer[0] = answer[0, :, :1]  # half of an answer's chance stays with the seed
    luck = 0.6 / np.sqrt(SIZES)[:, None] * generator.standard_normal((seeds, len(SIZES), 1))
    answer[:, :, -1], luck[:, -1] = answer[:, :1, -1], luck[:1, -1]
    skill = np.sqrt(5.0) * (ndtri(curve(SIZES.astype(float)))[:, None] + luck)
    right = (skill + difficulty + np.sqrt(0.5) * answer.sum(axis=0) > 0).mean(axis=2)
    return [Point(int(n), float(right[s, k]), s, tested) for s in range(seeds) for k, n in enumerate(SIZES)]


@cache
def coverage(name: str, sets: int) -> dict[str, float]:
    """How often the band holds accuracy and gain at larger sizes, and the mean error of the gain from 244 more."""
    curve, inside = CURVES[name], {"accuracy": [], "gain": [], "error": []}
    before = float(curve(np.array(244.0)))
    for i in range(sets):
        found = fit_power_law(learned(curve, tested=(100, 244, 600)[i % 3], seed=i), draws=400, seed=i)
        for extra in EXTRA:
            truth = float(curve(np.array(244.0 + extra)))
            at, gain = found.at(244 + extra), found.gain(extra)
            inside["accuracy"].append(at.low <= truth <= at.high)
            inside["gain"].append(gain.low <= truth - before <= gain.high)
            if extra == 244:
                inside["error"].append(gain.value - truth + before)
    return {key: float(np.mean(values)) for key, values in inside.items()}


CURVES: dict[str, Callable[[Array], Array]] = {
    "power 0.2": lambda n: 0.98 - 0.9 * n**-0.2,
    "power 0.35": lambda n: 0.97 - 1.6 * n**-0.35,
    "power 0.5": lambda n: 0.95 - 2.0 * n**-0.5,
    "power 0.8": lambda n: 0.92 - 4.0 * n**-0.8,
    "power 1.2": lambda n: 0.90 - 12.0 * n**-1.2,
    "flat": lambda n: 0.9 + 0.0 * n,
    "exponential 60": lambda n: 0.93 - 0.4 * np.exp(-n / 60),
    "exponential 150": lambda n: 0.93 - 0.4 * np.exp(-n / 150),
    "logistic 120": lambda n: 0.5 + 0.44 / (1 + (n / 120) ** -2.0),
    "logistic 250": lambda n: 0.5 + 0.44 / (1 + (n / 250) ** -2.5),
    "logarithm": lambda n: 0.5 + 0.06 * np.log(n),
}
POWERS = [name for name in CURVES if name.startswith(("power", "flat"))]


# Found for accuracy and gain, with 100, 244 and 600 held-out items: power 0.2 0.96 and 0.95, 0.35 0.96 and 0.92, 0.5
# 0.99 and 0.99, 0.8 0.99 and 1.00, 1.2 0.99 and 0.98, flat 0.95 and 0.96. The mean error of the gain from twice the
# items is -0.9, -0.9, -0.6, 0.0, +0.4 and +0.1 points.
def test_the_band_holds_the_truth_at_larger_sizes_in_90_to_99_of_100_power_laws() -> None:
    found = {name: coverage(name, 170) for name in POWERS}  # a thousand sets in all, each at three larger sizes
    for name, row in found.items():
        assert row["accuracy"] >= 0.9, name
        assert row["gain"] >= 0.9, name
        assert abs(row["error"]) <= 0.012, name
    for measure in ("accuracy", "gain"):
        assert 0.9 <= np.mean([row[measure] for row in found.values()]) <= 0.99, measure


# Found: 1.00 and 1.00, 0.99 and 0.98, 1.00 and 0.99; but 0.78 and 0.55 where the curve is steepest at the last size,
# and 0.88 and 0.58 where each doubling brings the same: what the measured sizes do not show, the band does not hold.
@pytest.mark.parametrize(
    ("name", "accuracy", "gain"),
    [
        ("exponential 60", 0.9, 0.9),
        ("exponential 150", 0.9, 0.9),
        ("logistic 120", 0.9, 0.9),
        ("logistic 250", 0.7, 0.45),
        ("logarithm", 0.8, 0.5),
    ],
)
def test_the_band_on_curves_that_are_no_power_laws(name: str, accuracy: float, gain: float) -> None:
    found = coverage(name, 150)
    assert found["accuracy"] >= accuracy
    assert found["gain"] >= gain


# Found: 0.033, 0.027, 0.029.
@pytest.mark.parametrize(("classes", "n", "error"), [(2, 100, 0.1), (5, 20, 0.1), (20, 30, 0.2)])
def test_equal_classes_are_told_apart_in_5_of_100_sets_at_most(classes: int, n: int, error: float) -> None:
    wrong = np.random.default_rng(6).binomial(n, error, (SETS, classes))
    counts = {str(i): 50 for i in range(classes)}
    named = [
        first_class({str(i): {"n": n, "recall": 1 - w / n} for i, w in enumerate(row.tolist())}, counts) is not None
        for row in wrong
    ]
    assert np.mean(named) <= 0.05 + NOISE
