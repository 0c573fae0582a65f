"""Picture cells of Parquet files: fast random access with a small memory of open files and row groups.

A cell is plain binary or the Hugging Face struct {bytes, path}. The memory belongs to one process: it is dropped after
a fork, so that workers never share a file position or a held lock.
"""

from __future__ import annotations

import bisect
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.errors import MissingExtraError

__all__ = ["MEMORY_BYTES", "cell", "clear", "open_parquet"]

MEMORY_BYTES = 128 << 20
"""How many bytes of row groups one process keeps; the row group in use is kept whatever its size."""

_MAX_FILES = 16


@dataclass(frozen=True, slots=True)
class _Opened:
    stamp: tuple[int, int]  # size and time of change: a replaced file is opened anew
    file: Any
    starts: tuple[int, ...]  # first row of every row group


_lock = threading.Lock()
_files: OrderedDict[str, _Opened] = OrderedDict()
_groups: OrderedDict[tuple[str, str, int], Any] = OrderedDict()


def open_parquet(path: Path) -> Any:
    """Open a Parquet file with pyarrow.

    Raises MissingExtraError without pyarrow, OSError when the file cannot be opened, ValueError when it is
    no Parquet file.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "data", "reading Parquet files") from None
    return pyarrow.parquet.ParquetFile(path)


def cell(path: Path, row: int, *, column: str) -> Any:
    """The value of one cell: bytes, a dict {bytes, path}, a string or None. `row` counts over the whole file.

    Raises IndexError when the file has no such row, OSError or ValueError when it cannot be read.
    """
    with _lock:
        chunk, start = _row_group(path, row, column)
    return chunk[row - start].as_py()


def clear() -> None:
    """Forget and close every open file."""
    global _lock
    _lock = threading.Lock()
    _files.clear()
    _groups.clear()


def _row_group(path: Path, row: int, column: str) -> tuple[Any, int]:
    opened = _opened(path)
    number = bisect.bisect_right(opened.starts, row) - 1
    if row < 0 or number >= len(opened.starts) - 1:
        raise IndexError(f"no row {row}")
    key = (str(path), column, number)
    if key in _groups:
        _groups.move_to_end(key)
    else:
        _groups[key] = opened.file.read_row_group(number, columns=[column]).column(0)
        while len(_groups) > 1 and sum(chunk.nbytes for chunk in _groups.values()) > MEMORY_BYTES:
            _groups.popitem(last=False)
    return _groups[key], opened.starts[number]


def _opened(path: Path) -> _Opened:
    facts = path.stat()
    stamp = (facts.st_size, facts.st_mtime_ns)
    key = str(path)
    known = _files.get(key)
    if known is not None and known.stamp == stamp:
        _files.move_to_end(key)
        return known
    for group in [group for group in _groups if group[0] == key]:
        del _groups[group]
    file = open_parquet(path)
    starts = [0]
    for number in range(file.metadata.num_row_groups):
        starts.append(starts[-1] + file.metadata.row_group(number).num_rows)
    _files[key] = _Opened(stamp, file, tuple(starts))
    while len(_files) > _MAX_FILES:
        _files.popitem(last=False)
    return _files[key]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=clear)
