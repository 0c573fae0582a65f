"""The audit looks at every item once, tells what is wrong and changes nothing."""

from __future__ import annotations

import hashlib
import io
import os
import re
import threading
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import odd_files
import pytest
from PIL import Image

from headstart.data import audit as module
from headstart.data.audit import audit, confirmed, odd
from headstart.data.cores import default_workers
from headstart.data.looked import Seen
from headstart.data.read import read
from headstart.errors import DataError
from headstart.records import Facts

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:%d\nsize 12345\n"


def audited(root: Path) -> Facts:
    return audit(read(root))[1]


@pytest.mark.filterwarnings("ignore")
def test_every_odd_file_is_used_or_told_once(tmp_path: Path) -> None:
    helpers.fill(tmp_path, {"good": 12})
    (tmp_path / "odd").mkdir()
    written = odd_files.write(tmp_path / "odd")
    before = helpers.folder_hash(tmp_path)
    dataset, facts = audit(read(tmp_path))
    bad = {f"odd/{entry.name}": entry.reason for entry in written if entry.reason}
    told = {entry.file: entry.reason for entry in facts.skipped}
    assert set(told) == set(bad)
    assert len(facts.skipped) == len(told)
    assert all(reason in told[name] for name, reason in bad.items())
    assert {item.name for item in dataset.items if item.label == 1} == {
        f"odd/{entry.name}" for entry in written if not entry.reason
    }
    assert facts.n_items == len(dataset.items) == len(facts.hashes)
    assert dataset.skipped == facts.skipped
    assert helpers.folder_hash(tmp_path) == before


def test_the_facts_of_a_clean_set(tmp_path: Path) -> None:
    helpers.fill(tmp_path, {"train/a": 12, "train/b": 10, "val/a": 3, "val/b": 3})
    (tmp_path / "train" / "a" / "wide.png").write_bytes(odd_files.encoded(odd_files.photo(80, 20, 99)))
    seen: list[tuple[int, int]] = []
    dataset, facts = audit(read(tmp_path), workers=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, 29) for number in range(1, 30)]
    assert facts.splits == {"train": {"a": 13, "b": 10}, "val": {"a": 3, "b": 3}}
    assert facts.sizes["width"] == {"min": 24, "median": 24, "max": 80}
    assert facts.sizes["height"] == {"min": 16, "median": 16, "max": 20}
    assert facts.sizes["formats"] == {"JPEG": 28, "PNG": 1}
    assert facts.sizes["modes"] == {"RGB": 29}
    assert facts.imbalance == pytest.approx(1.3)
    assert facts.warnings == ()
    assert facts.duplicates == facts.leaks == facts.contradictions == ()
    name = dataset.items[0].name
    assert facts.hashes[name] == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


def test_one_worker_and_many_find_the_same(tmp_path: Path) -> None:
    helpers.fill(tmp_path, {"a": 20, "b": 20})
    assert audit(read(tmp_path), workers=1) == audit(read(tmp_path), workers=7)


def test_a_bounded_number_of_pictures_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helpers.fill(tmp_path, {"a": 40, "b": 40})
    started, finished, most, gate = [0], [0], [0], threading.Lock()
    inside, held = [0], [0]
    real = module._look

    def watched(*args: Any, **more: Any) -> Seen:
        with gate:
            started[0] += 1
            inside[0] += 1
            held[0] = max(held[0], inside[0])
        found = real(*args, **more)
        with gate:
            inside[0] -= 1
        return found

    def progress(done: int, total: int) -> None:
        finished[0] = done
        most[0] = max(most[0], started[0] - done)

    monkeypatch.setattr(module, "_look", watched)
    monkeypatch.setattr(module, "_TOGETHER", 4)
    audit(read(tmp_path), workers=2, progress=progress)
    assert finished[0] == 80
    assert held[0] <= 2  # a decoded picture a thread is in memory
    assert most[0] <= 2 * 2 * 4  # the others wait, or are findings already


