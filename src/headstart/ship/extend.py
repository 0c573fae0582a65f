"""More pictures and more classes for a finished model, without training its network again.

| the head, and what there is of old pictures | what is done                      | equal to a fit on all? |
| ------------------------------------------- | --------------------------------- | ---------------------- |
| ridge on frozen features: its statistics    | those of both, solved again       | yes, to rounding       |
| any on frozen features: their rows          | the head is fitted on all rows    | yes                    |
| knn: nothing                                | new ones join the old neighbours  | no: about the old mean |
| any on a trained network: their rows        | a head is fitted on its features  | no: the network stays  |

The strength of the head, its temperature and the borders of "unknown" stay as they were; a head on a trained network
has a strength and a temperature of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.data.augment import View
from headstart.errors import DataError, SettingsError
from headstart.judge.calibration import fit_temperature
from headstart.progress import Reporter
from headstart.records import Item
from headstart.ship.additions import ENOUGH, Additions, held_back
from headstart.ship.evaluate import SEEN_DIGITS
from headstart.ship.forgetting import Measure
from headstart.ship.learned import Known, Learned
from headstart.ship.model import Model
from headstart.ship.recall import Album, recall
from headstart.transfer.engine import pick_device
from headstart.transfer.features import Pass, Runners, embed
from headstart.transfer.heads import FittedHead, fit_head
from headstart.transfer.net import TransferNet
from headstart.transfer.statistics import WIDEST, Statistics

__all__ = ["extend_model"]

_SHOWN = 8  # names of new classes
_NEEDED = "Say with --old-data where the old pictures are: only a ridge head on frozen features does without them."

Array = npt.NDArray[Any]
Fit = Callable[[Array], FittedHead]
"""The head fitted on the old pictures and those of the new ones that a bool (n,) takes."""


@dataclass(frozen=True)
class _Old:
    """What is known of the old pictures: by which way they are learned again, their statistics, or rows and labels."""

    way: str
    statistics: Statistics | None = None
    rows: tuple[Array, ...] = ()
    labels: Array | None = None
    computed: int = 0


def extend_model(
    model: Model, learned: Learned, more: Additions, *, album: Album, seed: int, reporter: Reporter
) -> tuple[Model, dict[str, Any]]:
    """The model that knows the new pictures too, and what was done and measured, as extended.json tells it.

    `album` holds the old pictures where they can still be had. The given model stays as it is. Raises DataError when
    the old pictures are needed and can be had neither as kept features nor as pictures, or when no new one can be read.
    """
    frozen = model.plan.strategy == "frozen"
    views = (View(), *(learned.views if frozen else ()))
    how = Pass(
        pooling=model.net.pooling, device=_device(learned.device), precision=learned.precision, runners=Runners()
    )
    old = _old(model, learned, album, how=how, views=views, reporter=reporter)
    sealed = recall(model.net.source, learned.judged, album, how=how, views=views[:1], reporter=reporter)
    judge = _rows(model, more.judge, more.judge_known, how=how, reporter=reporter)
    more, new = _new_rows(model, more, how=how, views=views, reporter=reporter)
    fit, everything = _fit(model, learned, old, more, new), np.ones(len(more.learn), dtype=bool)
    with reporter.stage("Fitting the head"):
        head = fit(everything)
    temperature = _temperature(model, old, head, more.known.labels)
    measure = Measure(model.head, head, known_classes=len(model.classes), temperature=temperature, seed=seed)
    told = {
        "head": head.kind, "way": old.way, "exact": old.way in ("statistics", "rows"),
        "classes": {"before": list(model.classes), "added": list(more.added)},
        "new": more.facts(),
        "old": {"pictures": len(learned.training), "looked_at_again": old.computed},
        "forgetting": measure.forgetting(learned.judged, sealed, learned_now=more.known, why=album.why),
        "held_back": _held_back(measure, fit, more, new, judge=judge, seed=seed),
        "limits": _limits(model, head, old, temperature),
    }  # fmt: skip
    return _extended(model, learned, old, more, new, head=head, temperature=temperature), told


def _device(wanted: str) -> str:
    """The kind of device that the run had, whose rows may be kept, where this machine has one."""
    try:
        return pick_device(wanted)
    except SettingsError:
        return "cpu"


# --- the rows -------------------------------------------------------------------------------------------------------


def _old(
    model: Model, learned: Learned, album: Album, *, how: Pass, views: tuple[View, ...], reporter: Reporter
) -> _Old:
    """The best way that there is to learn the old pictures again."""
    frozen = model.plan.strategy == "frozen"
    fits = learned.statistics is not None and learned.statistics.means.shape == model.head.arrays["weight"].shape
    if frozen and fits:
        return _Old("statistics", learned.statistics)
    found = recall(model.net.source, learned.training, album, how=how, views=views, reporter=reporter)
    n, lost = len(learned.training), int((~found.there).sum())
    if n and not lost:
        labels = np.tile(learned.training.labels, len(views))
        return _Old("rows" if frozen else "refitted", None, found.rows, labels, found.computed)
    if model.head.kind == "knn":
        return _Old("neighbours")
    where, remedy = (None if album.dataset is None else album.dataset.path), _NEEDED
    if not n:
        what = "the model holds no list of the pictures that it was trained on, and none of them was found"
        raise DataError(what, where=where, remedy=remedy)
    why = album.why or "they are not in these data"
    raise DataError(
        f"{lost} of the {n} training pictures are not kept as features, and {why}", where=where, remedy=remedy
    )


def _rows(model: Model, items: Sequence[Item], known: Known, *, how: Pass, reporter: Reporter) -> tuple[Array, Array]:
    """Features (n, d) of those items that can be read, and their labels."""
    if not items:
        return np.zeros((0, model.head.size), dtype=np.float32), known.labels
    hashes = {item.name: key for item, key in zip(items, known.hashes, strict=True)}
    rows = embed(model.net.source, items, hashes=hashes, how=how, reporter=reporter).array
    there = np.isfinite(rows).all(axis=1)
    return rows[there], known.labels[there]


def _new_rows(
    model: Model, more: Additions, *, how: Pass, views: tuple[View, ...], reporter: Reporter
) -> tuple[Additions, tuple[Array, ...]]:
    """The new pictures that can still be read, and a table of features (n, d) for each view."""
    hashes = {item.name: key for item, key in zip(more.learn, more.known.hashes, strict=True)}
    found = [
        embed(model.net.source, more.learn, hashes=hashes, how=replace(how, view=view), reporter=reporter)
        for view in views
    ]
    tables = [np.asarray(one.array, dtype=np.float32) for one in found]
    kept = np.all([np.isfinite(table).all(axis=1) for table in tables], axis=0)
    if not kept.any():
        raise DataError("no new picture can be read any more", where=more.path, remedy="Put the pictures back.")
    return more.without(found[0].skipped, kept), tuple(table[kept] for table in tables)


# --- the head -------------------------------------------------------------------------------------------------------


def _fit(model: Model, learned: Learned, old: _Old, more: Additions, new: tuple[Array, ...]) -> Fit:
    """How the head is fitted, with what was chosen for the old one."""
    kind, chosen, k, labels = model.head.kind, dict(model.head.chosen), len(more.classes), more.known.labels

    def by_statistics(taken: Array) -> FittedHead:
        assert old.statistics is not None
        both = old.statistics.merged(_measured(new, labels, k, taken))
        weight, bias = both.layer(float(chosen["alpha"]), temperature=float(chosen.get("temperature", 1.0)))
        return FittedHead(kind, {"weight": weight, "bias": bias}, chosen)

    def by_rows(taken: Array) -> FittedHead:
        assert old.labels is not None
        parts = [np.concatenate([before, after[taken]]) for before, after in zip(old.rows, new, strict=True)]
        n = len(old.rows[0])
        y = np.concatenate([np.append(old.labels[:n], labels[taken])] * len(parts))
        head = fit_head(kind, np.concatenate(parts), y, n_classes=k, seed=learned.seed, fixed=chosen)
        chosen.update(head.chosen)  # of a head that was trained by gradient nothing was chosen before
        return head

    def by_neighbours(taken: Array) -> FittedHead:
        arrays = model.head.arrays
        away = np.concatenate([table[taken] for table in new]) - arrays["mean"]
        bank = np.concatenate([arrays["bank"], away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-12)])
        y = np.concatenate([arrays["labels"], np.tile(labels[taken], len(new))])
        order = np.argsort(y, kind="stable")
        more_arrays = {"bank": bank[order], "labels": y[order], "n_classes": np.array([k], dtype=np.int64)}
        return FittedHead(kind, {**arrays, **more_arrays}, chosen)

    ways: dict[str, Fit] = {"statistics": by_statistics, "neighbours": by_neighbours}
    return ways.get(old.way, by_rows)


def _measured(new: tuple[Array, ...], labels: Array, k: int, taken: Array) -> Statistics:
    """The statistics of some of the new pictures in all views."""
    return Statistics.of(np.concatenate([table[taken] for table in new]), np.tile(labels[taken], len(new)), n_classes=k)


def _temperature(model: Model, old: _Old, head: FittedHead, labels: Array) -> float:
    """What the logits are divided by: as before, but anew where another kind of fit gives the head.

    It is then fitted on out-of-fold answers about the new pictures: about those that it was trained on a network is
    surer.
    """
    if old.way != "refitted" or head.oof is None:
        told: Mapping[str, Any] = model.facts.get("calibration") or {}
        return float(told.get("temperature", 1.0))
    return fit_temperature(head.oof[-len(labels) :], labels) if len(labels) >= ENOUGH else 1.0


def _extended(
    model: Model, learned: Learned, old: _Old, more: Additions, new: tuple[Array, ...], *, head: FittedHead,
    temperature: float,
) -> Model:  # fmt: skip
    """The new model, with what it needs to be extended again."""
    k, labels = len(more.classes), more.known.labels
    statistics = old.statistics
    if statistics is None and old.labels is not None and _keeps_statistics(model, new):
        statistics = Statistics.of(np.concatenate(old.rows), old.labels, n_classes=k)
    if statistics is not None:
        statistics = statistics.merged(_measured(new, labels, k, np.ones(len(labels), dtype=bool)))
    judged = learned.judged.without(more.known)
    judged += more.judge_known.without(judged)
    memory = replace(learned, training=learned.training + more.known, judged=judged, statistics=statistics)
    seen = sorted({*model.facts.get("seen", ()), *(key[:SEEN_DIGITS] for key in more.known.hashes)})
    facts = {**model.facts, "scores": {"test": None}, "seen": seen}
    facts.pop("calibration", None)
    reject, first = model.reject, len(model.classes)
    if reject is not None and more.added:
        reject = reject.with_classes(new[0][labels >= first], labels[labels >= first])
    shown = ", ".join(more.added[:_SHOWN]) + (", …" if len(more.added) > _SHOWN else "")
    reason = f"extended by {len(more.learn)} pictures" + (f"; new classes: {shown}" if shown else "")
    plan = replace(model.plan, reasons=(*model.plan.reasons, reason))
    net = TransferNet(model.net.source, head.module(), pooling=model.net.pooling)
    return Model(
        net, more.classes, head=head, plan=plan, facts=facts, reject=reject, temperature=temperature, learned=memory
    )


def _keeps_statistics(model: Model, new: tuple[Array, ...]) -> bool:
    return model.plan.strategy == "frozen" and model.head.kind == "ridge" and new[0].shape[1] <= WIDEST


def _held_back(
    measure: Measure, fit: Fit, more: Additions, new: tuple[Array, ...], *, judge: tuple[Array, Array], seed: int
) -> dict[str, Any]:
    """Answers on new pictures: of the data's own test split by the model, else of a fifth by a head without them."""
    if more.judge:
        return measure.new_pictures(*judge, classes=more.classes, kind="test split")
    held = held_back(more, seed=seed)
    if not held.any():
        return {"n": 0, "why": "too few new pictures of every class to hold any back"}
    without = replace(measure, after=fit(~held))
    return without.new_pictures(new[0][held], more.known.labels[held], classes=more.classes, kind="held back")


def _limits(model: Model, head: FittedHead, old: _Old, temperature: float) -> list[str]:
    """Where exactness ends, in sentences."""
    chosen = ", ".join(f"{name} {value:.4g}" for name, value in head.chosen.items() if name != "temperature")
    told = []
    if model.head.chosen:
        told.append(f"{chosen}: as chosen on the old pictures; `headstart fit` on all pictures would choose anew")
    else:
        told.append(
            f"the head: another one, fitted on the features of the trained network by cross-validation ({chosen})"
        )
    if head.oof is not None:
        told.append("the temperature: fitted on out-of-fold answers about the new pictures alone")
    elif temperature != 1.0 or "temperature" in head.chosen:
        told.append(
            "the temperature: fitted on answers about old pictures, so probabilities may be too sure or too modest"
        )
    if model.reject is not None:
        told.append('the borders of "unknown": they keep their error rate for the old classes only')
    if old.way == "neighbours":
        told.append("the centre of the neighbours: the mean of the old pictures")
    if model.plan.strategy != "frozen":
        told.append("the network: it was trained on the old classes and has learned nothing of the new pictures")
    return told
