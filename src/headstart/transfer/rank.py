"""How well the features of a source fit labels, without training a head: LogME and the H-score. NumPy only, no torch.

| measure | what it is | source |
| --- | --- | --- |
| LogME | mean over classes of the largest evidence of a Bayesian linear model, per item | You et al. 2021 |
| H-score | spread of the class means in units of the features' covariance | Bao et al. 2019, Ibrahim et al. 2022 |

Both compare sources on the same items and labels; their values mean little across data sets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.errors import DataError

__all__ = ["h_score", "log_me", "rank", "shrinkage", "stratified"]

Array = npt.NDArray[Any]

_RELATIVE = 1e-10  # directions with less of the largest power than this are rounding
_DECADES = 12
_BOUND = 10.0**_DECADES  # prior precision over noise precision is kept within this factor of the features' power
_ROUNDS, _TOLERANCE = 500, 1e-5  # the evidence is flat at its top: its own error is far smaller
_CONSTANT = 1e-6  # a feature that varies less, beside its size, does not vary: rounding noise is no information


def rank(features: Mapping[str, Array], y: Array) -> list[dict[str, Any]]:
    """Rows {source, logme, h_score, items}, best first, of features [n, d] by source for the same items and labels [n].

    Sorted by LogME, of equals by H-score, then by name. Items whose features are missing (NaN) for one source are
    left out for all. Raises DataError where features and labels do not fit or no item is left.
    """
    y = np.asarray(y).astype(np.int64).ravel()
    kept = np.ones(len(y), dtype=bool)
    for name, X in features.items():
        if X.ndim != 2 or len(X) != len(y):
            raise DataError(f"features of shape {X.shape} do not fit {len(y)} labels", where=name)
        kept &= np.isfinite(X).all(axis=1)
    rows = []
    for name, X in features.items():
        part, labels = (X, y) if kept.all() else (X[kept], y[kept])
        rows.append(
            {"source": name, "logme": log_me(part, labels), "h_score": h_score(part, labels), "items": len(labels)}
        )
    return sorted(rows, key=lambda row: (-row["logme"], -row["h_score"], row["source"]))


# --- LogME --------------------------------------------------------------------------------------------------


def log_me(X: Array, y: Array) -> float:
    """LogME of features [n, d] and labels [n]: higher is better.

    For each class c that has items, its one-hot column t is modelled as t = X w + noise with w ~ N(0, I / alpha) and
    noise ~ N(0, 1 / beta). The evidence, largest over alpha and beta, is divided by n and averaged over the classes:

        log p(t | X) = n/2 log beta + d/2 log alpha - n/2 log 2 pi - beta/2 |X m - t|^2 - alpha/2 |m|^2 - log|A| / 2

    with A = alpha I + beta X'X and m = beta A^-1 X't. You et al. 2021, "LogME: Practical assessment of pre-trained
    models for transfer learning", equation 2; alpha and beta by the fixed-point iteration of You et al. 2022, "Ranking
    and tuning pre-trained models", here on their ratio alone, which is all that the shape of the evidence depends on.
    Rotating, scaling or repeating the features changes nothing. Features are not centred. Where they give the labels
    exactly the evidence may have no bound: the ratio then ends at 1e-12 of the features' power.
    Raises DataError where shapes do not fit or there is no item.
    """
    X, y = _checked(X, y)
    n = len(y)
    targets = (y[:, None] == np.unique(y)).astype(np.float64)
    axes = _axes(X)
    squares = np.square(axes.shares(targets))  # [r, classes]: what each direction holds of a column
    rest = targets.sum(axis=0) - squares.sum(axis=0)  # what lies outside the features
    rest[(rest < n / _BOUND) | (len(axes.power) == n)] = 0.0  # rounding
    ratio = _fixed_point(axes.power, squares, rest, n)
    return float(_evidence(ratio, axes.power, squares, rest, n).mean() / n)


def _evidence(ratio: Array, power: Array, squares: Array, rest: Array, n: int) -> Array:
    """The evidence of each class [classes] where alpha / beta is `ratio` and beta is the best for it."""
    held = ratio / (ratio + power[:, None])  # share of a direction that the prior holds back
    quadratic = (squares * held).sum(axis=0) + rest
    found: Array = -n / 2 * (np.log(2 * np.pi * quadratic / n) + 1) + np.log(held).sum(axis=0) / 2
    return found


def _fixed_point(power: Array, squares: Array, rest: Array, n: int) -> Array:
    """alpha / beta of each class [classes] where MacKay's updates of both stand still.

    gamma = sum of power / (ratio + power) are the directions that the labels decide; alpha = gamma / |m|^2 and
    beta = (n - gamma) / |X m - t|^2. There may be several such places: the walk starts at the best of a few ratios.
    Without features the ratio is 1.
    """
    if not len(power):
        return np.ones(squares.shape[1])
    scale = float(power.mean())
    starts = scale * 10.0 ** np.arange(-_DECADES, _DECADES + 1)
    tried = [_evidence(np.full(squares.shape[1], start), power, squares, rest, n) for start in starts]
    ratio: Array = starts[np.argmax(tried, axis=0)]
    moving = np.arange(len(ratio))
    for _ in range(_ROUNDS):
        before, shares = ratio[moving], squares[:, moving]
        kept = power[:, None] + before
        gamma = (power[:, None] / kept).sum(axis=0)
        weights = (power[:, None] * shares / kept**2).sum(axis=0)
        residual = (shares * (before / kept) ** 2).sum(axis=0) + rest[moving]
        undecided = (before / kept).sum(axis=0) + n - len(power)  # n - gamma, without its rounding
        with np.errstate(divide="ignore", invalid="ignore"):
            new = np.nan_to_num(gamma * residual / (weights * undecided), nan=np.inf, posinf=np.inf)
        ratio[moving] = np.clip(new, scale / _BOUND, scale * _BOUND)
        moving = moving[np.abs(ratio[moving] - before) > _TOLERANCE * before]
        if not len(moving):
            break
    return ratio


# --- H-score ------------------------------------------------------------------------------------------------


def h_score(X: Array, y: Array) -> float:
    """The regularised H-score of features [n, d] and labels [n]: higher is better, from 0 to classes - 1.

    trace of (covariance of the features)^-1 (covariance of the class means), the first shrunk by Ledoit and Wolf's
    share s towards a multiple of I, the second multiplied by 1 - s. Bao et al. 2019, "An information-theoretic approach
    to transferability in task transfer learning"; regularised by Ibrahim et al. 2022, "Newer is not always better".
    Both covariances are divided by n. Rotating or scaling the features changes nothing; features that do not vary
    give 0. Raises DataError where shapes do not fit or there is no item.
    """
    X, y = _checked(X, y)
    n, d = X.shape
    X = _centred(X)
    gram = _gram(X) / n
    spread = float(np.trace(gram)) / d
    if spread == 0.0:
        return 0.0
    share = _shrinkage(gram, X)
    labels, counts = np.unique(y, return_counts=True)
    members = (y[:, None] == labels) / np.sqrt(counts * n)  # X' members: class means by the root of their weight
    matrix = (1 - share) * gram + max(share, _RELATIVE) * spread * np.eye(len(gram))
    columns = n * gram @ members if n <= d else X.T @ members
    solved = np.linalg.solve(matrix, columns)  # n <= d: X' stands before the same inverse, on the other side
    return float((1 - share) * ((members if n <= d else columns) * solved).sum())


def shrinkage(X: Array) -> float:
    """Ledoit and Wolf's share of the identity in the covariance of features [n, d], from 0 to 1.

    Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices", section 3.3.
    """
    X = _centred(np.asarray(X, dtype=np.float64))
    return _shrinkage(_gram(X) / len(X), X)


def _centred(X: Array) -> Array:
    """Features with mean 0; those that do not vary are 0."""
    centred: Array = X - X.mean(axis=0)
    centred[:, centred.std(axis=0) <= _CONSTANT * np.abs(X).max(axis=0)] = 0.0
    return centred


def _shrinkage(gram: Array, X: Array) -> float:
    """The share, from centred features and the smaller Gram matrix of them by n: its trace and norm are the other's."""
    n, d = X.shape
    squared, level = float(np.square(gram).sum()), float(np.trace(gram)) / d
    distance = (squared - d * level**2) / d
    error = (float((np.square(X).sum(axis=1) ** 2).mean()) - squared) / n / d
    return 1.0 if distance <= 0 else min(1.0, max(0.0, error / distance))


