"""One shard of a store: a safetensors file of rows, mapped into memory and checked row by row.

A shard is written whole and never changed afterwards. Its tensors are `offsets` (n,) and `shapes` (n, dimensions),
both int64 (a shape is filled up with -1), `checksums` (n,), `hashes` (n, 32) and the flat `data`; any safetensors
reader opens it. Reading maps the file: nothing is loaded but the index and the rows that are asked for. A small one is
read instead: a mapped file takes one of the files that a process may have open.
"""

from __future__ import annotations

import json
import mmap
import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from headstart import files

__all__ = ["CODES", "Shard", "hash_table", "read_head", "write_shard"]

CODES = {"float32": "F32", "float16": "F16", "uint8": "U8"}
"""The dtypes that a store may hold, with safetensors' words for them."""

_LONGEST_HEADER = 1 << 20
_SMALL = 1 << 20  # bytes up to which a shard is read, not mapped
_UNKNOWN, _GOOD, _BAD = 0, 1, -1


def hash_table(hashes: Sequence[str]) -> np.ndarray:
    """Hex sha256 as an array of 32 bytes each; equal bytes compare equal, and sorting is exact."""
    return np.frombuffer(bytes.fromhex("".join(hashes)), dtype="S32")


def _checksums(hashes: np.ndarray, shapes: np.ndarray, data: memoryview, spans: np.ndarray) -> np.ndarray:
    """A crc32 for each row over its hash, its shape and its bytes data[start:end]."""
    index = np.concatenate([hashes.view(np.uint8).reshape(-1, 32), shapes.view(np.uint8).reshape(len(shapes), -1)], 1)
    told, width, crc = memoryview(index.tobytes()), index.shape[1], zlib.crc32
    starts, ends = spans[:, 0].tolist(), spans[:, 1].tolist()
    sums = (
        crc(data[start:end], crc(told[number * width : (number + 1) * width]))
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
    )
    return np.fromiter(sums, dtype=np.int64, count=len(shapes))


def write_shard(path: Path, hashes: np.ndarray, arrays: Sequence[np.ndarray] | np.ndarray, dtype: str) -> int:
    """Write rows of one dtype as a whole shard and return its bytes. Raises OutputError when the disk refuses."""
    whole = arrays if isinstance(arrays, np.ndarray) else None
    if whole is not None:
        parts, shapes = [whole], np.tile(np.array(whole.shape[1:], dtype=np.int64), (len(whole), 1))
    else:
        parts, deepest = list(arrays), max((array.ndim for array in arrays), default=0)
        shapes = np.full((len(parts), deepest), -1, dtype=np.int64)
        for number, array in enumerate(parts):
            shapes[number, : array.ndim] = array.shape
    sizes = _sizes(shapes)
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    spans = np.stack([offsets, offsets + sizes], 1)
    width = np.dtype(dtype).itemsize
    buffers = [np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in parts]
    if whole is not None:
        sums = _checksums(hashes, shapes, buffers[0].data, spans * width)
    else:
        each = (
            _checksums(hashes[n : n + 1], shapes[n : n + 1], buffer.data, np.array([[0, len(buffer)]]))
            for n, buffer in enumerate(buffers)
        )
        sums = np.concatenate([*each])
    index = {"offsets": offsets, "shapes": shapes, "checksums": sums, "hashes": hashes.view(np.uint8).reshape(-1, 32)}
    head, at = dict[str, object](), 0
    for name, table in index.items():
        head[name] = _entry("U8" if name == "hashes" else "I64", table.shape, at, at := at + table.nbytes)
    total = int(sizes.sum())
    head["data"] = _entry(CODES[dtype], (total,), at, at := at + total * width)
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with files.write_stream(path) as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for table in (*index.values(), *buffers):
            stream.write(np.ascontiguousarray(table).data)
    return 8 + len(text) + at


