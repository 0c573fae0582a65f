"""Puts computed rows on disk from a thread of its own, so that the next ones need not wait for the disk."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from headstart.data.store import ArrayStore

__all__ = ["Writer"]

_SHARD_ROWS, _SHARD_BYTES = 2048, 64 << 20
_SECONDS = 10.0  # of computing that a kill may cost, or 2,048 rows where that is more


class Writer:
    """Collects rows of one store into whole shards. `add` and `close` raise the OutputError of an earlier write."""

    def __init__(self, store: ArrayStore) -> None:
        self.store = store
        self._keys: list[str] = []
        self._rows: list[np.ndarray] = []
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._writing: Future[None] | None = None
        self._since = time.monotonic()

    def add(self, keys: Sequence[str], rows: np.ndarray) -> None:
        """Rows (n, width) by content hash; they must not be changed afterwards."""
        self._keys += keys
        self._rows.append(rows)
        many = len(self._keys) >= _SHARD_ROWS and time.monotonic() - self._since >= _SECONDS
        if many or len(self._keys) * rows[:1].nbytes >= _SHARD_BYTES:
            self._write()

    def _write(self) -> None:
        self._wait()
        keys, rows, self._keys, self._rows = self._keys, self._rows, [], []
        self._since = time.monotonic()
        self._writing = self._pool.submit(lambda: self.store.put(keys, np.concatenate(rows)))

    def _wait(self) -> None:
        """At most one shard is on its way: a slow disk holds the computation up and does not fill the memory."""
        if self._writing is not None:
            done, self._writing = self._writing, None
            done.result()

    def close(self) -> None:
        """Write what is left and wait for it."""
        try:
            if self._keys:
                self._write()
            self._wait()
        finally:
            self.stop()

    def stop(self) -> None:
        """Wait for what is on its way and write no more."""
        self._pool.shutdown()
