"""What more data would bring: a power law through accuracies at growing training sizes, with a band.

Sources: Cortes et al. 1994, "Learning curves: asymptotic values and rate of convergence"; Hestness et al. 2017, "Deep
learning scaling is predictable, empirically"; Viering and Loog 2021, "The shape of learning curves: a review", who
find the power law with three parameters the best single form, and curves that it does not fit.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.judge.intervals import wilson
from headstart.records import Interval

__all__ = ["First", "Forecast", "Point", "first_class", "fit_power_law", "nested_parts", "sentence"]

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]

_DRAWS = 2_000
_EXPONENTS = np.geomspace(0.02, 2.0, 60)
_USUAL, _FACTOR = 0.25, math.exp(0.8)  # exponents expected before any measurement: log-normal, median and factor
_FORMS = {"power": 0.6, "exponential": 0.2, "s-shaped": 0.2}  # belief in each form before any measurement
_STEEP = (2.0, 3.5)  # of the s-shaped curves
_TOGETHER = 0.8  # share of the held-out items' chance that moves the whole curve, since all sizes meet the same items
_LITTLE = 0.005  # a gain below half a point is little


@dataclass(frozen=True, slots=True)
class Point:
    """Accuracy on `tested` held-out items after training on `n` items drawn with `seed`."""

    n: int
    accuracy: float
    seed: int
    tested: int


@dataclass(frozen=True, slots=True)
class First:
    """The class to collect items of first, and why."""

    label: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Level:
    """What was measured at one training size, over all seeds."""

    n: float
    accuracy: float
    seeds: int
    tested: int
    spread: float  # variance over seeds


@dataclass(frozen=True, slots=True)
class _Laws:
    """Candidate shapes of a learning curve: what is still missing at n items, from 1 down to 0, for each parameter."""

    exponents: Array
    decays: Array
    middles: Array
    steepness: Array
    belief: Array  # [laws], sums to 1

    def missing(self, n: Array | float) -> Array:
        """[sizes, laws]: n ** -exponent, exp(-n / decay) and 1 / (1 + (n / middle) ** steepness)."""
        sizes = np.atleast_1d(np.asarray(n, dtype=float))[:, None]
        shaped = 1.0 / (1.0 + (sizes / self.middles) ** self.steepness)
        return np.concatenate([sizes**-self.exponents, np.exp(-sizes / self.decays), shaped], axis=1)


@dataclass(frozen=True, slots=True)
class Forecast:
    """A power law accuracy(n) = limit - scale * n ** -exponent, and draws of all the curves that the points allow.

    A gain counts from `now` training items on. `draws` [draws, 3] are (limit, slope, place of the law); bounds are
    their quantiles. A value is half way between the power law and the median of the draws, within the bounds: alone,
    the law promises too much where a curve levels off, and the median too little where it goes on. Source of the
    mean: Bates and Granger 1969, "The combination of forecasts".
    """

    limit: float
    scale: float
    exponent: float
    now: int
    levels: tuple[_Level, ...]
    laws: _Laws
    draws: Array

    def at(self, n: float) -> Interval:
        """Accuracy that training on `n` items would reach, a share, with its 95 % interval."""
        return _interval(self._value(n), self._drawn(n))

    def gain(self, extra: float) -> Interval:
        """What `extra` more items would add to the accuracy of `now` items, a share, with its 95 % interval."""
        more = self.now + extra
        return _interval(self._value(more) - self._value(self.now), self._drawn(more) - self._drawn(self.now))

    def as_dict(self, *, first: First | None = None, extras: Sequence[int] | None = None) -> dict[str, Any]:
        """The forecast as run.json keeps it; `extras` default to round numbers about half, one and two times `now`."""
        extras = _rounds(self.now) if extras is None else extras
        far = max([self.now + extra for extra in extras] or [self.now])
        sizes = sorted({round(n) for n in np.geomspace(self.levels[0].n, max(far, self.levels[0].n), 25)} | {self.now})
        gains = [(extra, self.gain(extra)) for extra in extras]
        return {
            "points": [_row(level) for level in self.levels],
            "fit": {"limit": self.limit, "scale": self.scale, "exponent": self.exponent},
            "band": [
                {"n": n, "accuracy": found.value, "low": found.low, "high": found.high}
                for n, found in ((n, self.at(n)) for n in sizes)
            ],
            "more": [
                {"items": extra, "points": 100 * found.value, "interval": [100 * found.low, 100 * found.high]}
                for extra, found in gains
            ],
            "first": {"class": first.label, "reason": first.reason} if first else None,
            "sentence": sentence(self, extras[len(extras) // 2], first) if extras else "",
        }

    def _value(self, n: float) -> float:
        return min(1.0, max(0.0, self.limit - self.scale * math.pow(n, -self.exponent)))

    def _drawn(self, n: float) -> Array:
        limit, slope, law = self.draws.T
        drawn: Array = np.clip(limit + slope * self.laws.missing(n)[0, law.astype(int)], 0.0, 1.0)
        return drawn


def _interval(value: float, draws: Array) -> Interval:
    low, median, high = (float(bound) for bound in np.quantile(draws, [0.025, 0.5, 0.975]))
    return Interval(min(max((value + median) / 2, low), high), low, high)


def _row(level: _Level) -> dict[str, float]:
    low, high = wilson(level.accuracy * level.tested, level.tested)
    return {"n": round(level.n), "accuracy": level.accuracy, "low": low, "high": high, "seeds": level.seeds}


def _rounds(now: int) -> list[int]:
    """Round numbers near half, one and two times `now`."""
    found = set()
    for wanted in (now / 2, now, 2 * now):
        unit = 10 ** max(0, math.floor(math.log10(max(wanted, 1))))
        found.add(min((unit, 2 * unit, 3 * unit, 5 * unit, 10 * unit), key=lambda n: abs(math.log(n / max(wanted, 1)))))
    return sorted(found)


def fit_power_law(
    points: Sequence[Point], *, now: int | None = None, apart: bool = False, seed: int = 0, draws: int = _DRAWS
) -> Forecast:
    """Fit accuracy(n) = limit - scale * n ** -exponent: limit at most 1, exponent in (0, 2], scale not below 0.

    `now` is the number of items that a gain counts from (default: the largest measured); `apart` says that every seed
    was judged on held-out items of its own, else all met the same. Sizes within 5 % of each other count as one. A size
    is weighted by its variance: the luck of its training items, from the spread over seeds, and the part of the
    held-out items' chance that differs from size to size. Where no law fits within that, it grows (Birge's ratio).

    The band knows how little few points say about the form: each draw takes a law (power laws, exponentials, s-shaped
    curves, each with its parameter on a grid) as often as its fit and the belief in it before any measurement deserve,
    moves the points by their chance and fits the law anew. So it grows wider further out, and around a flat curve it
    holds 0, for a draw may fall with n. The same seed gives the same band.
    Raises ValueError for fewer than two sizes or values that are no accuracies.
    """
    levels = _levels(points, apart)
    n = np.array([level.n for level in levels])
    if len(n) < 2:
        raise ValueError("a forecast needs accuracies at two training sizes at least")
    y = np.array([level.accuracy for level in levels])
    own, common = _variances(levels, apart)
    laws = _candidates(n)
    x = laws.missing(n).T
    *_, squares = _lines(x, y, 1.0 / own)
    misfit = float(np.clip(squares.min() / max(1, len(n) - 3), 1.0, 25.0))
    own, squares = own * misfit, squares / misfit
    chance = laws.belief * np.exp(-(squares - squares.min()) / 2)
    generator = np.random.default_rng(seed)
    law = generator.choice(len(chance), draws, p=chance / chance.sum())
    shift, noise = generator.standard_normal((draws, 1)), generator.standard_normal((draws, len(n)))
    limit, slope, _ = _lines(x[law], y + shift * math.sqrt(common) + noise * np.sqrt(own), 1.0 / own)
    found = np.stack([limit, slope, law], axis=1)
    best = _power(n, y, 1.0 / own)
    return Forecast(*best, int(now if now is not None else round(n[-1])), tuple(levels), laws, found)


def _candidates(n: Array) -> _Laws:
    """Power laws, exponentials and s-shaped curves; the latter two with their scale within the measured sizes."""
    scales = np.geomspace(n[0], n[-1], 20)
    usual = np.exp(-0.5 * (np.log(_EXPONENTS / _USUAL) / math.log(_FACTOR)) ** 2)
    middles, steepness = (grid.ravel() for grid in np.meshgrid(scales, np.array(_STEEP)))
    flat = [
        np.full(len(scales), _FORMS["exponential"] / len(scales)),
        np.full(len(middles), _FORMS["s-shaped"] / len(middles)),
    ]
    belief = np.concatenate([_FORMS["power"] * usual / usual.sum(), *flat])
    return _Laws(_EXPONENTS, scales, middles, steepness, belief)


def _levels(points: Sequence[Point], apart: bool) -> list[_Level]:
    """The points of one size together, sizes growing."""
    groups: list[list[Point]] = []
    for point in sorted(points, key=lambda point: (point.n, point.seed, point.accuracy, point.tested)):
        if point.n < 1 or point.tested < 1 or not 0.0 <= point.accuracy <= 1.0:
            raise ValueError(f"no accuracy on held-out items: {point}")
        if groups and point.n <= 1.05 * groups[-1][0].n:
            groups[-1].append(point)
        else:
            groups.append([point])
    levels = []
    for group in groups:
        values, tested = np.array([point.accuracy for point in group]), [point.tested for point in group]
        levels.append(
            _Level(
                n=float(np.exp(np.mean(np.log([point.n for point in group])))),
                accuracy=float(np.average(values, weights=tested)),
                seeds=len(group),
                tested=sum(tested) if apart else max(tested),
                spread=float(values.var(ddof=1)) if len(group) > 1 else 0.0,
            )
        )
    return levels


def _variances(levels: Sequence[_Level], apart: bool) -> tuple[Array, float]:
    """The variance of each size's own, and that which moves all sizes together.

    Half of a size's spread over seeds is its own and half that of all sizes: few seeds say little. The largest size is
    one draw, whatever the seeds, for its items are (nearly) all that there are. The held-out items' chance is binomial,
    less what seeds that met the same items show of it already.
    """
    seeds, tested, spread, accuracy = np.array([(v.seeds, v.tested, v.spread, v.accuracy) for v in levels]).T
    free = seeds - 1
    free[-1] = 0
    pooled = float((free * spread).sum() / max(1, free.sum()))
    luck = np.where(free > 0, (spread + pooled) / 2 / seeds, pooled)
    share = (accuracy * tested + 1) / (tested + 2)
    binomial = share * (1 - share) / tested
    items = binomial if apart else np.maximum(binomial / 2, binomial - pooled)
    return luck + (1 - _TOGETHER) * items, _TOGETHER * float(items.mean())


def _lines(x: Array, y: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Weighted straight lines limit + slope * x, limit at most 1: limits, slopes and sums of squares, one a row.

    `x` and `y` [rows, sizes] or [sizes]. For a given law a curve is such a line, so that the best one is known.
    """
    sw, sx, sxx = weight.sum(), x @ weight, (x * x) @ weight
    sy, sxy = y @ weight, (x * y) @ weight
    level = np.maximum(sw * sxx - sx * sx, 1e-12 * sw * sxx)
    limit = (sxx * sy - sx * sxy) / level
    slope = np.where(limit > 1.0, (sxy - sx) / sxx, (sw * sxy - sx * sy) / level)
    limit = np.minimum(limit, 1.0)
    return limit, slope, ((y - limit[:, None] - slope[:, None] * x) ** 2) @ weight


