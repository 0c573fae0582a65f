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


_ORDER = {
    "linear": 0.0,
    "ridge": 0.25,
    "svm": 0.5,
}  # all one linear layer, but only the first is fitted as probabilities
_FEW, _REPEATS = 600, 3  # items up to which probes are judged on several divisions into folds, and how many


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
    again: list[np.ndarray] = field(default_factory=list)  # logits of further repeats, on other folds

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

    @property
    def repeats(self) -> list[np.ndarray]:
        """The logits of all repeats."""
        return [self.logits, *self.again]

    @property
    def cost(self) -> float:
        """How far it is from the simplest plan: logistic regression on frozen features, whatever its source."""
        return float(self.trained) if self.strategy != "frozen" else _ORDER.get(self.head, 1.0)

    def accuracy(self, labels: np.ndarray) -> float:
        """The share of right answers on the items that it was judged on, averaged over the repeats."""
        there = self.judged
        return float(np.mean([(logits[there].argmax(1) == labels[there]).mean() for logits in self.repeats]))

    def entry(self, labels: np.ndarray) -> Entry:
        """What the choice looks at: right answers on the first folds, the mean loss of all repeats, NaN for none."""
        there = self.judged
        loss = np.full(len(labels), np.nan)
        rows = [-log_softmax(logits[there])[np.arange(int(there.sum())), labels[there]] for logits in self.repeats]
        loss[there] = np.mean(rows, axis=0)
        correct = np.zeros(len(labels), dtype=bool)
        correct[there] = self.logits[there].argmax(1) == labels[there]
        return Entry(self.label, correct, loss, self.cost, self.seconds, float(self.trained))


def probe(bench: Bench, arena: Arena, settings: Settings) -> Entrant | None:
    """A head on frozen features, judged out of fold; None where there are too few items for folds.

    On few items quick heads are judged on several divisions into folds; the first is that of the fine-tunings.
    """
    started = time.perf_counter()
    X, groups = bench.features(settings.pooling, "train", "val"), groups_of(bench, "train", "val")
    repeats = 1 if len(arena.labels) > _FEW or settings.head in ("mlp", "knn") else _REPEATS
    with bench.timed("train"):
        fitted = [
            fit_head(
                settings.head, X, arena.labels, n_classes=bench.n_classes, seed=settings.seed + repeat,
                folds=settings.folds, groups=groups,
            )
            for repeat in range(repeats)
        ]  # fmt: skip
    head, rows = fitted[0], [own.oof[: len(arena.labels)] for own in fitted if own.oof is not None]
    if len(rows) < repeats:
        return None
    return Entrant(
        settings, bench.source.address, "frozen", settings.head, "head", rows[0], "probe",
        trained=head.size, folds=len(arena.pairs),
        seconds=time.perf_counter() - started, chosen=head.chosen, again=rows[1:],
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
                "repeats": len(entrant.repeats),
                "score_over_repeats": entrant.accuracy(labels) if n else None,
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
