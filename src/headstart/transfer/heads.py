"""Heads on frozen features: arrays in, plain arrays and one torch module out.

| kind   | what it is                                              | what is chosen, by out-of-fold log loss    |
| ------ | ------------------------------------------------------- | ------------------------------------------ |
| linear | multinomial logistic regression                         | C (as in scikit-learn)                     |
| svm    | one-vs-rest linear SVM with squared hinge               | C, on scaled features divided by sqrt(d)   |
| ridge  | least squares on one-hot labels                         | alpha (as in scikit-learn)                 |
| mlp    | 256 ReLU units with dropout                             | epochs                                     |
| knn    | nearest training items by cosine similarity             | k, the softness of votes, their smoothing  |

All but knn work on scaled features (`_heads_common.Scaler`), and the scaler is folded into the first linear layer;
linear, svm and ridge are that one layer. The margins of svm and the answers of ridge are divided by a temperature
fitted on held-out answers, so that their softmax can be read as probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.errors import SettingsError, did_you_mean
from headstart.settings import HEADS
from headstart.transfer._heads_common import (
    Array,
    accuracy_and_loss,
    blocks,
    checked,
    fold_pairs,
    linear_layer,
)
from headstart.transfer._heads_knn import fit_knn, knn_logits, knn_module
from headstart.transfer._heads_linear import LINEAR_KINDS, fit_linear, linear_curve
from headstart.transfer._heads_mlp import fit_mlp, mlp_logits, mlp_module, train_mlp
from headstart.transfer.statistics import Statistics

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "FRACTIONS",
    "KINDS",
    "FittedHead",
    "fit_head",
    "fit_parts",
    "fold_pairs",
    "learning_curve",
    "train_mlp",
]

KINDS = HEADS

FRACTIONS = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Shares of the training items at which a learning curve is measured."""


@dataclass(frozen=True)
class FittedHead:
    """A trained head; all it needs to answer stands in `arrays`.

    `chosen` holds the hyper-parameters (give them as `fixed` to fit again without a search), `oof` the logits
    [n, n_classes] of every training item by a head that did not see it (None when nothing was searched), `search` a
    row a candidate {name: value, accuracy, log_loss}, `history` a row an epoch (mlp), `statistics` what a ridge head of
    no fewer items than features was solved from.
    """

    kind: str
    arrays: dict[str, Array]
    chosen: dict[str, Any] = field(default_factory=dict)
    oof: Array | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    search: list[dict[str, Any]] = field(default_factory=list)
    statistics: Statistics | None = None

    @property
    def size(self) -> int:
        """How many numbers stand in its arrays."""
        return sum(int(array.size) for array in self.arrays.values())

    def logits(self, X: Array) -> Array:
        """Logits [n, n_classes] float32 of features [n, d]; their softmax is the probabilities."""
        X = np.asarray(X, dtype=np.float32)
        if self.kind == "knn":
            return knn_logits(self.arrays, X)
        if self.kind == "mlp":
            return mlp_logits(self.arrays, X)
        weight, bias = self.arrays["weight"].T.astype(np.float64), self.arrays["bias"]
        answers = np.empty((len(X), len(bias)), dtype=np.float32)
        for rows in blocks(len(X), max(weight.shape)):
            answers[rows] = X[rows].astype(np.float64) @ weight + bias  # wide, so that no row feels its company
        return answers

    def module(self) -> nn.Module:
        """The same head as a torch module in evaluation mode: one nn.Linear where the head is linear."""
        if self.kind == "knn":
            return knn_module(self.arrays)
        if self.kind == "mlp":
            return mlp_module(self.arrays)
        return linear_layer(self.arrays["weight"], self.arrays["bias"]).eval()

    def tensors(self) -> dict[str, Array]:
        """The arrays, contiguous, as safetensors.numpy stores them."""
        return {name: np.ascontiguousarray(array) for name, array in self.arrays.items()}

    @classmethod
    def from_tensors(cls, kind: str, arrays: Mapping[str, Array]) -> FittedHead:
        """The head that `tensors` came from: the same answers, bit for bit, without the record of the choice."""
        return cls(_known(kind), {name: np.asarray(array) for name, array in arrays.items()})


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise SettingsError(f"unknown head {kind!r}", remedy=did_you_mean(kind, list(KINDS)))
    return kind


