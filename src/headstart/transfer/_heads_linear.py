"""The heads that are one linear layer: multinomial logistic regression, linear SVM and ridge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart.transfer._heads_common import (
    Array,
    Rotated,
    Scaler,
    absent_logit,
    accuracy_and_loss,
    fold_pairs,
    rotate,
    temperature,
)
from headstart.transfer._heads_solver import Linear, solve

__all__ = ["LINEAR_KINDS", "fit_linear"]


@dataclass(frozen=True)
class Kind:
    """One way to fit a linear layer: its loss, its search grid (strong to weak) and what its strength means."""

    loss: str
    name: str
    grid: tuple[float, ...]
    folds: int  # never fewer than this many

    def penalty(self, strength: float, *, n: int, n_classes: int) -> float:
        """The weight of |W|² / 2 beside the mean loss."""
        if self.loss == "square":
            return 2.0 * strength / n
        return (2.0 if self.loss == "softmax" and n_classes == 2 else 1.0) / (strength * n)


LINEAR_KINDS = {
    "linear": Kind("softmax", "C", tuple(10.0 ** (e / 2) for e in range(-8, 5)), 2),
    "svm": Kind("hinge", "C", tuple(10.0 ** (e / 2) for e in range(-4, 5)), 10),
    "ridge": Kind("square", "alpha", tuple(10.0 ** (e / 2) for e in range(12, -3, -1)), 2),
}


class _Problem:
    """Scaled, rotated training items of the classes that occur."""

    def __init__(self, kind: Kind, X: Array, y: Array, *, n_classes: int) -> None:
        self.kind, self.y, self.n_classes = kind, y, n_classes
        self.scaler = Scaler.of(X)
        scaled = self.scaler(X)
        self.unit = np.float32(np.sqrt(X.shape[1])) if kind.loss == "hinge" else np.float32(1.0)
        self.rotated: Rotated = rotate(scaled / self.unit)

    def fit(self, rows: Array, strength: float, start: Linear | None) -> tuple[Linear, Array]:
        """Fit on some rows; gives the answers of the present classes and which classes are present."""
        present = np.unique(self.y[rows])
        Y = (self.y[rows][:, None] == present).astype(np.float32)
        penalty = self.kind.penalty(strength, n=len(rows), n_classes=len(present))
        share = len(rows) / len(self.y)
        Z = self.rotated.Z[rows] if share < 1 else self.rotated.Z
        model = solve(Z, Y, loss=self.kind.loss, penalty=penalty, power=self.rotated.power * share, start=start)
        return model, present

    def spread(self, answers: Array, present: Array, n: int) -> Array:
        """Answers [m, present] → logits [m, n_classes], centred; an absent class never wins ."""
        logits = np.full((len(answers), self.n_classes), absent_logit(n), dtype=np.float32)
        logits[:, present] = answers - answers.mean(axis=1, keepdims=True)
        return logits


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
    problem = _Problem(how, X, y, n_classes=n_classes)
    chosen: dict[str, Any] = {}
    search: list[dict[str, Any]] = []
    oof: Array | None = None
    if how.name in fixed:
        chosen[how.name] = float(fixed[how.name])
    else:
        chosen[how.name], oof, search = _search(problem, folds=max(folds, how.folds), seed=seed, groups=groups)
    divisor = 1.0
    if kind != "linear":
        divisor = float(fixed["temperature"]) if "temperature" in fixed else 1.0
        if oof is not None:
            divisor = temperature(oof, y)
            oof = oof / np.float32(divisor)
        chosen["temperature"] = divisor
    weight, bias = _whole(problem, chosen[how.name], divisor)
    return {"arrays": {"weight": weight, "bias": bias}, "chosen": chosen, "oof": oof, "search": search}


def _whole(problem: _Problem, strength: float, divisor: float) -> tuple[Array, Array]:
    """The layer on raw features, fitted on all items: weight [n_classes, d] and bias [n_classes]."""
    model, present = problem.fit(np.arange(len(problem.y)), strength, None)
    W = (model.W - model.W.mean(axis=1, keepdims=True)) / np.float32(divisor)
    b = (model.b - model.b.mean()) / np.float32(divisor)
    weight = np.zeros((problem.n_classes, problem.scaler.mean.size), dtype=np.float32)
    bias = np.full(problem.n_classes, absent_logit(len(problem.y)), dtype=np.float32)
    weight[present], bias[present] = problem.rotated.weight(W) / problem.unit, b
    return problem.scaler.fold(weight, bias)


def _search(
    problem: _Problem, *, folds: int, seed: int, groups: Sequence[Any] | None
) -> tuple[float, Array | None, list[dict[str, Any]]]:
    """The strength with the least out-of-fold log loss, its out-of-fold logits and a row for every candidate."""
    grid, y = problem.kind.grid, problem.y
    pairs = list(fold_pairs(y, folds, seed=seed, groups=groups))
    if not pairs:
        return grid[len(grid) // 2], None, []
    held = np.concatenate([rows for _, rows in pairs])
    logits = np.zeros((len(grid), len(y), problem.n_classes), dtype=np.float32)
    known = np.zeros(len(y), dtype=bool)
    for train, out in pairs:
        start: Linear | None = None
        for row, strength in enumerate(grid):
            start, present = problem.fit(train, strength, start)
            logits[row, out] = problem.spread(start(problem.rotated.Z[out]), present, len(train))
        known[out] = np.isin(y[out], present)
    scored = held[known[held]]
    search = []
    for row, strength in enumerate(grid):
        accuracy, loss = accuracy_and_loss(logits[row, scored], y[scored])
        search.append({problem.kind.name: strength, "accuracy": accuracy, "log_loss": loss})
    best = int(np.argmin([entry["log_loss"] for entry in search]))
    return grid[best], logits[best], search
