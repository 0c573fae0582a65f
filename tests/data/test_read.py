"""Every layout gives the same kind of Dataset; every mistake gives one line with a remedy."""

from __future__ import annotations

import json
import os
import re
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import helpers
import numpy as np
import odd_files
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from headstart.data import decode, walk
from headstart.data.read import find_images, read
from headstart.errors import DataError, MissingExtraError, UnreadableImage
from headstart.records import Dataset, FileOrigin, MemoryOrigin, ParquetOrigin


def counts(dataset: Dataset) -> dict[tuple[str, str], int]:
    return dict(Counter((item.split, dataset.classes[item.label or 0]) for item in dataset.items))


def message(data: object, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        read(data, **options)  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text
    return text


# --- folders ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "val", "test"), [("train", "val", "test"), ("Train", "VALID", "TEST"), ("TRAIN", "Validation", "Test")]
)
def test_split_folders_in_any_case(tmp_path: Path, train: str, val: str, test: str) -> None:
    helpers.fill(tmp_path, {f"{s}/{c}": n for s, n in ((train, 3), (val, 2), (test, 1)) for c in ("cat", "dog")})
    before = helpers.folder_hash(tmp_path)
    dataset = read(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert dataset.path == tmp_path.as_posix()
    assert counts(dataset) == {(s, c): n for s, n in (("train", 3), ("val", 2), ("test", 1)) for c in ("cat", "dog")}
    assert dataset.notes == ()
    assert helpers.folder_hash(tmp_path) == before


def test_class_folders_alone_are_unsplit_and_may_nest(tmp_path: Path) -> None:
    helpers.fill(tmp_path, {"cat": 2, "cat/kitten/day 1": 2, "dog": 1})
    dataset = read(str(tmp_path))
    assert counts(dataset) == {("", "cat"): 4, ("", "dog"): 1}
    assert [item.name for item in dataset.items] == sorted(item.name for item in dataset.items)
    assert "cat/kitten/day 1/000.jpg" in {item.name for item in dataset.items}


def test_only_train_is_fine_and_so_is_only_test(tmp_path: Path) -> None:
    assert read(helpers.fill(tmp_path / "a", {"train/x": 1, "train/y": 1})).splits == ("train",)
    assert read(helpers.fill(tmp_path / "b", {"test/x": 1, "test/y": 1})).splits == ("test",)


def test_classes_are_sorted_by_code_point(tmp_path: Path) -> None:
    names = ["1", "10", "2", "Ä", "a", "A", "🐜", "z"]
    dataset = read(helpers.fill(tmp_path, dict.fromkeys(names, 1)))
    assert dataset.classes == ("1", "10", "2", "A", "a", "z", "Ä", "🐜")


def test_one_class_in_two_unicode_forms_is_one_class(tmp_path: Path) -> None:
    composed, parted = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")
    helpers.fill(tmp_path, {f"train/{composed}": 2, "train/tea": 2, f"val/{parted}": 1, "val/tea": 1})
    dataset = read(tmp_path)
    assert dataset.classes == (composed, "tea")
    assert all(decode.load(item).ndim == 3 for item in dataset.items)


def test_the_listing_order_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helpers.fill(tmp_path, {"train/b": 3, "train/a": 2, "val/b": 1, "val/a": 1})
    (tmp_path / "train" / "c").symlink_to("a")
    forward = read(tmp_path)
    real = os.scandir

    class Backwards:
        def __init__(self, path: object) -> None:
            self.listing = real(path)  # type: ignore[call-overload]

        def __enter__(self) -> list[os.DirEntry[str]]:
            return sorted(self.listing, key=lambda entry: entry.name, reverse=True)

        def __exit__(self, *_: object) -> None:
            self.listing.close()

    monkeypatch.setattr(walk.os, "scandir", Backwards)
    assert read(tmp_path) == forward


def test_a_class_that_train_lacks_is_named(tmp_path: Path) -> None:
    helpers.fill(tmp_path, {"train/cat": 1, "train/dog": 1, "test/cat": 1, "test/emu": 1})
    text = message(tmp_path)
    assert "'emu'" in text
    assert "train lacks" in text
    assert "cat, dog" in text


def test_a_class_that_test_lacks_is_a_note(tmp_path: Path) -> None:
    dataset = read(helpers.fill(tmp_path, {"train/cat": 1, "train/dog": 1, "test/dog": 1}))
    assert dataset.notes == ("test has no picture of cat",)
    assert next(item for item in dataset.items if item.split == "test").label == 1


def test_splits_mixed_with_classes_are_an_error(tmp_path: Path) -> None:
    helpers.fill(tmp_path, {"train/cat": 1, "train/dog": 1, "birds": 1})
    text = message(tmp_path)
    assert "mixes" in text
    assert "birds" in text


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    dataset = read(helpers.fill(tmp_path, {"train": 1, "plane": 1}))
    assert dataset.classes == ("plane", "train")
    assert dataset.splits == ("",)


def test_two_folders_for_one_split_are_an_error(tmp_path: Path) -> None:
    helpers.fill(tmp_path, {"train/a": 1, "train/b": 1, "val/a": 1, "valid/a": 1})
    assert "val and valid mean the same split" in message(tmp_path)


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    helpers.fill(tmp_path, {"train/a": 1, "train/b": 1, ".ipynb_checkpoints/a": 1, "__MACOSX/a": 1, "train/.cache": 1})
    for name in ("Thumbs.db", "train/desktop.ini", "train/a/.DS_Store"):
        (tmp_path / name).write_bytes(b"x")
    for name in ("README.md", "train/a/notes.txt", "train/a/b.txt", "train/a/nosuffix"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "train" / "loose.jpg").write_bytes(helpers.picture())
    (tmp_path / "train" / "empty").mkdir()
    dataset = read(tmp_path)
    assert dataset.classes == ("a", "b")
    assert len(dataset.items) == 2
    assert "1 pictures in train outside the class folders were not used" in dataset.notes
    assert "no picture in train/empty: left out" in dataset.notes
    assert "4 files are no pictures and were left out (.txt 2, .md 1, no suffix 1)" in dataset.notes
    assert "6 hidden or system files and folders were left out" in dataset.notes


def test_link_loops_end_and_a_folder_reached_twice_counts_once(tmp_path: Path) -> None:
    helpers.fill(tmp_path, {"cats": 2, "dogs": 1})
    (tmp_path / "cats" / "loop").symlink_to("..")
    (tmp_path / "all-cats").symlink_to("cats")  # sorted before the real folder, and still not preferred
    (tmp_path / "dogs" / "cats again").symlink_to("../cats")
    dataset = read(tmp_path)
    assert [item.name for item in dataset.items] == ["cats/000.jpg", "cats/001.jpg", "dogs/000.jpg"]
    assert any("all-cats, cats/loop, dogs/cats again" in note for note in dataset.notes)


def test_class_folders_and_files_may_be_links(tmp_path: Path) -> None:
    helpers.fill(tmp_path / "store", {"a": 2, "b": 2})
    (tmp_path / "data").mkdir()
    for name in "ab":
        (tmp_path / "data" / name).symlink_to(tmp_path / "store" / name)
    (tmp_path / "data" / "a-link").symlink_to("data")
    dataset = read(tmp_path / "data")
    assert counts(dataset) == {("", "a"): 2, ("", "b"): 2}


def test_odd_files_are_items_so_that_the_audit_can_report_them(tmp_path: Path) -> None:
    helpers.fill(tmp_path, {"good": 1})
    (tmp_path / "odd").mkdir()
    written = odd_files.write(tmp_path / "odd")
    dataset = read(tmp_path)
    assert {item.name for item in dataset.items if item.label == 1} == {f"odd/{entry.name}" for entry in written}


@pytest.mark.skipif(os.name == "nt", reason="needs permissions")
def test_a_forbidden_folder_is_skipped_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helpers.fill(tmp_path, {"a": 1, "b": 1, "c": 1})
    real = os.scandir

    def guarded(path: object) -> object:
        if str(path).endswith("/c"):
            raise PermissionError(13, "Permission denied")
        return real(path)  # type: ignore[call-overload]

    monkeypatch.setattr(walk.os, "scandir", guarded)
    dataset = read(tmp_path)
    assert dataset.classes == ("a", "b")
    assert [(entry.file, entry.reason) for entry in dataset.skipped] == [
        ("c", "folder cannot be read (Permission denied)")
    ]

    def closed(path: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(walk.os, "scandir", closed)
    assert "the folder cannot be read" in message(tmp_path)


def test_mistakes_of_folders_are_told_in_one_line(tmp_path: Path) -> None:
    helpers.fill(tmp_path / "photos", {"only": 3})
    assert "only one class, 'only'" in message(tmp_path / "photos")
    assert "Did you mean photos?" in message(tmp_path / "photo")
    (tmp_path / "empty").mkdir()
    text = message(tmp_path / "empty")
    assert "the folder is empty" in text
    assert "DIR/CLASS/picture.jpg" in text
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    assert "no picture among 1 files (.txt 1)" in message(tmp_path / "texts")
    helpers.fill(tmp_path, {"flat": 3})
    assert "3 pictures but no class folders" in message(tmp_path / "flat")
    (tmp_path / "zipped").mkdir()
    (tmp_path / "zipped" / "all.zip").write_bytes(b"PK")
    for place in (tmp_path / "zipped", tmp_path / "zipped" / "all.zip"):
        assert "Unpack it" in message(place)
    assert "neither a folder nor a manifest" in message(tmp_path / "texts" / "a.txt")
    (tmp_path / "gone").symlink_to("nowhere")
    assert "a link to nothing" in message(tmp_path / "gone")
    assert "no such file or folder" in message(tmp_path / "no" / "such")
    assert "labels belong to a list" in message(tmp_path / "photos", labels=["a"])
    os.mkfifo(tmp_path / "pipe.csv")
    assert "neither a folder nor a manifest" in message(tmp_path / "pipe.csv")


# --- manifests --------------------------------------------------------------------------------------------


def pictures(root: Path, count: int = 4) -> list[str]:
    helpers.fill(root, {"pics": count})
    return [f"pics/{number:03d}.jpg" for number in range(count)]


@pytest.mark.parametrize("column", ["file_name", "image", "path", "File_Name"])
@pytest.mark.parametrize(
    ("suffix", "delimiter", "start"),
    [(".csv", ",", ""), (".csv", ";", "\ufeff"), (".tsv", "\t", ""), (".csv", "\t", "\ufeff")],
)
def test_a_table_with_splits_and_groups(tmp_path: Path, column: str, suffix: str, delimiter: str, start: str) -> None:
    names = pictures(tmp_path)
    rows = [[column, "label", "split", "group"]]
    rows += [[n, "ab"[i % 2], ["train", "VALIDATION", "dev", ""][i], f"g{i}" if i else ""] for i, n in enumerate(names)]
    path = tmp_path / f"table{suffix}"
    path.write_bytes((start + "\r\n".join(delimiter.join(row) for row in rows) + "\r\n").encode())
    dataset = read(path)
    assert [item.name for item in dataset.items] == names
    assert [item.split for item in dataset.items] == ["train", "val", "val", ""]
    assert [item.group for item in dataset.items] == [None, "g1", "g2", "g3"]
    assert dataset.items[0].origin == FileOrigin(tmp_path / names[0])
    assert all(decode.load(item).ndim == 3 for item in dataset.items)


def grouped_table(tmp_path: Path, suffix: str) -> Path:
    """One table of four pictures with a column "Patient" (the last cell empty), in any of the formats."""
    names, patients = pictures(tmp_path), ["p1", "p2", "p1", None]
    path = tmp_path / f"table{suffix}"
    if suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"file_name": names, "label": ["a", "b", "a", "b"], "Patient": patients}), path)
    elif suffix == ".jsonl":
        rows = [{"file_name": n, "label": "ab"[i % 2], "Patient": patients[i]} for i, n in enumerate(names)]
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        cells = [["file_name", "label", "Patient"], *([n, "ab"[i % 2], patients[i] or ""] for i, n in enumerate(names))]
        path.write_text("\n".join(("\t" if suffix == ".tsv" else ",").join(row) for row in cells))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("name", ["Patient", "patient"])
