"""The heads that are one linear layer: multinomial logistic regression, linear SVM and ridge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from headstart.judge.calibration import temperature
from headstart.transfer._heads_common import (
    Array,
    Rotated,
    Scaler,
    absent_logit,
    accuracy_and_loss,
    fold_pairs,
    rotate,
)
from headstart.transfer._heads_pool import pooled
from headstart.transfer._heads_solver import Fits, Parts, solve
from headstart.transfer.statistics import WIDEST, Statistics, ridge_layer

__all__ = ["LINEAR_KINDS", "fit_linear", "linear_curve", "lowest"]

_NEAR, _CLOSE, _EXACT = 1e-4, 1e-5, 1e-8  # nats: to compare strengths, to report answers, to keep weights
_FINEST = 1e-13  # nats, where float64 is used
_COLUMNS = 512  # answers of one row computed at once: beyond this many another fit costs as much as its own product
_SHORT = 6  # places of a grid from which on large steps save some
_SMALL = 1 << 20  # numbers of features that are fitted closely in float64


@dataclass(frozen=True)
class Kind:
    """One way to fit a linear layer: its loss, its search grid (strong to weak) and what its strength means."""

    loss: str
    name: str
    grid: tuple[float, ...]
    folds: int  # never fewer than this many
    start: int  # the place in the grid where the search begins
    tempered: bool  # answers are no log odds: a temperature, fitted on held-out answers, makes them so

    def penalty(self, strength: float, *, n: int, n_classes: int) -> float:
        """The weight of |W|² / 2 beside the mean loss."""
        if self.loss == "square":
            return 2.0 * strength / n
        return (2.0 if self.loss == "softmax" and n_classes == 2 else 1.0) / (strength * n)


LINEAR_KINDS = {
    "linear": Kind("softmax", "C", tuple(10.0 ** (e / 2) for e in range(-8, 5)), 2, 4, False),
    "svm": Kind("hinge", "C", tuple(10.0**e for e in range(-2, 3)), 10, 2, True),
    "ridge": Kind("square", "alpha", tuple(10.0 ** (e / 2) for e in range(12, -3, -1)), 2, 6, True),
}


class _Problem:
    """Scaled, rotated training items of the classes that occur, in sections: the parts that fits see or leave out."""

    def __init__(self, kind: Kind, X: Array, y: Array, *, n_classes: int, sections: Sequence[Array]) -> None:
        self.kind, self.n_classes, self.sections = kind, n_classes, sections
        self.order = np.concatenate(sections)
        self.bounds = np.cumsum([0, *(len(part) for part in sections)])
        self.present, self.y = np.unique(y[self.order], return_inverse=True)
        scaler = Scaler.of(X)
        unit = np.float32(np.sqrt(X.shape[1])) if kind.loss == "hinge" else np.float32(1.0)
        self.scaler = Scaler(scaler.mean, scaler.divisor * unit)
        self.rotated: Rotated = rotate(X, self.scaler, order=self.order)

    def parts(self, sees: Array) -> Parts:
        """Fits that see these sections."""
        return Parts(self.rotated.Z, self.y, len(self.present), self.bounds, sees, self.rotated.power)

    def fit(self, sees: Array, strength: float, *, start: Array | None = None, tolerance: float) -> Fits:
        """A fit for each row of `sees` [fits, sections], to `tolerance` nats; as many side by side as pay."""
        parts, step = self.parts(sees), max(1, _COLUMNS // len(self.present))
        if tolerance <= _EXACT and parts.Z.size <= _SMALL:
            parts, tolerance = parts.wide(), _FINEST
        classes = len(self.present) - parts.absent().sum(axis=1)
        penalty = np.array(
            [
                self.kind.penalty(strength, n=int(n), n_classes=int(k))
                for n, k in zip(parts.counts, classes, strict=True)
            ]
        )
        found = []
        for i in range(0, len(sees), step):
            some = slice(i, i + step)
            begin = None if start is None else start[some]
            found.append(
                solve(parts.only(some), loss=self.kind.loss, penalty=penalty[some], start=begin, tolerance=tolerance).A
            )
        return Fits(np.concatenate(found))

    def spread(self, answers: Array, seen: Array, n: int) -> Array:
        """Answers [m, present] → logits [m, n_classes], centred over the `seen` classes; an unseen class never wins."""
        logits = np.full((len(answers), self.n_classes), absent_logit(n), dtype=np.float32)
        known = answers[:, seen]
        logits[:, self.present[seen]] = known - known.mean(axis=1, keepdims=True)
        return logits

    def layer(self, A: Array, divisor: float, n: int) -> tuple[Array, Array]:
        """One fit [present, r + 1] on n items → weight [n_classes, d] and bias [n_classes] on raw features."""
        A = (A - A.mean(axis=0)) / divisor
        weight = np.zeros((self.n_classes, self.scaler.mean.size))
        bias = np.full(self.n_classes, absent_logit(n))
        weight[self.present], bias[self.present] = self.rotated.weight(A[:, :-1]), A[:, -1]
        return self.scaler.fold(weight, bias)


@pooled()
def fit_linear(
    kind: str,
    X: Array,
    y: Array,
    *,
    n_classes: int,
    seed: int,
    folds: int,
    groups: Sequence[Any] | None,
    fixed: Mapping[str, Any],
) -> dict[str, Any]:
    """Choose the strength by cross-validation, fit on all items and fold the scaler in; FittedHead's fields."""
    how = LINEAR_KINDS[kind]
    pairs = [] if how.name in fixed else fold_pairs(y, max(folds, how.folds), seed=seed, groups=groups)
    chosen: dict[str, float] = {how.name: float(fixed.get(how.name, how.grid[len(how.grid) // 2]))}
    if how.tempered and how.name in fixed:
        chosen["temperature"] = float(fixed.get("temperature", 1.0))
    oof, search, start, problem, measured = None, list[dict[str, Any]](), None, None, None
    closed = how.loss == "square" and min(X.shape) <= WIDEST
    if pairs or not closed:
        sections = [held for _, held in pairs] or [np.arange(len(y))]
        problem = _Problem(how, X, y, n_classes=n_classes, sections=sections)
    if pairs and problem is not None:
        chosen, oof, search, start = _search(problem)
    divisor = chosen.get("temperature", 1.0)
    if closed or problem is None:
        measured = Statistics.of(X, y, n_classes=n_classes) if len(X) >= X.shape[1] else None
        solved = measured.layer if measured is not None else partial(ridge_layer, X, y, n_classes)
        weight, bias = solved(chosen[how.name], temperature=divisor)
    else:
        sees = np.ones((1, len(problem.sections)), dtype=bool)
        whole = problem.fit(sees, chosen[how.name], start=start, tolerance=_EXACT)
        weight, bias = problem.layer(whole.A[0], divisor, len(y))
    arrays = {"weight": weight, "bias": bias}
    return {"arrays": arrays, "chosen": chosen, "oof": oof, "search": search, "statistics": measured}


@dataclass(frozen=True)
class _Trial:
    """One strength on all folds: its row of the search, the left-out logits (in order of the sections), the weights."""

    row: dict[str, float]
    logits: Array
    A: Array


def _try(problem: _Problem, strength: float, *, start: Array | None, tolerance: float) -> _Trial:
    """Fit every fold at one strength and judge it on the items left out."""
    sees = ~np.eye(len(problem.sections), dtype=bool)
    parts, fits = problem.parts(sees), problem.fit(sees, strength, start=start, tolerance=tolerance)
    unseen, y = parts.absent(), problem.present[problem.y]
    logits, known = np.empty((len(y), problem.n_classes), dtype=np.float32), np.zeros(len(y), dtype=bool)
    for i in range(len(sees)):
        out = slice(int(problem.bounds[i]), int(problem.bounds[i + 1]))
        logits[out] = problem.spread(fits.answers(parts.Z[out], i), ~unseen[i], int(parts.counts[i]))
        known[out] = ~unseen[i][problem.y[out]]  # nobody could tell a class that the train part lacks
    row = {problem.kind.name: strength}
    if problem.kind.tempered:
        row["temperature"] = temperature(logits[known], y[known])
        logits /= np.float32(row["temperature"])
    accuracy, loss = accuracy_and_loss(logits[known], y[known])
    return _Trial({**row, "accuracy": accuracy, "log_loss": loss}, logits, fits.A)


def _search(problem: _Problem) -> tuple[dict[str, float], Array, list[dict[str, float]], Array]:
    """The strength (and temperature) of least out-of-fold log loss, its logits, a row a trial, weights to start from.

    Each trial starts from the weights of the best or the last one, whichever is nearer, and stops where its loss has
    settled to some 1e-4; only the chosen one is fitted closely.
    """
    share = 0.01 if problem.kind.loss == "square" else 1.0  # ridge's temperature of 0.1 divides errors too
    grid, rows, weights = problem.kind.grid, dict[int, dict[str, float]](), dict[int, Array]()

    def loss(place: int) -> float:
        near = min(weights, key=lambda other: abs(other - place), default=None)
        start = None if near is None else weights[near]
        trial = _try(problem, grid[place], start=start, tolerance=_NEAR * share)
        rows[place], weights[place] = trial.row, trial.A
        best = min(rows, key=lambda other: (rows[other]["log_loss"], other))
        for other in set(weights) - {place, best}:
            del weights[other]
        return trial.row["log_loss"]

    best = lowest(len(grid), loss, start=problem.kind.start)
    trial = _try(problem, grid[best], start=weights[best], tolerance=_CLOSE * share)
    rows[best], oof = trial.row, np.empty_like(trial.logits)
    oof[problem.order] = trial.logits
    chosen = {name: trial.row[name] for name in (problem.kind.name, "temperature") if name in trial.row}
    return chosen, oof, [rows[place] for place in sorted(rows)], trial.A.mean(axis=0, keepdims=True)


def lowest(count: int, loss: Callable[[int], float], *, start: int) -> int:
    """The place of 0 .. count - 1 with the least loss, which falls and rises once; few places are asked.

    From `start` in steps of two until both neighbours are worse, then in steps of one, first towards the better side;
    where the places are few, in steps of one at once.
    """
    losses = {start: loss(start)}
    for stride in (2, 1) if count > _SHORT else (1,):
        while True:
            best = min(losses, key=lambda place: (losses[place], place))
            sides = [place for place in (best - stride, best + stride) if 0 <= place < count and place not in losses]
            if not sides:
                break
            side = min(sides, key=lambda place: losses.get(2 * place - best, np.inf))
            losses[side] = loss(side)
    return best


@pooled()
def linear_curve(
    kind: str, X: Array, y: Array, *, n_classes: int, fixed: Mapping[str, Any], sections: Sequence[Array]
) -> list[tuple[Array, Array]]:
    """The layers (weight, bias on raw features) fitted on the first section, the first two, ... and all of them.

    All are scaled and turned as the whole is, and fitted side by side.
    """
    how, divisor = LINEAR_KINDS[kind], float(fixed.get("temperature", 1.0))
    problem = _Problem(how, X, y, n_classes=n_classes, sections=sections)
    fits = problem.fit(np.tri(len(sections), dtype=bool), float(fixed[how.name]), tolerance=_CLOSE)
    return [problem.layer(A, divisor, int(n)) for A, n in zip(fits.A, problem.bounds[1:], strict=True)]
