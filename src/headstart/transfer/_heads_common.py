"""What the heads share: checks, scaling, rotation, folds and temperature. NumPy and SciPy only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.errors import DataError, SettingsError

__all__ = [
    "Array",
    "Rotated",
    "Scaler",
    "accuracy_and_loss",
    "checked",
    "fold_pairs",
    "log_softmax",
    "rotate",
    "temperature",
]

Array = npt.NDArray[Any]

_ROTATION_LIMIT = 4096  # beyond this rank the eigendecomposition costs more than it saves


def checked(X: Array, y: Array, n_classes: int) -> tuple[Array, Array]:
    """Features [n, d] as float32 and labels [n] as int64; DataError when they cannot be trained on."""
    X, y = np.ascontiguousarray(X, dtype=np.float32), np.asarray(y).astype(np.int64).ravel()
    if X.ndim != 2 or len(X) != len(y) or X.shape[1] == 0:
        raise DataError(f"features of shape {X.shape} do not fit {len(y)} labels")
    if len(y) == 0:
        raise DataError("there is no item to train a head on")
    if not np.isfinite(X).all():
        rows = int((~np.isfinite(X).all(axis=1)).sum())
        raise DataError(f"the features of {rows} items are not finite", remedy="Check the source's weights")
    if n_classes < 1 or y.min() < 0 or y.max() >= n_classes:
        raise DataError(f"labels must lie between 0 and {n_classes - 1}, got {y.min()} to {y.max()}")
    return X, y


def log_softmax(logits: Array) -> Array:
    """Logarithm of the softmax over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def accuracy_and_loss(logits: Array, y: Array) -> tuple[float, float]:
    """Share of items whose likeliest class is right, and the mean negative log probability of the true class."""
    if len(y) == 0:
        return 0.0, 0.0
    losses = -log_softmax(logits)[np.arange(len(y)), y]
    return float(np.mean(logits.argmax(axis=1) == y)), float(losses.mean())


@dataclass(frozen=True)
class Scaler:
    """Mean and standard deviation of every feature; a feature that does not vary has deviation 1."""

    mean: Array
    std: Array

    @classmethod
    def of(cls, X: Array) -> Scaler:
        """Measure the features [n, d] of the training items."""
        mean = X.mean(axis=0, dtype=np.float64)
        std = X.std(axis=0, dtype=np.float64)
        varies = std > 1e-6 * np.abs(X).max(axis=0)  # rounding noise around a constant is no information
        return cls(mean.astype(np.float32), np.where(varies, std, 1.0).astype(np.float32))

    def __call__(self, X: Array) -> Array:
        """Features with mean 0 and deviation 1, float32."""
        scaled: Array = (X - self.mean) / self.std
        return scaled

    def fold(self, weight: Array, bias: Array) -> tuple[Array, Array]:
        """Weight [k, d] and bias [k] on standardised features → the same answers on raw features, float32."""
        raw = weight.astype(np.float64) / self.std
        return raw.astype(np.float32), (bias - raw @ self.mean.astype(np.float64)).astype(np.float32)


@dataclass(frozen=True)
class Rotated:
    """Features in their principal axes: `Z` [n, r] = X @ `basis` [d, r], `power` [r] the squared singular values.

    The weights of an L2-regularised linear model lie in the row space of X, and rotations keep their norm: a fit
    on Z is the fit on X, exactly. `basis` None stands for no rotation.
    """

    Z: Array
    basis: Array | None
    power: Array

    def weight(self, W: Array) -> Array:
        """Weights [r, k] on Z → weights [k, d] on X."""
        return (W if self.basis is None else self.basis @ W).T


def rotate(X: Array) -> Rotated:
    """Turn centred features [n, d] into their principal axes, by the smaller of the two Gram matrices."""
    n, d = X.shape
    if min(n, d) > _ROTATION_LIMIT:
        return Rotated(X, None, np.full(d, float(np.square(X, dtype=np.float32).sum(dtype=np.float64) / d)))
    wide = n < d
    exact = X.astype(np.float64)
    power, vectors = np.linalg.eigh(exact @ exact.T if wide else exact.T @ exact)
    keep = power > max(float(power[-1]), 0.0) * 1e-10
    power, vectors = power[keep], vectors[:, keep]
    basis = (exact.T @ (vectors / np.sqrt(power)) if wide else vectors).astype(np.float32)
    return Rotated(np.ascontiguousarray(X @ basis), basis, power)


def fold_pairs(
    y: Array, folds: int, *, seed: int, groups: Sequence[Any] | None = None
) -> Iterator[tuple[Array, Array]]:
    """Stratified folds as (train, held-out) index pairs; items of one group stay together.

    There are never more folds than items (groups); nothing is yielded when there are fewer than two.
    """
    n = len(y)
    names = np.arange(n) if groups is None else np.unique(np.asarray(groups).astype(str), return_inverse=True)[1]
    k = min(folds, int(names.max()) + 1)
    if folds < 2:
        raise SettingsError(f"folds must be at least 2, got {folds}")
    if k < 2:
        return
    place = _dealt(y, k, seed) if groups is None else _dealt_groups(y, names, k, seed=seed)
    for fold in range(k):
        held, train = np.flatnonzero(place == fold), np.flatnonzero(place != fold)
        if len(held) and len(train):
            yield train, held


def _dealt(y: Array, k: int, seed: int) -> Array:
    """Deal the shuffled items of each class to the folds in turn, going on where the class before ended."""
    shuffled = np.random.default_rng(seed).permutation(len(y))
    order = shuffled[np.argsort(y[shuffled], kind="stable")]
    place = np.empty(len(y), dtype=np.int64)
    place[order] = np.arange(len(y)) % k
    return place


def _dealt_groups(y: Array, groups: Array, k: int, *, seed: int) -> Array:
    """Give each group, largest first, to the fold that has the least of its classes (then the fewest items)."""
    sizes = np.bincount(groups)
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    filled, total = np.zeros((k, int(y.max()) + 1)), np.bincount(y).astype(float)
    of_group = np.zeros(len(sizes), dtype=np.int64)
    members = np.split(np.argsort(groups, kind="stable"), np.cumsum(sizes)[:-1])
    for group in order:
        classes, counts = np.unique(y[members[group]], return_counts=True)
        crowd = (filled[:, classes] * counts / total[classes]).sum(axis=1)
        fold = int(np.lexsort((filled.sum(axis=1), crowd))[0])
        filled[fold, classes] += counts
        of_group[group] = fold
    return of_group[groups]


def temperature(logits: Array, y: Array) -> float:
    """The divisor of `logits` [n, k] that gives the least log loss; 1 where nothing can be learned.

    Source: Guo et al. 2017, "On calibration of modern neural networks", section 4.2.
    """
    from scipy.optimize import minimize_scalar

    spread = float(np.std(logits)) if len(y) else 0.0
    if spread == 0.0 or logits.shape[1] < 2:
        return 1.0

    def loss(log_t: float) -> float:
        return accuracy_and_loss(logits / (spread * np.exp(log_t)), y)[1]

    found = minimize_scalar(loss, bounds=(np.log(1e-3), np.log(1e3)), method="bounded", options={"xatol": 1e-3})
    return spread * float(np.exp(found.x))
