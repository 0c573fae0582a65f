"""The stages of a run: prepare data and source, train one candidate, judge it. `api` calls them in order.

A Bench holds what all candidates of a run share: the same audited, sealed data, the same source, the same features.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from headstart.data import decode
from headstart.data.audit import audit, confirmed
from headstart.data.augment import View
from headstart.data.cores import cores
from headstart.data.facts import counting, load_data
from headstart.data.looked import LookedAt
from headstart.data.near import candidates
from headstart.data.splits import keepable, seal, tied
from headstart.errors import DataError, UnreadableImage
from headstart.finetune import Candidate, add_views, proof, tuned
from headstart.judge import scoring
from headstart.progress import Reporter, Silent
from headstart.records import Dataset, Facts, Item, Plan, Skipped
from headstart.settings import Settings
from headstart.ship.model import softmax
from headstart.sources import addresses, open_source
from headstart.sources.base import Source, hash_entries
from headstart.sources.cutting import Cutting
from headstart.transfer import strategy
from headstart.transfer.engine import Engine, pick_device
from headstart.transfer.features import Features, Pass, Runners, embed
from headstart.transfer.feeds import kept_views
from headstart.transfer.groups import idle_blocks
from headstart.transfer.heads import FittedHead, fit_head, learning_curve
from headstart.transfer.interrupt import Stop
from headstart.transfer.net import TransferNet, fresh_head
from headstart.transfer.runner import RunnerChoice, check_engine
from headstart.transfer.steps import Samples

__all__ = [
    "Bench",
    "Candidate",
    "aligned",
    "answered",
    "groups_among",
    "groups_of",
    "make_plan",
    "prepare",
    "room",
    "train_candidate",
]

_CENTER = View()
_SEARCHED = 10_000  # items up to which suspected twins are looked for: beyond, that takes a minute
_CONFIRMED, _CENTRE = 1_000, 200  # suspected twins whose features are compared at most, and others computed with them
T = TypeVar("T")


@dataclass
class Bench:
    """What all candidates of a run share."""

    settings: Settings
    dataset: Dataset
    facts: Facts
    source: Source
    reporter: Reporter
    stop: Stop
    device: str
    seconds: dict[str, float] = field(default_factory=dict)
    work: dict[str, Any] = field(default_factory=lambda: {"features_computed": 0, "features_reused": 0})
    notes: list[str] = field(default_factory=list)
    runners: Runners = field(default_factory=Runners)
    cuttings: dict[int, tuple[Cutting | None, str]] = field(default_factory=dict)
    speed: float = math.inf  # items that its source embeds a second, where that was measured
    trial: bool = False  # nobody asks for answers on the training items, and nothing is kept on disk
    _features: dict[tuple[str, View], tuple[dict[str, int], np.ndarray]] = field(default_factory=dict)

    @cached_property
    def engine(self) -> Engine:
        """Made when something is trained by gradient, or when several processes were started."""
        return Engine(self.settings)

    @property
    def alone(self) -> bool:
        """Whether this is the only process."""
        return int(os.environ.get("WORLD_SIZE", "1")) == 1

    @property
    def main(self) -> bool:
        """Whether this process writes the run folder."""
        return self.alone or self.engine.main

    @property
    def n_classes(self) -> int:
        """How many classes there are."""
        return len(self.dataset.classes)

    @property
    def judged_split(self) -> str:
        """Where the final score comes from: the sealed test set, else cross-validation."""
        return "test" if self.dataset.split("test") else "cross_validation"

    def samples(self, *splits: str) -> Samples:
        """Items and labels of some splits, in the order of the data set.

        "cross_validation" stands for all that a plan is made with, where they are judged out of fold.
        """
        splits = ("train", "val") if splits == ("cross_validation",) else splits
        return Samples.of([item for item in self.dataset.items if item.split in splits], self.facts.hashes)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def features(self, pooling: str, *splits: str, view: View = _CENTER, expected: int = 0) -> np.ndarray:
        """Rows float32 (n, d) of one view: of the centre view for all items at the first call, else for the splits.

        `expected` rows of other views will be asked for later.
        """
        where, rows = self._features.get((pooling, view), ({}, None))
        asked = [item for item in self.dataset.items if view == _CENTER or item.split in splits]
        wanted = sorted((item for item in asked if item.name not in where), key=lambda item: item.split)
        if wanted:  # in the order of the splits, so that the rows of one split are a slice and no copy
            with self.timed("features"):
                found = self._embed(wanted, pooling, view, expected)
            rows = found if rows is None else np.concatenate([rows, found])
            where = {**where, **{item.name: len(where) + n for n, item in enumerate(wanted)}}
            self._features[pooling, view] = where, rows
        places = [where[item.name] for item in self.dataset.items if item.split in splits]
        if rows is None or not places:
            return np.empty((0, self.source.width(pooling)), np.float32)
        start, end = places[0], places[-1] + 1
        return rows[start:end] if places == list(range(start, end)) else rows[places]

    def warm(self, items: Sequence[Item]) -> np.ndarray:
        """Rows (n, d) of the centre view of some items, which a later call for all then finds in the store."""
        with self.timed("features"):
            rest = len(self.dataset.items) - len(items)
            return self._embed(items, self.settings.pooling, _CENTER, rest)

    def with_source(self, source: Source) -> Bench:
        """The same data with another source; what was counted and timed is shared."""
        return replace(self, source=source, runners=Runners(), cuttings={}, speed=math.inf, _features={})

    def _embed(self, items: Sequence[Item], pooling: str, view: View, expected: int) -> np.ndarray:
        how = self.how(pooling=pooling, view=view, expected=expected)
        found = self.shared(
            lambda: embed(
                self.source, items, hashes=self.facts.hashes, how=how, use_store=self.settings.cache,
                reporter=self.reporter,
            )
        )  # fmt: skip
        self.tell(found)
        return found.array

    def how(self, **more: Any) -> Pass:
        """A pass over items as the settings want it."""
        settings = self.settings
        return Pass(
            device=self.device, workers=settings.workers, engine=settings.engine, bound=settings.cache_size,
            precision="bf16" if settings.precision == "bf16" else "fp32", runners=self.runners, **more,
        )  # fmt: skip

    def shared(self, work: Callable[[], T]) -> T:
        """Work that fills the store: the main process does it first, the others then find it done."""
        if self.alone:
            return work()
        with self.engine.main_first():
            return work()

    def tell(self, found: Features) -> None:
        """Count what a pass computed and found, name its engine, take its notes, leave out what it could not read."""
        self.work["features_computed"] += found.computed
        self.work["features_reused"] += found.reused
        self.notes += found.notes
        if found.engine:
            self.work["engine"] = {**self.work.get("engine", {}), **found.engine}
        if found.skipped:
            self.leave_out(found.skipped)

    def leave_out(self, gone: Sequence[Skipped]) -> None:
        """Go on without items that vanished after the audit; nothing takes their place."""
        names = {entry.file for entry in gone}
        self.notes += [f"became unreadable during the run: {entry.file}: {entry.reason}" for entry in gone]
        kept = tuple(item for item in self.dataset.items if item.name not in names)
        self.dataset = self.dataset.with_items(kept)
        for name in self.dataset.splits:
            if not self.dataset.split(name):
                raise DataError(
                    f"no readable picture is left in the split {name}",
                    where=self.dataset.path,
                    remedy="Put the pictures back, and look at the data with `headstart inspect`.",
                )


def prepare(data: Any, *, settings: Settings, reporter: Reporter, stop: Stop, sealed: bool = False) -> Bench:
    """Read, audit and seal the data and open the source. Nothing is written; every user error comes out here.

    `sealed` data are a Dataset whose maker has split it.
    """
    if int(os.environ.get("RANK", "0")):
        reporter = Silent()  # of several processes the first one speaks
    device = pick_device(settings.device)
    check_engine(RunnerChoice(engine=settings.engine, precision=settings.precision, device=device))
    torch.set_num_threads(settings.threads or _threads())
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    dataset = load_data(data, group=settings.group)
    first = addresses(settings.source)[0]
    source = open_source(first, weights=settings.weights, image_size=settings.image_size, seed=settings.seed)
    seconds["source"] = time.perf_counter() - started
    started = time.perf_counter()
    with reporter.progress("Checking pictures", len(dataset.items)) as bar:
        known = LookedAt(bound=settings.cache_size) if settings.cache else None
        dataset, facts = audit(dataset, workers=settings.workers, progress=counting(bar), known=known)
    bench = Bench(settings, dataset, facts, source, reporter, stop, device, seconds)
    if not sealed:
        bench.facts = facts = _twins_confirmed(bench)
        bench.dataset = dataset = seal(
            dataset, facts.hashes, val_fraction=settings.val_fraction, test_fraction=settings.test_fraction,
            seed=settings.seed, near=facts.near_duplicates,
        )  # fmt: skip
    seconds["audit"] = time.perf_counter() - started - seconds.get("features", 0.0)
    for warning in facts.warnings:
        reporter.note(warning)
    for note in dataset.notes:
        reporter.say(note)
    return bench


def _twins_confirmed(bench: Bench) -> Facts:
    """The Facts with near-duplicates that hashes alone suspect and features confirm, where that takes few passes.

    Some other pictures are computed too, for the features are compared about their centre. No label is looked at.
    """
    items = {item.name: item for item in bench.dataset.items}
    if len(items) > _SEARCHED or not bench.alone:
        return bench.facts
    prints = {name: bench.facts.fingerprints[name] for name in items}
    pairs = candidates(prints, tied=bench.facts.near_duplicates)
    names = sorted({name for pair in pairs for name in pair})
    if not names or len(names) > _CONFIRMED:
        return bench.facts
    others = [name for name in items if name not in set(names)][:: max(1, len(items) // _CENTRE)]
    names += others[:_CENTRE]
    rows = bench.warm([items[name] for name in names])
    there = np.isfinite(rows).all(axis=1)
    kept = [name for name, yes in zip(names, there, strict=True) if yes]
    pairs = [pair for pair in pairs if set(pair) <= set(kept)]
    return confirmed(bench.dataset, bench.facts, rows[there], names=kept, pairs=pairs)


def _threads() -> int:
    """Compute threads: what OMP_NUM_THREADS says, else the cores that this process may use, shared by its siblings."""
    siblings = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    named = os.environ.get("OMP_NUM_THREADS", "")
    if siblings == 1 and named.isdecimal() and int(named) > 0:  # torchrun sets it to 1 by itself
        return int(named)
    return max(1, cores() // siblings)


def make_plan(bench: Bench, settings: Settings) -> Plan:
    """The Plan for these settings on this bench."""
    idle = idle_blocks(bench.source, settings.pooling)
    situation = strategy.Situation(
        n_train=len(bench.samples("train").items),
        n_classes=bench.n_classes,
        blocks=tuple(block for block in bench.source.blocks if block not in idle),
        has_gpu=bench.device != "cpu",
    )
    return add_views(bench, strategy.plan(settings, situation), settings)


def room(bench: Bench, plans: Sequence[Plan]) -> int:
    """Bytes that the model and the checkpoints of `plans` take at most.

    A checkpoint holds what is trained, its best and its averaged state, and the optimiser's two moments; two are kept
    while a third is written.
    """
    whole: int = sum(value.nbytes for value in bench.source.network.state_dict().values())
    trained = 0
    for plan in plans:
        above = bench.source.blocks[strategy.frozen_blocks(plan, bench.source.blocks) :]
        copies = 4 + (float(plan.schedule["ema"]) > 0) if plan.epochs else 0
        trained += copies * 4 * sum(block.parameters for block in above)
    return whole + 3 * trained


def train_candidate(bench: Bench, plan: Plan, *, settings: Settings, folder: Path | None) -> Candidate:
    """Train by `plan` and predict every split. The test items are looked at, their labels are not."""
    started = time.perf_counter()
    bench.reporter.say(f"Training: {plan.strategy}, head {plan.head}" + (f", cut at {plan.cut}" if plan.epochs else ""))
    if plan.strategy == "frozen":
        candidate = _frozen(bench, plan, settings)
    else:
        candidate = tuned(bench, plan, settings=settings, folder=folder, head=_start(bench, plan, settings))
    return replace(candidate, seconds=time.perf_counter() - started, items=bench.dataset.items)


def aligned(bench: Bench, candidate: Candidate) -> Candidate:
    """The candidate with answers on the items that the data set still holds."""
    names = {item.name for item in bench.dataset.items}

    def kept(rows: np.ndarray, *splits: str) -> np.ndarray:
        there = [item.name in names for item in candidate.items if item.split in splits]
        found: np.ndarray = rows[: len(there)][there]
        return found

    head, learned = candidate.head, ("train", "val") if bench.settings.refit else ("train",)
    if len(candidate.items) in (0, len(names)):
        return candidate
    if head.oof is not None:
        head = replace(head, oof=kept(head.oof, *learned))
    logits = {name: kept(rows, name) for name, rows in candidate.logits.items()}
    return replace(candidate, head=head, logits=logits, items=bench.dataset.items)


def answered(bench: Bench, candidate: Candidate) -> Candidate:
    """The candidate once the items that it could not read have left the data set, named; nothing takes their place."""
    candidate = aligned(bench, candidate)
    gone = []
    for name, rows in candidate.logits.items():
        samples = bench.samples(name)
        for place in np.flatnonzero(~np.isfinite(rows).all(axis=1)):
            gone.append(_unread(samples.items[place], samples.hashes[place]))
    if gone:
        bench.leave_out(gone)
    return aligned(bench, candidate)


def _unread(item: Item, sha256: str) -> Skipped:
    """Why an item could not be read a while ago."""
    try:
        decode.load(item, sha256=sha256)
    except UnreadableImage as error:
        return Skipped(item.name, error.reason)
    return Skipped(item.name, "it could not be read for a while")


def _frozen(bench: Bench, plan: Plan, settings: Settings) -> Candidate:
    """Only the head is trained, by its own solver."""
    entries = tuple(bench.source.network.state_dict())
    before = hash_entries(bench.source.network.state_dict(), entries)
    learning = ("train", "val") if settings.refit else ("train",)
    views, learned = _kept_views(plan, settings), len(bench.samples(*learning).items)
    for number, view in enumerate(views, 1):  # first of all: an item that has vanished is gone from every view
        later = len(bench.dataset.items) + (len(views) - number) * learned
        bench.features(plan.pooling, *learning, view=view, expected=later)
    rows = {name: bench.features(plan.pooling, name) for name in ("train", "val", "test")}
    labels = {name: bench.samples(name).labels for name in rows}
    refit = settings.refit and len(labels["val"]) > 0
    head, reasons = _fit_on_views(bench, plan, settings, *(("train", "val") if refit else ("train",)))
    smaller = _fit_on_train(bench, plan, settings, head) if refit else head
    with bench.timed("train"):
        logits = {name: (head if name == "test" else smaller).logits(rows[name]) for name in rows}
        curves = _head_curves(bench, plan, smaller, rows, labels)
    plan = replace(plan, reasons=(*plan.reasons, *reasons))
    after = hash_entries(bench.source.network.state_dict(), entries)
    net = TransferNet(bench.source, head.module(), pooling=plan.pooling)
    return Candidate(
        plan, net, head, logits, curves,
        trained_parameters=_size(net.head), seconds=0.0,
        frozen=proof([b.name for b in bench.source.blocks], len(entries), before, after),
    )  # fmt: skip


def _fit_on_views(bench: Bench, plan: Plan, settings: Settings, *splits: str) -> tuple[FittedHead, list[str]]:
    """The head of the centre views, or of the augmented views too where that lowers the cross-validated log loss.

    Both are compared on the centre views alone, out of fold; all views of an item stay in one fold.
    """
    X, y = bench.features(plan.pooling, *splits), bench.samples(*splits).labels
    search, kinds = _search(bench, *splits), _kept_views(plan, settings)
    with bench.timed("train"):
        head = fit_head(plan.head, X, y, n_classes=bench.n_classes, **search)
    if not kinds:
        return head, []
    table = np.concatenate([X, *(bench.features(plan.pooling, *splits, view=view) for view in kinds)])
    views, times = len(kinds), len(kinds) + 1
    groups = search["groups"] or [str(number) for number in range(len(y))]
    with bench.timed("train"):
        wider = fit_head(
            plan.head, table, np.tile(y, times), n_classes=bench.n_classes, **{**search, "groups": groups * times}
        )
    before, after = _loss(bench, y, head), _loss(bench, y, wider)
    told = f"out of fold log loss {before:.3f} without, {after:.3f} with"
    if after < before:
        return wider, [f"{views} augmented views of each training image are used: {told}"]
    return head, [f"augmented views of the training images are not used: {told}"]


def _fit_on_train(bench: Bench, plan: Plan, settings: Settings, whole: FittedHead) -> FittedHead:
    """The head that train and val are told apart by: fitted on train alone, on the views that the whole one took.

    It takes over the strength that was chosen on both, which saves a second search; the epochs of mlp are chosen anew.
    """
    if plan.head == "mlp":
        return _fit_on_views(bench, plan, settings, "train")[0]
    X, y = bench.features(plan.pooling, "train"), bench.samples("train").labels
    if whole.oof is not None and len(whole.oof) > len(bench.samples("train", "val").items):
        kinds = _kept_views(plan, settings)
        X = np.concatenate([X, *(bench.features(plan.pooling, "train", view=view) for view in kinds)])
        y = np.tile(y, len(kinds) + 1)
    with bench.timed("train"):
        return fit_head(plan.head, X, y, n_classes=bench.n_classes, seed=bench.settings.seed, fixed=whole.chosen)


def _loss(bench: Bench, y: np.ndarray, head: FittedHead) -> float:
    """Out-of-fold log loss of a head on the first len(y) rows it was fitted on: the centre views."""
    if head.oof is None:
        return float("inf")
    return scoring.score(y, softmax(head.oof[: len(y)]), classes=bench.dataset.classes).log_loss


def _kept_views(plan: Plan, settings: Settings) -> list[View]:
    """The augmented views that a head on frozen features is offered."""
    return kept_views(settings, int(plan.schedule["views"]))


def _search(bench: Bench, *splits: str) -> dict[str, Any]:
    """How a head's strength is searched: seed, folds and the groups that must stay together."""
    return {"seed": bench.settings.seed, "folds": bench.settings.folds, "groups": groups_of(bench, *splits)}