def test_the_user_names_the_column_of_groups(tmp_path: Path, suffix: str, name: str) -> None:
    path = grouped_table(tmp_path, suffix)
    assert [item.group for item in read(path).items] == [None] * 4
    dataset = read(path, group=name)
    assert [item.group for item in dataset.items] == ["p1", "p2", "p1", None]
    assert f"1 rows have no {name}: each of them stands alone" in dataset.notes


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_an_unknown_column_of_groups_is_refused_with_the_near_ones(tmp_path: Path, suffix: str) -> None:
    path = grouped_table(tmp_path, suffix)
    text = message(path, group="Patent")
    assert "no column 'Patent' to group by" in text
    assert "Did you mean Patient?" in text
    assert "the column 'label' holds the label" in message(path, group="label")


def test_groups_of_parquet_cells_and_of_a_folder_with_metadata(tmp_path: Path) -> None:
    data = [helpers.picture(n) for n in range(4)]
    video = [1.0, float("nan"), 1.0, 2.0]
    path = helpers.shard(tmp_path / "a.parquet", data, [0, 1, 0, 1], names=["x", "y"], video=video)
    assert [item.group for item in read(path, group="video").items] == ["1.0", None, "1.0", "2.0"]
    assert "Did you mean video?" in message(path, group="vidio")
    names = pictures(tmp_path / "m")
    (tmp_path / "m/metadata.csv").write_text("file_name,label,day\n" + "".join(f"{n},{n[-5]},d\n" for n in names))
    assert {item.group for item in read(tmp_path / "m", group="day").items} == {"d"}
    assert "no column 'night'" in message(tmp_path / "m", group="night")


