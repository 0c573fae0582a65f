"""What the head of a model was fitted on, kept in its folder so that `extend` can go on from there. No pictures.

learned.safetensors holds the sha256 and the class of every training picture, and of those it was judged on;
statistics.safetensors, for a ridge head on frozen features, what that head has to know of them (transfer.statistics).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart import files, tensors
from headstart.data.augment import Augmentation, View
from headstart.data.store import hash_table
from headstart.errors import ModelError
from headstart.records import plain
from headstart.transfer.statistics import Statistics

__all__ = ["LEARNED", "STATISTICS", "Known", "Learned", "read_learned"]

LEARNED, STATISTICS = "learned.safetensors", "statistics.safetensors"
_PARTS = ("training", "judged")
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Known:
    """Pictures by the sha256 of their bytes, with their class numbers [n]."""

    hashes: tuple[str, ...]
    labels: Array

    @classmethod
    def of(cls, hashes: Sequence[str] = (), labels: Sequence[int] | Array = ()) -> Known:
        """Of parallel lists."""
        return cls(tuple(hashes), np.asarray(labels, dtype=np.int64).reshape(-1))

    def __len__(self) -> int:
        return len(self.hashes)

    def __add__(self, other: Known) -> Known:
        return Known(self.hashes + other.hashes, np.concatenate([self.labels, other.labels]))

    def among(self, other: Known) -> Array:
        """Which of them are in another list, bool [n]."""
        known = set(other.hashes)
        return np.array([name in known for name in self.hashes], dtype=bool)

    def without(self, other: Known) -> Known:
        """Those that are not in another list."""
        return self.only(~self.among(other))

    def only(self, kept: Array) -> Known:
        """Those of a bool [n]."""
        return Known(tuple(name for name, yes in zip(self.hashes, kept, strict=True) if yes), self.labels[kept])


@dataclass(frozen=True)
class Learned:
    """What a head was fitted on: `training` pictures, each in the centre view and in `views`; `judged` were held out.

    `seed`, `precision` and the kind of `device` are the run's; `statistics` those of a ridge head on frozen features.
    """

    training: Known
    judged: Known
    views: tuple[View, ...] = ()
    seed: int = 0
    precision: str = "fp32"
    device: str = "cpu"
    statistics: Statistics | None = None

    def contents(self) -> dict[str, bytes]:
        """The files, by name."""
        from safetensors.numpy import save

        told = {
            "views": plain(self.views), "seed": self.seed, "precision": self.precision, "device": self.device,
        }  # fmt: skip
        arrays = {}
        for name, known in zip(_PARTS, (self.training, self.judged), strict=True):
            arrays[f"{name}.sha256"] = hash_table(known.hashes).view(np.uint8).reshape(-1, 32)
            arrays[f"{name}.label"] = known.labels
        found = {LEARNED: save(arrays, metadata={"headstart": json.dumps(told)})}
        if self.statistics is not None:
            arrays = {name: np.ascontiguousarray(array) for name, array in self.statistics.tensors().items()}
            found[STATISTICS] = save(arrays)
        return found


def read_learned(place: Path) -> Learned | None:
    """What a model folder that was opened without complaint lists; None in one of an earlier headstart.

    A file that is not listed is of a model that stood there before. Raises ModelError where one is not as we write it.
    """
    from safetensors import SafetensorError, safe_open

    record = files.read_json(place / "headstart.json")
    if LEARNED not in record["files"]:
        return None
    k = len(record["classes"])
    try:
        arrays = tensors.read(place / LEARNED)
        with safe_open(place / LEARNED, framework="numpy") as opened:
            told: Mapping[str, Any] = files.parse_json(opened.metadata()["headstart"].encode())
        training, judged = (_known(arrays[f"{name}.sha256"], arrays[f"{name}.label"], k) for name in _PARTS)
        views = tuple(_view(entry) for entry in told["views"])
        found = Learned(training, judged, views, int(told["seed"]), str(told["precision"]), str(told["device"]))
        if STATISTICS in record["files"]:
            float(record["head"]["chosen"]["alpha"])  # without which they are of no use
            found = replace(found, statistics=Statistics.from_tensors(tensors.read(place / STATISTICS)))
    except (OSError, ValueError, KeyError, TypeError, IndexError, SafetensorError) as error:
        raise ModelError(
            f"the file cannot be read: {str(error)[:200]}", where=place / LEARNED, remedy="Copy the whole folder again."
        ) from error
    return found


def _known(hashes: Array, labels: Array, k: int) -> Known:
    """Pictures of k classes from arrays that others may have made. Raises ValueError where they are none."""
    if hashes.dtype != np.uint8 or hashes.shape != (len(labels), 32) or labels.dtype != np.int64 or labels.ndim != 1:
        raise ValueError("it holds no hashes with labels")
    if len(labels) and not 0 <= labels.min() <= labels.max() < k:
        raise ValueError("a label is no class")
    return Known.of([bytes(row).hex() for row in hashes], labels)


def _view(told: Mapping[str, Any]) -> View:
    """The View that `plain` made these facts of."""
    augmentation = None if told["augmentation"] is None else Augmentation(**told["augmentation"])
    return View(told["kind"], told["number"], augmentation, told["seed"])
