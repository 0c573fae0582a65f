"""What would help: a forecast of more data, the classes that are hard, the labels that look wrong.

Everything is measured on items that choices may see, out of fold; the sealed test set has no part in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart.judge import scoring
from headstart.judge.forecast import Point, first_class, fit_power_law, nested_parts
from headstart.records import Item
from headstart.settings import Settings
from headstart.ship.model import softmax
from headstart.stages import Bench, Candidate, groups_of
from headstart.transfer.heads import fit_head, fit_parts, fold_pairs

__all__ = ["OutOfFold", "forecast", "out_of_fold"]

_FRACTIONS = (0.1, 0.15, 0.22, 0.33, 0.5, 0.7, 1.0)
_MANY, _TOO_MANY = 2_000, 20_000  # items above which two folds have to do, and the run's own curve, of one order
_SEEDS, _FEWER = 5, 2
_FEWEST = 30  # items under which a curve says nothing
_STEADY = 0.15  # smaller parts are left out where a class would have less than one item in them, about


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """Items of `splits`, their classes, and what heads that did not see them answer: logits (n, classes).

    `head` and `chosen` are the kind and the hyper-parameters of those heads; `own` says whether they are those of the
    chosen plan, else they stand on the frozen features of its source.
    """

    splits: tuple[str, ...]
    items: tuple[Item, ...]
    labels: np.ndarray
    logits: np.ndarray
    head: str
    chosen: dict[str, Any]
    own: bool

    @property
    def probabilities(self) -> np.ndarray:
        """Their softmax."""
        found: np.ndarray = softmax(self.logits)
        return found


def out_of_fold(bench: Bench, chosen: Candidate, settings: Settings) -> OutOfFold | None:
    """Answers on train and val by heads that did not see the item; None where there are too few items for folds."""
    splits = ("train", "val") if settings.refit or chosen.plan.strategy != "frozen" else ("train",)
    found, head = bench.samples(*splits), chosen.head
    own = chosen.plan.strategy == "frozen"
    if not own:
        with bench.timed("judge"):
            head = fit_head(
                "linear", bench.features(chosen.plan.pooling, *splits), found.labels, n_classes=bench.n_classes,
                seed=settings.seed, folds=settings.folds, groups=groups_of(bench, *splits),
            )  # fmt: skip
    if head.oof is None:
        return None
    return OutOfFold(splits, found.items, found.labels, head.oof[: len(found.labels)], head.kind, head.chosen, own)


def forecast(
    bench: Bench, chosen: Candidate, found: OutOfFold, *, settings: Settings, thorough: bool = False
) -> dict[str, Any] | None:
    """What more items would bring, as run.json keeps it; None where there are too few items to tell.

    Measured on growing parts of the items, on the held-out part of five folds. Of many items the run's own learning
    curve has to do, or, where it may take longer (`thorough`), two folds.
    """
    y = found.labels
    if len(y) < _FEWEST or len(np.unique(y)) < 2:
        return None
    folded = len(y) <= (_TOO_MANY if thorough else _MANY)
    points = _points(bench, chosen, found, settings) if folded else _from_curve(bench, chosen)
    if len({point.n for point in points}) < 3:
        return None
    law = fit_power_law(points, now=len(y), apart=folded, seed=settings.seed)
    classes, predicted = bench.dataset.classes, found.logits.argmax(1)
    counts = {name: int((y == number).sum()) for number, name in enumerate(classes)}
    told = law.as_dict(first=first_class(scoring.per_class(y, predicted, classes=classes), counts))
    if not found.own and told["sentence"]:
        told["sentence"] += " (measured with a head on frozen features)"
    return told


def _points(bench: Bench, chosen: Candidate, found: OutOfFold, settings: Settings) -> list[Point]:
    """Accuracies on the held-out part of each fold after training on growing parts of the rest."""
    X, y = bench.features(chosen.plan.pooling, *found.splits), found.labels
    groups = groups_of(bench, *found.splits)
    smallest = _STEADY * len(np.unique(y)) / len(y)
    fractions = [fraction for fraction in _FRACTIONS if fraction >= smallest]
    points = []
    pairs = fold_pairs(y, _SEEDS, seed=settings.seed, groups=groups)
    for seed, (learn, held) in enumerate(pairs if len(y) <= _MANY else pairs[:_FEWER]):
        own = None if groups is None else [groups[i] for i in learn]
        (parts,) = nested_parts(y[learn], fractions, seeds=[settings.seed + seed], groups=own)
        parts = [part for i, part in enumerate(parts) if not i or len(part) > len(parts[i - 1])]
        for rows, head in fit_parts(
            found.head, X[learn], y[learn], parts=parts, n_classes=bench.n_classes, fixed=found.chosen, seed=seed
        ):
            right = float((head.logits(X[held]).argmax(1) == y[held]).mean())
            points.append(Point(len(rows), right, seed, len(held)))
    return points


def _from_curve(bench: Bench, chosen: Candidate) -> list[Point]:
    """The points of the run's own learning curve, judged on the validation items."""
    if chosen.curves["axis"] != "training items":
        return []
    tested = len(bench.samples("val").labels)
    return [Point(int(p["x"]), float(p["val_accuracy"]), 0, tested) for p in chosen.curves["points"] if tested]