def test_the_folder_below_the_class_can_be_the_group(tmp_path: Path) -> None:
    helpers.fill(tmp_path / "flat", {"cat/tom": 2, "cat/felix": 1, "cat": 1, "dog/tom/day 1": 2})
    dataset = read(tmp_path / "flat", group="folder")
    assert [item.group for item in dataset.items] == [None, "felix", "tom", "tom", "tom/day 1", "tom/day 1"]
    assert "1 pictures lie in no folder below their class: each of them stands alone" in dataset.notes
    assert {item.group for item in read(tmp_path / "flat").items} == {None}
    helpers.fill(tmp_path / "split", {"train/a/v1": 2, "train/b/v2": 2, "test/a/v1": 1})
    assert [item.group for item in read(tmp_path / "split", group="folder").items] == ["v1", "v1", "v1", "v2", "v2"]


def test_groups_that_cannot_be_told_say_what_is_possible(tmp_path: Path) -> None:
    helpers.fill(tmp_path, {"cat": 2, "dog": 2})
    text = message(tmp_path, group="patient")
    assert "no column 'patient'" in text
    assert "folder" in text
    assert "a table with the columns file_name, label" in text
    assert "nothing to group by" in message(tmp_path, group="folder")
    images = [np.full((20, 20, 3), n, np.uint8) for n in range(4)]
    assert "pictures in memory have no column 'x'" in message(images, labels=[0, 1, 0, 1], group="x")


