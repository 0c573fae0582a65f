"""Training by gradient above a cut: the feed that the Plan asks for, the loop, the answers on every split.

What lies below the cut goes once through the store, for some augmented views of the training images and the centre view
of all. Where the network cannot be divided there, or the rows find no room, the same views go through the whole network
in every epoch; that costs time and changes nothing but last digits, where kept rows are halves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from headstart.data.augment import View
from headstart.errors import DataError, OutputError
from headstart.files import hash_json
from headstart.judge.reject import Reject
from headstart.records import Item, Plan
from headstart.settings import Settings
from headstart.sources.cutting import Cutting, cut_source
from headstart.tasks import Classification
from headstart.transfer import strategy
from headstart.transfer.features import Features, Pass, embed
from headstart.transfer.feeds import Feed, ImageFeed, KeptRows, StoredFeed, kept_views
from headstart.transfer.groups import Frozen, freeze
from headstart.transfer.heads import FittedHead
from headstart.transfer.interpolation import interpolate
from headstart.transfer.lr_find import find_rate
from headstart.transfer.net import TransferNet, head_of
from headstart.transfer.tuning import Trainer, class_weights

if TYPE_CHECKING:
    from headstart.stages import Bench

__all__ = ["Candidate", "add_views", "proof", "tuned"]

_CURVES = ("train_loss", "val_loss", "train_accuracy", "val_accuracy", "lr")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One trained way of transferring: the network, and its logits (n, classes) on each split.

    They are those of `items`, which the data set held then; a row of NaN stands for one that could no longer be read.
    """

    plan: Plan
    net: TransferNet
    head: FittedHead
    logits: dict[str, np.ndarray]
    curves: dict[str, Any]
    trained_parameters: int
    seconds: float
    frozen: dict[str, Any]
    notes: tuple[str, ...] = ()
    epoch_seconds: float = 0.0  # of one epoch's steps, the middle one
    interpolation: dict[str, Any] | None = None
    temperature: float = 1.0  # by which the network's logits are divided; `logits` are, once it is fitted
    reject: Reject | None = None
    items: tuple[Item, ...] = ()


def tuned(bench: Bench, plan: Plan, *, settings: Settings, folder: Path | None, head: nn.Module) -> Candidate:
    """Train the blocks above the cut by gradient, from `head`. Raises DataError without validation items."""
    if not len(bench.samples("val").items):
        raise DataError(
            "there is nothing to choose the epoch on: the training set is too small to hold back a validation part",
            where=bench.dataset.path,
            remedy="Add images, or use --strategy frozen.",
        )
    source = bench.source.fresh(settings.seed) if plan.start == "random" else bench.source.copy()
    net = TransferNet(source, head, pooling=plan.pooling)
    feed = _feed(bench, net, plan, settings)  # first of all: an item that has vanished is gone from every view
    train, val = bench.samples("train"), bench.samples("val")
    task, index = Classification(bench.dataset.classes), strategy.frozen_blocks(plan, source.blocks)
    with bench.timed("train"):
        if settings.lr == "find":
            rate, _curve = find_rate(
                feed, train, task=task, plan=plan, settings=settings, index=index, device=bench.device,
                reporter=bench.reporter,
            )  # fmt: skip
            plan = strategy.with_rate(plan, bench.engine.gather(rate)[0])  # one rate for all processes
            bench.reporter.say(plan.reasons[-1])
        frozen = freeze(net.source, index, pooling=plan.pooling)
        trainer = Trainer(
            feed, frozen, plan=plan, settings=settings, engine=bench.engine, reporter=bench.reporter,
            folder=folder, stop=bench.stop,
        )  # fmt: skip
        weights = class_weights(train.labels, bench.n_classes, str(plan.schedule["class_weights"]))
        start = trainer.trained_state() if settings.interpolate and plan.start == "pretrained" else None
        trainer.fit(train, val, task=task, weights=weights)
        mixed = interpolate(trainer, start, val) if start is not None else None
        splits = ("val", "test") if bench.trial else ("train", "val", "test")
        logits = {name: trainer.predict(bench.samples(name).items)[0] for name in splits}
        net.to("cpu")
    return _candidate(plan, trainer, frozen, logits, mixed)


