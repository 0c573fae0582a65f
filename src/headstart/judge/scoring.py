"""Measures of a classifier on labelled items, each the same as scikit-learn's, with an interval. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.judge.intervals import wilson
from headstart.records import Scores

__all__ = [
    "BINS",
    "CONFUSION_LIMIT",
    "calibration_error",
    "confusion_matrix",
    "hardest_classes",
    "majority",
    "mean_log_loss",
    "per_class",
    "score",
]

Array = npt.NDArray[Any]

BINS = 15
"""Equal-width confidence bins of the calibration error."""

CONFUSION_LIMIT = 300
"""Classes up to which the confusion matrix is kept: beyond, nobody reads it and it would be most of run.json."""

_TINY = 1e-15  # a probability of 0 for the true class costs 34.5 nats, not infinity


def score(y: Array, probabilities: Array, *, classes: Sequence[str]) -> Scores:
    """Judge `probabilities` [n, classes] against the true classes `y` [n].

    Accuracy comes with Wilson's 95 % interval. Balanced accuracy is the mean recall, and macro F1 the mean F1,
    over the classes that occur in `y` (for F1: or are predicted). Rows are scaled to sum 1; a row that is not
    finite counts as uniform. Top-5 accuracy only with more than 5 classes.
    The confusion matrix is left empty above CONFUSION_LIMIT classes.
    Raises ValueError when shapes or labels do not fit the classes. No items give zeros, never NaN.
    """
    y, probabilities = _checked(y, probabilities, len(classes))
    n, predicted = len(y), probabilities.argmax(axis=1)
    correct = predicted == y
    table = per_class(y, predicted, classes=classes)
    guessed = set(predicted.tolist())
    rows = list(enumerate(table.values()))
    recalls = np.array([row["recall"] for _, row in rows if row["n"]])
    f1s = np.array([row["f1"] for i, row in rows if row["n"] or i in guessed])
    return Scores(
        n=n,
        accuracy=_mean(correct),
        accuracy_interval=wilson(int(correct.sum()), n),
        balanced_accuracy=_mean(recalls),
        macro_f1=_mean(f1s),
        log_loss=mean_log_loss(probabilities, y),
        calibration_error=calibration_error(correct, probabilities.max(axis=1, initial=0.0)),
        per_class=table,
        confusion=_table(y, predicted, len(classes)),
        top5_accuracy=_mean(_top5(y, probabilities)) if len(classes) > 5 else None,
    )


def _checked(y: Array, probabilities: Array, n_classes: int) -> tuple[Array, Array]:
    """Integer labels and probabilities that sum to 1 by row."""
    y = np.asarray(y).astype(np.int64).ravel()
    p = np.array(probabilities, dtype=np.float64)
    if p.shape != (len(y), n_classes):
        raise ValueError(f"probabilities of shape {p.shape} do not fit {len(y)} items x {n_classes} classes")
    if y.size and (y.min() < 0 or y.max() >= n_classes):
        raise ValueError(f"labels must lie between 0 and {n_classes - 1}, got {y.min()} to {y.max()}")
    p = np.where(np.isfinite(p).all(axis=1, keepdims=True), np.clip(p, 0.0, None), 1.0)
    total = p.sum(axis=1, keepdims=True)
    return y, np.where(total > 0, p / np.where(total > 0, total, 1.0), 1.0 / n_classes)


def _mean(values: Array) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def mean_log_loss(probabilities: Array, y: Array) -> float:
    """Mean negative logarithm, in nats, of the probability [n, classes] of the true class [n]; 0 without items."""
    return _mean(-np.log(np.clip(probabilities[np.arange(len(y)), y], _TINY, 1.0)))


def _top5(y: Array, probabilities: Array) -> Array:
    """Whether the true class is among the five likeliest; ties count for the lower class number."""
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    hits: Array = (best == y[:, None]).any(axis=1)
    return hits


def confusion_matrix(y: Array, predicted: Array, *, n_classes: int) -> Array:
    """Counts [true class, predicted class]."""
    counts = np.bincount(np.asarray(y) * n_classes + np.asarray(predicted), minlength=n_classes * n_classes)
    return counts.reshape(n_classes, n_classes)


def _table(y: Array, predicted: Array, n_classes: int) -> tuple[tuple[int, ...], ...]:
    if n_classes > CONFUSION_LIMIT:
        return ()
    return tuple(tuple(row) for row in confusion_matrix(y, predicted, n_classes=n_classes).tolist())


def per_class(y: Array, predicted: Array, *, classes: Sequence[str]) -> dict[str, dict[str, float]]:
    """Number of items, precision, recall and F1 of every class; a ratio over nothing is 0."""
    k = len(classes)
    n, answers = np.bincount(y, minlength=k), np.bincount(predicted, minlength=k)
    hits = np.bincount(y[predicted == y], minlength=k)
    precision, recall = hits / np.maximum(answers, 1), hits / np.maximum(n, 1)
    f1 = 2 * hits / np.maximum(n + answers, 1)
    return {
        name: {"n": int(n[i]), "precision": float(precision[i]), "recall": float(recall[i]), "f1": float(f1[i])}
        for i, name in enumerate(classes)
    }


def calibration_error(correct: Array, confidence: Array, *, bins: int = BINS) -> float:
    """Expected calibration error: the mean gap between confidence and accuracy over equal-width bins.

    `correct` [n] says whether the likeliest class was right, `confidence` [n] is its probability; bins are
    ((i - 1) / bins, i / bins]. Source: Guo et al. 2017, "On calibration of modern neural networks", equation 3.
    """
    if len(confidence) == 0:
        return 0.0
    place = np.clip(np.ceil(np.asarray(confidence) * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(place, weights=np.asarray(correct, dtype=float) - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def majority(y_train: Array, y_test: Array, classes: Sequence[str]) -> Mapping[str, Any]:
    """The baseline that always answers the most frequent training class: its name, accuracy and interval.

    A tie goes to the lower class number.
    """
    counts = np.bincount(np.asarray(y_train, dtype=np.int64), minlength=len(classes))
    common = int(counts.argmax())
    hits, n = int((np.asarray(y_test) == common).sum()), len(y_test)
    return {"class": classes[common], "accuracy": hits / n if n else 0.0, "accuracy_interval": wilson(hits, n)}


def hardest_classes(y: Array, predicted: Array, classes: Sequence[str], *, most: int = 5) -> list[dict[str, Any]]:
    """The classes of lowest recall, worst first, at most `most`, with the class that takes most of their items.

    `share` is the share of the class's items that went to `confused_with`. Classes without items, and those without an
    error, are no part of it. Ties go to the class with more items, then to the lower class number.
    """
    y, predicted = np.asarray(y, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    rows: list[dict[str, Any]] = []
    for place, name in enumerate(classes):
        taken = np.bincount(predicted[y == place], minlength=len(classes))
        n, hits = int(taken.sum()), int(taken[place])
        if n == hits:
            continue
        taken[place] = 0
        other = int(taken.argmax())
        rows.append(
            {"class": name, "recall": hits / n, "n": n, "confused_with": classes[other], "share": int(taken[other]) / n}
        )
    return sorted(rows, key=lambda row: (row["recall"], -row["n"]))[:most]