def test_quotes_commas_newlines_and_backslashes_in_cells(tmp_path: Path) -> None:
    helpers.fill(tmp_path, {"a,b": 1, "c": 1})
    text = 'file_name,label\n"a,b/000.jpg","say ""cheese"",\nplease"\nc\\000.jpg, plain \n'
    (tmp_path / "t.csv").write_text(text)
    dataset = read(tmp_path / "t.csv")
    assert dataset.classes == ("plain", 'say "cheese",\nplease')
    assert [item.name for item in dataset.items] == ["a,b/000.jpg", "c/000.jpg"]


def test_jsonl_and_a_folder_with_metadata(tmp_path: Path) -> None:
    names = pictures(tmp_path)
    lines = [json.dumps({"file_name": n, "label": i % 2, "extra": {"x": 1}}) for i, n in enumerate(names)]
    (tmp_path / "metadata.jsonl").write_text("\n\n".join(lines), encoding="utf-8-sig")
    dataset = read(tmp_path)
    assert dataset.classes == ("0", "1")
    assert dataset.path == tmp_path.as_posix()
    (tmp_path / "metadata.csv").write_text("file_name,label\n" + "".join(f"{n},c{i}\n" for i, n in enumerate(names)))
    assert read(tmp_path).classes == ("c0", "c1", "c2", "c3")


