"""What takes part in a race: probes on kept features, and fine-tunings tried on folds.

All are judged on the same held-out items of the arena: those that choices may see. The sealed test set is not in it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from headstart.data.splits import seal
from headstart.judge.calibration import log_softmax
from headstart.judge.choosing import Entry
from headstart.records import Item
from headstart.settings import Settings
from headstart.stages import Bench, Candidate, groups_of, make_plan, train_candidate
from headstart.transfer.heads import fit_head, fold_pairs

__all__ = ["Arena", "Entrant", "on_fold", "probe", "rows_of", "short", "try_fold", "usual_epochs"]


def short(address: str) -> str:
    """The last part of an address."""
    return address.rstrip("/").rpartition("/")[2]


@dataclass(frozen=True)
class Arena:
    """The items that choices may see, their classes, and the folds on which all are judged: (learn, held) positions."""

    items: tuple[Item, ...]
    labels: np.ndarray
    pairs: list[tuple[np.ndarray, np.ndarray]]

    @classmethod
    def of(cls, bench: Bench) -> Arena:
        """Train and val of a bench; groups, copies and twins stay in one fold."""
        found = bench.samples("train", "val")
        settings, groups = bench.settings, groups_of(bench, "train", "val")
        pairs = fold_pairs(found.labels, settings.folds, seed=settings.seed, groups=groups)
        return cls(found.items, found.labels, pairs)


@dataclass
class Entrant:
    """One way of transferring and what is known of it so far."""

    settings: Settings
    source: str
    strategy: str
    head: str
    cut: str
    logits: np.ndarray  # (items of the arena, classes), NaN where it was not judged
    stage: str  # "probe", "trial" or "folds"
    trained: int = 0  # parameters
    folds: int = 0
    seconds: float = 0.0
    epochs: int = 0  # of one fold's training
    fold_seconds: float = 0.0  # of the last fold's training
    stopped: str | None = None
    chosen: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Its name in the race."""
        place = f" from {self.cut}" if self.strategy == "partial" and self.cut else ""
        return f"{self.strategy}{place} {self.head} on {short(self.source)}"

    @property
    def judged(self) -> np.ndarray:
        """Which items of the arena it was judged on."""
        there: np.ndarray = np.isfinite(self.logits).all(axis=1)
        return there

    def entry(self, labels: np.ndarray) -> Entry:
        """What the choice looks at; a loss that does not exist is NaN."""
        there = self.judged
        loss = np.full(len(labels), np.nan)
        loss[there] = -log_softmax(self.logits[there])[np.arange(int(there.sum())), labels[there]]
        correct = np.zeros(len(labels), dtype=bool)
        correct[there] = self.logits[there].argmax(1) == labels[there]
        return Entry(self.label, correct, loss, float(self.trained), self.seconds)


def probe(bench: Bench, arena: Arena, settings: Settings) -> Entrant | None:
    """A head on frozen features, judged out of fold; None where there are too few items for folds."""
    started = time.perf_counter()
    X = bench.features(settings.pooling, "train", "val")
    with bench.timed("train"):
        head = fit_head(
            settings.head, X, arena.labels, n_classes=bench.n_classes, seed=settings.seed, folds=settings.folds,
            groups=groups_of(bench, "train", "val"),
        )  # fmt: skip
    if head.oof is None:
        return None
    return Entrant(
        settings, bench.source.address, "frozen", settings.head, "head", head.oof[: len(arena.labels)], "probe",
        trained=sum(int(array.size) for array in head.arrays.values()), folds=len(arena.pairs),
        seconds=time.perf_counter() - started, chosen=head.chosen,
    )  # fmt: skip


def on_fold(bench: Bench, arena: Arena, number: int) -> Bench:
    """A bench whose test split is the held-out part of a fold; a validation part is carved out of the rest."""
    held = set(arena.pairs[number][1].tolist())
    items = tuple(replace(item, split="test" if i in held else "train") for i, item in enumerate(arena.items))
    settings = bench.settings
    dataset = seal(
        bench.dataset.with_items(items, notes=()), bench.facts.hashes, val_fraction=settings.val_fraction,
        test_fraction=0.0, seed=settings.seed, near=bench.facts.near_duplicates,
    )  # fmt: skip
    return replace(bench, dataset=dataset, notes=[], trial=True)


def try_fold(
    bench: Bench, arena: Arena, entrant: Entrant, *, number: int, epochs: int, deadline: float | None
) -> Candidate:
    """Train an entrant on a fold, by its settings and so many epochs, and add what it answers on the held-out items.

    A training that the deadline cut short counts with what it had, and says so in `stopped`.
    """
    started = time.perf_counter()
    own = on_fold(bench, arena, number)
    settings = entrant.settings.changed(epochs=epochs)
    plan = make_plan(own, settings)
    with bench.stop.until(deadline):
        candidate = train_candidate(own, plan, settings=settings, folder=None)
    where = {item.name: i for i, item in enumerate(arena.items)}
    places = [where[item.name] for item in own.samples("test").items]
    if entrant.epochs != epochs:  # another schedule is another entrant: what it answered before does not count
        entrant.logits, entrant.folds = np.full_like(entrant.logits, np.nan), 0
    entrant.logits[places] = candidate.logits["test"]
    entrant.epochs, entrant.trained, entrant.cut = epochs, candidate.trained_parameters, plan.cut
    entrant.fold_seconds = time.perf_counter() - started
    entrant.seconds, entrant.folds = entrant.seconds + entrant.fold_seconds, entrant.folds + 1
    entrant.stage = "trial" if epochs < usual_epochs(own, entrant.settings) and entrant.folds == 1 else "folds"
    late = [note for note in candidate.notes if note.startswith("the time was over")]
    entrant.stopped = f"{late[0]}: no time for more" if late else None
    return candidate


def usual_epochs(bench: Bench, settings: Settings) -> int:
    """How many epochs a fine-tuning takes where time does not matter."""
    return make_plan(bench, settings).epochs


def rows_of(
    entrants: Sequence[Entrant], labels: np.ndarray, p: Sequence[float | None], chosen: int
) -> list[dict[str, Any]]:
    """The race table of run.json."""
    from headstart.judge.intervals import wilson

    rows = []
    for number, entrant in enumerate(entrants):
        there, entry = entrant.judged, entrant.entry(labels)
        n, right = int(there.sum()), int(entry.correct.sum())
        loss = float(np.nanmean(entry.loss)) if n else math.nan
        rows.append(
            {
                "source": entrant.source,
                "strategy": entrant.strategy,
                "head": entrant.head,
                "cut": entrant.cut,
                "score": right / n if n else None,
                "interval": list(wilson(right, n)) if n else None,
                "log_loss": loss,
                "items": n,
                "folds": entrant.folds,
                "stage": entrant.stage,
                "epochs": entrant.epochs,
                "seconds": round(entrant.seconds, 3),
                "trained_parameters": entrant.trained,
                "p_against_best": p[number],
                "finalist": entrant.stopped is None and entrant.stage != "trial",
                "chosen": number == chosen,
                "stopped": entrant.stopped,
            }
        )
    return rows
