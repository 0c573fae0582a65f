"""The score where no test set was held back: repeated nested cross-validation on kept features.

Each item is answered by heads that saw neither it nor anything tied to it; the kind of head and its strength are chosen
anew inside every fold. Source: Cawley and Talbot 2010, "On over-fitting in model selection and subsequent selection
bias in performance evaluation", section 5; Krstajic et al. 2014 on repeating it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart.choice.entrants import Arena, Entrant, try_fold
from headstart.choice.race import choose_entry
from headstart.errors import DataError
from headstart.judge.calibration import log_softmax
from headstart.judge.intervals import wilson
from headstart.records import Plan
from headstart.settings import Settings
from headstart.stages import Bench, groups_of
from headstart.transfer.budget import Clock
from headstart.transfer.heads import FittedHead, fit_head, fold_pairs

__all__ = ["CrossValidated", "cross_validate"]

_REPEATS, _MANY = 3, 1_000  # repeats, and items from which on one is enough


@dataclass(frozen=True)
class CrossValidated:
    """Log probabilities [items, classes] averaged over the repeats, NaN for items without an answer, and the record."""

    logits: np.ndarray
    told: dict[str, Any]


def cross_validate(
    bench: Bench, plan: Plan, settings: Settings, *, heads: Sequence[str], clock: Clock
) -> CrossValidated:
    """Judge the way a plan was made on all items that it was made with; `heads` are those it was chosen among.

    A plan that trains above a cut is trained anew on every fold, once, as far as the time goes: its choice saw these
    items, which the sentence says. Raises DataError where the items make no two folds.
    """
    arena = Arena.of(bench)
    if not arena.pairs:
        raise DataError(
            "there are too few items for cross-validation",
            where=bench.dataset.path,
            remedy="Add images, or hold a test set back (--test-fraction above 0).",
        )
    if plan.strategy != "frozen":
        return _trained(bench, arena, plan, settings, clock)
    X, y, groups = bench.features(plan.pooling, "train", "val"), arena.labels, groups_of(bench, "train", "val")
    repeats = 1 if len(y) >= _MANY else _REPEATS
    rows, done = np.zeros((len(y), bench.n_classes)), 0
    for repeat in range(repeats):
        seed = settings.seed + 1 + repeat
        for learn, held in fold_pairs(y, settings.folds, seed=seed, groups=groups):
            own = None if groups is None else [groups[i] for i in learn]
            head = _chosen_head(heads, X[learn], y[learn], n_classes=bench.n_classes, settings=settings, groups=own)
            rows[held] += log_softmax(head.logits(X[held]))
        done += 1
        if not clock.fits(clock.used / 10):
            break
    told = (
        f"No test set was held back: the score is from {done} x {settings.folds}-fold nested cross-validation, in "
        "which the head and its strength were chosen anew in every fold."
    )
    return _judged(rows / done, y, folds=settings.folds, repeats=done, sentence=told)


def _chosen_head(
    kinds: Sequence[str], X: np.ndarray, y: np.ndarray, *, n_classes: int, settings: Settings, groups: list[str] | None
) -> FittedHead:
    """The head that the rule of the race takes on these items alone."""
    fitted = [
        fit_head(kind, X, y, n_classes=n_classes, seed=settings.seed, folds=settings.folds, groups=groups)
        for kind in kinds
    ]
    usable = [head for head in fitted if head.oof is not None]
    if len(usable) < 2:
        return fitted[0]
    entries = [
        Entrant(settings, "", "frozen", head.kind, "head", head.oof, "probe", trained=head.size).entry(y)
        for head in usable
        if head.oof is not None
    ]
    return usable[choose_entry(entries).chosen]


def _trained(bench: Bench, arena: Arena, plan: Plan, settings: Settings, clock: Clock) -> CrossValidated:
    shape = (len(arena.labels), bench.n_classes)
    entrant = Entrant(
        settings, bench.source.address, plan.strategy, plan.head, plan.cut, np.full(shape, np.nan), "folds"
    )
    done = 0
    for number in range(len(arena.pairs)):
        if done and not clock.fits(1.1 * entrant.fold_seconds):
            break
        try_fold(bench, arena, entrant, number=number, epochs=plan.epochs, deadline=None)
        done += 1
    told = (
        f"No test set was held back: the plan was trained anew on {done} of {len(arena.pairs)} folds and judged on "
        "what each left out. The choice of the plan had seen these items, so the score may be a little too good."
    )
    return _judged(entrant.logits, arena.labels, folds=done, repeats=1, sentence=told)


def _judged(logits: np.ndarray, y: np.ndarray, *, folds: int, repeats: int, sentence: str) -> CrossValidated:
    there = np.isfinite(logits).all(axis=1)
    right = int((logits[there].argmax(1) == y[there]).sum())
    n = int(there.sum())
    return CrossValidated(
        logits,
        {
            "folds": folds,
            "repeats": repeats,
            "n": n,
            "accuracy": right / n,
            "accuracy_interval": list(wilson(right, n)),
            "sentence": sentence,
        },
    )