# --- both ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Axes:
    """Features [n, d] by their principal directions: `power` [r], the squared singular values without rounding."""

    power: Array
    _left: Array  # [n, r], orthonormal

    def shares(self, columns: Array) -> Array:
        """What each direction [r] holds of columns [n, k]."""
        found: Array = self._left.T @ columns
        return found


def _axes(X: Array) -> _Axes:
    """The principal directions, from the smaller of the two Gram matrices."""
    n, d = X.shape
    power, vectors = np.linalg.eigh(_gram(X))
    keep = power > max(float(power[-1]), 0.0) * _RELATIVE
    power, vectors = power[keep], vectors[:, keep]
    return _Axes(power, vectors if n <= d else X @ vectors / np.sqrt(power))


def _gram(X: Array) -> Array:
    """The smaller of X X' and X' X."""
    found: Array = X @ X.T if X.shape[0] <= X.shape[1] else X.T @ X
    return found


def _checked(X: Array, y: Array) -> tuple[Array, Array]:
    X, y = np.asarray(X, dtype=np.float64), np.asarray(y).ravel()
    if X.ndim != 2 or len(X) != len(y) or not X.shape[1]:
        raise DataError(f"features of shape {X.shape} do not fit {len(y)} labels")
    if not len(y):
        raise DataError("there is no item to rank sources on")
    return X, y


def stratified(y: Array, most: int, *, seed: int = 0) -> Array:
    """Sorted positions of about `most` of the labels [n], the classes in proportion, one item of each at least.

    All where there are no more. Larger parts hold the smaller ones of the same seed.
    """
    y = np.asarray(y)
    if len(y) <= most:
        return np.arange(len(y))
    shuffled = np.random.default_rng(seed).permutation(len(y))
    place, size = np.empty(len(y)), np.empty(len(y))
    for label in np.unique(y):
        members = shuffled[y[shuffled] == label]
        place[members], size[members] = np.arange(len(members)), len(members)
    first = place == 0
    others = np.lexsort((shuffled.argsort(), (place + 0.5) / size))  # evenly through every class, so in proportion
    others = others[~first[others]]
    wanted = max(0, most - int(first.sum()))
    return np.sort(np.concatenate([np.flatnonzero(first), others[:wanted]]))
