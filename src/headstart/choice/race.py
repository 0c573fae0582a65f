"""The race: source, strategy and head are chosen by what they do on held-out items, within the budget.

1. Sources are ranked on a part of the items by cheap scores, and the best few go on (`shortlist`).
2. Heads on their frozen features are judged out of fold.
3. Where these leave room, ways of fine-tuning the best source are tried: all for a few epochs on one fold, the better
   ones by their full schedule, the best on more folds. Each step is taken only where it, and the training that would
   follow, fit into the time.
4. The simplest plan that is not worse than the best wins (`judge.choosing`).

The sealed test set takes no part. What time decides is told in `stopped`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headstart.choice.entrants import Arena, Entrant, probe, rows_of, short, try_fold, usual_epochs
from headstart.errors import DataError
from headstart.judge.choosing import Choice, Entry, choose
from headstart.judge.intervals import mcnemar
from headstart.records import Plan
from headstart.settings import Settings
from headstart.stages import Bench, make_plan
from headstart.transfer.budget import Clock
from headstart.transfer.groups import freeze
from headstart.transfer.heads import fit_head
from headstart.transfer.net import TransferNet
from headstart.transfer.strategy import FEW_FOR_VIEWS, MOST_VIEWS
from headstart.transfer.surgery import ITEMS, gradient_ratios, lowest_asked

__all__ = ["Decision", "choose_entry", "race"]

_PROBES = ("linear", "ridge", "svm", "mlp", "knn")
_FEW_ERRORS = 5  # so few items that the best probe has wrong leave no room to show a gain
_TRIED = 2  # fine-tunings that go on after the trials
_FIRST_SHARE, _TRIAL_SHARE = 0.3, 0.15  # of the time left for a trial: without the first nothing is known
_FINAL_FACTOR = 1.25  # the final training has more items than a fold
_MANY_FOR_MLP = 4_000
_FITS = 4  # fits of a head, searches included, that follow the race
_PASSES = 3  # an epoch of all layers takes so many forward passes
_QUICKER = 0.4  # training is quicker than the plain passes that the gradients are measured with
_LEVEL = 0.05


@dataclass
class Decision:
    """What the race found: the settings to train by, on which source, and the record of why."""

    bench: Bench
    settings: Settings
    rows: list[dict[str, Any]] = field(default_factory=list)
    choice: dict[str, Any] | None = None
    stopped: list[str] = field(default_factory=list)
    epoch_seconds: float = 0.0  # of one epoch of all layers, where it was measured
    ratios: dict[str, float] = field(default_factory=dict)


def choose_entry(entries: Sequence[Entry]) -> Choice:
    """The choice among entries, each pair compared at the level of 5 %: the simplest that none beats beyond chance."""
    return choose(entries, keep=max(0.5, 1 - _LEVEL * max(1, len(entries) - 1)))


def race(benches: Sequence[Bench], clock: Clock, *, prior: Mapping[str, Any] | None = None) -> Decision:
    """Choose among the sources of `benches` (the same data) and all ways of transferring that their settings allow.

    `prior` are the options that an advice suggests: that way of fine-tuning is tried first, in case time runs out.
    """
    return _Race(benches, clock, prior or {}).run()


def _places(plans: Sequence[Plan]) -> set[tuple[str, str]]:
    return {(plan.strategy, plan.cut) for plan in plans}


class _Race:
    """One race: its entrants so far, and the time."""

    def __init__(self, benches: Sequence[Bench], clock: Clock, prior: Mapping[str, Any]) -> None:
        self.prior = {name: value for name, value in prior.items() if name in ("strategy", "cut", "train_last")}
        self.benches = {bench.source.address: bench for bench in benches}
        self.clock, self.reporter = clock, benches[0].reporter
        self.settings = benches[0].settings
        self.arena = Arena.of(benches[0])
        self.entrants: list[Entrant] = []
        self.stopped: list[str] = []
        self.full_epoch = 0.0  # seconds of an epoch of all layers
        self.ratios: dict[str, float] = {}

    def run(self) -> Decision:
        """All steps; the decision."""
        for number, bench in enumerate(self.benches.values()):
            self._probes(bench, share=1 / (len(self.benches) - number))
        if not self.entrants:
            bench = next(iter(self.benches.values()))
            return Decision(bench, self.settings.changed(strategy="frozen"))
        best = self._best()
        with self.clock.keeping(self._final_seconds(best)):
            if self._room(best):
                self._fine_tunings(self.benches[best.source], best)
        return self._decide()

    def _final_seconds(self, best: Entrant) -> float:
        """What the last fit of a head, its views, its curves and the judgement will take, about."""
        n, one = len(self.arena.labels), best.seconds / len(best.repeats)
        return _FITS * one + self._pass_seconds(self.benches[best.source], 2 * n if n <= FEW_FOR_VIEWS else 0)

    def _pass_seconds(self, bench: Bench, n: int) -> float:
        """What it takes to compute `n` rows below a cut: by the measured speed, else by the time of an epoch."""
        if math.isinf(bench.speed):
            return n * self.full_epoch / (_PASSES * max(1, len(self.arena.labels)))
        return n / bench.speed

    # --- probes -----------------------------------------------------------------------------------------------

    def _probes(self, bench: Bench, *, share: float) -> None:
        """The heads on one source's frozen features, the quick ones first, in a share of half of the time left."""
        asked = self.settings.head
        kinds = _PROBES if asked == "auto" else (asked,)
        bench.features(self.settings.pooling, "train", "val")
        room, longest, began = 0.5 * share * self.clock.left, 0.0, self.clock.used
        for kind in kinds:
            name = f"{kind} on {short(bench.source.address)}"
            if longest and self.clock.used - began + 2 * longest > room:
                self._stop(f"{name}: no time for more heads")
                continue
            if kind == "mlp" and len(self.arena.labels) > _MANY_FOR_MLP and asked == "auto":
                self._stop(f"{name}: left out with more than {_MANY_FOR_MLP:,} items, where it takes long")
                continue
            self.reporter.say(f"Probing: {name}")
            found = probe(bench, self.arena, self.settings.changed(strategy="frozen", head=kind))
            if found is not None:
                longest = max(longest, found.seconds)
                self.entrants.append(found)

    def _best(self) -> Entrant:
        """The probe that the rule of the choice takes now."""
        choice = choose_entry([entrant.entry(self.arena.labels) for entrant in self.entrants])
        return self.entrants[choice.chosen]

    def _room(self, best: Entrant) -> bool:
        """Whether a fine-tuning could show a gain over the probe."""
        if self.settings.strategy != "auto" or self.settings.head in ("svm", "ridge", "knn"):
            return False
        entry, n = best.entry(self.arena.labels), len(self.arena.labels)
        wrong = n - int(entry.correct.sum())
        if wrong < _FEW_ERRORS:
            self._stop(f"fine-tuning: the probe has {wrong} of {n} held-out items wrong, which leaves no room")
            return False
        return bool(self.arena.pairs)

    # --- fine-tunings -------------------------------------------------------------------------------------------

    def _fine_tunings(self, bench: Bench, best: Entrant) -> None:
        """Try all for a few epochs on one fold, the better ones by their schedule, the best on more folds."""
        found = [e for e in self._candidates(bench) if self._trial(bench, e)]
        alive = sorted((e for e in found if self._near(e, best)), key=self._held_out)
        for entrant in alive[_TRIED:]:
            entrant.stopped = "two others did better after a short trial"
        for entrant in alive[:_TRIED]:
            self._full_schedule(bench, entrant, rivals=len(alive[:_TRIED]))
        ready = [e for e in alive[:_TRIED] if e.stopped is None and self._near(e, best)]
        if ready:
            self._more_folds(bench, min(ready, key=self._held_out), best)

    def _candidates(self, bench: Bench) -> list[Entrant]:
        """The ways of fine-tuning: the top, from the block that the gradients ask for, discriminative, all layers."""
        head = self.settings.head if self.settings.head != "auto" else "linear"
        ways: list[dict[str, Any]] = [{"strategy": "partial"}]
        if (cut := self._asked_cut(bench, head)) is not None:
            ways.append({"strategy": "partial", "cut": cut})
        ways += [{"strategy": "discriminative"}, {"strategy": "full"}]
        if self.prior.get("strategy", "frozen") != "frozen":
            ways = [self.prior, *(way for way in ways if way["strategy"] != self.prior["strategy"] or len(way) > 1)]
        plans = [make_plan(bench, self.settings.changed(head=head, **way)) for way in ways]
        ways = [way for n, way in enumerate(ways) if (plans[n].strategy, plans[n].cut) not in _places(plans[:n])]
        shape = (len(self.arena.labels), bench.n_classes)
        return [
            Entrant(
                self.settings.changed(head=head, **way),
                bench.source.address,
                way["strategy"],
                head,
                way.get("cut", ""),
                np.full(shape, np.nan),
                "trial",
            )
            for way in ways
        ]

    def _asked_cut(self, bench: Bench, head: str) -> str | None:
        """The block from which on the gradients ask for training, where that is not the usual cut anyway.

        Their time says roughly what an epoch of all layers will take.
        """
        pooling, y = self.settings.pooling, self.arena.labels
        known = [e for e in self.entrants if (e.source, e.head) == (bench.source.address, head)]
        fitted = fit_head(
            head, bench.features(pooling, "train", "val"), y, n_classes=bench.n_classes, seed=self.settings.seed,
            folds=self.settings.folds, fixed=known[0].chosen if known else None,
        )  # fmt: skip
        net = TransferNet(bench.source.copy(), fitted.module(), pooling=pooling)
        freeze(net.source, 0, pooling=pooling)
        learned = bench.samples("train", "val")
        started = self.clock.used
        self.ratios = gradient_ratios(net, learned, device=bench.device, seed=self.settings.seed)
        self.full_epoch = _QUICKER * (self.clock.used - started) * max(1.0, len(learned.items) / ITEMS)
        asked = lowest_asked(self.ratios, bench.source.blocks)
        usual = make_plan(bench, self.settings.changed(head=head, strategy="partial")).cut
        first = next((b.name for b in bench.source.blocks if b.parameters), None)
        return None if asked in (None, usual, first) else asked

    def _trial(self, bench: Bench, entrant: Entrant) -> bool:
        """A few epochs on the first fold; whether it was finished."""
        usual = usual_epochs(bench, entrant.settings)
        epochs = max(1, min(usual, math.ceil(usual / 5)))
        share = _TRIAL_SHARE if any(e.strategy != "frozen" for e in self.entrants) else _FIRST_SHARE
        while epochs and not self.clock.fits(self._trial_seconds(bench, entrant, epochs), share=share):
            epochs -= 1
        if not epochs:
            least = self._trial_seconds(bench, entrant, 1)
            self._stop(f"{entrant.label}: no time to try it (one epoch on a fold would take about {least:.0f} s)")
            return False
        deadline = self.clock.deadline(share=share)
        self.reporter.say(f"Trying: {entrant.label}, {epochs} epochs on one fold")
        try:
            candidate = try_fold(bench, self.arena, entrant, number=0, epochs=epochs, deadline=deadline)
        except DataError as error:  # too few items to hold a validation part back
            self._stop(f"{entrant.label}: {error.what}")
            return False
        self.entrants.append(entrant)
        if entrant.strategy == "full" and candidate.epoch_seconds:
            self.full_epoch = candidate.epoch_seconds
        return entrant.stopped is None

    def _trial_seconds(self, bench: Bench, entrant: Entrant, epochs: int) -> float:
        """What a trial will take, about: the rows at its cut, the epochs, and answers on the whole arena."""
        n = len(self.arena.labels)
        if entrant.strategy == "partial":
            return self._pass_seconds(bench, n * (1 + min(epochs, MOST_VIEWS))) + epochs * self.full_epoch / 2
        return epochs * self.full_epoch + self._pass_seconds(bench, n)

    def _near(self, entrant: Entrant, best: Entrant) -> bool:
        """Whether an entrant is not behind the probe by more than one standard error on the items of both."""
        a, b = entrant.entry(self.arena.labels), best.entry(self.arena.labels)
        both = entrant.judged & best.judged
        gap = a.correct[both].astype(float) - b.correct[both]
        error = float(gap.std() / math.sqrt(max(1, len(gap))))
        near = float(gap.mean()) >= -error
        if not near:
            entrant.stopped = f"behind the probe by {-100 * gap.mean():.1f} points on {len(gap)} held-out items"
        return near

    def _held_out(self, entrant: Entrant) -> tuple[float, float]:
        entry, there = entrant.entry(self.arena.labels), entrant.judged
        return -float(entry.correct[there].mean()), float(entry.loss[there].mean())

    def _full_schedule(self, bench: Bench, entrant: Entrant, *, rivals: int) -> None:
        """Its usual number of epochs, or as many as leave time for the final training, on the first fold again."""
        usual = usual_epochs(bench, entrant.settings)
        one = entrant.fold_seconds / max(1, entrant.epochs)
        epochs = int(min(usual, 0.9 * self.clock.left / max(1e-9, one * (rivals + _FINAL_FACTOR))))
        if epochs <= entrant.epochs:
            if not self.clock.fits(one * entrant.epochs * _FINAL_FACTOR):
                entrant.stopped = "no time left to train it on all items"
            return
        self.reporter.say(f"Trying: {entrant.label}, {epochs} epochs on one fold")
        deadline = self.clock.deadline(share=1 / (rivals + _FINAL_FACTOR))
        try_fold(bench, self.arena, entrant, number=0, epochs=epochs, deadline=deadline)

    def _more_folds(self, bench: Bench, entrant: Entrant, best: Entrant) -> None:
        """Further folds while they and the final training fit into the time, until chance is ruled out."""
        for number in range(1, len(self.arena.pairs)):
            if self._decided(entrant, best):
                return
            if not self.clock.fits(entrant.fold_seconds * (1.1 + _FINAL_FACTOR)):
                self._stop(f"{entrant.label}: {number} of {len(self.arena.pairs)} folds, no time for more")
                return
            self.reporter.say(f"Trying: {entrant.label}, fold {number + 1} of {len(self.arena.pairs)}")
            before = entrant.logits.copy()
            deadline = self.clock.deadline(share=1 / (1 + _FINAL_FACTOR))
            try_fold(bench, self.arena, entrant, number=number, epochs=entrant.epochs, deadline=deadline)
            if entrant.stopped is not None:  # a fold that was cut short says nothing about the others
                entrant.logits, entrant.stopped = before, None
                entrant.folds -= 1
                return

    def _decided(self, entrant: Entrant, best: Entrant) -> bool:
        """Whether an entrant differs from the probe by more than chance, at a tenth of the level of the choice."""
        both = entrant.judged & best.judged
        one, other = (e.entry(self.arena.labels).correct[both] for e in (entrant, best))
        return mcnemar(one, other) < _LEVEL / 10

    def _epochs_in_time(self, chosen: Entrant) -> int:
        """As many epochs as it was judged with, and up to its usual ones where the time left allows."""
        usual = usual_epochs(self.benches[chosen.source], chosen.settings)
        one = chosen.fold_seconds / max(1, chosen.epochs) * _FINAL_FACTOR
        return max(chosen.epochs, int(min(usual, 0.9 * self.clock.left / max(1e-9, one))))

    # --- the choice -----------------------------------------------------------------------------------------------

    def _stop(self, said: str) -> None:
        self.stopped.append(said)
        self.reporter.note(said)

    def _decide(self) -> Decision:
        labels = self.arena.labels
        ready = [i for i, e in enumerate(self.entrants) if e.stopped is None]
        entries = [self.entrants[i].entry(labels) for i in ready]
        choice = choose_entry(entries)
        p: list[float | None] = [None] * len(self.entrants)
        for place, value in zip(ready, choice.p, strict=True):
            p[place] = value if place != ready[choice.best] else None
        chosen = self.entrants[ready[choice.chosen]]
        settings = chosen.settings
        if chosen.strategy != "frozen":
            settings = settings.changed(epochs=self._epochs_in_time(chosen))
        self.reporter.say(choice.sentence)
        return Decision(
            self.benches[chosen.source], settings, rows_of(self.entrants, labels, p, self.entrants.index(chosen)),
            choice.as_dict(entries), self.stopped, self.full_epoch, self.ratios,
        )  # fmt: skip