def _power(n: Array, y: Array, weight: Array) -> tuple[float, float, float]:
    """The likeliest power law that does not fall: limit, scale, exponent."""
    limit, slope, squares = _lines(n ** -_EXPONENTS[:, None], y, weight)
    best = int((squares + (np.log(_EXPONENTS / _USUAL) / math.log(_FACTOR)) ** 2).argmin())
    if slope[best] > 0.0:
        return float(np.average(y, weights=weight)), 0.0, float(_EXPONENTS[best])
    return float(limit[best]), float(-slope[best]), float(_EXPONENTS[best])


def sentence(forecast: Forecast, extra: int, first: First | None = None, *, noun: str = "images") -> str:
    """What `extra` more items would bring, in words with the 95 % interval in percentage points."""
    gain = forecast.gain(extra)
    value, low, high = (round(100 * bound, 1) + 0.0 for bound in (gain.value, gain.low, gain.high))  # no "-0.0"
    span = f"{low:+.1f} to {high:+.1f}" if low < 0 else f"{low:.1f} to {high:.1f}"
    figures = f"{value:+.1f} points ({span})"
    more = f"{extra:,} more {noun} would bring"
    if gain.value < _LITTLE:
        unsure = gain.high > 4 * _LITTLE
        told = f"{more} little, though more is possible: {figures}" if unsure else f"{more} little: {figures}"
    else:
        told = f"{more} about {figures}" if low > 0 else f"{more} about {figures}, perhaps nothing"
    return told + (f"; of class {first.label} first" if first is not None else "")