def test_a_metadata_file_about_something_else_does_not_hide_the_class_folders(tmp_path: Path) -> None:
    helpers.fill(tmp_path, {"a": 1, "b": 1})
    for content in ("camera,lens\nx,y\n", "file_name,camera\na/000.jpg,x\n"):
        (tmp_path / "metadata.csv").write_text(content)
        dataset = read(tmp_path)
        assert dataset.classes == ("a", "b")
        assert any("metadata.csv was not used as a manifest: line 1 has no column" in note for note in dataset.notes)
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "metadata.csv").write_text("camera,lens\nx,y\n")
    assert "no column 'file_name': it has camera, lens" in message(tmp_path / "only")


def test_utf16_is_read_and_latin1_is_named_with_its_line(tmp_path: Path) -> None:
    pictures(tmp_path)
    text = "file_name,label\npics/000.jpg,käfer\npics/001.jpg,b\n"
    (tmp_path / "a.csv").write_bytes(text.encode("utf-16"))
    assert read(tmp_path / "a.csv").classes == ("b", "käfer")
    (tmp_path / "b.csv").write_bytes(text.encode("latin-1"))
    assert "line 2 is not UTF-8" in message(tmp_path / "b.csv")


def test_absolute_paths_and_repeats(tmp_path: Path) -> None:
    names = pictures(tmp_path)
    absolute = (tmp_path / names[1]).as_posix()
    (tmp_path / "t.csv").write_text(f"path,label\n{names[0]},a\n{absolute},b\n{names[0]},a\n")
    dataset = read(tmp_path / "t.csv")
    assert sorted(item.name for item in dataset.items) == sorted([names[0], absolute])
    assert dataset.notes == ("1 repeated lines of the manifest were left out",)
    (tmp_path / "t.csv").write_text(f"path,label\n{names[0]},a\n{names[1]},b\n{names[0]},b\n")
    assert "stands in line 2 and line 4 with different labels" in message(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("a.csv", "", "no rows"),
        ("a.csv", "file_name,label\n", "no rows"),
        ("a.csv", "picture,label\nx.jpg,a\n", "no column 'file_name': it has picture, label"),
        ("a.csv", "file_name,klass\nx.jpg,a\n", "no column 'label'"),
        ("a.csv", "file_name,label\nx.jpg,a\ny.jpg,\n", "line 3 has no label"),
        ("a.csv", "file_name,label\nx.jpg,a\n,b\n", "line 3 has no file_name"),
        ("a.csv", "file_name,label\nx.jpg,a\ny.jpg,b,c\n", "line 3 has more cells"),
        ("a.csv", "file_name,label\nx.jpg,a\ny.jpg\n", "line 3 has no label"),
        ("a.csv", 'file_name,label\nx.jpg,"a\n', "line 2: unexpected end of data"),
        ("a.csv", "file_name,label\nx.jpg," + "a" * 200_000 + "\n", "line 2: field larger than field limit"),
        ("a.csv", "file_name,label,split\nx.jpg,a,trian\n", "line 2: unknown split 'trian'"),
        ("a.csv", "file_name,label\nx.jpg,a\ny.jpg,a\n", "only one class, 'a'"),
        ("a.jsonl", '{"file_name": "x.jpg", "label": "a"}\n{nonsense\n', "line 2 is not JSON"),
        ("a.jsonl", '["x.jpg", "a"]\n', "line 1 is not a JSON object"),
        ("a.jsonl", '{"file_name": "x.jpg", "label": ["a"]}\n', "line 1: label is not a text"),
        ("a.jsonl", "[" * 100_000 + "\n", "line 1 is not JSON"),
        ("a.jsonl", '{"file_name": "x.jpg", "label": null}\n', "line 1 has no label"),
        ("a.parquet", "PAR1 but no more PAR1", "cannot be read as Parquet"),
    ],
)
def test_a_broken_manifest_is_told_with_its_line(tmp_path: Path, name: str, content: str, wanted: str) -> None:
    (tmp_path / name).write_text(content)
    text = message(tmp_path / name)
    assert wanted in text
    assert name in text


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["m.csv", "m.tsv", "m.jsonl"]))
def test_any_bytes_as_a_manifest_give_a_data_error_or_rows(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str
) -> None:
    path = tmp_path_factory.mktemp("any") / name
    for start in (b"", b"file_name,label\nx.jpg,a\ny.jpg,b\n"):
        path.write_bytes(start + data)
        got = outcome(path)
        assert isinstance(got, Dataset) or str(path) in got


