"""A subset is a small data set of its own: even over the classes, without leaks, beside an untouched source."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import helpers
import numpy as np
import pytest

from headstart.data import subset as module
from headstart.data.audit import audit
from headstart.data.decode import load, read_bytes
from headstart.data.read import read
from headstart.data.subset import subset
from headstart.errors import DataError, OutputError, SettingsError
from headstart.records import Dataset, FileOrigin, Item, MemoryOrigin


def counts(dataset: Dataset) -> dict[str, dict[str, int]]:
    return {
        split: dict(sorted(Counter(dataset.classes[item.label or 0] for item in dataset.split(split)).items()))
        for split in dataset.splits
    }


@pytest.mark.parametrize("mode", ["link", "copy"])
def test_given_splits_are_kept_and_the_source_is_untouched(tmp_path: Path, mode: str) -> None:
    source = helpers.fill(tmp_path / "in", {f"{s}/{c}": 9 for s in ("train", "val", "test") for c in "ab"})
    before = helpers.folder_hash(source)
    dataset = read(source)
    made = subset(dataset, tmp_path / "out", per_class=4, val=3, test=6, mode=mode)
    assert counts(made) == {"train": {"a": 4, "b": 4}, "val": {"a": 2, "b": 1}, "test": {"a": 3, "b": 3}}
    again = read(tmp_path / "out")
    assert {(i.name, i.label, i.split) for i in again.items} == {(i.name, i.label, i.split) for i in made.items}
    originals = {read_bytes(item): item.split for item in dataset.items}
    assert all(originals[read_bytes(item)] == item.split for item in again.items)
    links = [item.origin.path.is_symlink() for item in again.items if isinstance(item.origin, FileOrigin)]
    assert all(links) if mode == "link" else not any(links)
    assert helpers.folder_hash(source) == before


def test_the_same_seed_takes_the_same_items(tmp_path: Path) -> None:
    dataset = read(helpers.fill(tmp_path / "in", {"a": 20, "b": 20}))
    one, two, other = (
        subset(dataset, tmp_path / str(number), per_class=5, val=2, test=2, seed=seed)
        for number, seed in enumerate((3, 3, 4))
    )
    assert [item.name for item in one.items] == [item.name for item in two.items] != [item.name for item in other.items]


def test_val_and_test_from_the_pool_divide_no_copies_and_no_groups(tmp_path: Path) -> None:
    source = helpers.fill(tmp_path / "in", {"a": 10, "b": 10})
    for number in range(10):
        (source / "a" / f"copy{number}.jpg").write_bytes((source / "a" / f"{number:03d}.jpg").read_bytes())
    dataset = read(source)
    groups = [f"g{int(item.name[2:5]) // 2}" if item.label else None for item in dataset.items]
    grouped = tuple(replace(item, group=group) for item, group in zip(dataset.items, groups, strict=True))
    made = subset(dataset.with_items(grouped), tmp_path / "out", per_class=20, val=4, test=4)
    facts = audit(made)[1]
    assert facts.leaks == ()
    sides: dict[str, set[str]] = {}
    for item in made.items:
        if item.group:
            sides.setdefault(item.group, set()).add(item.split)
    assert all(len(side) == 1 for side in sides.values())
    assert counts(made)["test"] == counts(made)["val"] == {"a": 2, "b": 2}


def test_too_few_items_are_taken_whole_and_noted_and_train_keeps_one(tmp_path: Path) -> None:
    dataset = read(helpers.fill(tmp_path / "in", {"a": 3, "b": 1}))
    made = subset(dataset, tmp_path / "out", per_class=5, val=9, test=1)
    assert counts(made) == {"train": {"a": 1, "b": 1}, "val": {"a": 1}, "test": {"a": 1}}
    assert made.notes == (
        "val: 1 items instead of 9: no more are there",
        "train: 1 items of 'a' instead of 5: no more are there",
        "train: 1 items of 'b' instead of 5: no more are there",
    )
    assert read(tmp_path / "out").classes == ("a", "b")


def test_cells_and_memory_become_files_of_the_right_kind(tmp_path: Path) -> None:
    kinds = ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000"]
    cells = [helpers.picture(seed, kind=kind) for seed, kind in enumerate(kinds)]
    helpers.shard(tmp_path / "in" / "train-00000-of-00001.parquet", [*cells, b""], ["x"] * 4 + ["y/z"] * 4)
    dataset = read(tmp_path / "in")
    made = subset(dataset, tmp_path / "out", per_class=9, val=0, test=0)
    assert sorted(Path(item.name).suffix for item in made.items) == sorted(
        [".jpg", ".png", ".gif", ".bmp", ".tif", ".webp", ".jp2", ".png"]
    )
    assert "train/x/train-00000-of-00001-0.jpg" in {item.name for item in made.items}
    assert (tmp_path / "out" / "train" / "y_z").is_dir()
    assert len(audit(read(tmp_path / "out"))[1].skipped) == 1
    memory = read([np.full((4, 4), level, np.uint8) for level in (0, 90, 200)], labels=["a", "b", "b"])
    made = subset(memory, tmp_path / "memory", per_class=2, val=0, test=0, mode="copy")
    assert [int(load(item)[0, 0, 0]) for item in made.items] == [0, 90, 200]


def test_equal_file_names_and_unsafe_class_names_do_not_clash(tmp_path: Path) -> None:
    helpers.fill(tmp_path / "in", {"x/one": 2, "x/two": 2, "y": 1})
    made = subset(read(tmp_path / "in"), tmp_path / "out", per_class=9, val=0, test=0)
    assert len(list((tmp_path / "out/train/x").iterdir())) == 4
    assert len({read_bytes(item) for item in made.items}) == 5
    items = tuple(Item(f"i{n}", MemoryOrigin(helpers.picture(n)), n) for n in range(4))
    odd = Dataset("made", ("..", "a/b", "a:b", "c"), items)
    made = subset(odd, tmp_path / "odd", per_class=1, val=0, test=0)
    assert sorted(path.name for path in (tmp_path / "odd/train").iterdir()) == ["_", "a_b-1", "a_b-2", "c"]
    assert all(path.resolve().is_relative_to(tmp_path / "odd") for path in (tmp_path / "odd").rglob("*"))


def test_a_missing_file_is_skipped_and_nothing_at_all_is_an_error(tmp_path: Path) -> None:
    helpers.fill(tmp_path, {"pics": 2})
    for mode in ("link", "copy"):
        (tmp_path / "m.csv").write_text("file_name,label\npics/000.jpg,a\npics/001.jpg,b\nnone.jpg,b\n")
        made = subset(read(tmp_path / "m.csv"), tmp_path / f"out-{mode}", per_class=9, val=0, test=0, mode=mode)
        assert [entry.reason for entry in made.skipped] == ["no such file"]
        assert len(made.items) == 2
    (tmp_path / "m.csv").write_text("file_name,label\nx.jpg,a\ny.jpg,b\n")
    with pytest.raises(DataError, match="no item could be taken"):
        subset(read(tmp_path / "m.csv"), tmp_path / "none", per_class=9, val=0, test=0)


def test_where_links_are_impossible_copies_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    dataset = read(helpers.fill(tmp_path / "in", {"a": 2, "b": 2}))
    made = subset(dataset, tmp_path / "out", per_class=2, val=0, test=0)
    assert len(made.items) == 4
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))


def test_a_taken_or_impossible_out_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = read(helpers.fill(tmp_path / "in", {"a": 2, "b": 2}))
    helpers.fill(tmp_path, {"taken": 1})
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("taken", "file", "link", "file/below"):
        with pytest.raises(OutputError):
            subset(dataset, tmp_path / name, per_class=1, val=0, test=0)
    with pytest.raises(OutputError, match="lies inside the data"):
        subset(dataset, tmp_path / "in" / "small", per_class=1, val=0, test=0)
    (tmp_path / "empty").mkdir()
    assert subset(dataset, tmp_path / "empty", per_class=1, val=0, test=0).items
    assert helpers.folder_hash(tmp_path / "in")

    def closed(self: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module.Path, "exists", closed)
    with pytest.raises(OutputError, match="Permission denied"):
        subset(dataset, tmp_path / "new", per_class=1, val=0, test=0)


def test_wrong_options_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    dataset = read(helpers.fill(tmp_path / "in", {"a": 2, "b": 2}))
    for options in ({"mode": "move"}, {"per_class": 0}, {"val": -1}, {"test": -1}):
        with pytest.raises(SettingsError):
            subset(dataset, tmp_path / "out", **{"per_class": 1, "val": 0, "test": 0, **options})  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_unlabelled_items_are_left_out(tmp_path: Path) -> None:
    dataset = read(helpers.fill(tmp_path / "in", {"a": 2, "b": 2}))
    free = Item("free", MemoryOrigin(helpers.picture(50)), None)
    made = subset(dataset.with_items((*dataset.items, free)), tmp_path / "out", per_class=5, val=0, test=0)
    assert len(made.items) == 4


@pytest.mark.shared
@pytest.mark.skipif(os.name == "nt", reason="needs links")
def test_shared_sets_in_small(shared: Path, tmp_path: Path) -> None:
    for name in ("hymenoptera", "rsscn7"):
        dataset = read(shared / "data" / name)
        made = subset(dataset, tmp_path / name, per_class=3, val=len(dataset.classes), test=2 * len(dataset.classes))
        assert all(set(split.values()) == {n} for split, n in zip(counts(made).values(), (3, 1, 2), strict=True))
        assert audit(read(tmp_path / name))[1].skipped == ()
