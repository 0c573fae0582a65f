"""Arrays on disk by content hash: the one store behind kept features, activations at a cut and decoded pictures.

A row is keyed by the sha256 of the picture's bytes inside a folder keyed by everything else that shapes it. The folder
holds shards, each written whole under a new name: any number of processes may fill the same store at once, and a run
that was killed keeps what it had finished. Shards are mapped, not loaded, so a store may be larger than memory. Every
row carries a checksum; a damaged row is dropped, counted and left for the caller to compute again. A shard that the
system will not open now (too many open files, no permission) stays where it is.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from headstart import files
from headstart.data import cache
from headstart.data._shard import CODES, Shard, hash_table, write_shard
from headstart.errors import OutputError

__all__ = ["ArrayStore", "Found", "hash_table"]

_SHARD_BYTES = 64 << 20
_SHARD_ROWS = 8192
_MAPPED = 128 << 20  # bytes that may be read before their pages are given back
log = logging.getLogger(__name__)

_open: dict[Path, tuple[tuple[int, ...], Shard]] = {}  # of this process; each row's checksum is computed once
_lock = threading.RLock()


class Found:
    """What a store holds of the wanted hashes.

    `there` (n,) bool says which positions have a row. `found[i]` is a read-only view of the file, without a copy;
    `rows` copies many rows of one shape into one array. A shard that another process removes stays readable here.
    """

    def __init__(self, store: ArrayStore, shards: Sequence[Shard], which: np.ndarray, row: np.ndarray) -> None:
        self._store, self._shards, self._which, self._row = store, shards, which, row
        self.there: np.ndarray = which >= 0
        self._touched = 0

    def __len__(self) -> int:
        return len(self.there)

    def __getitem__(self, position: int | np.integer[Any]) -> np.ndarray:
        """The row at `position`, a read-only view; KeyError where none is there."""
        if self._which[position] < 0:
            raise KeyError(position)
        shard: Shard = self._shards[self._which[position]]
        return shard.row(int(self._row[position]))

    def rows(self, positions: Sequence[int] | np.ndarray | None = None, out: np.ndarray | None = None) -> np.ndarray:
        """Rows of one shape, copied: (len(positions), *shape), into `out` where it is given; default all positions.

        Raises KeyError when a position has no row, ValueError when their shapes differ.
        """
        chosen = np.arange(len(self)) if positions is None else np.asarray(positions, dtype=np.int64)
        which, row = self._which[chosen], self._row[chosen]
        if (which < 0).any():
            raise KeyError(int(chosen[which < 0][0]))
        if out is None:
            shape = self[int(chosen[0])].shape if len(chosen) else (0,)
            out = np.empty((len(chosen), *shape), dtype=self._store.dtype)
        self._copy(np.arange(len(chosen)), which, row, out)
        return out

    def fill(self, out: np.ndarray) -> None:
        """Write every row that is there to its own position of `out` (n, *shape); the others are left alone."""
        places = np.flatnonzero(self.there)
        self._copy(places, self._which[places], self._row[places], out)

    def _copy(self, places: np.ndarray, which: np.ndarray, row: np.ndarray, out: np.ndarray) -> None:
        """out[places] = rows `row` of the shards `which`; ValueError when a shape differs."""
        for number in np.unique(which):
            shard, mine = self._shards[number], np.flatnonzero(which == number)
            if shard.table is not None:
                _same(shard.table.shape[1:], out.shape[1:])
                out[places[mine]] = shard.table[row[mine]]
            else:
                for one in mine:
                    array = shard.row(int(row[one]))
                    _same(array.shape, out.shape[1:])
                    out[places[one]] = array
            self._touch(len(mine) * out[:1].nbytes)

    def _touch(self, nbytes: int) -> None:
        """Mapped pages count as this process's memory: give them back from time to time."""
        self._touched += nbytes
        if self._touched > _MAPPED:
            self._touched = 0
            for shard in self._shards:
                shard.forget()