def outcome(path: Path) -> Dataset | str:
    try:
        return read(path)
    except DataError as error:
        return str(error)


def test_an_unreadable_manifest_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text("x")

    def fail(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", fail)
    assert "cannot be read (Permission denied)" in message(tmp_path / "a.csv")


# --- Parquet ----------------------------------------------------------------------------------------------


def test_shards_of_the_hugging_face_kind(tmp_path: Path) -> None:
    data = [helpers.picture(seed) for seed in range(6)]
    for place in (tmp_path, tmp_path / "hub" / "data"):
        helpers.shard(place / "train-00000-of-00003.parquet", data[:3], [0, 1, 0], names=["zebra", "ant"])
        helpers.shard(place / "train-00002-of-00003.parquet", data[3:5], [1, 0], names=["zebra", "ant"])
        helpers.shard(
            place / "validation-00000-of-00001-0123456789abcdef.parquet", data[5:], [1], names=["zebra", "ant"]
        )
    (tmp_path / "classes.csv").write_text("label,name\n")
    before = helpers.folder_hash(tmp_path)
    dataset = read(tmp_path)
    assert dataset.classes == ("ant", "zebra")
    assert counts(dataset) == {("train", "zebra"): 3, ("train", "ant"): 2, ("val", "ant"): 1}
    assert dataset.notes == ("train: 2 of 3 Parquet files are there", "val has no picture of zebra")
    first = dataset.items[0]
    assert first.name == "train-00000-of-00003.parquet#0"
    assert first.origin == ParquetOrigin(tmp_path / "train-00000-of-00003.parquet", 0, "image")
    assert decode.read_bytes(first) == data[0]
    assert read(tmp_path / "hub").items[0].name == "data/train-00000-of-00003.parquet#0"
    assert helpers.folder_hash(tmp_path) == before


def test_plain_cells_labels_without_names_splits_and_groups(tmp_path: Path) -> None:
    data = [helpers.picture(seed) for seed in range(3)]
    path = helpers.shard(
        tmp_path / "a.parquet", data, [10, 2, 10], plain=True, split=["train", "train", "test"], group=[None, 5, 6]
    )
    dataset = read(path)
    assert dataset.classes == ("10", "2")
    assert [item.split for item in dataset.items] == ["train", "train", "test"]
    assert [item.group for item in dataset.items] == [None, "5", "6"]
    assert decode.load(dataset.items[2]).shape == (16, 24, 3)


def test_a_parquet_manifest_of_paths(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = pictures(tmp_path, 2)
    pq.write_table(pa.table({"file_name": names, "label": ["a", "b"]}), tmp_path / "metadata.parquet")
    dataset = read(tmp_path)
    assert [item.origin for item in dataset.items] == [FileOrigin(tmp_path / name) for name in names]


@pytest.mark.parametrize(
    ("labels", "more", "wanted"),
    [
        ([0, 5], {}, "row 1 has the label 5, and there are 2 names"),
        ([0, -1], {}, "row 1 has the label -1"),
        ([0, None], {}, "row 1 has no label"),
        ([0, 1], {"split": ["train", "teest"]}, "unknown split 'teest'"),
    ],
)
def test_a_wrong_row_is_named(
    tmp_path: Path, labels: list[int | None], more: dict[str, list[str]], wanted: str
) -> None:
    cells = [helpers.picture(0), helpers.picture(1)]
    assert wanted in message(helpers.shard(tmp_path / "a.parquet", cells, labels, names=["a", "b"], **more))


def test_wrong_columns_and_damaged_metadata(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"x": [1], "y": [2]}), tmp_path / "a.parquet")
    assert "it has x, y" in message(tmp_path / "a.parquet")
    for metadata in (b"{nonsense", b"[]", b'{"info": {"features": []}}', b'{"info": 3}'):
        table = pa.table({"image": [helpers.picture(0), helpers.picture(1)], "label": ["a", "b"]})
        pq.write_table(table.replace_schema_metadata({b"huggingface": metadata}), tmp_path / "b.parquet")
        assert read(tmp_path / "b.parquet").classes == ("a", "b")


