"""Rows of pictures that a finished model has dealt with: kept ones, and others from the pictures where these are found.

Features are kept under the hash of a picture's bytes, so they may be there when the picture is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart import files
from headstart.data import decode
from headstart.data.augment import View
from headstart.errors import UnreadableImage
from headstart.progress import Reporter, Silent
from headstart.records import Dataset, Item, MemoryOrigin
from headstart.ship.evaluate import SEEN_DIGITS
from headstart.ship.learned import Known
from headstart.sources.base import Source
from headstart.transfer.features import Pass, embed

__all__ = ["Album", "Recalled", "recall"]

Array = npt.NDArray[Any]


class Album:
    """The pictures of a run by the sha256 of their bytes, read when they are first asked for.

    Without a data set there are none, and `why` says for what reason.
    """

    def __init__(self, dataset: Dataset | None, *, why: str = "", reporter: Reporter | None = None) -> None:
        self.dataset, self.why, self._reporter = dataset, why, reporter or Silent()
        self._found: dict[str, Item] | None = None

    @property
    def items(self) -> Mapping[str, Item]:
        """One item for each content."""
        if self._found is None:
            self._found = {}
            items = self.dataset.items if self.dataset is not None else ()
            with self._reporter.progress("Looking for the old pictures", len(items)) as bar:
                for item in items:
                    bar.advance()
                    try:
                        self._found.setdefault(files.hash_bytes(decode.read_bytes(item)), item)
                    except UnreadableImage:
                        continue
        return self._found

    def seen(self, digits: frozenset[str], classes: tuple[str, ...]) -> Known:
        """Pictures of these classes whose hash begins with one of these digits: what an earlier headstart kept."""
        if self.dataset is None:
            return Known.of()
        place = {number: classes.index(name) for number, name in enumerate(self.dataset.classes) if name in classes}
        rows = [(key, place.get(item.label or 0)) for key, item in self.items.items() if key[:SEEN_DIGITS] in digits]
        kept = sorted((key, label) for key, label in rows if label is not None)
        return Known.of([key for key, _ in kept], [label for _, label in kept])


@dataclass(frozen=True)
class Recalled:
    """A table [n, d] for each view, rows of NaN where `there` [n] is False, and how many pictures were looked at."""

    rows: tuple[Array, ...]
    there: Array
    computed: int


def recall(
    source: Source, known: Known, album: Album, *, how: Pass, views: tuple[View, ...], reporter: Reporter
) -> Recalled:
    """The features of known pictures in some views: from the store, else computed again from the album."""
    items = [Item(name, MemoryOrigin(b"")) for name in known.hashes]
    hashes = {name: name for name in known.hashes}
    tables = [_embedded(source, items, hashes, how=how, view=view, reporter=Silent()) for view in views]
    there = np.all([np.isfinite(table).all(axis=1) for table in tables], axis=0)
    lost = np.flatnonzero(~there)
    found = [int(i) for i in lost if known.hashes[i] in album.items] if len(lost) else []
    if found:
        for i in found:
            items[i] = replace(album.items[known.hashes[i]], name=known.hashes[i])
        tables = [_embedded(source, items, hashes, how=how, view=view, reporter=reporter) for view in views]
        there = np.all([np.isfinite(table).all(axis=1) for table in tables], axis=0)
    return Recalled(tuple(tables), there, len(found))


def _embedded(
    source: Source, items: list[Item], hashes: Mapping[str, str], *, how: Pass, view: View, reporter: Reporter
) -> Array:
    found = embed(source, items, hashes=hashes, how=replace(how, view=view), reporter=reporter)
    return np.asarray(found.array, dtype=np.float32)
