"""Fewer features for a head: those that matter stay, and the channels that made the others are cut out of the network.

weights   how much a linear head on all features leans on each: its squared weights times the feature's variance
l1        how early a feature enters an L1-regularised logistic regression as the penalty falls (Tibshirani 1996,
          "Regression shrinkage and selection via the lasso")

Which ranking is taken is measured on the training items: ranked on four fifths, judged on the fifth that is left.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import numpy as np
import torch

from headstart.errors import SettingsError
from headstart.judge.calibration import log_softmax
from headstart.ship.model import Model
from headstart.ship.prune import Group, find_groups, smaller
from headstart.shrinking import Aim, Point, Shrinking
from headstart.stages import Bench, groups_of
from headstart.transfer.heads import fit_head, fold_pairs
from headstart.transfer.net import TransferNet
from headstart.trusting import answers

__all__ = ["RANKINGS", "select"]

_SHARES = (0.75, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05, 0.03)
_PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # C of the logistic regression: the strongest penalty first
_FOLDS = 5


def select(bench: Bench, model: Model, aim: Aim, *, chosen: Mapping[str, Any]) -> list[Point]:
    """The whole network and some with fewer features, the last with the aim's share.

    Raises SettingsError where the features are not a frozen network's own, or are read within it too.
    """
    if model.plan.strategy != "frozen" or model.plan.pooling != "native":
        raise SettingsError(
            "--features chooses among the native features of a frozen network", remedy="Use --speedup or --parameters."
        )
    work = Shrinking(bench, model, aim, None, dict(chosen))
    group = _last(find_groups(bench.source, "native"), bench)
    rows = answers(bench, work.whole, work.train)[1]
    there = np.asarray(np.isfinite(rows).all(axis=1))
    X, y = rows[there], work.train.labels[there]
    with bench.reporter.stage("Ranking features"):
        kind, losses = _better(bench, X, y, aim.value, there=there)
        order = np.argsort(-RANKINGS[kind](X, y, bench.n_classes), kind="stable")
    told: dict[str, Any] = {"epochs": 0, "ranking": kind, "ranking_loss": losses}
    points = [work.point(work.whole, np.arange(X.shape[1]), {"epochs": 0})]
    for share in (*(each for each in _SHARES if each > aim.value), aim.value):
        kept = np.sort(order[: max(1, round(share * X.shape[1]))])
        points.append(work.point(_without(work.whole, group, kept), kept, told, whole=points[0].right))
    return points


def _last(groups: list[Group], bench: Bench) -> Group:
    """The channels that are the features and that no layer of the network reads."""
    for group in groups:
        if group.features is not None and all(side == "out" for _, side, _, _ in group.places):
            return group
    raise SettingsError(
        f"the features of {bench.source.card.architecture} are read within the network too: none can be cut exactly",
        remedy="Use --speedup or --parameters.",
    )


def _without(whole: TransferNet, group: Group, features: np.ndarray) -> TransferNet:
    """The network with these features alone; what they are stays as it was."""
    assert group.features is not None
    channel, feature = group.features
    kept = np.zeros(group.n, dtype=bool)
    kept[channel[np.isin(feature, features)]] = True
    source, left = smaller(whole.source, [group], {group.name: kept})
    head = torch.nn.Linear(len(left.features), whole.head.out_features)  # type: ignore[arg-type]
    weight, bias = whole.head.weight, whole.head.bias
    assert isinstance(weight, torch.Tensor)
    with torch.no_grad():
        head.weight.copy_(weight[:, torch.from_numpy(left.features)])
        if isinstance(bias, torch.Tensor):
            head.bias.copy_(bias)
    return TransferNet(source, head).eval()


def _better(
    bench: Bench, X: np.ndarray, y: np.ndarray, share: float, *, there: np.ndarray
) -> tuple[str, dict[str, float]]:
    """The ranking whose features give the least log loss on the held-out part of each fold, and the losses of all."""
    groups = groups_of(bench, "train")
    groups = None if groups is None else [key for key, yes in zip(groups, there, strict=True) if yes]
    totals = dict.fromkeys(RANKINGS, 0.0)
    for learn, held in fold_pairs(y, _FOLDS, seed=bench.settings.seed, groups=groups):
        for name, rank in RANKINGS.items():
            kept = np.argsort(-rank(X[learn], y[learn], bench.n_classes), kind="stable")
            kept = kept[: max(1, round(share * X.shape[1]))]
            head = fit_head("linear", X[learn][:, kept], y[learn], n_classes=bench.n_classes, fixed={"C": 0.1})
            chances = log_softmax(head.logits(X[held][:, kept]))
            totals[name] -= float(chances[np.arange(len(held)), y[held]].sum()) / len(y)
    return min(totals, key=lambda name: totals[name]), {name: round(loss, 4) for name, loss in totals.items()}


def _by_weights(X: np.ndarray, y: np.ndarray, n_classes: int) -> np.ndarray:
    head = fit_head("linear", X, y, n_classes=n_classes, fixed={"C": 0.1})
    weight = head.arrays["weight"]
    centred = weight - weight.mean(axis=0)
    found: np.ndarray = np.square(centred).sum(axis=0) * X.var(axis=0)
    return found


def _by_path(X: np.ndarray, y: np.ndarray, n_classes: int) -> np.ndarray:  # noqa: ARG001
    """For each feature the number of penalties at which it is in, its weight deciding among equals."""
    from sklearn.linear_model import LogisticRegression

    newer = signature(LogisticRegression).parameters["penalty"].default == "deprecated"
    lasso: dict[str, Any] = {"l1_ratio": 1.0} if newer else {"penalty": "l1"}
    scaled = (X - X.mean(axis=0)) / np.maximum(X.std(axis=0), 1e-8)
    worth = np.zeros(X.shape[1])
    for label in np.unique(y):
        for C in _PENALTIES:
            model = LogisticRegression(C=C, **lasso, solver="liblinear", max_iter=50, random_state=0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of steps that ran out: a rank needs no more
                size = np.abs(model.fit(scaled, y == label).coef_[0])
            worth += (size > 0) + 1e-3 * size / max(1e-12, size.max(initial=0.0))
    return worth


RANKINGS: Mapping[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {"weights": _by_weights, "l1": _by_path}