def test_a_label_column_under_another_name_is_found_by_its_type(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"photo": [helpers.picture(0), helpers.picture(1)], "species": [0, 1], "image": ["x", "y"]})
    features = {"photo": {"_type": "Image"}, "species": {"_type": "ClassLabel", "names": ["ant", "bee"]}}
    stored = json.dumps({"info": {"features": features}})
    pq.write_table(table.replace_schema_metadata({"huggingface": stored}), tmp_path / "a.parquet")
    dataset = read(tmp_path / "a.parquet")
    assert dataset.classes == ("ant", "bee")
    assert dataset.items[0].origin == ParquetOrigin(tmp_path / "a.parquet", 0, "photo")


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = helpers.shard(tmp_path / "a.parquet", [helpers.picture(0)], ["a"])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match="pyarrow"):
        read(path)


# --- lists ------------------------------------------------------------------------------------------------


def test_lists_of_paths_pictures_and_arrays(tmp_path: Path) -> None:
    names = pictures(tmp_path, 2)
    values = [
        tmp_path / names[0],
        str(tmp_path / names[1]),
        Image.new("RGB", (5, 4)),
        np.zeros((4, 5), np.uint8),
        str(tmp_path / names[1]),
    ]
    dataset = read(values, labels=["b", "a", "b", "a", "a"])
    assert dataset.classes == ("a", "b")
    assert [item.label for item in dataset.items] == [1, 0, 1, 0, 0]
    assert len({item.name for item in dataset.items}) == 5
    assert isinstance(dataset.items[2].origin, MemoryOrigin)
    assert all(decode.load(item).ndim == 3 for item in dataset.items)


def test_one_array_of_pictures_and_numpy_labels() -> None:
    dataset = read(np.zeros((4, 6, 5, 3), np.uint8), labels=np.array([1, 0, 10, 2]))  # type: ignore[arg-type]
    assert dataset.classes == ("0", "1", "10", "2")
    assert [decode.load(item).shape for item in dataset.items] == [(6, 5, 3)] * 4