def test_copies_leaks_and_contradictions_are_told(tmp_path: Path) -> None:
    helpers.fill(tmp_path, {"train/a": 10, "train/b": 10, "test/a": 2, "test/b": 2})
    copy = (tmp_path / "train/a/000.jpg").read_bytes()
    (tmp_path / "train/a/copy.jpg").write_bytes(copy)
    (tmp_path / "test/b/copy.jpg").write_bytes(copy)
    (tmp_path / "test/a/other.jpg").write_bytes((tmp_path / "train/a/001.jpg").read_bytes())
    facts = audited(tmp_path)
    group = ("test/b/copy.jpg", "train/a/000.jpg", "train/a/copy.jpg")
    pair = ("test/a/other.jpg", "train/a/001.jpg")
    assert facts.duplicates == (pair, group)
    assert facts.leaks == (pair, group)
    assert facts.contradictions == (group,)
    text = " | ".join(facts.warnings)
    assert "3 pictures are exact copies" in text
    assert "2 pictures stand in more than one split" in text
    assert "1 pictures stand under more than one class" in text


def twin(path: Path, to: Path, quality: int = 60) -> None:
    """Write a smaller, mirrored copy of a picture."""
    image = Image.open(path)
    to.parent.mkdir(parents=True, exist_ok=True)
    image.resize((120, 90)).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(to, quality=quality)


def photos(root: Path, layout: dict[str, int]) -> Path:
    """Pictures that are large and varied enough to be told apart."""
    seed = 0
    for folder, count in layout.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.fromarray(odd_files.photo(160, 120, seed)).save(root / folder / f"{number:03d}.jpg", quality=90)
            seed += 1
    return root


def test_near_duplicates_are_told_apart_from_copies(tmp_path: Path) -> None:
    photos(tmp_path, {"train/a": 10, "train/b": 10, "test/a": 2, "test/b": 2})
    twin(tmp_path / "train/a/000.jpg", tmp_path / "train/a/twin.jpg")
    twin(tmp_path / "train/a/001.jpg", tmp_path / "test/b/twin.jpg")
    (tmp_path / "train/b/copy.jpg").write_bytes((tmp_path / "train/b/000.jpg").read_bytes())
    facts = audited(tmp_path)
    one, other = ("train/a/000.jpg", "train/a/twin.jpg"), ("test/b/twin.jpg", "train/a/001.jpg")
    assert facts.near_duplicates == (other, one)
    assert facts.near_leaks == facts.near_contradictions == (other,)
    assert facts.duplicates == (("train/b/000.jpg", "train/b/copy.jpg"),)
    assert set(facts.fingerprints) == set(facts.hashes)
    text = " | ".join(facts.warnings)
    assert "4 pictures in 2 groups are nearly the same" in text
    assert "1 groups of nearly the same pictures stand in more than one split, such as test/b/twin.jpg" in text
    assert "1 groups of nearly the same pictures stand under more than one class" in text


def test_features_confirm_cropped_twins_before_the_split(tmp_path: Path) -> None:
    photos(tmp_path, {"train/a": 10, "train/b": 10, "test/a": 2, "test/b": 2})
    image = Image.open(tmp_path / "train/a/001.jpg")
    image.crop((4, 0, 160, 116)).save(tmp_path / "test/a/crop.jpg")
    twin(tmp_path / "train/a/000.jpg", tmp_path / "train/a/twin.jpg")
    dataset, facts = audit(read(tmp_path))
    assert facts.near_duplicates == (("train/a/000.jpg", "train/a/twin.jpg"),)
    rows = np.random.default_rng(0).normal(size=(len(dataset.items), 16)).astype(np.float32)
    assert confirmed(dataset, facts, rows) == facts
    names = [item.name for item in dataset.items]
    rows[names.index("test/a/crop.jpg")] = rows[names.index("train/a/001.jpg")]
    more = confirmed(dataset, facts, rows)
    assert more.near_duplicates == (("test/a/crop.jpg", "train/a/001.jpg"), ("train/a/000.jpg", "train/a/twin.jpg"))
    assert more.near_leaks == (("test/a/crop.jpg", "train/a/001.jpg"),)
    assert more.near_confirmed == 1
    assert "4 pictures in 2 groups" in " | ".join(more.warnings)
    assert "2 pictures in 1 groups" not in " | ".join(more.warnings)