def first_class(
    per_class: Mapping[str, Mapping[str, float]], counts: Mapping[str, int], *, level: float = 0.95
) -> First | None:
    """The class whose next item is expected to bring the most, or None where classes do not differ beyond chance.

    `per_class` holds "n" held-out items and "recall" of each class (as judge.scoring.per_class), `counts` the training
    items. By a power law with the same exponent for all, one more item of a class lessens its errors in proportion to
    error / items; classes count alike, as in balanced accuracy. The class with the largest ratio is named when it lies
    above the others' mean beyond chance: by a one-sided z test of the logarithms (errors counted as wrong + 1/2 of
    n + 1) and by the exact binomial test of its errors, both with Bonferroni's correction for the number of classes.
    Classes without held-out or training items stay out.
    """
    from scipy.special import bdtrc

    names = sorted(name for name, row in per_class.items() if row["n"] > 0 and counts.get(name, 0) > 0)
    if len(names) < 2:
        return None
    n = np.array([per_class[name]["n"] for name in names], dtype=float)
    wrong = np.rint((1.0 - np.array([per_class[name]["recall"] for name in names])) * n).astype(int)
    items = np.array([counts[name] for name in names], dtype=float)
    error = (wrong + 0.5) / (n + 1.0)
    ratio, variance = error / items, (1.0 - error) / ((n + 1.0) * error)  # variance of the logarithm
    top = int(ratio.argmax())
    others = np.arange(len(names)) != top
    mean = float(ratio[others].mean())
    noise = float((ratio[others] ** 2 * variance[others]).sum()) / (others.sum() * mean) ** 2
    z = math.log(float(ratio[top]) / mean) / math.sqrt(float(variance[top]) + noise)
    exact = float(bdtrc(float(wrong[top] - 1), int(n[top]), min(1.0, mean * items[top]))) if wrong[top] else 1.0
    if max(exact, NormalDist().cdf(-z)) > (1.0 - level) / len(names):
        return None
    figures = f"{100 * (1 - wrong[top] / n[top]):.0f} % of its {n[top]:,.0f} held-out items are right"
    return First(names[top], f"{figures}, and it has {items[top]:,.0f} of {items.sum():,.0f} training items")


