"""The training pictures that are most like a new one, by the cosine of their features about the training mean.

A model keeps the hashes of the pictures that it was made with. They are found again by these in the run's data, so that
only pictures that the model has seen are ever shown; their features come from the store, or are computed again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart import files
from headstart.data import decode
from headstart.data.facts import load_data
from headstart.errors import DataError, UnreadableImage
from headstart.progress import Reporter, Silent
from headstart.records import Dataset, Item
from headstart.ship.evaluate import SEEN_DIGITS
from headstart.ship.model import Model
from headstart.transfer.features import Pass, embed

__all__ = ["MOST", "Neighbour", "Neighbours", "find_neighbours"]

Array = npt.NDArray[Any]

MOST = 20_000
"""Training pictures that are looked at; of more, evenly spread ones."""

_REMEDY = "Give the data as --data, or use --no-neighbours."


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


def find_neighbours(
    model: Model, folder: str | Path, *, data: Any = None, reporter: Reporter | None = None
) -> Neighbours:
    """The pictures that the model in the run folder `folder` was made with, found in its data or in `data`.

    Identical pictures are there once. Raises DataError when they are not there any more, or when the run does not say
    where they were.
    """
    reporter = reporter or Silent()
    dataset = _dataset(Path(folder).expanduser(), data)
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


def _dataset(folder: Path, data: Any) -> Dataset:
    """The data that the run was made with, where they are now."""
    if data is not None:
        return load_data(data, fewest=1)
    path, group = None, None
    try:
        path = str(files.read_json(folder / "run.json")["data"]["path"])
        started = files.read_json(folder / "settings.json")
        base, group = Path(started["directory"]), started["settings"].get("group")
        if not Path(path).exists() and (base / path).exists():
            path = str(base / path)
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        if path is None:
            what = "the folder does not say where the training pictures are"
            raise DataError(what, where=folder, remedy=_REMEDY) from error
    if path == "memory":
        raise DataError("the training pictures were in memory and are gone", where=folder, remedy=_REMEDY)
    try:
        return load_data(path, fewest=1, group=group)
    except DataError as error:
        raise DataError(f"the training pictures are not there: {error.what}", where=path, remedy=_REMEDY) from error


def _seen(model: Model, dataset: Dataset, reporter: Reporter) -> tuple[list[Item], list[str]]:
    """The items whose bytes the model was made with, once each, and their sha256."""
    wanted = set(model.facts.get("seen", ()))
    items: list[Item] = []
    hashes: list[str] = []
    with reporter.progress("Looking for the training pictures", len(dataset.items)) as bar:
        for item in dataset.items:
            bar.advance()
            try:
                sha256 = files.hash_bytes(decode.read_bytes(item))
            except UnreadableImage:
                continue
            if sha256[:SEEN_DIGITS] in wanted:
                wanted.discard(sha256[:SEEN_DIGITS])
                items.append(item)
                hashes.append(sha256)
    if not items:
        what = "none of these pictures is one that the model was made with"
        raise DataError(what, where=dataset.path, remedy=_REMEDY)
    if wanted:
        reporter.note(f"{len(wanted)} of the model's training pictures are not in {dataset.path} any more")
    return items, hashes
