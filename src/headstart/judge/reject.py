"""The answer "unknown": a threshold on the top probability, and a distance for inputs of another kind. No torch.

**The threshold** is for an error rate: of the answers that are given, at most this share is wrong. It is the lowest
that leaves (wrong + 1) / (kept + 1) at or below the rate among calibrating items. What that guarantees, for items drawn
alike and any classifier that has seen none of them: the expected number of wrong answers is at most the rate times the
expected number of answers, over the draws of the calibrating items and of the new one. (A new item that is wrong and
kept is the "+ 1": with it among the others the same rule gives the same threshold, and all places are alike. The
answers counted are those of the rule with this one item more; the difference is of the order of 1 / n.) So it holds on
average over fits; a single fit may err somewhat more often. A bound for each single fit (Geifman & El-Yaniv 2017,
"Selective classification for deep neural networks") needs some 100 items without an error for a rate of 5 %; this one
needs 19. Related: Angelopoulos et al. 2022, "Conformal risk control". Out-of-fold answers come from models that saw
fewer items than the final one, which is not exactly the same draw, but errs on the safe side.

**The distance** is Mahalanobis' to the nearest class, on features of length 1, with one covariance within the classes,
shrunk (Lee et al. 2018; Müller & Hein 2025, "Mahalanobis++"; Ledoit & Wolf 2004) and kept as its main axes. Its border
lets through all but a stated share of left-out items. It needs two matrix products and a minimum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.data.splits import folds
from headstart.errors import DataError

__all__ = ["NEVER", "OWN_SHARE", "Reject", "probability_threshold", "reachable_error_rate"]

Array = npt.NDArray[Any]

NEVER = 2.0
"""A threshold that no probability reaches: every answer is "unknown"."""

OWN_SHARE = 0.05
"""The share of own items that the distance may refuse."""

_AXES, _BYTES = 128, 2_000_000  # main axes that are kept: more change little and take room
_MOST, _OF_CLASS = 2_000, 20  # items that the covariance is measured on, and at least so many a class on average


@dataclass(frozen=True)
class Reject:
    """When to answer "unknown": below `threshold` (a probability) or beyond `distance`.

    `arrays`: mean [d], axes [r, d], linear [k, d], constant [k] and scale [1], float32. With z = x / |x| - mean the
    distance is scale · (|z|² - |axes z|²) + min(linear z + constant).
    """

    error_rate: float
    threshold: float
    distance: float
    arrays: Mapping[str, Array]

    @classmethod
    def fit(
        cls,
        probabilities: Array,
        y: Array,
        *,
        features: Array,
        error_rate: float,
        reference: tuple[Array, Array] | None = None,
        groups: Sequence[Any] | None = None,
        own_share: float = OWN_SHARE,
        seed: int = 0,
    ) -> Reject:
        """Both borders from `probabilities` [n, k] and `features` [n, d] of items of classes `y` [n].

        The probabilities are out of fold and calibrated. Where the network was trained with other items, give these as
        `reference` (features, classes): the distance is measured on them and its border set on `features`. Without,
        it is measured on `features` and its border set on left-out parts of them, items of one group together.
        With fewer than 19 items the border is their largest distance: it may refuse more than `own_share`. Where no
        threshold reaches the error rate it is NEVER. Raises ValueError for a rate or share outside (0, 1), DataError
        for fewer than two items (groups).
        """
        if not 0.0 < error_rate < 1.0 or not 0.0 < own_share < 1.0:
            raise ValueError(f"rates lie between 0 and 1, got {error_rate} and {own_share}")
        y, rows = np.asarray(y, dtype=np.int64), _unit(features)
        if reference is not None:
            arrays = _measured(_unit(reference[0]), np.asarray(reference[1], dtype=np.int64), seed=seed)
            left_out = _distances(arrays, rows)
        else:
            arrays, left_out = _left_out(rows, y, groups=groups, seed=seed)
        known = np.sort(left_out[np.isfinite(left_out)])
        place = min(len(known), math.ceil((1.0 - own_share) * (len(known) + 1)))
        if not place:
            raise DataError("too few items to tell other inputs from", remedy="Add images, or leave --error-rate out.")
        distance, right = float(known[place - 1]), probabilities.argmax(axis=1) == y
        near = ~(left_out > distance)  # only what passes the distance gets an answer
        threshold = probability_threshold(probabilities[near].max(axis=1), right[near], error_rate)
        return cls(float(error_rate), threshold, distance, arrays)

    def with_classes(self, features: Array, y: Array) -> Reject:
        """The same borders with more classes: raw features [m, d] of classes `y` [m], each class a mean of its own.

        The covariance within the classes is the old one, and so are threshold and distance: what they guarantee is for
        items of the old classes.
        """
        rows, scale = _unit(features), float(self.arrays["scale"][0])
        axes = self.arrays["axes"].astype(np.float64)
        centres = np.stack([rows[y == number].mean(axis=0) for number in np.unique(y)]) - self.arrays["mean"]
        bent = (centres - (centres @ axes.T) @ axes) * scale
        more = {"linear": -2.0 * bent, "constant": (centres * bent).sum(axis=1)}
        joined = {name: np.concatenate([self.arrays[name], more[name].astype(np.float32)]) for name in more}
        return replace(self, arrays={**self.arrays, **joined})

    def distances(self, features: Array) -> Array:
        """Distances [n] of raw features [n, d] from the nearest class."""
        return _distances(self.arrays, _unit(features))

    def accepts(self, probabilities: Array, features: Array) -> Array:
        """Whether each input gets an answer: bool [n] of probabilities [n, k] and raw features [n, d]; not for NaN."""
        near, sure = self.distances(features) <= self.distance, probabilities.max(axis=1) >= self.threshold
        accepted: Array = near & sure
        return accepted

    def facts(self) -> dict[str, float]:
        """The numbers, as JSON knows them."""
        return {"error_rate": self.error_rate, "threshold": self.threshold, "distance": self.distance}

    def tensors(self) -> dict[str, Array]:
        """All of it as arrays, as safetensors.numpy stores them."""
        borders = np.array([self.error_rate, self.threshold, self.distance], dtype=np.float64)
        return {"borders": borders, **{name: np.ascontiguousarray(array) for name, array in self.arrays.items()}}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Array]) -> Reject:
        """The Reject that `tensors` came from, bit for bit."""
        rate, threshold, distance = (float(number) for number in tensors["borders"])
        return cls(rate, threshold, distance, {name: tensors[name] for name in tensors if name != "borders"})


# --- the threshold ------------------------------------------------------------------------------------------------


def probability_threshold(confidence: Array, correct: Array, error_rate: float) -> float:
    """The lowest top probability with (wrong + 1) / (kept + 1) ≤ error_rate at and above it; 0 where all may stay.

    `confidence` and `correct` [n] are of out-of-fold answers. NEVER where there is none: a rate of 5 % takes 19
    items without an error at least.
    """
    levels, rates = _rates(confidence, correct)
    kept = np.flatnonzero(rates <= error_rate + 1e-12)
    if not len(kept):
        return NEVER
    return 0.0 if kept[-1] == len(levels) - 1 else float(levels[kept[-1]])


def reachable_error_rate(probabilities: Array, y: Array) -> float:
    """The least error rate for which there is a threshold: what to tell where the wanted one is out of reach."""
    _, rates = _rates(probabilities.max(axis=1, initial=0.0), probabilities.argmax(axis=1) == y)
    return float(rates.min(initial=1.0))


def _rates(confidence: Array, correct: Array) -> tuple[Array, Array]:
    """The values of confidence from high to low, and (wrong + 1) / (kept + 1) at and above each."""
    order = np.argsort(-confidence, kind="stable")
    level, wrong = confidence[order], np.cumsum(~np.asarray(correct, dtype=bool)[order])
    last = np.flatnonzero(np.append(level[1:] != level[:-1], True)) if len(level) else np.zeros(0, dtype=int)
    return level[last], (wrong[last] + 1) / (last + 2)


# --- the distance -------------------------------------------------------------------------------------------------


def _unit(features: Array) -> Array:
    """Features of length 1, float64."""
    rows = np.asarray(features, dtype=np.float64)
    unit: Array = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit


def _distances(arrays: Mapping[str, Array], rows: Array) -> Array:
    z = rows - arrays["mean"]
    spread = np.square(z).sum(axis=1) - np.square(z @ arrays["axes"].T.astype(np.float64)).sum(axis=1)
    near: Array = (z @ arrays["linear"].T.astype(np.float64) + arrays["constant"]).min(axis=1)
    total: Array = float(arrays["scale"][0]) * spread + near
    return total


def _left_out(rows: Array, y: Array, *, groups: Sequence[Any] | None, seed: int) -> tuple[dict[str, Array], Array]:
    """What the distance needs, and the distances [n] of items that it was not measured on, else NaN."""
    most, found = max(_MOST, _OF_CLASS * (int(y.max(initial=0)) + 1)), np.full(len(rows), np.nan)
    if len(rows) > most and groups is None:
        chosen = np.random.default_rng(seed).permutation(len(rows))
        arrays = _measured(rows[chosen[:most]], y[chosen[:most]], seed=seed)
        found[chosen[most:]] = _distances(arrays, rows[chosen[most:]])
        return arrays, found
    names = None if groups is None else [str(group) for group in groups]
    pairs = folds(np.zeros(len(y), dtype=np.int64), k=10 if len(y) <= 1_000 else 5, seed=seed, groups=names)
    for seen, held in pairs:
        found[held] = _distances(_measured(rows[seen], y[seen], seed=seed), rows[held])
    return _measured(rows, y, seed=seed), found


def _measured(rows: Array, y: Array, *, seed: int) -> dict[str, Array]:
    """Class means and the main axes of the shrunk covariance within the classes, as the distance wants them."""
    most = max(_MOST, _OF_CLASS * (int(y.max(initial=0)) + 1))
    if len(rows) > most:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[:most])
        rows, y = rows[chosen], y[chosen]
    present, place = np.unique(y, return_inverse=True)
    means = np.stack([rows[place == number].mean(axis=0) for number in range(len(present))])
    axes, power, rest = _covariance(rows - means[place])
    mean = rows.mean(axis=0).astype(np.float32).astype(np.float64)
    axes = (np.sqrt(np.maximum(0.0, 1.0 - rest / power))[:, None] * axes).astype(np.float32)
    centres = means - mean
    bent = (centres - (centres @ axes.T.astype(np.float64)) @ axes) / rest
    arrays = {
        "mean": mean, "axes": axes, "linear": -2.0 * bent, "constant": (centres * bent).sum(axis=1),
        "scale": np.array([1.0 / rest]),
    }  # fmt: skip
    return {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in arrays.items()}


def _covariance(residuals: Array) -> tuple[Array, Array, float]:
    """Main axes [r, d] of the shrunk covariance, the variances along them, and the mean variance of the rest."""
    from scipy.linalg import eigh

    n, d = residuals.shape
    gram = residuals @ residuals.T / n if n < d else residuals.T @ residuals / n
    total, square = float(np.trace(gram)), float(np.square(gram).sum())
    if total <= 1e-12:  # as many classes as items: only lengths count
        return np.zeros((1, d)), np.ones(1), 1.0
    shrinkage = _shrinkage(residuals, total, square)
    r = max(1, min(_AXES, _BYTES // (4 * d), len(gram) - 1))
    power, vectors = eigh(gram, subset_by_index=[len(gram) - r, len(gram) - 1])
    keep = power > 1e-10 * total
    power, vectors = power[keep], vectors[:, keep]
    axes = vectors.T @ residuals / np.sqrt(n * power)[:, None] if n < d else vectors.T
    even = shrinkage * total / d
    rest = (1 - shrinkage) * max(0.0, total - float(power.sum())) / max(1, d - len(power)) + even
    return axes, (1 - shrinkage) * power + even, max(rest, 1e-12)


def _shrinkage(residuals: Array, total: float, square: float) -> float:
    """Ledoit & Wolf's weight of the even covariance, from centred rows [n, d], their trace and squared norm."""
    n, d = residuals.shape
    away = square / d - (total / d) ** 2
    noise = (float(np.square(np.square(residuals).sum(axis=1)).sum()) / n - square) / (n * d)
    return 1.0 if away <= 0 else min(max(noise, 0.0), away) / away
