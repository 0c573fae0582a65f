"""What the server knows: a model, where it looks, its training pictures, and what is to be said about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from headstart import files
from headstart.data import decode
from headstart.errors import UnreadableImage
from headstart.files import hash_bytes
from headstart.records import Item, MemoryOrigin, plain
from headstart.report.picture import data_uri
from headstart.report.sentences import headline, trust
from headstart.report.words import network_name
from headstart.ship.answers import Prediction
from headstart.ship.explain import look, overlay
from headstart.ship.explaining import features_of
from headstart.ship.exported import ExportedModel
from headstart.ship.model import Model
from headstart.ship.neighbours import Neighbours

__all__ = ["Service", "named"]

_SHOWN, _THUMB = 480, 120  # pixels of the longer side
_NEIGHBOURS = 5


class Service:
    """A model that answers, explains and tells about itself. Not for several threads at once.

    `folder` is the run (or model) folder that it came from; `answerer` answers in the model's place, an export of it,
    while maps and neighbours stay the model's; `without` says why there are no neighbours.
    """

    def __init__(
        self, model: Model, folder: str | Path, *, answerer: Model | ExportedModel | None = None,
        neighbours: Neighbours | None = None, without: str = "", most_pixels: int = decode.MAX_PIXELS,
    ) -> None:  # fmt: skip
        self.answerer = answerer or model
        self.model, self.folder, self.most_pixels = model, Path(folder), most_pixels
        self.neighbours, self.without = neighbours, without

    # --- answers ------------------------------------------------------------------------------------------------

    def predict(self, pictures: Sequence[bytes]) -> list[Prediction]:
        """The answers of `predict` for encoded pictures; one of too many pixels gets an error."""
        refused = {n: why for n, data in enumerate(pictures) if (why := self._too_large(data))}
        rest = [data for n, data in enumerate(pictures) if n not in refused]
        answers = iter(self.answerer.predict(rest) if rest else ())
        return [Prediction("", error=refused[n]) if n in refused else next(answers) for n in range(len(pictures))]

    def _too_large(self, data: bytes) -> str:
        size = decode.header_size(data)
        if size is None or size[0] * size[1] <= self.most_pixels:
            return ""
        return f"{size[0]} x {size[1]} pixels are more than the {self.most_pixels / 1e6:g} million that are taken here"

    def explain(self, data: bytes) -> dict[str, Any]:
        """The answer for one picture with what it rests on: {answer, picture, map, neighbours}, pictures as data URIs.

        `map` is to be laid over `picture`; "" where there is none. An unreadable picture has an answer with an error
        and nothing else.
        """
        answer = self.predict([data])[0]
        if answer.error is not None:
            return {"answer": answer, "picture": "", "map": "", "neighbours": []}
        item = Item("picture", MemoryOrigin(data))
        seen = look(self.model, item, self.model.classes.index(answer.best or answer.label or ""))
        drawn = b"" if seen.grid is None else overlay(seen.grid, size=seen.size, card=self.model.card)
        return {
            "answer": answer,
            "picture": data_uri(decode.thumbnail(item, side=_SHOWN)),
            "map": data_uri(drawn),
            "neighbours": self._near(seen.view, hash_bytes(data)),
        }

    def _near(self, view: torch.Tensor, sha256: str) -> list[dict[str, Any]]:
        if self.neighbours is None:
            return []
        found = []
        for one in self.neighbours.nearest(features_of(self.model, view), sha256=sha256, k=_NEIGHBOURS):
            with suppress(UnreadableImage):  # gone since the start
                small = data_uri(decode.thumbnail(one.item, side=_THUMB))
                found.append({"label": one.label, "similarity": one.similarity, "same": one.same, "picture": small})
        return found

    # --- about the model ----------------------------------------------------------------------------------------

    def about(self) -> dict[str, Any]:
        """The model's card: classes, network, plan, scores with intervals, when it answers "unknown", versions."""
        model, run = self.model, self._run()
        card, source = model.card, dict(model.facts.get("source") or {})
        told: dict[str, Any] = plain({
            "name": self.folder.resolve().name, "classes": model.classes,
            "network": network_name(str(source.get("address") or "")) or card.architecture,
            "architecture": card.architecture, "input_size": card.input_size, "licence": card.licence,
            "strategy": model.plan.strategy, "head": model.head.kind,
            "engine": getattr(self.answerer, "engine", "torch"),
            "scores": _scores(run, model.facts), "sentence": headline(run).plain if run else "",
            "trust": _trust(run), "reject": None if model.reject is None else model.reject.facts(),
            "headstart": model.facts.get("headstart", ""), "versions": model.facts.get("versions", {}),
            "neighbours": 0 if self.neighbours is None else len(self.neighbours), "without_neighbours": self.without,
        })  # fmt: skip
        return told

    def _run(self) -> dict[str, Any]:
        """run.json where there is one beside the model."""
        with suppress(OSError, ValueError):
            found = files.read_json(self.folder / "run.json")
            return found if isinstance(found, dict) else {}
        return {}


def named(answer: Prediction, name: str) -> Prediction:
    """The answer with the client's own name for the picture."""
    return replace(answer, file=name)


def _scores(run: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """The measures of the sealed test set."""
    scores = run.get("scores") or facts.get("scores") or {}
    test = scores.get("test") if isinstance(scores, Mapping) else None
    if not isinstance(test, Mapping):
        return None
    names = ("n", "accuracy", "accuracy_interval", "balanced_accuracy", "macro_f1", "log_loss", "per_class")
    return {name: test.get(name) for name in names}


def _trust(run: Mapping[str, Any]) -> dict[str, Any] | None:
    if not run:
        return None
    answer, reasons = trust(run)
    return {"answer": answer, "reasons": list(reasons)}
