"""The head that asks the nearest training items: cosine similarity, votes weighted by a softmax.

Source of the weighting: Wu et al. 2018, "Unsupervised feature learning via non-parametric instance discrimination".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.transfer._heads_common import Array, accuracy_and_loss

if TYPE_CHECKING:
    import torch

__all__ = ["NEIGHBOURS", "SMOOTHING", "SOFTNESS", "fit_knn", "knn_logits", "knn_module"]

NEIGHBOURS = (1, 3, 5, 11, 21)
SMOOTHING = (0.01, 0.03, 0.1, 0.3, 1.0)
SOFTNESS = (0.05, 0.1, 0.2)  # similarity that divides a vote by e
_TIE = 1e-6  # items this near to the k-th neighbour vote with it, so that rounding decides nothing
_ROWS = 1024  # items compared at once


def _unit(X: Array, mean: Array) -> Array:
    centred = X - mean
    directions: Array = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    return directions


def _votes(similarity: Array, k: int, softness: float) -> Array:
    """Weights [m, n] of the k nearest items (and their ties): a softmax over their similarities."""
    n = similarity.shape[1]
    border = np.partition(similarity, n - min(k, n), axis=1)[:, n - min(k, n)]
    nearest = similarity >= np.maximum(border, -2.0)[:, None] - _TIE  # -inf marks items that may not vote
    top = np.maximum(similarity.max(axis=1, keepdims=True), -2.0)
    weights = np.where(nearest, np.exp((similarity - top) / np.float32(softness)), 0.0).astype(np.float32)
    shares: Array = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
    return shares


def _by_class(votes: Array, labels: Array, n_classes: int) -> Array:
    """Sum votes [m, n] of items in the order of their labels to [m, n_classes]."""
    present, first = np.unique(labels, return_index=True)
    shares = np.zeros((len(votes), n_classes), dtype=np.float32)
    shares[:, present] = np.add.reduceat(votes, first, axis=1)
    return shares


def _smoothed(shares: Array, smoothing: float) -> Array:
    """Logarithm of the class shares mixed with `smoothing` parts of the uniform distribution."""
    k = np.float32(shares.shape[1])
    logits: Array = np.log((shares + np.float32(smoothing) / k) / np.float32(1 + smoothing))
    return logits


def knn_logits(arrays: Mapping[str, Array], X: Array) -> Array:
    """Log probabilities [n, n_classes] of raw features [n, d]."""
    k, n_classes = int(arrays["k"][0]), int(arrays["n_classes"][0])
    softness = float(arrays["softness"][0])
    queries = _unit(X, arrays["mean"])
    blocks = [
        _by_class(_votes(queries[i : i + _ROWS] @ arrays["bank"].T, k, softness), arrays["labels"], n_classes)
        for i in range(0, len(X), _ROWS)
    ]
    shares = np.concatenate(blocks) if blocks else np.zeros((0, n_classes), dtype=np.float32)
    return _smoothed(shares, float(arrays["smoothing"][0]))


def knn_module(arrays: Mapping[str, Array]) -> torch.nn.Module:
    """The same answers as knn_logits, as a torch module of buffers."""
    import torch
    from torch import nn

    class NearestNeighbours(nn.Module):
        """Votes of the nearest stored items."""

        def __init__(self) -> None:
            super().__init__()
            for name, array in arrays.items():
                self.register_buffer(name, torch.from_numpy(array.copy()))
            self.n_neighbours, self.width = min(int(arrays["k"][0]), len(arrays["bank"])), int(arrays["n_classes"][0])

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            """Log probabilities [n, n_classes] of features [n, d]."""
            held = dict(self.named_buffers())
            queries = nn.functional.normalize(features - held["mean"], dim=1)
            similarity = queries @ held["bank"].T
            border = similarity.topk(self.n_neighbours, dim=1).values[:, -1:]
            votes = torch.softmax(
                similarity.masked_fill(similarity < border - _TIE, -torch.inf) / held["softness"], dim=1
            )
            shares = votes.new_zeros(len(votes), self.width).index_add_(1, held["labels"], votes)
            return torch.log((shares + held["smoothing"] / self.width) / (1 + held["smoothing"]))

    return NearestNeighbours().eval()


def fit_knn(
    X: Array, y: Array, *, n_classes: int, groups: Sequence[Any] | None, fixed: Mapping[str, Any]
) -> dict[str, Any]:
    """Store the items; choose k and the smoothing by leave-one-out (leave-one-group-out); FittedHead's fields."""
    order = np.argsort(y, kind="stable")
    mean = X.mean(axis=0, dtype=np.float64).astype(np.float32)
    bank, labels = _unit(X, mean)[order], y[order]
    chosen: dict[str, Any] = {"k": 1, "softness": 0.1, "smoothing": 0.3, **fixed}
    search: list[dict[str, Any]] = []
    oof: Array | None = None
    if len(y) > 1 and "k" not in fixed:
        units = np.arange(len(y)) if groups is None else np.unique([str(g) for g in groups], return_inverse=True)[1]
        logits, search = _search(bank, labels, units[order], n_classes=n_classes)
        best = min(search, key=lambda row: (row["log_loss"], row["k"]))
        chosen = {name: best[name] for name in ("k", "softness", "smoothing")}
        oof = np.empty((len(y), n_classes), dtype=np.float32)
        oof[order] = logits
    arrays = {
        "bank": bank,
        "labels": labels,
        "mean": mean,
        "k": np.array([chosen["k"]], dtype=np.int64),
        "softness": np.array([chosen["softness"]], dtype=np.float32),
        "smoothing": np.array([chosen["smoothing"]], dtype=np.float32),
        "n_classes": np.array([n_classes], dtype=np.int64),
    }
    return {"arrays": arrays, "chosen": chosen, "oof": oof, "search": search}


def _search(bank: Array, labels: Array, groups: Array, *, n_classes: int) -> tuple[Array, list[dict[str, Any]]]:
    """The left-out logits of the best choice, and for each k its best softness and smoothing by log loss."""
    search: list[dict[str, Any]] = []
    best, answers = np.inf, np.zeros((0, n_classes), dtype=np.float32)
    for k in [k for k in NEIGHBOURS if k < len(bank)]:
        rows = []
        for softness in SOFTNESS if k > 1 else SOFTNESS[:1]:
            shares = _left_out(bank, labels, groups, n_classes=n_classes, k=k, softness=softness)
            for smoothing in SMOOTHING:
                logits = _smoothed(shares, smoothing)
                accuracy, loss = accuracy_and_loss(logits, labels)
                rows.append(
                    {"k": k, "softness": softness, "smoothing": smoothing, "accuracy": accuracy, "log_loss": loss}
                )
                if loss < best:
                    best, answers = loss, logits
        search.append(min(rows, key=lambda row: row["log_loss"]))
    return answers, search


def _left_out(bank: Array, labels: Array, groups: Array, *, n_classes: int, k: int, softness: float) -> Array:
    """The class shares [n, n_classes] of every item by its k nearest items outside its own group."""
    shares = np.empty((len(bank), n_classes), dtype=np.float32)
    for i in range(0, len(bank), _ROWS):
        rows = slice(i, i + _ROWS)
        similarity = bank[rows] @ bank.T
        similarity[groups[rows][:, None] == groups[None, :]] = -np.inf
        shares[rows] = _by_class(_votes(similarity, k, softness), labels, n_classes)
    return shares
