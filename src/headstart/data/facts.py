"""What is in a data set, as plain facts: the `data` part of run.json and the answer of `inspect`. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from headstart.data.near import HOW
from headstart.data.read import read
from headstart.errors import DataError
from headstart.progress import Progress
from headstart.records import Dataset, Facts, plain

__all__ = ["counting", "data_facts", "load_data", "near_facts"]


def load_data(data: Any, *, fewest: int = 2, group: str | None = None) -> Dataset:
    """A Dataset of at least `fewest` classes from a Dataset, a path, or a pair (pictures, labels); `group`: see `read`.

    Raises DataError for anything else.
    """
    if isinstance(data, Dataset):
        if group is not None:
            raise DataError(f"a Dataset has no column {group!r} to group by", remedy="Give its items a group.")
        return data
    if isinstance(data, str) and not data.strip():
        raise DataError("the path of the data is empty", remedy="Give a folder, a manifest or Parquet files.")
    if not isinstance(data, Path) and not hasattr(data, "__iter__"):
        raise DataError(
            f"a {type(data).__name__} is no data", remedy="Give a path, a pair (pictures, labels) or a Dataset."
        )
    if isinstance(data, tuple) and len(data) == 2 and not isinstance(data[0], (str, Path, int)):
        return read(data[0], labels=data[1], fewest=fewest, group=group)
    return read(data, fewest=fewest, group=group)


def data_facts(dataset: Dataset, facts: Facts) -> dict[str, Any]:
    """Counts by split and class, and everything the audit found, as JSON knows it."""
    splits = {}
    for name in dataset.splits:
        items = dataset.split(name)
        counts = Counter(item.label for item in items)
        per_class = {label: counts[number] for number, label in enumerate(dataset.classes)}
        splits[name or "unsplit"] = {"n": len(items), "per_class": per_class}
    names = ("skipped", "suspicious", "duplicates", "leaks", "contradictions", "sizes", "imbalance", "warnings")
    found: dict[str, Any] = plain(
        {
            "path": dataset.path,
            "classes": dataset.classes,
            "splits": splits,
            **{name: getattr(facts, name) for name in names},
            "near_duplicates": near_facts(facts),
            "group_leaks": [{"group": group, "splits": where} for group, where in facts.group_leaks],
            "notes": dataset.notes,
        }
    )
    return found


def near_facts(facts: Facts, *, test: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The near-duplicates as run.json knows them; `test` are the scores with and without a twin in training."""
    return {
        "groups": [list(group) for group in facts.near_duplicates],
        "across_splits": [list(group) for group in facts.near_leaks],
        "contradictions": [list(group) for group in facts.near_contradictions],
        "how": HOW + (f"; {facts.near_confirmed} pairs by their features" if facts.near_confirmed else ""),
        "test": test,
    }


def counting(bar: Progress) -> Callable[[int, int], None]:
    """A callback (done so far, total) that moves a progress bar."""
    last = 0

    def moved(done: int, _total: int) -> None:
        nonlocal last
        bar.advance(done - last)
        last = done

    return moved
