"""Pictures explained: the answer, where the model looked, what would flip it, and the training pictures like it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headstart import files
from headstart.data import decode
from headstart.data.augment import normalise
from headstart.errors import UnreadableImage
from headstart.files import hash_bytes
from headstart.progress import Reporter, Silent
from headstart.records import Item, plain
from headstart.report.explained import Explained, render
from headstart.report.picture import Picture
from headstart.ship.explain import Look, covered, flip, look, overlay, shares_of_picture
from headstart.ship.model import Model, Prediction
from headstart.ship.neighbours import Neighbour, Neighbours
from headstart.sources.base import evaluating
from headstart.transfer.precision import exact

__all__ = ["explain_items", "features_of", "write_explanations"]

_SHOWN, _THUMB = 480, 120  # pixels of the longer side
_NEAREST = 5


@dataclass(frozen=True, slots=True)
class _Found:
    """What is known of one picture before it is drawn."""

    item: Item
    answer: Prediction
    seen: Look
    flipped: dict[str, Any] | None
    near: tuple[Neighbour, ...]


def explain_items(
    model: Model, items: Sequence[Item], *, neighbours: Neighbours | None = None, reporter: Reporter | None = None
) -> list[Explained]:
    """Explanations of some items, in their order; an item that cannot be read has an error and nothing else."""
    reporter, found = reporter or Silent(), []
    answers = model.predict_items(items)
    with reporter.progress("Explaining", len(items)) as bar:
        for item, answer in zip(items, answers, strict=True):
            found.append(_explained(model, item, answer, neighbours))
            bar.advance()
    return found


def _explained(model: Model, item: Item, answer: Prediction, neighbours: Neighbours | None) -> Explained:
    if answer.error is not None:
        return Explained(plain(answer.as_dict()))
    label = model.classes.index(answer.best or answer.label or "")
    try:
        seen, sha256 = look(model, item, label), hash_bytes(decode.read_bytes(item))
    except UnreadableImage as error:  # it was readable a moment ago
        return Explained({"file": answer.file, "error": error.reason})
    flipped = flip(model, seen.view, label)
    near = neighbours.nearest(features_of(model, seen.view), sha256=sha256, k=_NEAREST) if neighbours else []
    return _drawn(model, _Found(item, answer, seen, flipped, tuple(near)), label)


def features_of(model: Model, view: torch.Tensor) -> np.ndarray:
    """The features (d,) of one uint8 view (3, h, w)."""
    with evaluating(model.net), exact(model.device), torch.inference_mode():
        inputs = normalise(view[None].to(model.device), model.card)
        row: np.ndarray = model.net.source(inputs, model.net.pooling)[0].float().cpu().numpy()
    return row


def _drawn(model: Model, found: _Found, label: int) -> Explained:
    """The facts as JSON knows them, and the pictures of the page."""
    answer, seen, card = found.answer, found.seen, model.card
    ranked = sorted(answer.probabilities.items(), key=lambda entry: -entry[1])
    runner_up, second = ranked[1] if len(ranked) > 1 else (None, 0.0)
    box = None
    if found.flipped is not None:
        box = shares_of_picture(found.flipped["box"], size=seen.size, card=card)
    facts = answer.as_dict() | {
        "runner_up": runner_up,
        "margin": (answer.probability or 0.0) - second,
        "looked_at": None if seen.grid is None else seen.grid,
        "covered": None if seen.grid is None else covered(model, seen.view, seen.grid, label),
        "flip": None if found.flipped is None else {**found.flipped, "box": box},
        "neighbours": [
            {"file": one.item.name, "label": one.label, "similarity": one.similarity, "same": one.same}
            for one in found.near
        ],
    }
    drawn = b"" if seen.grid is None else overlay(seen.grid, size=seen.size, card=card)
    shown = [_picture(one.item, one.label, note=f"likeness {one.similarity:.2f}") for one in found.near]
    return Explained(
        plain(facts), _picture(found.item, "", drawn, side=_SHOWN), box, tuple(one for one in shown if one is not None)
    )


def _picture(item: Item, label: str, drawn: bytes = b"", *, side: int = _THUMB, note: str = "") -> Picture | None:
    with suppress(UnreadableImage):  # gone since
        return Picture(item.name, decode.thumbnail(item, side=side), label, map=drawn, note=note)
    return None


def write_explanations(folder: Path, found: Sequence[Explained]) -> None:
    """Write explain.html and explain.json into a folder. Raises OutputError when it cannot be written."""
    files.write_text(folder / "explain.html", render(found))
    files.write_json(folder / "explain.json", [one.facts for one in found])
