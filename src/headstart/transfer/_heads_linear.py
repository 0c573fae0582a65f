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
    tempered: bool  # answers are no log odds: a temperature, fitted on held-out answers, makes them so

    def penalty(self, strength: float, *, n: int, n_classes: int) -> float:
        """The weight of |W|² / 2 beside the mean loss."""
        if self.loss == "square":
            return 2.0 * strength / n
        return (2.0 if self.loss == "softmax" and n_classes == 2 else 1.0) / (strength * n)


LINEAR_KINDS = {
    "linear": Kind("softmax", "C", tuple(10.0 ** (e / 2) for e in range(-8, 5)), 2, False),
    "svm": Kind("hinge", "C", tuple(10.0**e for e in range(-2, 3)), 10, True),
    "ridge": Kind("square", "alpha", tuple(10.0 ** (e / 2) for e in range(12, -3, -1)), 2, True),
}


class _Problem:
    """Scaled, rotated training items of the classes that occur."""

    def __init__(self, kind: Kind, X: Array, y: Array, *, n_classes: int) -> None:
        self.kind, self.y, self.n_classes = kind, y, n_classes
        self.scaler = Scaler.of(X)
        scaled = self.scaler(X)
        self.unit = np.float32(np.sqrt(X.shape[1])) if kind.loss == "hinge" else np.float32(1.0)
        self.rotated: Rotated = rotate(scaled / self.unit)

    def fit(self, rows: Array, strength: float, start: Linear | None = None) -> tuple[Linear, Array]:
        """Fit on some rows; gives the answers of the present classes and which classes are present."""
        present = np.unique(self.y[rows])
        Y = (self.y[rows][:, None] == present).astype(np.float32)
        penalty = self.kind.penalty(strength, n=len(rows), n_classes=len(present))
        share = len(rows) / len(self.y)
        Z = self.rotated.Z[rows] if share < 1 else self.rotated.Z
        exact = len(rows) == len(self.y)
        power = self.rotated.power * share
        model = solve(Z, Y, loss=self.kind.loss, penalty=penalty, power=power, start=start, exact=exact)
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
    if how.name in fixed:
        chosen, oof, search = {how.name: float(fixed[how.name])}, None, list[dict[str, Any]]()
        if how.tempered:
            chosen["temperature"] = float(fixed.get("temperature", 1.0))
    else:
        chosen, oof, search = _search(problem, folds=max(folds, how.folds), seed=seed, groups=groups)
    weight, bias = _whole(problem, chosen[how.name], chosen.get("temperature", 1.0))
    return {"arrays": {"weight": weight, "bias": bias}, "chosen": chosen, "oof": oof, "search": search}


def _whole(problem: _Problem, strength: float, divisor: float) -> tuple[Array, Array]:
    """The layer on raw features, fitted on all items: weight [n_classes, d] and bias [n_classes]."""
    model, present = problem.fit(np.arange(len(problem.y)), strength)
    W = (model.W - model.W.mean(axis=1, keepdims=True)) / np.float32(divisor)
    b = (model.b - model.b.mean()) / np.float32(divisor)
    weight = np.zeros((problem.n_classes, problem.scaler.mean.size), dtype=np.float32)
    bias = np.full(problem.n_classes, absent_logit(len(problem.y)), dtype=np.float32)
    weight[present], bias[present] = problem.rotated.weight(W) / problem.unit, b
    return problem.scaler.fold(weight, bias)


def _search(
    problem: _Problem, *, folds: int, seed: int, groups: Sequence[Any] | None
) -> tuple[dict[str, float], Array | None, list[dict[str, Any]]]:
    """The strength (and temperature) with the least out-of-fold log loss, its logits and a row for every candidate.

    The candidates go from strong to weak, each starting from the one before; far behind the best the walk ends.
    """
    kind, y = problem.kind, problem.y
    pairs = fold_pairs(y, folds, seed=seed, groups=groups)
    if not pairs:
        return {kind.name: kind.grid[len(kind.grid) // 2]}, None, []
    starts: list[Linear | None] = [None] * len(pairs)
    chosen: dict[str, float] = {}
    search: list[dict[str, Any]] = []
    best: Array | None = None
    for strength in kind.grid:
        logits, known = np.empty((len(y), problem.n_classes), dtype=np.float32), np.zeros(len(y), dtype=bool)
        for i, (train, out) in enumerate(pairs):
            model, present = problem.fit(train, strength, starts[i])
            starts[i] = model
            logits[out] = problem.spread(model(problem.rotated.Z[out]), present, len(train))
            known[out] = np.isin(y[out], present)  # nobody could tell a class that the train part lacks
        row = {kind.name: strength}
        if kind.tempered:
            row["temperature"] = temperature(logits[known], y[known])
            logits /= np.float32(row["temperature"])
        accuracy, loss = accuracy_and_loss(logits[known], y[known])
        search.append({**row, "accuracy": accuracy, "log_loss": loss})
        if best is None or loss < min(entry["log_loss"] for entry in search[:-1]):
            chosen, best = row, logits
        elif _hopeless([entry["log_loss"] for entry in search]):
            break
    return chosen, best, search


def _hopeless(losses: list[float]) -> bool:
    """Whether the last three losses rose, to 10 % above the least one."""
    return len(losses) > 3 and losses[-3] < losses[-2] < losses[-1] and losses[-1] > 1.1 * min(losses)
