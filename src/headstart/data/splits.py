"""Seal a test set, carve out a validation set, make folds: stratified by class, groups, duplicates and near-duplicates
kept together.

Everything depends on the seed and the names of the items alone, never on their order or on a random generator's
version: an item's place is drawn by the sha256 of (seed, name).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from headstart.errors import DataError
from headstart.records import Dataset, Item

__all__ = ["folds", "keepable", "seal", "tied"]

_HALF, _MANY = 0.5, 20  # near-duplicates that hold more of a class, and so many at least, are not kept together

Indices = npt.NDArray[np.int64]

_Counts = tuple[tuple[int, int], ...]  # (class, items)
_Share = tuple[list[int], _Counts]  # places of items, and what they hold


@dataclass(frozen=True, slots=True)
class _Unit:
    """Items that must stay on one side: one group, or copies of one picture, or a single item."""

    key: str
    names: tuple[str, ...]
    counts: _Counts


def seal(
    dataset: Dataset,
    facts_hashes: Mapping[str, str],
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    near: Sequence[Sequence[str]] = (),
) -> Dataset:
    """Give every item a split: train, val or test; notes say what was done.

    Given splits stand: train + val + test as they are; train + val and no test: val becomes the sealed test set and a
    new val is carved out of train; train + test: val is carved out of train; only train, or no split: test and val are
    carved. `facts_hashes` (Item.name → sha256) keeps identical pictures on one side, `near` (groups of
    names, see data.near) near-duplicates. `val_fraction` is a share of what
    is left after the test set is taken. Every class keeps one training item at least, so val may lack rare classes.
    Raises DataError when there is nothing to train on or when nothing can be tested.
    """
    notes: list[str] = []
    given = set(dataset.splits)
    if not dataset.items:
        raise DataError("no items to split", where=dataset.path, remedy="Give a folder or manifest that holds pictures")
    place = {item.name: item.split or "train" for item in dataset.items}
    if "" in given and len(given) > 1:
        count = sum(1 for item in dataset.items if not item.split)
        notes.append(f"{count} items without a split were put into train")
    given = {split or "train" for split in given}
    kept = keepable(near, dataset.items)
    if len(kept) < len(near) and not {"val", "test"} <= given:
        first = next(group for group in near if group not in kept)
        notes.append(
            f"{len(first)} pictures that look nearly the same, such as {first[0]}, are most of a class and could not be"
            " kept on one side: scores may be too good"
        )
    if "train" not in given:
        raise DataError(
            f"only {' and '.join(sorted(given))}, nothing to train on",
            where=dataset.path,
            remedy="Add a train split, or give the data without splits",
        )
    if "val" in given and "test" not in given:
        place = {name: "test" if split == "val" else split for name, split in place.items()}
        notes.append("no test split: val was sealed as the test set, and choices are made inside train")
        given = {"train", "test"}
    if "test" not in given and test_fraction == 0:
        notes.append("no test set is held back, as asked: the score comes from cross-validation")
    elif "test" not in given:
        taken = _carve(dataset, place, facts_hashes, near=kept, fraction=test_fraction, salt=f"test {seed}")
        if not taken:
            raise _untestable(dataset)
        place |= dict.fromkeys(taken, "test")
        notes.append(
            f"{len(taken)} of {len(dataset.items)} items were sealed as the test set ({_share(test_fraction)})"
        )
    if "val" not in given:
        before = sum(1 for split in place.values() if split == "train")
        taken = _carve(dataset, place, facts_hashes, near=kept, fraction=val_fraction, salt=f"val {seed}")
        place |= dict.fromkeys(taken, "val")
        if taken:
            notes.append(f"{len(taken)} of {before} training items were held back as val ({_share(val_fraction)})")
        else:
            notes.append("train is too small to hold a val split back")
    notes += _scarce(dataset, place)
    items = tuple(replace(item, split=place[item.name]) for item in dataset.items)
    return dataset.with_items(items, notes=dataset.notes + tuple(notes))


def folds(
    labels: npt.NDArray[np.int64], *, k: int, seed: int, groups: Sequence[str] | None = None
) -> list[tuple[Indices, Indices]]:
    """Stratified (group) k-fold: k pairs of sorted indices (train, held out); every index is held out exactly once.

    k becomes smaller when a class has fewer items (or groups) than k, and is 2 at least: a class with a single item (or
    group) is then missing in the train part of one fold. Deterministic. Raises DataError when fewer than two items
    (or groups) are there.
    """
    labels = np.asarray(labels).astype(np.int64)
    salt = f"folds {seed}"
    if groups is None:
        spread, count = Counter(labels.tolist()), len(labels)
        queue: Iterable[_Share] = _singles(labels, salt)
    else:
        if len(groups) != len(labels):
            raise ValueError(f"{len(labels)} labels but {len(groups)} groups")
        units = _units(map(str, range(len(labels))), labels.tolist(), map(str, groups))
        spread, count = Counter(label for unit in units for label, _ in unit.counts), len(units)
        queue = (([int(name) for name in unit.names], unit.counts) for unit in _dealt(units, salt))
    if count < 2:
        raise DataError("too few items for folds", remedy="Two items (or groups) at least are needed")
    k = max(2, min(k, *spread.values(), count))
    fold_of = np.empty(len(labels), dtype=np.int64)
    counts, totals = {label: [0] * k for label in spread}, [0] * k
    for places, held in queue:
        best = min(zip(_loads(counts, held, spread), totals, range(k), strict=True))[2]
        fold_of[places] = best
        totals[best] += len(places)
        for label, size in held:
            counts[label][best] += size
    return [(np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)) for fold in range(k)]


def _singles(labels: Indices, salt: str) -> Iterator[_Share]:
    """Items that stand alone, as `_dealt` would deal units of one; the place of an item is its key."""
    for label in np.unique(labels).tolist():
        drawn = [(_draw(salt, str(place)), place) for place in np.flatnonzero(labels == label).tolist()]
        drawn.sort()
        for _, place in drawn:
            yield [place], ((label, 1),)


def _loads(counts: Mapping[int, Sequence[int]], held: _Counts, spread: Mapping[int, int]) -> Sequence[float]:
    """How full every fold is already of the classes that a unit holds: numbers of which only the order matters."""
    if len(held) == 1:
        return counts[held[0][0]]
    shares = [[n * size / spread[label] for n in counts[label]] for label, size in held]
    return [sum(parts) for parts in zip(*shares, strict=True)]


def _units(names: Iterable[str], labels: Iterable[int], keys: Iterable[str]) -> list[_Unit]:
    """Bundle the names with equal keys."""
    members: dict[str, list[tuple[str, int]]] = {}
    for name, label, key in zip(names, labels, keys, strict=True):
        members.setdefault(key, []).append((name, label))
    units = []
    for pairs in members.values():
        if len(pairs) == 1:
            name, label = pairs[0]
            units.append(_Unit(name, (name,), ((label, 1),)))
            continue
        held = tuple(sorted(name for name, _ in pairs))
        units.append(_Unit(held[0], held, tuple(sorted(Counter(label for _, label in pairs).items()))))
    return sorted(units, key=lambda unit: unit.key)


def keepable(near: Sequence[Sequence[str]], items: Sequence[Item]) -> list[Sequence[str]]:
    """The groups of near-duplicates that can be kept on one side: not those that are most of a large class."""
    label = {item.name: item.label for item in items}
    total = Counter(label.values())
    kept = []
    for group in near:
        held = Counter(label[name] for name in group if name in label)
        if not any(n >= _MANY and n > _HALF * total[one] for one, n in held.items()):
            kept.append(group)
    return kept


def tied(items: Sequence[Item], hashes: Mapping[str, str], *, near: Sequence[Sequence[str]] = ()) -> list[str]:
    """One key an item: equal for items that share a group, a hash or a group of near-duplicates (union-find)."""
    parent = list(range(len(items)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    alike = {name: str(number) for number, group in enumerate(near) for name in group}
    first: dict[tuple[str, str], int] = {}
    for index, item in enumerate(items):
        ties = [("group", item.group), ("hash", hashes.get(item.name)), ("near", alike.get(item.name))]
        for kind, value in ties:
            if value is not None:
                other = first.setdefault((kind, value), index)
                parent[root(index)] = root(other)
    return [str(root(index)) for index in range(len(items))]


def _dealt(units: Iterable[_Unit], salt: str) -> list[_Unit]:
    """The large units first, those of equal size class by class, in the order of their hashes."""

    return sorted(units, key=lambda unit: (-len(unit.names), unit.counts[0][0], _draw(salt, unit.key)))


def _draw(salt: str, key: str) -> bytes:
    return hashlib.sha256(f"{salt}\0{key}".encode("utf-8", "surrogatepass")).digest()


def _carve(
    dataset: Dataset,
    place: Mapping[str, str],
    hashes: Mapping[str, str],
    *,
    near: Sequence[Sequence[str]],
    fraction: float,
    salt: str,
) -> list[str]:
    """Names of the training items to take out: `fraction` of every class in whole units; one item a class stays."""
    pool = [item for item in dataset.items if place[item.name] == "train"]
    units = _units(
        [item.name for item in pool],
        [-1 if item.label is None else item.label for item in pool],
        tied(pool, hashes, near=near),
    )
    total: Counter[int] = Counter()
    for unit in units:
        total.update(dict(unit.counts))
    want = {label: min(max(1, round(fraction * n)), n - 1) for label, n in total.items()}
    out: Counter[int] = Counter()
    taken: list[_Unit] = []
    for unit in _dealt(units, salt):
        counts = dict(unit.counts)
        if any(total[label] - out[label] - n < 1 for label, n in counts.items()):
            continue
        change = sum(abs(want[c] - out[c] - n) - abs(want[c] - out[c]) for c, n in counts.items())
        if change < 0:
            taken.append(unit)
            out.update(counts)
    _reach_every_class(units, taken, total, out)
    return sorted(name for unit in taken for name in unit.names)


def _reach_every_class(units: Sequence[_Unit], taken: list[_Unit], total: Counter[int], out: Counter[int]) -> None:
    """Take the smallest possible unit of a class that got nothing since all of its units are large."""
    wanting = {label for label, n in total.items() if n > 1 and not out[label]}
    of_class: dict[int, list[_Unit]] = {label: [] for label in sorted(wanting)}
    for unit in units:  # none of them is taken: a taken unit would have given its classes something
        for label, _ in unit.counts:
            if label in wanting:
                of_class[label].append(unit)
    for label, candidates in of_class.items():
        possible = [unit for unit in candidates if all(total[c] - out[c] - n >= 1 for c, n in unit.counts)]
        if possible and not out[label]:
            unit = min(possible, key=lambda unit: (len(unit.names), unit.key))
            taken.append(unit)
            out.update(dict(unit.counts))


def _scarce(dataset: Dataset, place: Mapping[str, str]) -> list[str]:
    """Notes on the classes that could not be divided, or that train lacks."""
    counts: dict[str, Counter[int]] = {"train": Counter(), "val": Counter(), "test": Counter()}
    for item in dataset.items:
        if item.label is not None:
            counts[place[item.name]][item.label] += 1
    notes = []
    for split in ("test", "val"):
        absent = [name for index, name in enumerate(dataset.classes) if not counts[split][index]]
        if absent and counts[split]:
            shown = ", ".join(map(repr, absent[:5])) + (", …" if len(absent) > 5 else "")
            notes.append(f"{split} has no item of {shown}: too few to share")
    return notes


def _untestable(dataset: Dataset) -> DataError:
    counts = Counter(item.label for item in dataset.items)
    label, count = min(counts.items(), key=lambda pair: (pair[1], pair[0] if pair[0] is not None else -1))
    name = dataset.classes[label] if label is not None else "unlabelled"
    return DataError(
        f"too few items to test anything: class {name!r} has {count}"
        + (", and groups or identical pictures cannot be divided" if len(dataset.items) > len(dataset.classes) else ""),
        where=dataset.path,
        remedy="Add pictures to the classes, merge rare classes, or give a test split of your own",
    )


def _share(fraction: float) -> str:
    return f"{100 * fraction:.3g} %"
