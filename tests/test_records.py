"""Records are frozen, and `plain` turns them into what JSON knows, the same in every process."""

from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from headstart.records import Card, Dataset, FileOrigin, Interval, Item, MemoryOrigin, plain


def test_plain_gives_json_types_for_everything_that_records_hold() -> None:
    value = {
        "path": Path("a") / "b",
        "tuple": (1, 2.5, None, True),
        "array": np.array([[1, 2], [3, 4]], dtype=np.int64),
        "scalar": np.float32(0.5),
        "flag": np.bool_(True),
        "record": Interval(0.5, 0.25, 1.0),
        7: "key",
        "set": {"b", "a"},
    }
    wanted = {
        "path": "a/b",
        "tuple": [1, 2.5, None, True],
        "array": [[1, 2], [3, 4]],
        "scalar": 0.5,
        "flag": True,
        "record": {"value": 0.5, "low": 0.25, "high": 1.0},
        "7": "key",
        "set": ["a", "b"],
    }
    assert plain(value) == wanted
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == wanted


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), np.float64("nan"), np.float32("inf")])
def test_numbers_that_json_does_not_know_become_null_at_any_depth(value: float) -> None:
    assert plain({"a": [(value,)], "b": np.array([1.0, value])}) == {"a": [[None]], "b": [1.0, None]}


def test_sets_have_one_order_whatever_the_hash_seed() -> None:
    code = "from headstart.records import plain; print(plain(set('abcdefgh')))"
    told = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True
        ).stdout
        for seed in ("1", "2")
    }
    assert told == {"['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h']\n"}


def test_records_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Item("a", MemoryOrigin(b"")).label = 3  # type: ignore[misc]


@pytest.mark.parametrize("text", ["a/b/c.jpg", "c.jpg", "/c.jpg", "/a.b/c", "a/..", "a/b\0c"])
def test_a_file_stays_where_it_was_said_to_be(text: str) -> None:
    path = Path(text)
    assert FileOrigin(path).path == FileOrigin(text).path == path
    assert FileOrigin(path) == FileOrigin(Path(text)) != FileOrigin(path.with_name("other"))
    assert pickle.loads(pickle.dumps(FileOrigin(path))) == FileOrigin(path)


def test_the_places_of_many_files_take_little_memory() -> None:
    tracemalloc.start()
    try:
        kept = [FileOrigin(Path("/some/long/folder/of/pictures") / f"{n:06d}.jpg") for n in range(2000)]
        used = tracemalloc.get_traced_memory()[0] / len(kept)
    finally:
        tracemalloc.stop()
    assert used < 200


def test_a_dataset_knows_its_splits_in_their_order() -> None:
    items = tuple(Item(n, FileOrigin(Path(n)), 0, split) for n, split in [("a", "test"), ("b", ""), ("c", "train")])
    dataset = Dataset("x", ("one",), items)
    assert dataset.splits == ("train", "test", "")
    assert [item.name for item in dataset.split("test")] == ["a"]
    fewer = dataset.with_items(items[:1], notes=("less",))
    assert (len(fewer.items), fewer.notes, len(dataset.items)) == (1, ("less",), 3)


def test_preprocessing_holds_all_that_shapes_pixels_and_nothing_else() -> None:
    card = Card("net")
    base = card.preprocessing
    for name, value in {
        "input_size": (3, 96, 96), "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "interpolation": "bilinear",
        "crop_pct": 1.0, "crop_mode": "squash",
    }.items():  # fmt: skip
        assert dataclasses.replace(card, **{name: value}).preprocessing != base
    assert dataclasses.replace(card, classes=("a",), licence="MIT", origin="here", sha256="0").preprocessing == base