def _candidate(
    plan: Plan, trainer: Trainer, frozen: Frozen, logits: dict[str, np.ndarray], mixed: dict[str, Any] | None
) -> Candidate:
    net, result = trainer.net, trainer.result
    reasons = [*result.reasons]
    if mixed is not None and mixed["alpha"] < 1:
        reasons.append(
            f"weights {mixed['alpha']:g} of the way from the start to the fine-tuned ones: the least loss on val"
        )
    plan = replace(plan, reasons=(*plan.reasons, *reasons))
    points = [{"x": row["epoch"], **{k: row.get(k) for k in _CURVES}} for row in result.history]
    return Candidate(
        plan, net.eval(), head_of(plan.head, net.head), logits,
        {"axis": "epochs", "points": points, "best": result.best_epoch},
        trained_parameters=sum(p.numel() for p in net.parameters() if p.requires_grad), seconds=0.0,
        frozen=proof(
            [b.name for b in frozen.blocks], len(frozen.entries), hash_json(frozen.before),
            hash_json(frozen.hashes()),
        ),
        notes=(*result.notes, f"weights of epoch {result.best_epoch} of {len(result.history) - 1} kept"),
        epoch_seconds=float(np.median([row["seconds"] for row in result.history[1:]] or [0.0])), interpolation=mixed,
    )  # fmt: skip


def proof(blocks: list[str], entries: int, before: str, after: str) -> dict[str, Any]:
    """What was frozen, and the hashes that show that it stayed so."""
    return {
        "blocks": blocks, "entries": entries, "sha256_before": before, "sha256_after": after,
        "unchanged": before == after,
    }  # fmt: skip


# --- what is kept at the cut ----------------------------------------------------------------------------------------


def add_views(bench: Bench, plan: Plan, settings: Settings) -> Plan:
    """The plan with how many views of a training image are kept at its cut, where something lies below it."""
    index = strategy.frozen_blocks(plan, bench.source.blocks)
    if not index or not plan.epochs:
        return plan
    if plan.cut == "head":
        width, why_not = bench.source.width(plan.pooling), ""
    else:
        cutting, why_not = _divided(bench, index)
        width = cutting.width if cutting is not None else 0
    return strategy.with_views(
        plan, settings, n_train=len(bench.samples("train").items), n_items=len(bench.dataset.items), width=width,
        why_not=why_not,
    )  # fmt: skip


def _divided(bench: Bench, index: int) -> tuple[Cutting | None, str]:
    """The source in two halves, or why not; once for all candidates."""
    if index not in bench.cuttings:
        told: list[str] = []
        bench.cuttings[index] = cut_source(bench.source, index, told=told), "; ".join(told)
    return bench.cuttings[index]


def _feed(bench: Bench, net: TransferNet, plan: Plan, settings: Settings) -> Feed:
    """Batches of what the plan keeps at the cut, else of pictures."""
    views = int(plan.schedule.get("views", 0))
    pictures = ImageFeed(net, settings, views=views, hashes=bench.facts.hashes, reporter=bench.reporter)
    if not views:
        return pictures
    cutting: Cutting | None = None
    if plan.cut != "head":
        cutting, why_not = _divided(bench, strategy.frozen_blocks(plan, bench.source.blocks))
        if cutting is None:
            bench.reporter.note(f"what is frozen is computed in every epoch: {why_not}")
            return pictures
    kinds = kept_views(settings, views)
    kept: list[KeptRows] = []
    for number, view in enumerate((*kinds, View())):
        items = bench.dataset.items if view == View() else bench.samples("train").items
        later = len(items) * (len(kinds) - number)
        found = _rows(bench, plan, items, view=view, later=later)
        if found is None:
            return pictures
        kept.append(found)
    return StoredFeed(net, cutting, centre=kept[-1], views=kept[:-1], settings=settings)


def _rows(bench: Bench, plan: Plan, items: Sequence[Item], *, view: View, later: int) -> KeptRows | None:
    """One view's rows at the plan's cut; None, with a note, where they find no room on disk.

    Those of augmented views are halves where that does no harm; those of the centre view, which answers are computed
    from, are not. `later` rows will be asked for after these.
    """
    how = bench.how(
        pooling=plan.pooling, cut=plan.cut, view=view, expected=later,
        dtype="float32" if view == View() or plan.cut == "head" else "float16",
    )  # fmt: skip
    with bench.timed("features"):
        found = bench.shared(lambda: _embedded(bench, items, how))
    refused = [why for why in bench.engine.gather(str(found) if isinstance(found, OutputError) else "") if why]
    if isinstance(found, OutputError) or refused:  # all processes or none
        bench.reporter.note(f"what is frozen is computed in every epoch: {refused[0]}")
        return None
    bench.tell(found)
    return KeptRows.of(items, found.rows)


def _embedded(bench: Bench, items: Sequence[Item], how: Pass) -> Features | OutputError:
    try:
        return embed(
            bench.source, items, hashes=bench.facts.hashes, how=how, use_store=bench.settings.cache,
            reporter=bench.reporter,
        )  # fmt: skip
    except OutputError as error:
        return error