def fit_head(
    kind: str,
    X: Array,
    y: Array,
    *,
    n_classes: int,
    seed: int = 0,
    folds: int = 5,
    groups: Sequence[Any] | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> FittedHead:
    """Fit a head on features `X` [n, d] and class numbers `y` [n]; choose its hyper-parameters by cross-validation.

    `folds` is the number of stratified folds (the SVM takes 10 at least, knn leaves one out); items of one group
    stay in one fold. `fixed` gives hyper-parameters, as `FittedHead.chosen` names them, and skips the search.
    A class without items is never predicted, and constant features have no say. Deterministic by seed.
    Raises SettingsError for an unknown kind, DataError for features or labels that cannot be trained on.
    """
    _known(kind)
    X, y = checked(X, y, n_classes)
    fixed = dict(fixed or {})
    if kind == "knn":
        return FittedHead(kind, **fit_knn(X, y, n_classes=n_classes, groups=groups, fixed=fixed))
    if kind == "mlp":
        return FittedHead(
            kind, **fit_mlp(X, y, n_classes=n_classes, seed=seed, folds=folds, groups=groups, fixed=fixed)
        )
    fitted = fit_linear(kind, X, y, n_classes=n_classes, seed=seed, folds=folds, groups=groups, fixed=fixed)
    return FittedHead(kind, **fitted)


def learning_curve(
    kind: str,
    X: Array,
    y: Array,
    *,
    n_classes: int,
    fixed: Mapping[str, Any],
    X_val: Array,
    y_val: Array,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Train on growing parts of the items (FRACTIONS), judge on the same validation items each time.

    The parts are stratified and nested: every class has an item in each, and each holds all of the one before.
    `fixed` are the hyper-parameters (`FittedHead.chosen`). Gives points {x: number of training items,
    train_accuracy, val_accuracy, train_loss, val_loss}, the losses in nats.
    """
    X, y = checked(X, y, n_classes)
    X_val, y_val = np.asarray(X_val, dtype=np.float32), np.asarray(y_val).astype(np.int64)
    points = []
    for rows, head in _grown(kind, X, y, n_classes=n_classes, fixed=fixed, seed=seed):
        train_accuracy, train_loss = accuracy_and_loss(head.logits(X[rows]), y[rows])
        val_accuracy, val_loss = accuracy_and_loss(head.logits(X_val), y_val)
        points.append(
            {
                "x": len(rows),
                "train_accuracy": train_accuracy,
                "val_accuracy": val_accuracy,
                "train_loss": train_loss,
                "val_loss": val_loss,
            }
        )
    return points


def _grown(
    kind: str, X: Array, y: Array, *, n_classes: int, fixed: Mapping[str, Any], seed: int
) -> Iterator[tuple[Array, FittedHead]]:
    """Growing rows, and the head fitted on them."""
    rank, size = _ranks(y, seed)
    entry = np.sum([rank >= np.ceil(fraction * size - 1e-9) for fraction in FRACTIONS], axis=0)
    sections = [rows for i in range(len(FRACTIONS)) if len(rows := np.flatnonzero(entry == i))]
    parts = [np.sort(np.concatenate(sections[: i + 1])) for i in range(len(sections))]
    yield from fit_parts(kind, X, y, parts=parts, n_classes=n_classes, fixed=fixed, seed=seed)


def fit_parts(
    kind: str,
    X: Array,
    y: Array,
    *,
    parts: Sequence[Array],
    n_classes: int,
    fixed: Mapping[str, Any],
    seed: int = 0,
) -> Iterator[tuple[Array, FittedHead]]:
    """The head fitted on each of some growing parts of the items, each part holding all of the one before.

    `parts` are sorted positions, `fixed` the hyper-parameters. The linear heads are fitted side by side.
    """
    if kind in LINEAR_KINDS:
        sections = [np.setdiff1d(part, parts[i - 1]) if i else np.asarray(part) for i, part in enumerate(parts)]
        layers = linear_curve(kind, X, y, n_classes=n_classes, fixed=fixed, sections=sections)
        for rows, (weight, bias) in zip(parts, layers, strict=True):
            yield rows, FittedHead(kind, {"weight": weight, "bias": bias}, dict(fixed))
        return
    for rows in parts:
        yield rows, fit_head(kind, X[rows], y[rows], n_classes=n_classes, seed=seed, fixed=fixed)


def _ranks(y: Array, seed: int) -> tuple[Array, Array]:
    """The place of every item in a shuffled queue of its class, and the length of that queue."""
    shuffled = np.random.default_rng(seed).permutation(len(y))
    order = shuffled[np.argsort(y[shuffled], kind="stable")]
    counts = np.bincount(y)
    rank = np.empty(len(y), dtype=np.int64)
    rank[order] = np.arange(len(y)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rank, counts[y]
