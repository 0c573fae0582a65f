"""Which sources take part in a race, and how many items the time allows.

Sources are ranked on a part of the items that choices may see (LogME, H-score: transfer.rank); the best few go on,
as far as embedding all items fits into the time. Published rankings lose nothing when the first three are raced.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from headstart.choice.entrants import short
from headstart.errors import SourceError
from headstart.records import Dataset, Item
from headstart.sources import addresses, open_source
from headstart.stages import Bench
from headstart.transfer.budget import Clock
from headstart.transfer.rank import rank, stratified

__all__ = ["Shortlist", "shortlist"]

RACED = 3
"""So many sources are raced at most."""

RANKED_ITEMS = 2_000
"""Items on which sources are ranked, at most."""

_WARM, _TIMED = 128, 256  # items before the clock is looked at (they pay for the engine's trial), and items timed
_FOR_RANKING, _FOR_FEATURES = 0.15, 0.5  # shares of the time left
_FEW = 1_000  # items for which no time is measured


@dataclass
class Shortlist:
    """The benches that are raced, best first, the rows of the ranking, and what was left out for lack of time."""

    benches: list[Bench]
    ranking: list[dict[str, Any]] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)


def shortlist(bench: Bench, clock: Clock) -> Shortlist:
    """Open the sources, rank them where there are several, and leave out items that the time has no room for."""
    named, found = addresses(bench.settings.source), Shortlist([])
    benches = [bench, *_opened(bench, named[1:], found, every=bench.settings.source == "all")]
    if len(benches) > 1 or len(bench.dataset.items) > _FEW:
        for own in benches:
            own.speed = _speed(own)
    if len(benches) > 1:
        found.ranking = _ranked(benches, clock)
    order = [row["source"] for row in found.ranking] or [bench.source.address]
    by_name = {own.source.address: own for own in benches}
    room = _FOR_FEATURES * clock.left
    for name in order:
        own = by_name[name]
        seconds = len(bench.dataset.items) / own.speed
        if len(found.benches) < RACED and seconds <= room:
            found.benches.append(own)
            room -= seconds
        elif len(found.benches) < RACED:
            found.stopped.append(f"{short(name)}: the features of all items would take {seconds:.0f} s")
    if not found.benches:  # none fits: the quickest, on as many items as fit
        found.benches.append(_thinned(max(benches, key=lambda own: own.speed), room, found))
    raced = {own.source.address for own in found.benches}
    for row in found.ranking:
        row["raced"] = row["source"] in raced
    return found


def _opened(bench: Bench, names: Sequence[str], found: Shortlist, *, every: bool) -> list[Bench]:
    """A bench for each further source; where all on the machine are meant, one that does not open is told and left."""
    benches = []
    for name in names:
        try:
            source = open_source(name, image_size=bench.settings.image_size, seed=bench.settings.seed)
        except SourceError as error:
            if not every:
                raise
            found.stopped.append(f"{name}: {error.what}")
            continue
        benches.append(bench.with_source(source))
    return benches


def _speed(bench: Bench) -> float:
    """Items embedded a second, measured on a few; infinite where their rows are kept already."""
    items = _drawn(bench, _WARM + _TIMED)
    bench.warm(items[:_WARM])
    computed, started = bench.work["features_computed"], time.perf_counter()
    bench.warm(items[_WARM:])
    new = bench.work["features_computed"] - computed
    return new / (time.perf_counter() - started) if new else math.inf


def _drawn(bench: Bench, n: int) -> list[Item]:
    """So many of the items that choices may see, the classes in proportion."""
    learned = bench.samples("train", "val")
    chosen = stratified(learned.labels, n, seed=bench.settings.seed)
    return [learned.items[i] for i in chosen]


def _ranked(benches: Sequence[Bench], clock: Clock) -> list[dict[str, Any]]:
    """Rows {source, logme, h_score, items, seconds}, best first."""
    room = _FOR_RANKING * clock.left / len(benches)
    learned = benches[0].samples("train", "val")
    slowest = min(bench.speed for bench in benches)
    n = min(RANKED_ITEMS, len(learned.items), max(_TIMED, int(min(slowest * room, 1e9))))
    chosen = stratified(learned.labels, n, seed=benches[0].settings.seed)
    items, y = [learned.items[i] for i in chosen], learned.labels[chosen]
    rows, seconds = {}, {}
    for bench in benches:
        started = time.perf_counter()
        bench.reporter.say(f"Ranking: {short(bench.source.address)} on {len(items)} items")
        rows[bench.source.address] = bench.warm(items)
        seconds[bench.source.address] = time.perf_counter() - started
    ranked = rank(rows, y)
    return [{**row, "seconds": round(seconds[row["source"]], 3), "raced": False} for row in ranked]


def _thinned(bench: Bench, room: float, found: Shortlist) -> Bench:
    """The bench with as many items as can be embedded in `room` seconds: the test items first, half of it at most."""
    fitting = int(bench.speed * room)
    parts: list[tuple[Item, ...]] = []
    for name in ("test", "val", "train"):
        items = bench.dataset.split(name)
        rest = max(2 * bench.n_classes, fitting - sum(map(len, parts)))
        most = max(2 * bench.n_classes, fitting // 2) if name == "test" else rest
        if len(items) > most:
            labels = np.array([item.label for item in items], dtype=np.int64)
            kept = tuple(items[i] for i in stratified(labels, most, seed=bench.settings.seed))
            found.stopped.append(
                f"{len(items) - len(kept):,} of {len(items):,} {name} items are left out for lack of time"
            )
            items = kept
        parts.append(items)
    names = {item.name for part in parts for item in part}
    dataset: Dataset = bench.dataset.with_items(tuple(i for i in bench.dataset.items if i.name in names))
    return replace(bench, dataset=dataset)