def test_mistakes_with_lists_are_told() -> None:
    picture = np.zeros((4, 4), np.uint8)
    assert "the list of pictures is empty" in message([], labels=[])
    assert "needs labels" in message([picture])
    assert "2 pictures but 1 labels" in message([picture, picture], labels=["a"])
    for empty in (None, "", " ", float("nan")):
        assert "label 1 is empty" in message([picture, picture], labels=["a", empty])
    assert "only one class" in message([picture, picture], labels=["a", "a"])


# --- pictures to predict ----------------------------------------------------------------------------------


def test_find_images_in_files_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helpers.fill(tmp_path, {"in/deep": 2, "in/.hidden": 1})
    (tmp_path / "in" / "notes.txt").write_text("x")
    (tmp_path / "odd.dat").write_bytes(helpers.picture())
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    monkeypatch.chdir(tmp_path)
    items = find_images(["./odd.dat", "in", "./in/deep/000.jpg", Path("gone.jpg")])
    assert [item.name for item in items] == ["./odd.dat", "in/deep/000.jpg", "in/deep/001.jpg", "gone.jpg"]
    assert all(item.label is None and item.split == "" for item in items)
    assert decode.load(items[0]).shape == (16, 24, 3)
    assert [item.name for item in find_images("in")] == ["in/deep/000.jpg", "in/deep/001.jpg"]
    assert find_images(tmp_path / "in")[0].name == f"{tmp_path.as_posix()}/in/deep/000.jpg"


def test_a_forbidden_folder_is_an_item_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helpers.fill(tmp_path, {"a": 1, "c": 1})
    real = os.scandir

    def guarded(path: object) -> object:
        if str(path).endswith("/c"):
            raise PermissionError(13, "Permission denied")
        return real(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", guarded)
    good, closed = find_images([tmp_path])
    assert good.name.endswith("a/000.jpg")
    assert closed.name == f"{tmp_path.as_posix()}/c"
    with pytest.raises(UnreadableImage, match="permission denied"):
        decode.load(closed)


def test_a_place_that_may_not_be_looked_into_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(self: Path, **_: object) -> os.stat_result:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "stat", closed)
    assert re.search(r"permission denied \[.*data\]\. Make it readable", message(tmp_path / "data"))
    (item,) = find_images([tmp_path / "a.jpg"])
    with pytest.raises(UnreadableImage, match="permission denied"):
        decode.load(item)


def test_find_images_tells_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        find_images([tmp_path / "none.jpg"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pictures found"):
        find_images([tmp_path / "empty"])
    with pytest.raises(DataError, match="no pictures found"):
        find_images([])


# --- real data --------------------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "classes", "sizes"),
    [
        ("hymenoptera", 2, {"train": 244, "val": 153}),
        ("hotdog", 2, {"train": 200, "val": 50}),
        ("rsscn7", 7, {"train": 315, "val": 105, "test": 140}),
        ("dtd10", 10, {"train": 240, "val": 60, "test": 140}),
        ("clothing", 10, {"train": 360, "val": 90, "test": 120}),
        ("cifar10", 10, {"train": 10000, "test": 5000}),
    ],
)
def test_shared_sets(shared: Path, name: str, classes: int, sizes: dict[str, int]) -> None:
    dataset = read(shared / "data" / name)
    assert len(dataset.classes) == classes
    assert dict(Counter(item.split for item in dataset.items)) == sizes
    assert dataset.notes == ()
    assert len({item.name for item in dataset.items}) == len(dataset.items)
    assert decode.load(dataset.items[-1]).shape[2] == 3


@pytest.mark.shared
def test_sound_and_boxes_are_refused_with_the_layouts(shared: Path) -> None:
    assert re.search("no picture among .*DIR/CLASS", message(shared / "data" / "fsdd" / "train"))
    assert "two at least" in message(shared / "data" / "bccd")