def groups_of(bench: Bench, *splits: str) -> list[str] | None:
    """`groups_among` all items of some splits."""
    return groups_among(bench, [item for item in bench.dataset.items if item.split in splits])


def groups_among(bench: Bench, items: Sequence[Item]) -> list[str] | None:
    """A key an item, equal for those that share a group, a file or a look; None where every item stands alone."""
    names = tied(items, bench.facts.hashes, near=keepable(bench.facts.near_duplicates, items))
    return names if len(set(names)) < len(names) else None


def _head_curves(
    bench: Bench, plan: Plan, head: FittedHead, rows: dict[str, np.ndarray], labels: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Learning curves: over epochs where the head has them, else over the number of training items."""
    if head.history:
        points = [{"x": row["epoch"], **{k: v for k, v in row.items() if k != "epoch"}} for row in head.history]
        return {"axis": "epochs", "points": points}
    if not len(labels["val"]):
        return {"axis": "training items", "points": []}
    points = learning_curve(
        plan.head, rows["train"], labels["train"], n_classes=bench.n_classes, fixed=head.chosen,
        X_val=rows["val"], y_val=labels["val"], seed=bench.settings.seed,
    )  # fmt: skip
    return {"axis": "training items", "points": points}


def _start(bench: Bench, plan: Plan, settings: Settings) -> nn.Module:
    """The head that a fine-tuning starts from."""
    if not plan.probe_first:
        return fresh_head(plan.head, bench.source.width(plan.pooling), bench.n_classes, seed=settings.seed)
    X, y = bench.features(plan.pooling, "train"), bench.samples("train").labels
    with bench.timed("train"):
        return fit_head(plan.head, X, y, n_classes=bench.n_classes, **_search(bench, "train")).module()


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
