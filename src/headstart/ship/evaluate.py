"""A Model judged on labelled data, and whether it has seen those pictures before."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from headstart.data import decode
from headstart.data.audit import stop_if_hopeless
from headstart.errors import DataError, UnreadableImage
from headstart.files import hash_bytes
from headstart.judge import scoring
from headstart.judge.trust import refusals
from headstart.progress import Reporter, Silent
from headstart.records import Dataset, Item, plain
from headstart.ship.model import Model, softmax

__all__ = ["SEEN_DIGITS", "evaluate_model", "seen_items"]

SEEN_DIGITS = 16
"""Hexadecimal digits of a picture's sha256 that a model keeps to know it again."""


def evaluate_model(
    model: Model, dataset: Dataset, *, split: str | None = None, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Scores of `model` on a split of `dataset` as a plain dict, classes matched by name.

    `seen` counts the pictures that the model was made with (the same bytes); where there are some, `unseen` holds the
    scores on the others, which are the ones to believe (None when there are no others). The scores count the likeliest
    class of every picture; `unknown`, where the model has a reject option, says what it refuses and how good the rest
    is. Raises DataError when the data hold a class that the model does not know, or no such split, and when more than
    half of the pictures cannot be read for one cause, or none can.
    """
    _check_classes(model, dataset)
    split, items = _chosen(dataset, split)
    answers = model.answers(items, reporter=reporter or Silent())
    unread = {entry.file: entry.reason for entry in answers.skipped}
    stop_if_hopeless(dataset.path, [(item.name, unread.get(item.name, "")) for item in items])
    read = [n for n, item in enumerate(items) if item.name not in unread]
    if not read:
        raise DataError(
            "no picture can be read", where=dataset.path, remedy="Look at the data with `headstart inspect`."
        )
    labels = np.array([model.classes.index(dataset.classes[items[n].label or 0]) for n in read])
    chances = softmax(answers.logits[read])
    known = set(model.facts.get("seen", ()))
    new = np.array([_digits(items[n]) not in known for n in read])
    found = {
        "split": split,
        **plain(scoring.score(labels, chances, classes=model.classes)),
        "classes": list(model.classes),
        "skipped": plain((*dataset.skipped, *answers.skipped)),
        "seen": int((~new).sum()),
    }
    if model.reject is not None:
        found["unknown"] = plain(refusals(answers.known[read], chances.argmax(axis=1) == labels))
    if found["seen"]:
        unseen = scoring.score(labels[new], chances[new], classes=model.classes) if new.any() else None
        found["unseen"] = plain(unseen)
    return found


def seen_items(items: Iterable[Item], seen: Collection[str]) -> Iterator[tuple[Item, str]]:
    """Those of `items` whose bytes a model was made with, each picture once, and the sha256 of these bytes."""
    wanted = set(seen)
    for item in items:
        try:
            sha256 = hash_bytes(decode.read_bytes(item))
        except UnreadableImage:
            continue
        if sha256[:SEEN_DIGITS] in wanted:
            wanted.discard(sha256[:SEEN_DIGITS])
            yield item, sha256


def _digits(item: Item) -> str:
    return hash_bytes(decode.read_bytes(item))[:SEEN_DIGITS]


def _check_classes(model: Model, dataset: Dataset) -> None:
    unknown = [name for name in dataset.classes if name not in model.classes]
    if unknown:
        raise DataError(
            f"the model does not know the class {', '.join(unknown)}; it knows {', '.join(model.classes)}",
            where=dataset.path,
            remedy="Rename the class or leave it out.",
        )


def _chosen(dataset: Dataset, split: str | None) -> tuple[str, Sequence[Item]]:
    """The split to score (default: test, else val, else all) and its labelled items."""
    if split is None:
        split = next((name for name in ("test", "val") if name in dataset.splits), "all")
    if split != "all" and split not in dataset.splits:
        known = ", ".join([*filter(None, dataset.splits), "all"])
        raise DataError(f"there is no split {split!r}", where=dataset.path, remedy=f"There is: {known}.")
    return split, [item for item in dataset.items if item.label is not None and split in ("all", item.split)]