def test_a_group_in_several_given_splits_is_told(tmp_path: Path) -> None:
    helpers.fill(tmp_path, {"train/a/p1": 10, "train/b/p2": 10, "test/a/p1": 2, "test/b/p3": 2, "val/a/p1": 1})
    facts = audit(read(tmp_path, group="folder"))[1]
    assert facts.group_leaks == (("p1", ("train", "val", "test")),)
    assert "the group 'p1' stands in train and val and test: scores on them are too good" in facts.warnings
    helpers.fill(tmp_path / "whole", {"a/p1": 10, "b/p1": 10})
    assert audit(read(tmp_path / "whole", group="folder"))[1].group_leaks == ()


def test_imbalance_and_small_classes_are_told(tmp_path: Path) -> None:
    facts = audited(helpers.fill(tmp_path, {"large": 25, "small": 4}))
    assert facts.splits == {"unsplit": {"large": 25, "small": 4}}
    assert facts.imbalance == pytest.approx(6.25)
    assert any("'large' has 25 pictures and 'small' 4 (6.2 to 1)" in warning for warning in facts.warnings)
    assert "fewer than 10 pictures to learn from: 'small' 4" in facts.warnings


def test_most_files_spoiled_by_one_cause_stop_the_run_with_its_remedy(tmp_path: Path) -> None:
    causes = {
        "lfs": (LFS, "git lfs pull"),
        "html": (b"<!DOCTYPE html> %d", "error page"),
        "empty": (b"", "again"),
        "bytes": (b"\x81\x82\x83 %d", "error page"),
    }
    for name, (content, remedy) in causes.items():
        root = helpers.fill(tmp_path / name, {"a": 10, "b": 10})
        for number in range(12):
            path = root / "ab"[number % 2] / f"{number // 2:03d}.jpg"
            path.write_bytes(content % number if b"%d" in content else content)
        before = helpers.folder_hash(root)
        with pytest.raises(DataError) as caught:
            audited(root)
        text = str(caught.value)
        assert "12 of 20 pictures cannot be read" in text
        assert "a/000.jpg" in text
        assert remedy in text
        assert "\n" not in text
        assert helpers.folder_hash(root) == before


def test_missing_and_forbidden_files_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "".join(f"none/{number}.jpg,{'ab'[number % 2]}\n" for number in range(5))
    (tmp_path / "m.csv").write_text("file_name,label\n" + lines)
    with pytest.raises(DataError, match="relative to the folder of the manifest"):
        audited(tmp_path / "m.csv")
    root = helpers.fill(tmp_path / "d", {"a": 2, "b": 2})
    for number, content in enumerate([b"", LFS, b"<html>", b"\xff\xd8\xff" + b"x" * 99]):
        (root / "ab"[number % 2] / f"{number // 2:03d}.jpg").write_bytes(content)
    with pytest.raises(DataError, match="4 of 4 pictures cannot be read"):
        audited(root)

    def fail(self: Path) -> bytes:
        raise PermissionError(13, "x")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(DataError, match="Make the files readable"):
        audited(root)


def test_nothing_to_look_at_and_unknown_damage_are_told(tmp_path: Path) -> None:
    dataset = read(helpers.fill(tmp_path, {"a": 2, "b": 2}))
    with pytest.raises(DataError, match="no pictures to look at"):
        audit(dataset.with_items(()))
    for path in tmp_path.rglob("*.jpg"):
        path.write_bytes(odd_files.tiff(b"\0" * 64, 2, 2, bits=64, sample=3))
    with pytest.raises(DataError, match="replace or convert"):
        audit(dataset)


def test_a_few_bad_files_are_skipped_and_told(tmp_path: Path) -> None:
    root = helpers.fill(tmp_path, {"a": 12, "b": 12})
    (root / "a" / "003.jpg").write_bytes(b"")
    dataset, facts = audit(read(root))
    assert [(entry.file, entry.reason) for entry in facts.skipped] == [("a/003.jpg", "file is empty")]
    assert len(dataset.items) == 23
    assert "1 files were skipped, such as a/003.jpg (file is empty)" in facts.warnings


