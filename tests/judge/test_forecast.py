"""A forecast follows the curve that was measured, doubts more the further out, and says which class comes first."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier

from headstart.judge.forecast import First, Point, first_class, fit_power_law, nested_parts, sentence
from headstart.judge.intervals import wilson

SIZES = (25, 50, 100, 200, 400)


def measured(curve: Callable[[float], float], *, tested: int = 100_000, jitter: float = 0.0) -> list[Point]:
    generator = np.random.default_rng(4)
    return [
        Point(n, float(np.clip(curve(n) + jitter * generator.standard_normal(), 0, 1)), seed, tested)
        for n in SIZES
        for seed in range(3)
    ]


def power(n: float) -> float:
    return 0.95 - 1.5 * n**-0.5


# --- the fit --------------------------------------------------------------------------------------------------------


def test_a_power_law_without_noise_is_found_again() -> None:
    found = fit_power_law(measured(power))
    assert (found.limit, found.scale, found.exponent) == pytest.approx((0.95, 1.5, 0.5), rel=0.1)
    assert found.now == 400
    assert found.at(1600).value == pytest.approx(power(1600), abs=0.01)
    assert found.gain(400).value == pytest.approx(power(800) - power(400), abs=0.006)
    gain = found.gain(400)
    assert gain.low < gain.value < gain.high


def test_the_band_grows_wider_further_out_and_with_fewer_held_out_items() -> None:
    found = fit_power_law(measured(power, tested=300, jitter=0.01))
    spans = [found.gain(extra).high - found.gain(extra).low for extra in (100, 400, 1600, 6400)]
    assert spans == sorted(spans)
    assert found.gain(0).low == found.gain(0).high == 0.0
    wide, narrow = (fit_power_law(measured(power, tested=tested, jitter=0.01)).at(800) for tested in (50, 5000))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_held_out_items_of_their_own_make_the_level_surer() -> None:
    points = measured(power, tested=100, jitter=0.01)
    shared, apart = fit_power_law(points).at(400), fit_power_law(points, apart=True).at(400)
    assert apart.high - apart.low < 0.85 * (shared.high - shared.low)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 2000), st.floats(0, 1), st.integers(0, 2), st.integers(1, 500)),
        min_size=2,
        max_size=15,
    ).filter(lambda rows: max(r[0] for r in rows) > 1.2 * min(r[0] for r in rows)),
    st.integers(0, 5000),
)
def test_any_measurements_give_accuracies_in_order_and_the_same_ones_again(rows, extra: int) -> None:
    points = [Point(*row) for row in rows]
    found, again = fit_power_law(points, draws=100), fit_power_law(points[::-1], draws=100)
    assert found.limit <= 1
    assert found.scale >= 0
    assert 0 < found.exponent <= 2
    for interval in (found.at(found.now + extra), found.at(1)):
        assert 0 <= interval.low <= interval.value <= interval.high <= 1
    gain = found.gain(extra)
    assert -1 <= gain.low <= gain.value <= gain.high <= 1
    assert json.dumps(again.as_dict()) == json.dumps(found.as_dict(), allow_nan=False)


def test_what_is_no_curve_is_refused() -> None:
    with pytest.raises(ValueError, match="two training sizes"):
        fit_power_law([Point(100, 0.8, 0, 50), Point(103, 0.9, 1, 50)])
    for wrong in (Point(0, 0.5, 0, 10), Point(10, 1.5, 0, 10), Point(10, 0.5, 0, 0)):
        with pytest.raises(ValueError, match="no accuracy"):
            fit_power_law([wrong, Point(100, 0.9, 0, 10)])


@pytest.mark.parametrize("model", [RidgeClassifier(), KNeighborsClassifier(3), GaussianNB(var_smoothing=1e-2)])
def test_real_learning_curves_go_on_inside_their_band(model) -> None:
    """Handwritten digits: forecast from up to 300 training items, then train on 1,200."""
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    held, train = order[:500], order[500:1700]
    pool = train[:300]

    def accuracy(rows) -> float:
        return float((model.fit(X[rows], y[rows]).predict(X[held]) == y[held]).mean())

    points = [
        Point(len(part), accuracy(pool[part]), seed, len(held))
        for seed, parts in enumerate(nested_parts(y[pool], [0.1, 0.2, 0.4, 0.7, 1.0], seeds=[0, 1, 2]))
        for part in parts
    ]
    found, truth = fit_power_law(points), accuracy(train)
    assert found.at(1200).low <= truth <= found.at(1200).high
    gain = found.gain(900)
    assert gain.low <= truth - accuracy(pool) <= gain.high


# --- words and record -----------------------------------------------------------------------------------------------


def test_a_flat_curve_promises_little() -> None:
    found = fit_power_law(measured(lambda n: 0.9, tested=500, jitter=0.004))
    assert sentence(found, 300).startswith("300 more images would bring little: ")
    assert found.gain(300).low < 0 < found.gain(300).high < 0.03


def test_a_falling_curve_promises_no_gain_and_stays_an_accuracy() -> None:
    found = fit_power_law(measured(lambda n: 0.9 - 0.02 * np.log2(n / 25), tested=500))
    assert found.scale == 0
    assert found.gain(400).value <= 0
    assert 0 <= found.at(10_000).low <= found.at(10_000).high <= 1


def test_the_sentence_gives_points_with_their_interval_and_the_class() -> None:
    found = fit_power_law(measured(power))
    gain, first = found.gain(300), First("bees", "why")
    assert sentence(found, 300, first) == (
        f"300 more images would bring about +{100 * gain.value:.1f} points "
        f"({100 * gain.low:.1f} to {100 * gain.high:.1f}); of class bees first"
    )
    assert sentence(found, 3000, noun="items").startswith("3,000 more items would bring")


def test_the_record_holds_points_fit_band_and_round_numbers_of_more() -> None:
    found = fit_power_law(measured(power, tested=300, jitter=0.01), now=244)
    record = found.as_dict(first=First("bees", "why"))
    assert set(record) == {"points", "fit", "band", "more", "first", "sentence"}
    assert [point["n"] for point in record["points"]] == list(SIZES)
    assert [point["seeds"] for point in record["points"]] == [3] * 5
    point = record["points"][2]
    assert (point["low"], point["high"]) == wilson(point["accuracy"] * 300, 300)
    assert [more["items"] for more in record["more"]] == [100, 200, 500]
    assert record["more"][1]["points"] == pytest.approx(100 * found.gain(200).value)
    assert record["sentence"] == sentence(found, 200, First("bees", "why"))
    sizes = [row["n"] for row in record["band"]]
    assert sizes == sorted(sizes)
    assert {25, 244, 744} <= set(sizes)
    assert record["first"] == {"class": "bees", "reason": "why"}
    assert found.as_dict(extras=[7])["more"][0]["items"] == 7


# --- which class first ----------------------------------------------------------------------------------------------


def classes(**rows: tuple[int, float]) -> dict[str, dict[str, float]]:
    return {name: {"n": n, "recall": recall} for name, (n, recall) in rows.items()}


def test_the_class_with_low_recall_and_few_items_comes_first() -> None:
    table = classes(ants=(60, 0.95), bees=(60, 0.6), wasps=(60, 0.95))
    found = first_class(table, {"ants": 100, "bees": 100, "wasps": 100})
    assert found == First("bees", "60 % of its 60 held-out items are right, and it has 100 of 300 training items")
    alike = classes(ants=(60, 0.8), bees=(60, 0.8))
    assert first_class(alike, {"ants": 200, "bees": 20}) == First(
        "bees", "80 % of its 60 held-out items are right, and it has 20 of 220 training items"
    )


def test_no_class_comes_first_where_they_do_not_differ_beyond_chance() -> None:
    counts = {"ants": 100, "bees": 100}
    assert first_class(classes(ants=(20, 0.95), bees=(20, 0.85)), counts) is None
    assert first_class(classes(ants=(20, 1.0), bees=(20, 1.0)), counts) is None
    assert first_class(classes(ants=(20, 0.5)), counts) is None
    assert first_class(classes(ants=(20, 0.5), bees=(0, 0.0)), counts) is None
    assert first_class(classes(ants=(90, 0.9), bees=(90, 0.2)), {"ants": 100}) is None


# --- nested parts ---------------------------------------------------------------------------------------------------


@st.composite
def pools(draw: st.DrawFn) -> tuple[list[int], list[str] | None]:
    labels = draw(st.lists(st.integers(0, 3), min_size=1, max_size=60))
    grouped = draw(st.booleans())
    return labels, [f"g{draw(st.integers(0, 9))}" for _ in labels] if grouped else None


@settings(max_examples=60, deadline=None)
@given(pools(), st.lists(st.sampled_from([0.05, 0.2, 0.5, 0.8, 1.0]), min_size=1, max_size=4))
def test_parts_are_nested_hold_every_class_and_keep_groups_whole(pool, fractions: list[float]) -> None:
    labels, groups = np.array(pool[0]), pool[1]
    for parts in nested_parts(labels, fractions, seeds=[0, 1], groups=groups):
        assert len(parts) == len(fractions)
        ordered = sorted(zip(fractions, parts, strict=True), key=lambda pair: pair[0])
        for (_, small), (_, large) in pairwise(ordered):
            assert set(small.tolist()) <= set(large.tolist())
        for fraction, part in ordered:
            assert part.tolist() == sorted(set(part.tolist()))
            assert set(labels[part]) == set(labels)
            if fraction == 1.0:
                assert len(part) == len(labels)
            if groups is not None:
                inside = {groups[i] for i in part}
                assert sum(group in inside for group in groups) == len(part)


def test_parts_are_stratified_and_drawn_by_the_seed_alone() -> None:
    labels = np.repeat([0, 1, 2], [100, 40, 3])
    one, two = nested_parts(labels, [0.1, 0.5], seeds=[0, 1])
    assert Counter(labels[one[0]].tolist()) == {0: 10, 1: 4, 2: 1}
    assert Counter(labels[one[1]].tolist()) == {0: 50, 1: 20, 2: 2}
    assert one[1].tolist() != two[1].tolist()
    assert nested_parts(labels, [0.1, 0.5], seeds=[1])[0][1].tolist() == two[1].tolist()
    for fractions, groups, message in (
        ([0.0], None, "fractions"),
        ([1.2], None, "fractions"),
        ([0.5], ["a"], "groups"),
    ):
        with pytest.raises(ValueError, match=message):
            nested_parts(labels, fractions, seeds=[0], groups=groups)
