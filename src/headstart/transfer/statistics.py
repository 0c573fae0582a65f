"""What a ridge head has to know of its training items: how many a class, the class means and the scatter of all.

Least squares on one-hot labels asks for no more (they are sufficient), and those of two sets of items add up. So more
items, also of new classes, can be learned without the old ones, and the answer is that of a fit on all of them.
Source of the sums: Chan, Golub & LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample
variances", which take deviations from the mean and so lose no digits where features lie far from zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.transfer._heads_common import Array, absent_logit, blocks, divisor_of
from headstart.transfer._heads_pool import pooled, spread

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["WIDEST", "Statistics", "ridge_layer"]

WIDEST = 4096
"""Features, or items, up to which the products of all with all are computed: 67 MB of statistics at most."""


@dataclass(frozen=True)
class Statistics:
    """Sufficient statistics of a ridge head, in float64.

    `counts` [k] items of each class, `means` [k, d] the mean of each (0 without items), `scatter` [d, d] the sum of the
    products of deviations from the mean of all, `largest` [d] the largest absolute value of each feature.
    """

    counts: Array
    means: Array
    scatter: Array
    largest: Array

    @classmethod
    @pooled()
    def of(cls, X: Array, y: Array, *, n_classes: int) -> Statistics:
        """Measure features [n, d] of classes `y` [n]; of no items, all is 0."""
        import torch

        counts, d = np.bincount(y, minlength=n_classes).astype(np.int64), X.shape[1]
        rows, labels = torch.from_numpy(np.ascontiguousarray(X, dtype=np.float32)), torch.from_numpy(np.asarray(y))
        sums, scatter = torch.zeros(n_classes, d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64)
        largest = np.zeros(d)
        for part in blocks(*X.shape):
            sums.index_add_(0, labels[part], rows[part].double())
            largest = np.maximum(largest, np.abs(X[part]).max(axis=0))
        mean = sums.sum(dim=0) / max(1, len(X))

        def product(part: slice) -> Tensor:
            away = rows[part].double() - mean
            return away.T @ away

        for found in spread(product, blocks(*X.shape)):
            scatter += found
        means = sums.numpy() / np.maximum(counts, 1)[:, None]
        return cls(counts, means, scatter.numpy(), largest)

    @property
    def n(self) -> int:
        """How many items were measured."""
        return int(self.counts.sum())

    @property
    def mean(self) -> Array:
        """The mean [d] of all items."""
        found: Array = self.counts @ self.means / max(1, self.n)
        return found

    def merged(self, other: Statistics) -> Statistics:
        """Those of both sets of items; class numbers are the same in both, and either may know more classes.

        Raises ValueError when they are of features of different width.
        """
        if self.means.shape[1] != other.means.shape[1]:
            raise ValueError(f"statistics of {self.means.shape[1]} and {other.means.shape[1]} features")
        k = max(len(self.counts), len(other.counts))
        (a, mine), (b, theirs) = self._padded(k), other._padded(k)
        total = a + b
        means = (a[:, None] * mine + b[:, None] * theirs) / np.maximum(total, 1)[:, None]
        apart = other.mean - self.mean
        between = np.outer(apart, apart) * (self.n * other.n / max(1, self.n + other.n))
        largest = np.maximum(self.largest, other.largest)
        return Statistics(total, means, self.scatter + other.scatter + between, largest)

    def _padded(self, k: int) -> tuple[Array, Array]:
        """Counts and means of k classes."""
        more = k - len(self.counts)
        return np.pad(self.counts, (0, more)), np.pad(self.means, ((0, more), (0, 0)))

    def layer(self, alpha: float, *, temperature: float = 1.0) -> tuple[Array, Array]:
        """Weight [k, d] and bias [k] of the ridge head on raw features, float32, its answers divided by `temperature`.

        The minimum of |scaled X W + b - one-hot|² + alpha |W|² over W and b, solved in float64.
        """
        from scipy.linalg import solve

        divisor = divisor_of(np.sqrt(np.diag(self.scatter) / max(1, self.n)), self.largest)
        present = np.flatnonzero(self.counts)
        cross = self.counts[present, None] * (self.means[present] - self.mean) / divisor
        gram = self.scatter / np.outer(divisor, divisor)
        gram[np.diag_indices_from(gram)] += alpha
        W = solve(gram, cross.T, assume_a="pos", overwrite_a=True, check_finite=False).T
        return _folded(W, self.counts, mean=self.mean, divisor=divisor, temperature=temperature)

    def give(self, arrays: Mapping[str, Array], chosen: Mapping[str, Any]) -> bool:
        """Whether the head of these arrays, fitted with what was `chosen`, is theirs."""
        weight, bias = self.layer(float(chosen["alpha"]), temperature=float(chosen.get("temperature", 1.0)))
        size = float(np.abs(arrays["weight"]).max(initial=1e-12))
        near = np.abs(weight - arrays["weight"]).max() <= 1e-5 * size
        return bool(near and np.allclose(bias, arrays["bias"], rtol=1e-4, atol=1e-5))

    def tensors(self) -> dict[str, Array]:
        """The arrays as safetensors.numpy stores them; of the scatter, which is symmetric, the upper triangle."""
        upper = np.concatenate([row[place:] for place, row in enumerate(self.scatter)])
        return {"counts": self.counts, "means": self.means, "scatter": upper, "largest": self.largest}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Array]) -> Statistics:
        """The Statistics that `tensors` came from, bit for bit. Raises ValueError or KeyError for other tensors."""
        counts, d, upper = np.asarray(tensors["counts"]), len(tensors["largest"]), np.asarray(tensors["scatter"])
        shapes = (tensors["means"].shape, upper.shape, counts.ndim)
        if shapes != ((len(counts), d), (d * (d + 1) // 2,), 1) or d > WIDEST or counts.min(initial=0) < 0:
            raise ValueError("these are no statistics of a ridge head")
        scatter, at = np.empty((d, d)), 0
        for place in range(d):
            scatter[place, place:] = scatter[place:, place] = upper[at : at + d - place]
            at += d - place
        return cls(counts, np.asarray(tensors["means"]), scatter, np.asarray(tensors["largest"]))


@pooled()
def ridge_layer(X: Array, y: Array, n_classes: int, alpha: float, *, temperature: float = 1.0) -> tuple[Array, Array]:
    """`Statistics.layer` of features [n, d] and classes `y` [n] by the products of all items: cheaper where n < d."""
    import torch
    from scipy.linalg import solve

    n = len(X)
    counts = np.bincount(y, minlength=n_classes)
    mean, wide = X.mean(axis=0, dtype=np.float64), X.astype(np.float64)
    largest = np.abs(X).max(axis=0)
    wide -= mean
    divisor = divisor_of(np.sqrt(np.square(wide).mean(axis=0)), largest)
    wide /= divisor
    rows, present = torch.from_numpy(wide), np.flatnonzero(counts)
    gram = (rows @ rows.T).numpy()
    gram[np.diag_indices_from(gram)] += alpha
    wanted = (y[:, None] == present) - counts[present] / n
    shares = solve(gram, wanted, assume_a="pos", overwrite_a=True, check_finite=False)
    W = (torch.from_numpy(np.ascontiguousarray(shares.T)) @ rows).numpy()
    return _folded(W, counts, mean=mean, divisor=divisor, temperature=temperature)


def _folded(W: Array, counts: Array, *, mean: Array, divisor: Array, temperature: float) -> tuple[Array, Array]:
    """Weights [present, d] on scaled features → weight [k, d] and bias [k] on raw ones, centred over the classes."""
    present, n = np.flatnonzero(counts), int(counts.sum())
    share = counts[present] / n
    weight, bias = np.zeros((len(counts), len(mean))), np.full(len(counts), absent_logit(n))
    weight[present] = (W - W.mean(axis=0)) / divisor / temperature
    bias[present] = (share - share.mean()) / temperature - weight[present] @ mean
    return weight.astype(np.float32), bias.astype(np.float32)