class ArrayStore:
    """Arrays of any shape and one dtype on disk, by content hash, for one key.

    `key` says everything besides the content that shapes a row, and names the rows' "dtype" (float32, float16 or
    uint8). `kind` is the folder below HEADSTART_HOME ("features", "decoded"); `folder` names another place. `about` are
    facts for people that shape no row (the source's address, say). `bound` is how much may be kept in all ("20GB", 0
    for nothing; None: the default). The folder is made at the first `put`.
    `damaged` counts the rows and whole shards that `find` had to drop.
    """

    def __init__(
        self,
        key: Mapping[str, object],
        *,
        kind: str,
        root: Path | None = None,
        folder: Path | None = None,
        about: Mapping[str, object] | None = None,
        bound: str | int | None = None,
    ) -> None:
        name = files.hash_json(key)
        self.key, self.kind, self.about = dict(key), kind, dict(about or {})
        self.dtype = str(key["dtype"])
        if self.dtype not in CODES:
            raise ValueError(f"a store holds {', '.join(CODES)}, not {self.dtype}")
        self.folder = folder or (root or files.home() / kind) / name[:2] / name
        self.bound = bound
        self.damaged = 0

    # --- reading ------------------------------------------------------------------------------------------------

    def find(self, hashes: Sequence[str]) -> Found:
        """What is there of `hashes` (hex sha256). Damaged rows are left out, counted and removed from the store."""
        wanted, back = np.unique(hash_table(hashes), return_inverse=True)
        which, row = np.full(len(wanted), -1, np.int64), np.full(len(wanted), -1, np.int64)
        shards: list[Shard] = []
        cache.touch(self)
        with _lock:
            for shard in self._shards() if len(wanted) else ():
                at = np.minimum(np.searchsorted(wanted, shard.hashes), len(wanted) - 1)
                hits = np.flatnonzero((wanted[at] == shard.hashes) & (which[at] < 0))
                if not len(hits):
                    continue
                good = shard.good(hits)
                which[at[hits[good]]], row[at[hits[good]]] = len(shards), hits[good]
                if good.any():
                    shards.append(shard)
                if not good.all():
                    self._drop(shard, int((~good).sum()))
        return Found(self, shards, which[back], row[back])

    def _shards(self) -> Iterator[Shard]:
        """The folder's shards, mapped; one that is none is counted as damage and removed."""
        paths: list[Path] = []
        with suppress(OSError):  # there is no folder yet, or it is not ours to look into
            paths = sorted(path for path in self.folder.iterdir() if path.match("[!.]*.safetensors"))
        for gone in [path for path in _open if path.parent == self.folder and path not in set(paths)]:
            del _open[gone]
        for path in paths:
            try:
                stamp = _stamp(path)
                if path not in _open or _open[path][0] != stamp:
                    _open[path] = stamp, Shard(path, self.dtype)
            except OSError as error:  # another process has just mended or pruned it, or the system refuses
                log.info("the shard %s cannot be read now: %s", path, error)
                continue
            except ValueError as error:
                self.damaged += 1
                log.info("the shard %s cannot be used: %s", path, error)
                with suppress(OSError):
                    path.unlink(missing_ok=True)
                continue
            yield _open[path][1]

    def _drop(self, shard: Shard, damaged: int) -> None:
        """Keep a damaged shard's good rows in a new one; a store that cannot be written stays as it is."""
        self.damaged += damaged
        log.info("%d damaged rows in the shard %s", damaged, shard.path)
        numbers = np.arange(len(shard))
        kept = numbers[shard.good(numbers)]
        with suppress(OSError, OutputError):
            if len(kept):
                names = [shard.hashes[n].ljust(32, b"\0").hex() for n in kept]
                self.put(names, [shard.row(int(n)) for n in kept])
            shard.path.unlink(missing_ok=True)

    # --- writing ------------------------------------------------------------------------------------------------

    def reserve(self, nbytes: int) -> None:
        """See now that `nbytes` may be put later; raises OutputError where they may not."""
        try:
            cache.make_room(nbytes, limit=cache.limit_of(self.bound), ahead=True)
        except OSError as error:
            raise OutputError(
                f"cannot write: {error.strerror or error}", where=self.folder, remedy=files.ROOM
            ) from error

    def put(self, hashes: Sequence[str], arrays: Sequence[np.ndarray] | np.ndarray) -> None:
        """Add rows: an array (n, ...), or arrays of any shapes.

        Raises OutputError when the disk refuses or no room can be made within the bound. What was written before an
        error stays; nothing is ever torn.
        """
        if len(hashes) != len(arrays):
            raise ValueError(f"{len(hashes)} hashes for {len(arrays)} arrays")
        if not len(hashes):
            return
        rows = _typed(arrays, self.dtype)
        try:
            self._put(hash_table(hashes), rows)
        except OSError as error:
            raise OutputError(
                f"cannot write: {error.strerror or error}", where=self.folder, remedy=files.ROOM
            ) from error

    def _put(self, table: np.ndarray, rows: Any) -> None:
        """Rows in the store's dtype, by a table of their hashes."""
        cache.touch(self)
        cache.make_room(_nbytes(rows), limit=cache.limit_of(self.bound))
        if not (self.folder / "key.json").exists():
            told = {"headstart": "kept arrays", "kind": self.kind, "about": self.about, "key": self.key}
            files.write_json(self.folder / "key.json", told)
        for start, end in _portions(rows):
            path = self.folder / f"{uuid.uuid4().hex}.safetensors"
            write_shard(path, table[start:end], rows[start:end], self.dtype)


def _same(shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if shape != wanted:
        raise ValueError(f"rows of shapes {shape} and {wanted}")


def _stamp(path: Path) -> tuple[int, ...]:
    """Tells a file from another that took its name, or its own changed bytes."""
    told = path.stat()
    return told.st_mtime_ns, told.st_size, told.st_ino


def _typed(arrays: Sequence[np.ndarray] | np.ndarray, dtype: str) -> Any:
    """The arrays in the store's dtype, without a copy where they have it; a change of kind is a TypeError."""
    if isinstance(arrays, np.ndarray):
        return arrays.astype(dtype, casting="same_kind", copy=False)
    return [np.asarray(array).astype(dtype, casting="same_kind", copy=False) for array in arrays]


def _nbytes(rows: Sequence[np.ndarray] | np.ndarray) -> int:
    held = rows.nbytes if isinstance(rows, np.ndarray) else sum(row.nbytes for row in rows)
    return held + 100 * len(rows)  # the index takes less


def _portions(rows: Sequence[np.ndarray] | np.ndarray) -> Iterator[tuple[int, int]]:
    """Spans of rows for one shard each: bounded in bytes and in number, one row at least."""
    if isinstance(rows, np.ndarray):
        step = max(1, min(_SHARD_ROWS, _SHARD_BYTES // max(1, rows[:1].nbytes)))
        yield from ((start, min(start + step, len(rows))) for start in range(0, len(rows), step))
        return
    start = held = 0
    for number, row in enumerate(rows):
        if number > start and (held + row.nbytes > _SHARD_BYTES or number - start >= _SHARD_ROWS):
            yield start, number
            start, held = number, 0
        held += row.nbytes
    yield start, len(rows)
