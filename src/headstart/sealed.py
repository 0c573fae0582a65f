"""The pictures that a finished run was judged on, and those it was trained on, found again in the data.

Which they are stands in predictions.csv and in the model (`seen`); what they show is read from the data anew.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from headstart import files, runfolder
from headstart.data import decode
from headstart.data.facts import load_data
from headstart.errors import DataError, RunError, UnreadableImage
from headstart.records import Dataset, Item
from headstart.ship._record import check_classes
from headstart.ship.evaluate import SEEN_DIGITS, seen_items

__all__ = ["EXTENDED", "Sealed", "places_of", "read_data", "read_sealed", "run_of", "together", "training_items"]

EXTENDED = "extended.json"
"""Written beside an extended model: what was learned, from which data."""


_TOLD = 5  # names in a message


@dataclass(frozen=True)
class Sealed:
    """Items that a run was judged on, in the order of predictions.csv, with what it said of them.

    `labels` [n] are places in the run's classes, `probabilities` [n, classes] as written there (None: not written).
    `held_out` says whether they were kept out of training; without a test set they are the training items themselves.
    """

    dataset: Dataset
    items: tuple[Item, ...]
    labels: np.ndarray
    probabilities: np.ndarray | None
    held_out: bool


def run_of(place: str | Path) -> Path:
    """The run folder at `place` or around it (RUN, RUN/model, RUN/pruned/NAME), or a folder that `extend` wrote.

    Raises RunError when there is none.
    """
    folder = Path(place).expanduser()
    for candidate in (folder, *list(folder.resolve().parents)[:2]):
        if (candidate / "run.json").is_file() and (candidate / "predictions.csv").is_file():
            return candidate
        if (candidate / EXTENDED).is_file():
            return candidate
    raise RunError("no finished run here", where=place, remedy="Give the --out folder of `headstart fit`.")


def read_sealed(run: Path, data: str | Path | None = None) -> Sealed:
    """The judged items of a run folder, read again from the run's data or from `data`, where these have moved.

    Of an extended model these are the pictures that it has not seen, and all where it has seen every one. Raises
    RunError when the run's data were in memory, DataError when a picture is missing or has another label.
    """
    if (run / EXTENDED).is_file():
        return _unseen(run, data)
    record = runfolder.read(run / "run.json")
    classes, rows = _written(run, record)
    dataset = read_data(run, data)
    items = _named(dataset, rows)
    labels = np.array([classes.index(row["label"]) for row in rows], dtype=np.int64)
    told = [f"p_{name}" for name in classes]
    said = None
    if rows and told[0] in rows[0]:  # of many classes predictions.csv holds two probabilities alone
        said = np.array([[float(row[name]) for name in told] for row in rows])
    return Sealed(dataset, items, labels, said, "test" in record["scores"])


def places_of(run: Path) -> list[str]:
    """Where the data of a run folder are, or all those of a folder that `extend` wrote, be they there or not.

    Of data in memory nothing is said. Raises RunError where the record cannot be read.
    """
    if (run / EXTENDED).is_file():
        told = runfolder.read(run / EXTENDED)
        return [_anchored(path, Path(told["directory"])) for path in told["data"]]
    path = str(runfolder.read(run / "run.json")["data"]["path"])
    return [] if path == "memory" else [_anchored(path, _begun_in(run))]


def read_data(run: Path, data: Any = None) -> Dataset:
    """The data of a run folder, where they are now: what was given as `data`, else where the run found them.

    Of a folder that `extend` wrote these are all of its data that are still there, together. Raises RunError when they
    were in memory or are no longer there.
    """
    if not (run / EXTENDED).is_file():
        record = runfolder.read(run / "run.json")
        place = _data_of(run, record) if data is None else data
        return load_data(place, fewest=1, group=record["settings"].get("group"))
    parts = [] if data is None else [load_data(data, fewest=1)]
    for path in places_of(run) if data is None else ():
        with suppress(DataError):  # gone
            parts.append(load_data(path, fewest=1))
    if not parts:
        gone = " or ".join(places_of(run)) or "memory"
        raise RunError(f"the data are no longer at {gone}", where=run, remedy="Say with --data DATA where.")
    return together(parts, runfolder.read(run / EXTENDED)["model"]["classes"])


def together(parts: Sequence[Dataset], classes: Sequence[str]) -> Dataset:
    """The items of these classes of some data sets as one; a name that occurs again gets the path of its data."""
    place = {name: number for number, name in enumerate(classes)}
    items: dict[str, Item] = {}
    for part in parts:
        for item in part.items:
            label = None if item.label is None else place.get(part.classes[item.label])
            name = item.name if item.name not in items else f"{part.path}/{item.name}"
            if label is not None:
                items[name] = replace(item, name=name, label=label)
    return Dataset(", ".join(part.path for part in parts), tuple(classes), tuple(items.values()))


def _unseen(run: Path, data: str | Path | None) -> Sealed:
    """The pictures that an extended model may be judged on."""
    dataset, seen = read_data(run, data), set(files.read_json(run / "model" / "headstart.json")["seen"])
    new = [item for item in dataset.items if _digits(item) not in seen]
    items = tuple(new or dataset.items)
    if not items:
        raise DataError(
            "no picture is of a class that the model knows", where=dataset.path, remedy="Give other --data DATA."
        )
    return Sealed(dataset, items, np.array([item.label for item in items], dtype=np.int64), None, bool(new))


def _written(run: Path, record: Mapping[str, Any]) -> tuple[list[str], list[dict[str, str]]]:
    """The classes of run.json and the rows of predictions.csv. Raises RunError where they are none."""
    file = run / "predictions.csv"
    try:
        classes = record["data"]["classes"]
        check_classes(classes)
        with file.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        for row in rows:
            if row["label"] not in classes or not isinstance(row["file"], str):
                raise ValueError(f"{str(row['label'])[:40]!r} is no class")
            if not all(math.isfinite(float(value)) for name, value in row.items() if str(name).startswith("p_")):
                raise ValueError("a probability is no number")
        if rows and (told := {f"p_{name}" for name in classes}) & rows[0].keys() and not told <= rows[0].keys():
            raise ValueError("it lacks the probabilities of some classes")
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        what = (
            f"run.json and predictions.csv are not as headstart wrote them: {type(error).__name__}: {str(error)[:200]}"
        )
        raise RunError(what, where=file, remedy="Start again with `headstart fit` and another --out.") from error
    return classes, rows


def _data_of(run: Path, record: Mapping[str, Any]) -> str:
    """Where the run's data are."""
    path = str(record["data"]["path"])
    if path == "memory":
        raise RunError("the run's data were in memory", where=run, remedy="Give them with --data DATA.")
    found = _anchored(path, _begun_in(run))
    if not Path(found).expanduser().exists():
        raise RunError(f"the run's data are no longer at {path}", where=run, remedy="Say with --data DATA where.")
    return found


