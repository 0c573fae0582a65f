"""Questions and answers: what may be asked, and what is said back. A Model and an export share them. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data import read
from headstart.errors import DataError
from headstart.judge.calibration import softmax
from headstart.records import Item, MemoryOrigin, Skipped

__all__ = ["UNKNOWN", "Answers", "Prediction", "items_of", "predictions"]

UNKNOWN = "unknown"
"""The label where the reject option gives no answer."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one input; `error` says why there is none.

    Where the reject option refuses, `label` is "unknown", `best` the likeliest class and `probability` its own.
    """

    file: str
    label: str | None = None
    probability: float | None = None
    probabilities: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    best: str | None = None

    def as_dict(self, top_k: int | None = None) -> dict[str, Any]:
        """What `predict --json` prints: {file, label, probability, probabilities} or {file, error}.

        Only where the reject option refused there is `best` too, the likeliest class.
        """
        if self.error is not None:
            return {"file": self.file, "error": self.error}
        ranked = sorted(self.probabilities.items(), key=lambda entry: -entry[1])
        shown = dict(ranked[:top_k]) if top_k else dict(self.probabilities)
        refused = {} if self.best is None else {"best": self.best}
        return {
            "file": self.file, "label": self.label, **refused, "probability": self.probability, "probabilities": shown,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answers:
    """Logits float32 (n, classes), NaN where an item cannot be read; whether each gets a label; what was skipped."""

    logits: np.ndarray
    known: np.ndarray
    skipped: tuple[Skipped, ...]


def predictions(items: Sequence[Item], found: Answers, classes: Sequence[str]) -> list[Prediction]:
    """The answers of items in words."""
    reasons = {entry.file: entry.reason for entry in found.skipped}
    answers = []
    for item, row, known in zip(items, softmax(found.logits), found.known, strict=True):
        if np.isnan(row).any():
            answers.append(Prediction(item.name, error=reasons.get(item.name, "the answer is not a number")))
            continue
        likeliest = classes[place := int(row.argmax())]
        label, best = (likeliest, None) if known else (UNKNOWN, likeliest)
        chances = {name: float(p) for name, p in zip(classes, row, strict=True)}
        answers.append(Prediction(item.name, label, float(row[place]), chances, best=best))
    return answers


def items_of(inputs: Any) -> list[Item]:
    """Unlabelled items for what a user may give: paths, folders, PIL images, arrays, encoded bytes, alone or many.

    Raises DataError when a path does not exist, when a folder holds no picture, or when nothing was given.
    """
    items: list[Item] = []
    for entry in _listed(inputs):
        if isinstance(entry, (str, os.PathLike)):
            items += read.find_images([Path(entry).expanduser()])
        else:
            items.append(Item(f"item-{len(items):06d}", MemoryOrigin(entry)))
    if not items:
        raise DataError("no pictures were given", remedy="Give files, folders, PIL images or arrays.")
    return items


def _listed(inputs: Any) -> list[Any]:
    """One input as a list of one; an array (n, h, w, 3), or (n, h, w) of grey pictures, as its pictures."""
    from PIL import Image

    if isinstance(inputs, (str, os.PathLike, bytes, bytearray, Image.Image)):
        return [inputs]
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind not in "OUS":
        one = inputs.ndim < 3 or (inputs.ndim == 3 and inputs.shape[-1] in (1, 3, 4))
        return [inputs] if one else list(inputs)
    if not isinstance(inputs, Iterable):
        raise DataError(f"a {type(inputs).__name__} is no picture", remedy="Give files, folders, PIL images or arrays.")
    return list(inputs)
