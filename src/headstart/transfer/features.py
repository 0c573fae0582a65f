"""The store of features: what lies below the cut runs once per item and view.

A row is keyed by the sha256 of the picture's bytes inside a folder keyed by everything else that shapes it: the weights
below the cut, the whole preprocessing, pooling, cut, the engine that computed it, view, number format and versions. A
row can therefore be shared by every run, strategy, head and fold, and nothing that changed can ever be served for
something else.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from headstart import files
from headstart.data import cache
from headstart.data.loader import Batch, Views, batches
from headstart.data.store import ArrayStore, Found, hash_table
from headstart.errors import OutputError, SourceError
from headstart.progress import Reporter, Silent
from headstart.records import Item, Skipped
from headstart.sources.base import Source
from headstart.transfer._shelf import Choice, Pass, Runners, Shelf, harmless, row_key, source_key
from headstart.transfer._writer import Writer
from headstart.transfer.runner import Runner, untried

__all__ = ["Features", "Pass", "Rows", "Runners", "embed", "harmless", "row_key", "source_key"]

_FEW, _MANY = 0.1, 256  # kept rows are few below this share of those that are missing, where these are many


class Rows:
    """Rows on disk, read when they are asked for: `rows[positions]` is an array (len(positions), width).

    A position whose item could not be read has a row of NaN.
    """

    def __init__(self, found: Found, *, dtype: str, width: int, holding: object = None) -> None:
        self._found, self._holding = found, holding
        self.dtype, self.shape = np.dtype(dtype), (len(found), width)

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        chosen = np.asarray(positions, dtype=np.int64)
        there = self._found.there[chosen]
        if there.all():
            return self._found.rows(chosen, out=np.empty((len(chosen), self.shape[1]), self.dtype))
        rows = np.full((len(chosen), self.shape[1]), np.nan, self.dtype)
        rows[there] = self._found.rows(chosen[there])
        return rows


@dataclass(frozen=True, slots=True)
class Features:
    """Rows for items, and how they came about.

    `rows` are float32 (n, d) at the head, and read from disk as they are needed at any other cut. `engine` tells what
    computed them: its identity and, where it ran now, what its trial measured. `notes` are for the report.
    """

    rows: np.ndarray | Rows
    computed: int
    reused: int
    skipped: tuple[Skipped, ...] = ()
    engine: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def array(self) -> np.ndarray:
        """All rows in memory, (n, d); no copy at the head."""
        return self.rows[np.arange(len(self.rows))] if isinstance(self.rows, Rows) else self.rows


def embed(
    source: Source,
    items: Sequence[Item],
    *,
    hashes: Mapping[str, str],
    how: Pass | None = None,
    use_store: bool = True,
    reporter: Reporter | None = None,
) -> Features:
    """Features of `items`, from the store, or computed once and kept: at the head's input or at another cut.

    Items with the same bytes are computed once. An item whose file has become unreadable or was replaced since the
    audit gets a row of NaN and is named in `skipped`: the caller drops it, nothing takes its place.
    All rows come from one engine, and a row's bits do not depend on which other rows the store held.
    Without the store, activations at a cut lie in a folder that goes with the Features. Raises OutputError where they
    cannot be put on disk, and SourceError when the network gives no finite numbers or has no such cut.
    """
    how, reporter = how or Pass(), reporter or Silent()
    keys = [hashes[item.name] for item in items]
    try:
        return _Embedding(source, items, keys, how=how, use_store=use_store, reporter=reporter).run()
    except _OverflowError:
        reporter.note("some features are too large for float16 and are kept as float32")
        how = replace(how, dtype="float32")
        return _Embedding(source, items, keys, how=how, use_store=use_store, reporter=reporter).run()


class _OverflowError(Exception):
    """A later batch does not fit the dtype that suited the first."""


class _Embedding:
    """One call of `embed`: what is known so far of each position."""

    def __init__(
        self, source: Source, items: Sequence[Item], keys: Sequence[str], *, how: Pass, use_store: bool,
        reporter: Reporter,
    ) -> None:  # fmt: skip
        self.source, self.items, self.keys, self.how, self.reporter = source, items, keys, how, reporter
        self.keeping = use_store and cache.limit_of(how.bound) > 0
        self.lazy = how.cut != "head"
        self.shelf = Shelf(source, how, keeping=self.keeping)
        self.runner: Runner | None = None
        self.skipped: list[Skipped] = []
        self.failed = np.zeros(len(items), dtype=bool)
        self.leader = np.arange(len(items))  # the position whose row this one shares
        self.writer: Writer | None = None
        self.passing: tempfile.TemporaryDirectory[str] | None = None
        self.rounding: float | None = None
        self.computed = 0
        self.notes: list[str] = []
        self._start(None)

    def _start(self, choice: Choice | None) -> None:
        """Go on with what is kept of one engine, or with nothing."""
        self.identity = choice.identity if choice is not None else ""
        self.have = choice.found.there.copy() if choice is not None else np.zeros(len(self.items), dtype=bool)
        self.reused = int(self.have.sum())
        self.matrix: np.ndarray | None = None  # (n, width), made when the width is known
        self.dtype, self.width, self.store, self.found = "", 0, None, None
        if choice is None or not self.reused:
            return
        self.dtype, self.store, self.found = choice.dtype, choice.store, choice.found
        self._widen(choice.found[np.flatnonzero(self.have)[0]].size)
        if self.matrix is not None:
            choice.found.fill(self.matrix)
        self.shelf.use(choice.identity, choice.dtype)

    store: ArrayStore | None
    found: Found | None

    def _widen(self, width: int) -> None:
        if not self.width:
            self.width = width
            self.matrix = None if self.lazy else np.empty((len(self.items), width), dtype=np.float32)

    def run(self) -> Features:
        """The rows: what is kept, and the rest computed."""
        choices = self.shelf.choices(self.keys) if self.keeping else []
        if damaged := sum(choice.store.damaged for choice in choices):
            self.reporter.note(f"{damaged} damaged rows of kept features are dropped and computed again")
        choices = [choice for choice in choices if self._enough(choice)]
        if choices:
            self._start(choices[0])
        try:
            while len(turn := self._turn()):  # one round, and another for the twins of files that could not be read
                self._compute(turn, choices)
            self._written(lambda writer: writer.close())
        finally:
            if self.writer is not None:
                self.writer.stop()
        facts = dict(self.runner.facts) if self.runner is not None else {}
        if self.identity:
            facts = {**facts, "identity": self.identity, "dtype": self.dtype}
        if self.rounding is not None:
            facts["rounding"] = self.rounding
        return Features(self._rows(), self.computed, self.reused, tuple(self.skipped), facts, tuple(self.notes))

    def _enough(self, choice: Choice) -> bool:
        """Whether kept rows decide on the engine: a few that came without a trial do not where many more are wanted."""
        there = int(choice.found.there.sum())
        missing = len(self.keys) - there + self.how.expected
        mine = choice.identity == self.how.runners.identities.get(self.shelf.name)
        return mine or missing < _MANY or there >= _FEW * missing or not untried(choice.identity)

    def _turn(self) -> np.ndarray:
        """The first position of every content that has no row and may still get one."""
        missing = np.flatnonzero(~self.have & ~self.failed)
        if not len(missing):
            return missing
        table = hash_table([self.keys[int(i)] for i in missing])
        _, first, back = np.unique(table, return_index=True, return_inverse=True)
        self.leader = np.arange(len(self.items))
        self.leader[missing] = missing[first][back]
        return np.sort(missing[first])

    # --- computing ----------------------------------------------------------------------------------------------

    def _compute(self, turn: np.ndarray, choices: Sequence[Choice]) -> None:
        """One pass over the items at `turn`; twins get their leader's row."""
        with self.reporter.progress("Computing features", len(turn)) as bar:
            for batch in self._batches(turn):
                self.skipped += batch.skipped
                if len(batch.index):
                    if self.runner is None:
                        self._settle(batch.images, len(turn), choices)
                    self._add(turn[batch.index], batch.images)
                bar.advance(len(batch.index) + len(batch.skipped))
        self.failed[turn[~self.have[turn]]] = True
        twins = np.flatnonzero(~self.have & self.have[self.leader])
        if self.matrix is not None:
            self.matrix[twins] = self.matrix[self.leader[twins]]
        self.have[twins] = True

    def _batches(self, turn: np.ndarray) -> Iterator[Batch]:
        """The views of `turn`; where an engine is still to be chosen the first batch comes alone, for a quiet trial."""
        wanted, size = [int(i) for i in turn], self.how.batch_size
        views = Views(
            [self.items[i] for i in wanted], self.source.card, view=self.how.view,
            hashes=[self.keys[i] for i in wanted],
        )  # fmt: skip
        start = size if self.runner is None else 0
        if start:
            yield from batches(views, [np.arange(min(start, len(turn)))], workers=self.how.workers)
        left = start + np.flatnonzero(~self.have[turn[start:]])  # the engine may have come with rows of its own
        order = [left[at : at + size] for at in range(0, len(left), size)]
        yield from batches(views, order, workers=self.how.workers)

    def _settle(self, images: Tensor, left: int, choices: Sequence[Choice]) -> None:
        """Open the engine of the kept rows, or choose one; go on with what is kept of it, and with nothing else."""
        known = self.shelf.opened()
        reopened = (self.shelf.reopen(choice.identity, images) for choice in choices)
        runner = next((one for one in reopened if one is not None), None)
        if runner is None:
            runner = self.shelf.pick(images, left if not choices else len(set(self.keys)))
        if runner is not known and (note := str(runner.facts.get("note", ""))):
            self.reporter.note(note)
        if runner.identity != self.identity and self.keeping:
            mine = self.shelf.choices(self.keys, only=runner.identity)
            self._start(mine[0] if mine else None)
        self.runner, self.identity = runner, runner.identity

    def _add(self, positions: np.ndarray, images: Tensor) -> None:
        """Compute the rows that are missing of a batch."""
        new = ~self.have[positions]
        if not new.any():
            return
        if not new.all():
            positions, images = positions[new], images[new]
        assert self.runner is not None
        before = self.runner.batch_size
        rows = self.runner(images)
        if self.runner.batch_size < before:
            self.notes.append(f"memory ran out: features are computed for {self.runner.batch_size} images at a time")
            self.reporter.note(self.notes[-1])
        if not np.isfinite(rows).all():
            raise SourceError(
                "gives features that are not finite numbers: its weights are damaged or not for this input",
                where=self.source.address,
                remedy="Fetch the weights again, or choose another --source.",
            )
        self._prepare(rows)
        with np.errstate(over="ignore"):
            rows = rows.astype(self.dtype, copy=False)
        if self.dtype == "float16" and not np.isfinite(rows).all():
            raise _OverflowError
        if self.matrix is not None:
            self.matrix[positions] = rows
        self.have[positions] = True
        self.computed += len(positions)
        if self.store is not None and self.writer is None:
            self.writer = Writer(self.store)
        self._written(lambda writer: writer.add([self.keys[int(i)] for i in positions], rows))

    def _prepare(self, rows: np.ndarray) -> None:
        """With the first rows: their width and dtype are known, and where they go."""
        self._widen(rows.shape[1])
        if self.dtype:
            return
        self.dtype, self.rounding = self.shelf.dtype_for(rows)
        self.shelf.use(self.identity, self.dtype)
        if self.keeping:
            self.store = self.shelf.store(self.identity, self.dtype)
        elif self.lazy:
            self.store = self._passing_store()
        if self.lazy and self.store is not None:
            left = len(set(self.keys)) - self.computed
            self.store.reserve(left * self.width * np.dtype(self.dtype).itemsize)

    def _passing_store(self) -> ArrayStore:
        """A store that goes with the Features."""
        try:
            folder = files.home() / cache.PASSING
            folder.mkdir(parents=True, exist_ok=True)
            self.passing = tempfile.TemporaryDirectory(prefix="rows-", dir=folder, ignore_cleanup_errors=True)
        except OSError as error:
            raise OutputError(
                f"cannot write: {error.strerror or error}",
                where=files.home(),
                remedy="Check free space and permissions.",
            ) from error
        key = {"dtype": self.dtype}
        return ArrayStore(key, kind="features", folder=Path(self.passing.name) / "rows", bound=sys.maxsize)

    def _written(self, work: Callable[[Writer], None]) -> None:
        """Write rows; at the head a store that cannot be written costs the next run time, not this one."""
        if self.writer is None:
            return
        try:
            work(self.writer)
        except OutputError as error:
            if self.lazy:
                raise
            self.reporter.note(f"features are not kept for later runs: {error}")
            self.writer.stop()
            self.writer, self.store, self.keeping = None, None, False

    def _rows(self) -> np.ndarray | Rows:
        if self.matrix is not None:
            self.matrix[~self.have] = np.nan
            return self.matrix
        if not self.lazy:
            return np.full((len(self.items), self.source.width(self.how.pooling)), np.nan, dtype=np.float32)
        if self.store is None:
            return np.full((len(self.items), 0), np.nan, dtype=np.float32)
        found = self.found if self.found is not None and not self.computed else self.store.find(self.keys)
        if not found.there[self.have].all():
            raise OutputError(
                "kept rows vanished while they were used",
                where=self.store.folder,
                remedy="Start again, and leave the folder alone meanwhile.",
            )
        return Rows(found, dtype=self.dtype, width=self.width, holding=self.passing)