def nested_parts(
    y: Array, fractions: Sequence[float], *, seeds: Sequence[int], groups: Sequence[str] | None = None
) -> list[list[Indices]]:
    """For each seed one sorted index set a fraction: [seeds][fractions], in the order given.

    Stratified by the classes `y` [n]; every class has an item in each part, a larger part holds all of a smaller one,
    and items of one group are in it together or not at all (so parts may miss their size by a group). A part of 1
    holds everything. An item's place is drawn by the sha256 of (seed, group), as in data.splits.
    Raises ValueError for fractions outside (0, 1] or a wrong number of groups.
    """
    y = np.asarray(y)
    keys = [str(index) for index in range(len(y))] if groups is None else [str(group) for group in groups]
    if len(keys) != len(y):
        raise ValueError(f"{len(y)} labels but {len(keys)} groups")
    if not all(0.0 < fraction <= 1.0 for fraction in fractions):
        raise ValueError(f"fractions must lie in (0, 1], got {list(fractions)}")
    members: dict[str, list[int]] = {}
    for index, key in enumerate(keys):
        members.setdefault(key, []).append(index)
    classes, place = np.unique(y, return_inverse=True)
    labels = place.tolist()
    units = {
        key: (indices, Counter(labels[index] for index in indices).most_common()) for key, indices in members.items()
    }
    size = np.bincount(place, minlength=len(classes))
    return [_grown(_queue(units, seed), size, fractions) for seed in seeds]


_Unit = tuple[list[int], list[tuple[int, int]]]  # its items, and how many of each class


def _queue(units: Mapping[str, _Unit], seed: int) -> list[_Unit]:
    """The units in the order of their hashes."""

    def place(key: str) -> bytes:
        return hashlib.sha256(f"part {seed}\0{key}".encode("utf-8", "surrogatepass")).digest()

    return [units[key] for key in sorted(units, key=place)]


def _grown(queue: list[_Unit], size: Array, fractions: Sequence[float]) -> list[Indices]:
    """Fill parts of growing size from the queue: a unit is taken when it brings the classes nearer to their share."""
    have, taken, parts = [0] * len(size), list[int](), dict[float, Indices]()
    for fraction in sorted(set(fractions)):
        want, left = np.maximum(1, np.rint(fraction * size)).astype(int).tolist(), []
        for unit in queue:
            indices, counts = unit
            change = sum(abs(want[c] - have[c] - n) - abs(want[c] - have[c]) for c, n in counts)
            # a class that has nothing yet takes its first unit whatever its size
            if change < 0 or fraction == 1.0 or any(not have[c] for c, _ in counts):
                taken += indices
                for c, n in counts:
                    have[c] += n
            else:
                left.append(unit)
        queue = left
        parts[fraction] = np.array(sorted(taken), dtype=np.int64)
    return [parts[fraction] for fraction in fractions]
