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

__all__ = ["NEIGHBOURS", "SMOOTHING", "SOFTNESS", "TIE", "fit_knn", "knn_logits", "knn_module"]

NEIGHBOURS = (1, 3, 5, 11, 21)
SMOOTHING = (0.01, 0.03, 0.1, 0.3, 1.0)
SOFTNESS = (0.05, 0.1, 0.2)  # similarity that divides a vote by e
TIE = 1e-6  # items this near to the k-th neighbour vote with it, so that rounding decides nothing
_ROWS = 1024  # items compared at once


def _unit(X: Array, mean: Array) -> Array:
    centred = X - mean
    directions: Array = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    return directions


def _shares(similarity: Array, labels: Array, *, n_classes: int, choices: Sequence[tuple[int, float]]) -> list[Array]:
    """Class shares [m, n_classes] for each choice of (k, softness), from similarities [m, n] to the stored items.

    The k nearest items and their ties vote with a softmax over their similarities; -inf marks those that may not.
    """
    m, n = similarity.shape
    places = {k: n - min(k, n) for k, _ in choices}
    parted = np.partition(similarity, sorted(set(places.values())), axis=1)
    borders = {k: np.maximum(parted[:, place], -2.0) - TIE for k, place in places.items()}
    rows, columns = np.nonzero(similarity >= borders[max(borders)][:, None])
    near, top = similarity[rows, columns], similarity.max(axis=1)
    cells = rows * n_classes + labels[columns]
    tables = []
    for k, softness in choices:
        weights = np.exp((near - top[rows]) / softness) * (near >= borders[k][rows])
        table = np.bincount(cells, weights=weights, minlength=m * n_classes).reshape(m, n_classes)
        tables.append((table / np.maximum(table.sum(axis=1, keepdims=True), 1e-12)).astype(np.float32))
    return tables


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
        _shares(
            queries[i : i + _ROWS] @ arrays["bank"].T, arrays["labels"], n_classes=n_classes, choices=[(k, softness)]
        )[0]
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
                similarity.masked_fill(similarity < border - TIE, -torch.inf) / held["softness"], dim=1
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
    ks = [k for k in NEIGHBOURS if k < len(bank)]
    choices = [(k, softness) for k in ks for softness in (SOFTNESS if k > 1 else SOFTNESS[:1])]
    rows: list[dict[str, Any]] = []
    best, answers = np.inf, np.zeros((0, n_classes), dtype=np.float32)
    for (k, softness), shares in zip(
        choices, _left_out(bank, labels, groups, n_classes=n_classes, choices=choices), strict=True
    ):
        for smoothing in SMOOTHING:
            logits = _smoothed(shares, smoothing)
            accuracy, loss = accuracy_and_loss(logits, labels)
            rows.append({"k": k, "softness": softness, "smoothing": smoothing, "accuracy": accuracy, "log_loss": loss})
            if loss < best:
                best, answers = loss, logits
    return answers, [min((row for row in rows if row["k"] == k), key=lambda row: row["log_loss"]) for k in ks]


def _left_out(
    bank: Array, labels: Array, groups: Array, *, n_classes: int, choices: Sequence[tuple[int, float]]
) -> list[Array]:
    """For each choice the class shares [n, n_classes] of every item by the items outside its own group."""
    blocks = []
    for i in range(0, len(bank), _ROWS):
        rows = slice(i, i + _ROWS)
        similarity = bank[rows] @ bank.T
        similarity[groups[rows][:, None] == groups[None, :]] = -np.inf
        blocks.append(_shares(similarity, labels, n_classes=n_classes, choices=choices))
    return [np.concatenate(parts) for parts in zip(*blocks, strict=True)]