def test_a_class_without_a_readable_picture_is_dropped_or_an_error(tmp_path: Path) -> None:
    root = helpers.fill(tmp_path / "three", {"train/a": 12, "train/b": 1, "train/c": 12, "test/b": 2, "test/c": 2})
    (root / "train/b/000.jpg").write_bytes(b"")
    dataset, facts = audit(read(root))
    assert dataset.classes == facts.classes == ("a", "c")
    assert {item.label for item in dataset.items if item.name.startswith("train/c")} == {1}
    assert any("'b' from: dropped, with 2 of its pictures in other splits" in warning for warning in facts.warnings)
    root = helpers.fill(tmp_path / "two", {"a": 5, "b": 1})
    (root / "b/000.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="no readable picture of 'b': fewer than two classes"):
        audited(root)


def test_half_empty_and_one_coloured_pictures_are_used_and_told(tmp_path: Path) -> None:
    helpers.fill(tmp_path, {"a": 10, "b": 10})
    half = odd_files.photo(96, 96)
    half = half.copy()
    half[40:] = 128
    (tmp_path / "a/half.jpg").write_bytes(odd_files.encoded(half, "JPEG", quality=90))
    rows = odd_files.photo(64, 1).tobytes()
    line = b"\0" + rows
    (tmp_path / "a/line.png").write_bytes(odd_files.png(64, 64, rows=line + (b"\0" * 193) * 63))
    (tmp_path / "b/black.png").write_bytes(odd_files.encoded(Image.new("RGB", (30, 30))))
    dataset, facts = audit(read(tmp_path))
    told = {entry.file: entry.reason for entry in facts.suspicious}
    assert set(told) == {"a/half.jpg", "a/line.png", "b/black.png"}
    assert re.fullmatch(r"the lower (49|5\d) % is one colour", told["a/half.jpg"])
    assert told["b/black.png"] == "one colour all over"
    assert set(told) <= {item.name for item in dataset.items}
    assert any("3 pictures look odd and were used" in warning for warning in facts.warnings)


def test_stripes_are_odd_and_photos_and_white_margins_are_not() -> None:
    photo = odd_files.photo(64, 64)
    assert odd(photo) == ""
    framed = np.full((64, 64, 3), 255, np.uint8)
    framed[12:52, 12:52] = photo[:40, :40]
    assert odd(framed) == ""
    stripes = np.repeat(np.arange(64, dtype=np.uint8)[:, None, None] * 3, 64, axis=1).repeat(3, axis=2)
    assert "of the rows" in odd(stripes)
    assert odd(photo[:1]) == ""
    assert odd(photo[:1, :1]) == "one colour all over"


def test_cut_jpegs_are_found_in_the_audit_though_it_decodes_drafts(tmp_path: Path) -> None:
    helpers.fill(tmp_path, {"a": 12, "b": 12})
    data = odd_files.encoded(odd_files.photo(700, 600), "JPEG", quality=85)
    for percent in (30, 60, 95):
        (tmp_path / "a" / f"cut{percent}.jpg").write_bytes(data[: len(data) * percent // 100])
    facts = audited(tmp_path)
    assert {entry.file for entry in facts.skipped} == {"a/cut30.jpg", "a/cut60.jpg", "a/cut95.jpg"}
    assert {entry.reason for entry in facts.skipped} == {"truncated"}


def test_parquet_and_memory_are_audited_too(tmp_path: Path) -> None:
    cells = [helpers.picture(seed) for seed in range(6)]
    helpers.shard(tmp_path / "train-00000-of-00001.parquet", [*cells, b""], [0, 1] * 3 + [1], names=["x", "y"])
    facts = audited(tmp_path)
    assert [entry.reason for entry in facts.skipped] == ["file is empty"]
    assert facts.hashes["train-00000-of-00001.parquet#0"] == hashlib.sha256(cells[0]).hexdigest()
    array = np.asarray(Image.open(io.BytesIO(cells[0])))
    memory = audit(read([array, array, array[::-1]], labels=["a", "b", "b"]))[1]
    assert memory.contradictions == (("item-000000", "item-000001"),)


def test_the_number_of_threads_follows_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert default_workers() == 8
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert default_workers() == 1


def test_an_interrupt_leaves_no_thread_behind(tmp_path: Path) -> None:
    helpers.fill(tmp_path, {"a": 20, "b": 20})

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(read(tmp_path), workers=2, progress=stop)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("audit")]


@pytest.mark.shared
@pytest.mark.parametrize("name", ["hotdog", "dtd10"])
def test_shared_sets_are_clean(shared: Path, name: str) -> None:
    facts = audited(shared / "data" / name)
    assert facts.skipped == facts.duplicates == facts.suspicious == ()
    assert facts.imbalance == 1
