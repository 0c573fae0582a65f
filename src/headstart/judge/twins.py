"""How much of a test score stands on pictures that training has nearly seen. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.judge.intervals import wilson

__all__ = ["split_scores"]


def split_scores(
    correct: Sequence[bool] | npt.NDArray[np.bool_],
    test_names: Sequence[str],
    *,
    train_names: Sequence[str],
    groups: Sequence[Sequence[str]],
) -> dict[str, Any]:
    """Accuracy with its Wilson interval on the test items with and without a twin in training.

    `correct` says for each of `test_names` whether it was answered rightly; `groups` are the names that belong together
    (duplicates and near-duplicates, perhaps overlapping). Gives {"with_twin": {n, accuracy, accuracy_interval},
    "without_twin": the same}; accuracy and interval are None where n is 0. Raises ValueError for unequal lengths.
    """
    right = np.asarray(correct).astype(bool).ravel()
    if len(right) != len(test_names):
        raise ValueError(f"{len(test_names)} test items but {len(right)} answers")
    learnt = set(train_names)
    seen = {name for group in groups if any(member in learnt for member in group) for name in group}
    twin = np.array([name in seen for name in test_names], dtype=bool)
    return {"with_twin": _scored(right[twin]), "without_twin": _scored(right[~twin])}


def _scored(right: npt.NDArray[np.bool_]) -> dict[str, Any]:
    n, hits = len(right), int(right.sum())
    if not n:
        return {"n": 0, "accuracy": None, "accuracy_interval": None}
    return {"n": n, "accuracy": hits / n, "accuracy_interval": list(wilson(hits, n))}
