"""New pictures for a finished model: which of them are new, of which classes, and which are held back to judge it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.data.audit import audit
from headstart.data.facts import counting, load_data
from headstart.data.looked import LookedAt
from headstart.data.splits import folds, tied
from headstart.errors import DataError
from headstart.progress import Reporter
from headstart.records import Dataset, Facts, Item, Skipped
from headstart.ship.evaluate import SEEN_DIGITS
from headstart.ship.learned import Known

__all__ = ["ENOUGH", "Additions", "held_back", "read_additions"]

Array = npt.NDArray[Any]

ENOUGH = 10
"""New pictures of a class from which on a fifth of them is held back to judge with, before all are learned."""


@dataclass(frozen=True)
class Additions:
    """New pictures, once each. `classes` are the model's, in their order, and the new ones after them.

    `learn` and `judge` are items with what is `known` of them, the second ones those of the data's own test split,
    `tied` a key for each of `learn` that twins and groups share. `seen` are files that the model was made with,
    `repeated` files with the bytes of another new one, `contradictory` files whose bytes have two labels: none of them
    is learned.
    """

    path: str
    classes: tuple[str, ...]
    added: tuple[str, ...]
    learn: tuple[Item, ...]
    known: Known
    tied: tuple[str, ...]
    judge: tuple[Item, ...]
    judge_known: Known
    seen: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()
    contradictory: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    def facts(self) -> dict[str, Any]:
        """Counts and names, as JSON knows them."""
        counts = Counter(self.known.labels.tolist())
        return {
            "path": self.path, "pictures": len(self.learn),
            "per_class": {self.classes[number]: counts[number] for number in sorted(counts)},
            "judged_only": len(self.judge), "seen_before": list(self.seen), "repeated": list(self.repeated),
            "contradictory": list(self.contradictory),
            "skipped": [{"file": entry.file, "reason": entry.reason} for entry in self.skipped],
        }  # fmt: skip

    def without(self, gone: Sequence[Skipped], kept: Array) -> Additions:
        """The same without pictures that could not be read any more; `kept` says for each of `learn` whether it was."""
        rows = np.flatnonzero(kept)
        return replace(
            self, learn=tuple(self.learn[i] for i in rows), known=self.known.only(kept),
            tied=tuple(self.tied[i] for i in rows), skipped=(*self.skipped, *gone),
        )  # fmt: skip


def read_additions(
    data: Any, classes: Sequence[str], *, seen: Collection[str], reporter: Reporter, bound: str | int | None = None
) -> Additions:
    """Read and audit new pictures in any layout that `fit` takes; one class and one picture will do.

    `seen` holds the first digits of the sha256 of what the model was made with. As for `fit`, the test split, or val
    where there is no test, is kept to judge with. Raises DataError when there is nothing new to learn.
    """
    dataset = load_data(data, fewest=1)
    with reporter.progress("Checking pictures", len(dataset.items)) as bar:
        dataset, facts = audit(dataset, progress=counting(bar), known=LookedAt(bound=bound), fewest=1)
    new, seen_before, repeated, contradictory = _sorted_out(dataset, facts, seen)
    held = _judging(dataset)
    learn, judge = [i for i in new if i.split not in held], [i for i in new if i.split in held]
    names = {dataset.classes[item.label or 0] for item in learn}
    judge = [item for item in judge if dataset.classes[item.label or 0] in names | set(classes)]
    if not learn:
        what = f"none of the {len(dataset.items)} pictures is new"
        raise DataError(
            f"{what}: {len(seen_before)} were seen when the model was made" if seen_before else what,
            where=dataset.path,
            remedy="Give pictures to learn from that the model has not seen.",
        )
    added = tuple(name for name in dataset.classes if name in names and name not in classes)
    every = (*classes, *added)
    place = {number: every.index(name) for number, name in enumerate(dataset.classes) if name in every}
    return Additions(
        dataset.path, every, added, tuple(learn), _known(learn, facts, place),
        tuple(tied(learn, facts.hashes, near=facts.near_duplicates)), tuple(judge), _known(judge, facts, place),
        seen_before, repeated, contradictory, dataset.skipped,
    )  # fmt: skip


def _judging(dataset: Dataset) -> set[str]:
    """The splits that are only judged on."""
    given = set(dataset.splits)
    if "test" in given:
        return {"test"}
    return {"val"} if {"train", "val"} <= given else set()


def _known(items: Sequence[Item], facts: Facts, place: Mapping[int, int]) -> Known:
    return Known.of([facts.hashes[item.name] for item in items], [place[item.label or 0] for item in items])


def _sorted_out(
    dataset: Dataset, facts: Facts, seen: Collection[str]
) -> tuple[list[Item], tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """The items whose bytes are new, once each; files seen before, repeated and contradictory."""
    labels: dict[str, set[int | None]] = {}
    for item in dataset.items:
        labels.setdefault(facts.hashes[item.name], set()).add(item.label)
    new: dict[str, Item] = {}
    before, again, two = list[str](), list[str](), list[str]()
    for item in sorted(dataset.items, key=lambda item: item.split == "test"):  # a twin in training is not for judging
        sha256 = facts.hashes[item.name]
        if sha256[:SEEN_DIGITS] in seen:
            before.append(item.name)
        elif len(labels[sha256]) > 1:
            two.append(item.name)
        elif sha256 in new:
            again.append(item.name)
        elif item.label is not None:
            new[sha256] = item
    return list(new.values()), tuple(before), tuple(again), tuple(two)


def held_back(found: Additions, *, seed: int) -> Array:
    """Which of the pictures to learn, bool (n,), are left out while the model is judged: a fifth of each class.

    Of classes with fewer than ENOUGH none; twins and groups stay together. Deterministic by seed.
    """
    labels = found.known.labels
    many = np.flatnonzero(np.bincount(labels)[labels] >= ENOUGH)
    held = np.zeros(len(labels), dtype=bool)
    groups = [found.tied[i] for i in many]
    if len(set(groups)) >= 2:
        held[many[folds(labels[many], k=5, seed=seed, groups=groups)[0][1]]] = True
    return held