def _entry(dtype: str, shape: Sequence[int], start: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def _sizes(shapes: np.ndarray) -> np.ndarray:
    """Elements of each row; -1 in a shape stands for no dimension."""
    sizes: np.ndarray = np.where(shapes == -1, 1, shapes).prod(1, dtype=np.int64)
    return sizes


def read_head(path: Path) -> dict[str, Any]:
    """What a safetensors file says of its tensors, without reading them. Raises OSError or ValueError."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= _LONGEST_HEADER:
            raise ValueError("no safetensors header")
        told = files.parse_json(stream.read(length))
    if not isinstance(told, dict):
        raise ValueError("no safetensors header")
    return told


class Shard:
    """A mapped shard. Raises OSError or ValueError when the file cannot be read or is no whole shard of this dtype."""

    def __init__(self, path: Path, dtype: str) -> None:
        self._map: mmap.mmap | bytes
        with path.open("rb") as stream:
            small = os.fstat(stream.fileno()).st_size <= _SMALL
            self._map = stream.read() if small else mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self.path, self.nbytes = path, len(self._map)
        try:
            self._read(dtype)
        except (KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise ValueError(f"no shard: {error}") from error

    def _read(self, dtype: str) -> None:
        length = int.from_bytes(self._map[:8], "little")
        if length > min(_LONGEST_HEADER, len(self._map) - 8):
            raise ValueError("no safetensors header")
        head, body = (
            files.parse_json(bytes(self._map[8 : 8 + length])),
            np.frombuffer(self._map, dtype=np.uint8)[8 + length :],
        )

        def table(name: str, code: str, kind: str) -> np.ndarray:
            start, end = head[name]["data_offsets"]
            if head[name]["dtype"] != code or not 0 <= start <= end <= len(body):
                raise ValueError(f"no {name} of this kind")
            return body[start:end].view(kind).reshape(head[name]["shape"])

        offsets, shapes = (np.array(table(name, "I64", "<i8")) for name in ("offsets", "shapes"))
        self._sums, hashes = np.array(table("checksums", "I64", "<i8")), np.array(table("hashes", "U8", "u1"))
        self._data = table("data", CODES[dtype], dtype)
        rows = len(hashes)
        fits = (offsets.shape, self._sums.shape, hashes.shape, shapes.ndim) == ((rows,), (rows,), (rows, 32), 2)
        if not fits or len(shapes) != rows or self._data.ndim != 1 or head["data"]["data_offsets"][1] != len(body):
            raise ValueError("parts of different lengths")
        self.hashes = hashes.reshape(-1).view("S32")
        self._index(offsets, shapes)

    def _index(self, offsets: np.ndarray, shapes: np.ndarray) -> None:
        """Where each row lies; a row that points out of the file is bad from the start."""
        total = len(self._data)
        with np.errstate(all="ignore"):  # a damaged shape may be of any size
            exact = np.where(shapes == -1, 1.0, shapes).prod(1)
            sizes = _sizes(shapes)
        possible = (shapes >= -1).all(1) & (exact <= total)
        inside = possible & (offsets >= 0) & (offsets <= total) & (offsets + sizes <= total)
        self._spans = np.stack([offsets, offsets + sizes], 1)
        self._spans[~inside] = 0
        self._shapes, self._state = shapes, np.where(inside, _UNKNOWN, _BAD).astype(np.int8)
        self.table: np.ndarray | None = None  # all rows as one array, where they have one shape and lie in order
        if not len(shapes) or not inside.all() or not (shapes == shapes[0]).all():
            return
        if total == sizes.sum() and (offsets == np.arange(len(shapes)) * sizes[0]).all():
            self.table = self._data.reshape(len(shapes), *self._shape(0))

    def _shape(self, row: int) -> tuple[int, ...]:
        return tuple(int(side) for side in self._shapes[row] if side >= 0)

    def __len__(self) -> int:
        return len(self.hashes)

    def good(self, rows: np.ndarray) -> np.ndarray:
        """Which of `rows` (positions) are undamaged, bool; each is read and checked once."""
        asked = rows[self._state[rows] == _UNKNOWN]
        if len(asked):
            spans = self._spans[asked] * self._data.itemsize
            data = self._data.view(np.uint8).data
            for part in np.array_split(np.arange(len(asked)), max(1, int(np.ptp(spans) >> 25))):
                chosen = asked[part]
                found = _checksums(self.hashes[chosen], self._shapes[chosen], data, spans[part])
                self._state[chosen] = np.where(found == self._sums[chosen], _GOOD, _BAD)
                self.forget()
        right: np.ndarray = self._state[rows] == _GOOD
        return right

    def row(self, number: int) -> np.ndarray:
        """One row: a read-only view of the file."""
        if self.table is not None:
            view: np.ndarray = self.table[number]
            return view
        start, end = self._spans[number]
        return self._data[start:end].reshape(self._shape(number))

    def forget(self) -> None:
        """Let the system take the pages that were read out of this process's memory; they stay readable."""
        with suppress(AttributeError, OSError, ValueError):  # not every system can
            if isinstance(self._map, mmap.mmap):
                self._map.madvise(mmap.MADV_DONTNEED)
