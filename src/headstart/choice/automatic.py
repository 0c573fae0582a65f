"""`--strategy auto`: what is raced, within which time, and what an interrupted race has already decided."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from headstart import files
from headstart.advising import advice_for, part_of, rows_of
from headstart.choice.race import race
from headstart.choice.shortlist import shortlist
from headstart.errors import RunError, SettingsError
from headstart.records import SCHEMA, Plan
from headstart.runfolder import read
from headstart.settings import Settings, of_strategy, seconds_of
from headstart.sources import addresses
from headstart.stages import Bench, make_plan
from headstart.transfer.budget import Clock
from headstart.transfer.net import TransferNet, fresh_head
from headstart.transfer.surgery import gradient_ratios

__all__ = ["BUDGET", "Outcome", "baseline_plan", "clock_for", "decide", "is_automatic", "scratch_share"]

BUDGET = 600.0
"""Seconds that an automatic run takes at most where no budget is given."""

_FEWEST_EPOCHS = 5  # a baseline with fewer says nothing about training from scratch
_TRUSTED = 0.85  # share of the time left that is planned with
_TIMED_ITEMS = 64
_ADVISED_ITEMS, _FOR_ADVICE = 500, 0.1  # items on which similarity is measured, and its share of the time left
_RESERVE, _LEAST_RESERVE = 0.06, 3.0  # for judging, saving and the report: a share of the budget, and seconds
_SCRATCH, _SCRATCH_SMALL, _SMALL = 0.2, 0.1, 120.0  # shares of the budget for the baseline; budgets that are small


@dataclass
class Outcome:
    """What was decided: by which settings to train on which bench, and what run.json tells of it."""

    bench: Bench
    settings: Settings
    told: dict[str, Any] = field(default_factory=dict)
    epoch_seconds: float = 0.0  # of one epoch of all layers, where it was measured
    for_scratch: float = 0.0  # seconds kept for the baseline

    def plan(self) -> Plan:
        """The Plan of what was decided, with the race as its reason."""
        plan, choice = make_plan(self.bench, self.settings), self.told.get("choice")
        if choice is None:
            return plan
        own = [reason for reason in plan.reasons if not reason.startswith(f"strategy {plan.strategy}: ")]
        return replace(plan, reasons=(f"strategy {plan.strategy}: {choice['sentence']}", *own))


def is_automatic(settings: Settings, *, verb: str, alone: bool) -> bool:
    """Whether a run races. Raises SettingsError where several sources are given and nothing is raced over them.

    Several processes race nothing: their clocks do not agree. There the rule of `transfer.strategy` chooses.
    """
    several = len(addresses(settings.source)) > 1
    free = settings.strategy == "auto" and settings.cut is None and settings.train_last is None
    races = verb == "fit" and alone and (free or (several and settings.strategy == "frozen"))
    if several and not races:
        raise SettingsError(
            "several sources can be compared by fit with --strategy auto or frozen, in one process",
            remedy="Give one --source, or leave the strategy to headstart.",
        )
    return races


def clock_for(settings: Settings, *, automatic: bool) -> Clock:
    """The time of a run, beginning now."""
    if settings.budget is not None:
        seconds: float | None = seconds_of(settings.budget)
    else:
        seconds = BUDGET if automatic else None
    return Clock(seconds, reserve=0.0 if seconds is None else max(_LEAST_RESERVE, _RESERVE * seconds))


def scratch_share(settings: Settings, clock: Clock) -> float:
    """Seconds of the budget that are kept for the baseline from scratch; a smaller share of a small budget."""
    if settings.scratch is False or clock.seconds is None:
        return 0.0
    return (_SCRATCH if clock.seconds >= _SMALL else _SCRATCH_SMALL) * clock.seconds


def decide(bench: Bench, clock: Clock, *, folder: Path | None) -> Outcome:
    """Shortlist the sources and race; what was decided stands in race.json, where `resume` finds it."""
    place = folder / "race.json" if folder is not None and bench.main else None
    if place is not None and place.is_file():
        try:
            return _decided(bench, read(place), scratch_share(bench.settings, clock))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"the file is not as headstart wrote it: {type(error).__name__}: {str(error)[:200]}"
            remedy = "Start a new run with `headstart fit` and another --out."
            raise RunError(what, where=place, remedy=remedy) from error
    kept = scratch_share(bench.settings, clock)
    with clock.keeping(kept):
        listed = shortlist(bench, clock)
        prior = _advice(listed.benches[0], clock)
        found = race(listed.benches, clock, prior=(prior or {}).get("options") or {})
    told = {
        "advice": prior,
        "race": found.rows,
        "choice": found.choice,
        "ranking": listed.ranking,
        "budget": {"asked": clock.seconds, "stopped": [*listed.stopped, *found.stopped]},
        "gradient_ratios": found.ratios,
    }
    outcome = Outcome(found.bench, found.settings, told, found.epoch_seconds, kept)
    if place is not None:
        files.write_json(place, {"schema": SCHEMA, **_as_record(outcome)})
    return outcome


def _advice(bench: Bench, clock: Clock) -> dict[str, Any] | None:
    """Where the data stand for the first source; None where a few passes of it would take too much of the time."""
    items, began = part_of(bench, _ADVISED_ITEMS), clock.used
    rows_of(bench, bench.source, items[:_TIMED_ITEMS])
    one = (clock.used - began) / max(1, min(_TIMED_ITEMS, len(items)))
    if not clock.fits(2 * one * len(items), share=_FOR_ADVICE):
        return None
    return advice_for(bench, items=_ADVISED_ITEMS)


def _as_record(outcome: Outcome) -> dict[str, Any]:
    items = [item.name for item in outcome.bench.dataset.items]
    return {
        "source": outcome.bench.source.address,
        "changed": {
            name: value
            for name, value in outcome.settings.non_default().items()
            if getattr(outcome.bench.settings, name) != value
        },
        "items": files.hash_json(items),
        "kept": items if len(items) < len(outcome.bench.facts.hashes) else None,
        "told": outcome.told,
        "epoch_seconds": outcome.epoch_seconds,
    }


def _decided(bench: Bench, record: dict[str, Any], kept: float) -> Outcome:
    """Go on from race.json. Raises RunError where the data are no longer those that raced."""
    from headstart.sources import open_source

    if record["source"] != bench.source.address:
        settings = bench.settings
        bench = bench.with_source(open_source(record["source"], image_size=settings.image_size, seed=settings.seed))
    if record["kept"] is not None:
        names = set(record["kept"])
        bench.dataset = bench.dataset.with_items(tuple(i for i in bench.dataset.items if i.name in names))
    if files.hash_json([item.name for item in bench.dataset.items]) != record["items"]:
        raise RunError(
            "the data are not those that the race was run on",
            remedy="Start a new run with `headstart fit` and another --out.",
        )
    settings = bench.settings.changed(**record["changed"])
    return Outcome(bench, settings, record["told"], record["epoch_seconds"], kept)


def baseline_plan(bench: Bench, outcome: Outcome, clock: Clock) -> tuple[Plan, Settings] | None:
    """The plan of the baseline from scratch, with as many epochs as the time allows; None, with a note, if too few.

    It gets the time that the transfer took, or its share of the budget where that is more.
    """
    wanted = bench.settings.scratch
    if wanted is False:
        return None
    if not bench.samples("val").items:
        bench.reporter.note("no baseline from scratch: there is nothing to choose its epoch on")
        return None
    settings = of_strategy(bench.settings, "scratch")
    plan = make_plan(bench, settings)
    one = outcome.epoch_seconds or _epoch_seconds(bench)
    room = min(clock.left, max(outcome.for_scratch, clock.used)) if wanted is None else clock.left
    epochs = int(min(plan.epochs, _TRUSTED * room / max(1e-9, one)))
    if epochs < min(_FEWEST_EPOCHS, plan.epochs) and wanted is None:
        outcome.told["budget"]["stopped"].append(
            f"training from scratch: one epoch would take about {one:.0f} s, and {room:.0f} s were left for it"
        )
        return None
    settings = settings.changed(epochs=max(1, epochs))
    return make_plan(bench, settings), settings


def _epoch_seconds(bench: Bench) -> float:
    """What an epoch of all layers takes, about: forward and backward passes of a few items in fp32."""
    net = TransferNet(bench.source.copy(), fresh_head("linear", bench.source.width("native"), bench.n_classes, seed=0))
    train = bench.samples("train")
    started = time.perf_counter()
    gradient_ratios(net, train, device=bench.device, most=_TIMED_ITEMS)
    return (time.perf_counter() - started) * len(train.items) / max(1, min(_TIMED_ITEMS, len(train.items)))
