"""What can be said before a run: which source fits a data set best, and where the set stands.

Only training items are looked at: the test set is sealed first, as `fit` seals it. Features go through the store, so
that a later fit finds them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from headstart.errors import SettingsError, SourceError
from headstart.progress import Reporter
from headstart.records import Item
from headstart.settings import Settings
from headstart.sources import addresses as open_addresses
from headstart.sources import list_sources, open_source
from headstart.sources.base import Source
from headstart.stages import Bench, groups_among, prepare
from headstart.transfer.advice import advice
from headstart.transfer.features import Pass, Runners, embed
from headstart.transfer.groups import idle_blocks
from headstart.transfer.interrupt import Stop
from headstart.transfer.rank import rank, stratified
from headstart.transfer.similarity import probe, similarity

__all__ = [
    "ITEMS",
    "advice_for",
    "advise",
    "local_sources",
    "measured_similarity",
    "part_of",
    "rank_sources",
    "rows_of",
]

ITEMS = 2_000
"""So many training items are looked at, the classes in proportion."""


def local_sources(folders: Iterable[str | Path] = ()) -> list[str]:
    """The addresses of the sources that open without a network, those in `folders` too; the toy only if alone."""
    found = list(dict.fromkeys(str(row["address"]) for row in list_sources(folders)))
    return [address for address in found if address != "toy"] or found


def rank_sources(
    data: Any, addresses: Sequence[str], *, settings: Settings, reporter: Reporter, items: int = ITEMS
) -> list[dict[str, Any]]:
    """Sources by how well their frozen features fit the training items of `data`, best first.

    Rows {source, logme, h_score, items, of, probe, parameters, seconds}: `items` are looked at `of` all training
    items, `probe` is the accuracy of a cross-validated ridge head, `seconds` what the source cost, the check of the
    data apart. A source that cannot be used stands at the end as {source, error}. Raises DataError when the data
    cannot be used, and SourceError when no source can.
    """
    stand_in = settings.changed(source="toy", weights=None)  # the data are read and sealed before any source is opened
    bench = prepare(data, settings=stand_in, reporter=reporter, stop=Stop())
    part = part_of(bench, items)
    features: dict[str, np.ndarray] = {}
    facts: dict[str, dict[str, Any]] = {}
    failed: list[dict[str, Any]] = []
    for address in dict.fromkeys(addresses):
        started = time.perf_counter()
        reporter.say(f"Source {address}")
        try:
            source = open_source(address, image_size=settings.image_size, seed=settings.seed)
            features[address] = rows_of(bench, source, part)
        except SourceError as error:
            failed.append({"source": address, "error": str(error)})
            continue
        size = sum(parameter.numel() for parameter in source.network.parameters())
        facts[address] = {"parameters": size, "seconds": time.perf_counter() - started}
    if not features:
        raise SourceError(
            "no source can be ranked" + "".join(f"; {row['source']}: {row['error']}" for row in failed),
            remedy="Name others with --source.",
        )
    return [*_ranked(bench, part, features, facts), *failed]


def _ranked(
    bench: Bench, part: Sequence[Item], features: dict[str, np.ndarray], facts: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """The rows of `rank` on the items that all sources could read, with the probe and what is known of each source."""
    kept = np.logical_and.reduce([np.isfinite(rows).all(axis=1) for rows in features.values()])
    seen = [item for item, keep in zip(part, kept, strict=True) if keep]
    y, of = _labels(seen), len(bench.samples("train").items)
    rows = []
    for address, found in features.items():
        started = time.perf_counter()
        (row,) = rank({address: found[kept]}, y)
        row |= {"of": of, "probe": probe(found[kept], y, **_folding(bench, seen)), **facts[address]}
        row["seconds"] = round(row["seconds"] + time.perf_counter() - started, 3)
        rows.append(row)
    return sorted(rows, key=lambda row: (-row["logme"], -row["h_score"], row["source"]))


def advise(data: Any, *, settings: Settings, reporter: Reporter, items: int = ITEMS) -> dict[str, Any]:
    """Where `data` stand for the source of the settings: {data, source, seconds, advice}.

    `advice` is what `transfer.advice.advice` gives. It is a prior: only a race judges. Raises SettingsError where the
    settings name several sources.
    """
    started = time.perf_counter()
    if len(named := open_addresses(settings.source)) > 1:
        raise SettingsError(
            f"advice is for one source, not for {len(named)}", remedy="headstart sources DATA says which fits best."
        )
    bench = prepare(data, settings=settings, reporter=reporter, stop=Stop())
    found = advice_for(bench, items=items)
    seconds = round(time.perf_counter() - started, 3)
    return {"data": bench.dataset.path, "source": bench.source.address, "seconds": seconds, "advice": found}


def advice_for(bench: Bench, *, items: int = ITEMS) -> dict[str, Any]:
    """`transfer.advice.advice` for the data and the source of a bench, its similarity measured on so many items."""
    idle = idle_blocks(bench.source, "native")
    return advice(
        len(bench.samples("train").items),
        bench.n_classes,
        similarity=measured_similarity(bench, items=items),
        blocks=tuple(block for block in bench.source.blocks if block not in idle),
    )


def measured_similarity(bench: Bench, *, items: int = ITEMS) -> dict[str, Any]:
    """`transfer.similarity.similarity` of the bench's source on a part of its training items.

    The source computes the part once, and so does the same network with random weights.
    """
    part = part_of(bench, items)
    pretrained, fresh = rows_of(bench, bench.source, part), rows_of(bench, bench.source.fresh(0), part)
    return similarity(pretrained, fresh, _labels(part), **_folding(bench, part))


# --- items and rows ---------------------------------------------------------------------------------------------


def part_of(bench: Bench, most: int = ITEMS) -> list[Item]:
    """About `most` training items, the classes in proportion; all where there are no more."""
    samples = bench.samples("train")
    return [samples.items[n] for n in stratified(samples.labels, most, seed=bench.settings.seed)]


def rows_of(bench: Bench, source: Source, items: Sequence[Item]) -> np.ndarray:
    """Features (n, d) of some items by any source, through the store; an item that cannot be read has a row of NaN.

    Raises SourceError when the source does not take pictures.
    """
    if source.card.input_size[0] != 3:
        channels = source.card.input_size[0]
        raise SourceError(
            f"takes {channels} channels, and pictures have 3",
            where=source.address,
            remedy="Choose a source that takes 3.",
        )
    mine = source is bench.source
    how = bench.how(pooling=bench.settings.pooling) if mine else _other(bench)
    found = embed(
        source, items, hashes=bench.facts.hashes, how=how, use_store=bench.settings.cache, reporter=bench.reporter
    )
    return found.array


def _other(bench: Bench) -> Pass:
    """A pass as the bench makes it, for a source that is not the bench's."""
    return replace(bench.how(pooling=bench.settings.pooling), runners=Runners())


def _labels(items: Sequence[Item]) -> np.ndarray:
    return np.array([item.label for item in items], dtype=np.int64)


def _folding(bench: Bench, items: Sequence[Item]) -> dict[str, Any]:
    """How items are put into folds: those of one group, file or look stay together."""
    settings, groups = bench.settings, groups_among(bench, items)
    return {"n_classes": bench.n_classes, "seed": settings.seed, "folds": settings.folds, "groups": groups}
