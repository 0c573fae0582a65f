"""How like the source's own data a new data set is, measured by what pretraining is worth on it. Arrays in, no torch.

A linear head on the features of the pretrained network is compared with one on the features of the same network with
random weights. `benchmarks/similarity.py` compares this measure with others (docs/strategies.md has the table).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headstart.errors import DataError
from headstart.transfer._heads_common import Array
from headstart.transfer.heads import fit_head

__all__ = ["MEASURE", "SIMILAR", "avoided", "probe", "similarity"]

SIMILAR = 0.58
"""From this similarity on a data set counts as similar to the source's.

Of nine small sets with one source, the five above gained 0.8 points by fine-tuning in the mean, the four below 5.9
(`benchmarks/similarity.py`). That is little ground: near the threshold both neighbours are worth a trial.
"""

MEASURE = "the share of a random network's errors that the pretrained one avoids"


def similarity(
    pretrained: Array,
    fresh: Array,
    y: Array,
    *,
    n_classes: int,
    seed: int = 0,
    folds: int = 5,
    groups: Sequence[Any] | None = None,
) -> dict[str, Any]:
    """Similarity from features [n, d] of the source and of the same network with random weights, and labels [n].

    Gives {value, level, threshold, measure, pretrained, random, majority, items}: `value` from 0 to 1 is the share of
    the errors of a linear head on random features (or of always naming the largest class, where that errs less) that
    a head on the pretrained features avoids, both cross-validated; `level` is "similar" or "different". Items without
    features (NaN) are left out. Raises DataError where features and labels do not fit.
    """
    if not len(pretrained) == len(fresh) == len(y):
        raise DataError(f"{len(pretrained)} and {len(fresh)} rows of features do not fit {len(y)} labels")
    kept = np.flatnonzero(np.isfinite(pretrained).all(axis=1) & np.isfinite(fresh).all(axis=1))
    labels = np.asarray(y)[kept]
    tied = None if groups is None else [groups[int(n)] for n in kept]
    words: dict[str, Any] = {"n_classes": n_classes, "seed": seed, "folds": folds, "groups": tied}
    good, poor = (probe(X[kept], labels, **words) for X in (pretrained, fresh))
    majority = float(np.bincount(labels).max() / len(labels)) if len(labels) else 0.0
    value = avoided(good, max(poor, majority))
    return {
        "value": value,
        "level": "similar" if value >= SIMILAR else "different",
        "threshold": SIMILAR,
        "measure": MEASURE,
        "pretrained": good,
        "random": poor,
        "majority": majority,
        "items": len(kept),
    }


def avoided(accuracy: float, floor: float) -> float:
    """The share of the errors at accuracy `floor` that is gone at `accuracy`, from 0 to 1; 1 where there were none."""
    if floor >= 1.0:
        return 1.0 if accuracy >= 1.0 else 0.0
    return min(1.0, max(0.0, (accuracy - floor) / (1.0 - floor)))


def probe(
    X: Array, y: Array, *, n_classes: int, seed: int = 0, folds: int = 5, groups: Sequence[Any] | None = None
) -> float:
    """Accuracy of a ridge head on features [n, d] by cross-validation; 0 where there are too few items for folds."""
    head = fit_head("ridge", X, y, n_classes=n_classes, seed=seed, folds=folds, groups=groups)
    return 0.0 if head.oof is None else float((head.oof.argmax(axis=1) == np.asarray(y)).mean())
