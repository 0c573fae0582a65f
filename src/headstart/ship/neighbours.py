"""The training pictures that are most like a new one, by the cosine of their features about the training mean.

A model keeps the hashes of the pictures that it was made with. They are found again by these in the run's data, so that
only pictures that the model has seen are ever shown; their features come from the store, or are computed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.errors import DataError
from headstart.progress import Progress, Reporter, Silent
from headstart.records import Dataset, Item
from headstart.ship.evaluate import seen_items
from headstart.ship.model import Model
from headstart.transfer.features import Pass, embed

__all__ = ["MOST", "Neighbour", "Neighbours", "find_neighbours"]

Array = npt.NDArray[Any]

MOST = 20_000
"""Training pictures that are looked at; of more, evenly spread ones."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A training picture like the one that was asked about; `same` says that it is the very same file."""

    item: Item
    label: str
    similarity: float
    same: bool = False


class Neighbours:
    """The training pictures of a model with their features."""

    def __init__(self, items: Sequence[Item], hashes: Sequence[str], labels: Sequence[str], rows: Array) -> None:
        self.items, self.hashes, self.labels = tuple(items), tuple(hashes), tuple(labels)
        self._mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._bank = _unit(rows - self._mean)

    def __len__(self) -> int:
        return len(self.items)

    def nearest(self, features: Array, *, sha256: str = "", k: int = 5) -> list[Neighbour]:
        """The `k` training pictures whose features are most like one row of raw features (d,), the nearest first.

        The similarity is a cosine, from -1 to 1. `sha256` are the picture's own bytes', to know it again.
        """
        similarity = self._bank @ _unit(np.asarray(features, dtype=np.float32)[None] - self._mean)[0]
        best = np.argsort(-similarity, kind="stable")[:k]
        return [Neighbour(self.items[i], self.labels[i], float(similarity[i]), self.hashes[i] == sha256) for i in best]


def _unit(rows: Array) -> Array:
    unit: Array = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit


def find_neighbours(model: Model, dataset: Dataset, *, reporter: Reporter | None = None) -> Neighbours:
    """The pictures in `dataset` that the model was made with. Identical ones are there once.

    Raises DataError when none of them is.
    """
    reporter = reporter or Silent()
    items, hashes = _seen(model, dataset, reporter)
    if len(items) > MOST:
        chosen = np.linspace(0, len(items) - 1, MOST).astype(int)
        reporter.note(f"{MOST} of {len(items)} training pictures are looked at for neighbours")
        items, hashes = [items[i] for i in chosen], [hashes[i] for i in chosen]
    found = embed(
        model.net.source,
        items,
        hashes={item.name: sha256 for item, sha256 in zip(items, hashes, strict=True)},
        how=Pass(pooling=model.net.pooling, device=model.device),
        reporter=reporter,
    )
    rows = np.asarray(found.array, dtype=np.float32)
    there = np.flatnonzero(np.isfinite(rows).all(axis=1))
    labels = ["" if item.label is None else dataset.classes[item.label] for item in items]
    return Neighbours([items[i] for i in there], [hashes[i] for i in there], [labels[i] for i in there], rows[there])


def _seen(model: Model, dataset: Dataset, reporter: Reporter) -> tuple[list[Item], list[str]]:
    """The items whose bytes the model was made with, once each, and their sha256."""
    seen = model.facts.get("seen", ())
    with reporter.progress("Looking for the training pictures", len(dataset.items)) as bar:
        found = list(seen_items(_counted(dataset.items, bar), seen))
    if not found:
        raise DataError(
            "none of these pictures is one that the model was made with",
            where=dataset.path,
            remedy="Give the data as --data, or use --no-neighbours.",
        )
    if missing := len(set(seen)) - len(found):
        reporter.note(f"{missing} of the model's training pictures are not in {dataset.path} any more")
    return [item for item, _ in found], [sha256 for _, sha256 in found]


def _counted(items: Sequence[Item], bar: Progress) -> Iterator[Item]:
    for item in items:
        bar.advance()
        yield item