def _begun_in(run: Path) -> Path:
    """The folder that a run's relative paths begin in."""
    started = run / "settings.json"
    return Path(runfolder.read(started)["directory"]) if started.is_file() else Path.cwd()


def _anchored(path: str, base: Path) -> str:
    return runfolder.anchored(path, base) or path


def _named(dataset: Dataset, rows: Sequence[Mapping[str, str]]) -> tuple[Item, ...]:
    """The items of predictions.csv, with the labels that stand there."""
    known = {item.name: item for item in dataset.items}
    lost = [row["file"] for row in rows if row["file"] not in known]
    if lost:
        raise DataError(
            f"{len(lost)} of the {len(rows)} pictures that the run was judged on are not there: {_some(lost)}",
            where=dataset.path,
            remedy="Say with --data DATA where the run's data are now.",
        )
    items = tuple(known[row["file"]] for row in rows)
    other = [
        row["file"]
        for row, item in zip(rows, items, strict=True)
        if item.label is None or dataset.classes[item.label] != row["label"]
    ]
    if other:
        raise DataError(
            f"{len(other)} pictures have other labels now: {_some(other)}",
            where=dataset.path,
            remedy="Say with --data DATA where the run's data are, or start a new run.",
        )
    return items


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_TOLD]) + (", …" if len(names) > _TOLD else "")


def training_items(sealed: Sealed, seen: Sequence[str], *, most: int, seed: int = 0) -> list[Item]:
    """Up to `most` items whose bytes the model was made with, drawn by the seed.

    Without a list of what it has seen these are any items that were not judged.
    """
    judged = {item.name for item in sealed.items} if sealed.held_out else set()
    pool = [item for item in sealed.dataset.items if item.name not in judged]
    drawn = [pool[place] for place in np.random.default_rng(seed).permutation(len(pool))]
    return list(islice((item for item, _ in seen_items(drawn, seen)) if seen else drawn, most))


def _digits(item: Item) -> str:
    try:
        return files.hash_bytes(decode.read_bytes(item))[:SEEN_DIGITS]
    except UnreadableImage:
        return ""
