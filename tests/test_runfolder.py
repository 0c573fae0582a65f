"""What a run folder says that it was begun with, and what of it has changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headstart import runfolder
from headstart.records import Card, Dataset, Facts, Item, MemoryOrigin

NAMES = {"train": ("a", "b", "c", "d"), "test": ("e", "f")}


def data_of(*, drop: str = "", moved: str = "", group: str = "") -> tuple[Dataset, Facts]:
    items = [
        Item(name, MemoryOrigin(b""), number % 2, "test" if name == moved else split, "g" if name == group else None)
        for split, names in NAMES.items()
        for number, name in enumerate(names)
        if name != drop
    ]
    hashes = {item.name: item.name * 64 for item in items}
    facts: Any = replace(_facts(), hashes=hashes)
    return Dataset("data", ("cat", "dog"), tuple(items)), facts


def _facts() -> Facts:
    return Facts(0, (), {}, (), (), (), (), {}, 1.0, ())


def begun(dataset: Dataset, facts: Facts, card: Card | None = None) -> dict[str, Any]:
    return runfolder.begun(dataset, facts, card or Card("toy", sha256="w"), environment={})


def test_the_same_data_in_any_order_have_not_changed() -> None:
    dataset, facts = data_of()
    turned = dataset.with_items(tuple(reversed(dataset.items)))
    assert runfolder.changes(begun(dataset, facts), begun(turned, facts)) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"drop": "a"}, ["train/cat has 1 items and had 2"]),
        ({"drop": "e"}, ["test/cat has 0 items and had 1"]),
        ({"moved": "a"}, ["test/cat has 2 items and had 1", "train/cat has 1 items and had 2"]),
        ({"group": "b"}, ["train/dog has other items"]),
    ],
)
def test_each_change_of_the_items_is_named(change: dict[str, str], told: list[str]) -> None:
    assert runfolder.changes(begun(*data_of()), begun(*data_of(**change))) == told


def test_other_bytes_classes_weights_and_preprocessing_are_named() -> None:
    dataset, facts = data_of()
    before = begun(dataset, facts)
    other = replace(facts, hashes={**facts.hashes, "a": "0" * 64})
    assert runfolder.changes(before, begun(dataset, other)) == ["train/cat has other items"]
    renamed = replace(dataset, classes=("cat", "wolf"))
    assert runfolder.changes(before, begun(renamed, facts))[0] == "the classes are cat, wolf and were cat, dog"
    card = Card("toy", sha256="v", crop_pct=1.0)
    assert runfolder.changes(before, begun(dataset, facts, card)) == [
        "the source has other weights", "the source has other preprocessing",
    ]  # fmt: skip


def test_many_changes_are_counted() -> None:
    dataset, facts = data_of()
    many = {**begun(dataset, facts), "items": {f"train/{n}": "1 x" for n in range(30)}}
    told = runfolder.changes(begun(dataset, facts), many)
    assert len(told) == 9
    assert told[-1] == "and 26 more"


def test_unfinished_files_of_ours_are_removed_and_no_others(tmp_path: Path) -> None:
    ours = [
        ".run.json.ab12_xyz.tmp",
        ".settings.json.overtake.tmp",
        "..settings.json.overtake.tmp.abcdefgh.tmp",
        "..lock.holder.abcdefgh.tmp",
        "model/.model.safetensors.abcdefgh.tmp",
        "strategies/full/.log.jsonl.abcdefgh.tmp",
    ]
    ours += ["checkpoints/000001-epoch-0002-step-000000/.state.safetensors.abcdefgh.tmp"]
    other = [".mine.abcdefgh.tmp", "model/.model.onnx.abcdefgh.tmp", "run.json.tmp"]
    for name in (*ours, *other):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    runfolder._sweep(tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(other)
