"""B: data sets that are not what they should be, through whole commands."""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _outside import headstart, helpers, odd_files
from figures import record
from PIL import Image

from headstart import api, cli
from headstart.data.read import LAYOUTS, find_images
from toydata import CLASSES, folder_hash, picture, write_shapes

TOY = ("--source", "toy", "--quiet")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 12345\n"
ERROR_PAGE = b"<!DOCTYPE html><html><body>404, request %d</body></html>"


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line with which a command is refused."""
    assert cli.run(list(map(str, words))) == 2
    told = capsys.readouterr()
    lines = [line for line in told.err.splitlines() if not line.startswith("Checking pictures")]
    assert len(lines) == 1, told.err
    assert lines[0].startswith("error: ")
    assert told.out == ""
    return lines[0]


def judged(run: Path) -> list[dict[str, str]]:
    """The rows of predictions.csv."""
    with (run / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


# --- classes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["inspect", "fit", "compare"])
@pytest.mark.parametrize("kind", ["one class", "no class", "no picture", "nothing readable"])
def test_data_without_classes_are_refused_with_what_was_seen_and_what_is_wanted(
    verb: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """B1: and nothing is written."""
    data = tmp_path / "data"
    helpers.fill(
        data, {"one class": {"only": 3}, "no class": {".": 3}, "nothing readable": {"a": 3, "b": 3}}.get(kind, {})
    )
    data.mkdir(exist_ok=True)
    if kind == "no picture":
        (data / "notes.txt").write_text("x")
    if kind == "nothing readable":
        for path in data.rglob("*.jpg"):
            path.write_bytes(b"no picture")
    before = helpers.folder_hash(data)
    words = () if verb == "inspect" else ("--out", tmp_path / "run", *TOY)
    told = refused(capsys, verb, data, *words)
    seen = {
        "one class": "only one class, 'only' in 3 pictures", "no class": "3 pictures but no class folders",
        "no picture": "no picture among 1 files (.txt 1)", "nothing readable": "6 of 6 pictures cannot be read",
    }[kind]  # fmt: skip
    assert seen in told
    assert ("as in a/000.jpg" in told) if kind == "nothing readable" else (LAYOUTS in told)
    assert not (tmp_path / "run").exists()
    assert helpers.folder_hash(data) == before


def test_classes_of_one_picture_each_are_refused_with_remedies(tmp_path: Path, capsys: Any) -> None:
    """B2: where there is nothing to judge by."""
    told = refused(capsys, "fit", write_shapes(tmp_path / "data", per_class=1), "--out", tmp_path / "run", *TOY)
    assert "class 'bar' has 1" in told
    assert "Add pictures" in told
    assert "merge rare classes" in told


@dataclass(frozen=True)
class Untidy:
    """A data folder as people have them, and a run on it."""

    folder: Path
    run: dict[str, Any]
    rows: list[dict[str, str]]


@pytest.fixture(scope="module")
def untidy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Untidy]:
    place = tmp_path_factory.mktemp("untidy")
    data = write_shapes(place / "data", per_class=12)
    for name in ("single", "empty", "spoiled", ".ipynb_checkpoints", "__MACOSX/bar"):
        (data / name).mkdir(parents=True)
    picture("disc", 500).save(data / "single" / "a.png")
    for number in range(3):
        (data / "spoiled" / f"{number}.jpg").write_bytes(b"")
    shutil.copy(data / "bar" / "000.png", data / ".ipynb_checkpoints" / "000-checkpoint.png")
    (data / "__MACOSX" / "bar" / "._000.png").write_bytes(b"\0\5\x16\7")
    (data / "Thumbs.db").write_bytes(b"x")
    (data / "disc" / "desktop.ini").write_bytes(b"x")
    (data / "disc" / "again").symlink_to("../disc")
    (data / "disc" / "up").symlink_to("..")
    (data / "square" / "here").symlink_to("here")
    before = helpers.folder_hash(data)
    run = api.fit(data, place / "run", source="toy", strategy="frozen").run
    yield Untidy(data, run, judged(place / "run"))
    assert helpers.folder_hash(data) == before, "the user's pictures were changed"


def test_a_class_with_one_picture_is_learned_and_said_not_to_be_judged(untidy: Untidy) -> None:
    """B2: better than an error, for the other classes are worth a model, and a message says what the one lacks."""
    data = untidy.run["data"]
    assert data["classes"] == [*CLASSES[:2], "single", "square"]
    assert data["splits"]["train"]["per_class"]["single"] == 1
    assert any("fewer than 10 pictures to learn from" in text and "'single' 1" in text for text in data["warnings"])
    assert any("test has no item of 'single': too few to share" in note for note in data["notes"])


def test_empty_and_spoiled_classes_are_left_out_and_named(untidy: Untidy) -> None:
    """B3."""
    data = untidy.run["data"]
    assert "no picture in empty: left out" in data["notes"]
    assert any("'spoiled'" in text for text in data["warnings"])
    assert [row["file"] for row in data["skipped"]] == [f"spoiled/{n}.jpg" for n in range(3)]
    assert not {"p_empty", "p_spoiled"} & set(untidy.rows[0])


def test_system_files_are_no_classes_and_counted(untidy: Untidy) -> None:
    """B4: .ipynb_checkpoints, __MACOSX, Thumbs.db, desktop.ini."""
    assert "4 hidden or system files and folders were left out" in untidy.run["data"]["notes"]


def test_a_folder_that_is_reached_twice_counts_once(untidy: Untidy) -> None:
    """B9: link loops end, in training and in prediction."""
    splits = untidy.run["data"]["splits"].values()
    assert Counter(sum((Counter(split["per_class"]) for split in splits), Counter())) == {
        **dict.fromkeys(CLASSES, 12), "single": 1,
    }  # fmt: skip
    assert any("disc/again, disc/up: reached a second time" in note for note in untidy.run["data"]["notes"])
    names = [item.name for item in find_images(untidy.folder)]
    assert len(names) == len(set(names)) == 36 + 1 + 3


def test_splits_with_other_classes_are_matched_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """B5: a class that test lacks is a note and moves no label; one that train lacks is refused."""
    data = write_shapes(tmp_path / "data", splits={"train": 14, "val": 4, "test": 6})
    for path in data.rglob("*.png"):
        picture(path.parent.name, int(path.stem), noise=5.0).save(path)
    shutil.rmtree(data / "test" / "bar")
    shutil.rmtree(data / "val" / "disc")
    run = api.fit(data, tmp_path / "run", source="toy", strategy="frozen").run
    assert {"val has no picture of disc", "test has no picture of bar"} <= set(run["data"]["notes"])
    rows = judged(tmp_path / "run")
    assert Counter(row["label"] for row in rows) == {"disc": 6, "square": 6}
    assert all(row["file"].split("/")[1] == row["label"] for row in rows)
    right = np.mean([row["predicted"] == row["label"] for row in rows])
    assert run["scores"]["test"]["accuracy"] == pytest.approx(right)
    assert right > 0.5
    (data / "test" / "disc").rename(data / "test" / "ring")
    for verb, words in (("inspect", ()), ("fit", ("--out", tmp_path / "other", *TOY))):
        told = refused(capsys, verb, data, *words)
        assert "test has the class 'ring', which train lacks (train has bar, disc, square)" in told


def test_copies_and_twins_stay_on_one_side_and_contradictions_are_listed(tmp_path: Path) -> None:
    """B6: of a whole run, by the items that it judged."""
    data = tmp_path / "data"
    for number in range(40):
        place = data / "ab"[number % 2] / f"{number:02d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(odd_files.photo(160, 120, number)).save(place, quality=90)
    for number in range(0, 16, 2):
        original = data / "a" / f"{number:02d}.jpg"
        shutil.copy(original, data / "a" / f"{number:02d}-copy.jpg")
        Image.open(original).resize((120, 90)).save(data / "a" / f"{number:02d}-small.jpg", quality=70)
    shutil.copy(data / "a" / "20.jpg", data / "b" / "wrong.jpg")
    before = folder_hash(data)
    run = api.fit(data, tmp_path / "run", source="toy", strategy="frozen", test_fraction=0.4).run
    test = {row["file"] for row in judged(tmp_path / "run")}
    for number in range(0, 16, 2):
        names = {f"a/{number:02d}{kind}.jpg" for kind in ("", "-copy", "-small")}
        assert names <= test or not names & test
    assert run["data"]["contradictions"] == [["a/20.jpg", "b/wrong.jpg"]]
    assert len(run["data"]["duplicates"]) == 9
    assert len(run["near_duplicates"]["groups"]) == 8
    assert run["data"]["leaks"] == run["near_duplicates"]["across_splits"] == []
    assert folder_hash(data) == before


def test_the_order_of_classes_is_the_same_in_every_language_and_on_every_disk(tmp_path: Path) -> None:
    """B7: "1", "10", "2", "A", "a", "Ä", whatever LC_ALL says and however the folders were made."""
    names = ["1", "10", "2", "Ä", "a", "A", "🐜", "z"]
    places = [tmp_path / "one" / "data"]
    memory = Path("/dev/shm")
    if os.access(memory, os.W_OK) and memory.stat().st_dev != tmp_path.stat().st_dev:
        places.append(memory / f"headstart-{os.getpid()}" / "data")
    found = set()
    try:
        for number, place in enumerate(places):
            for name in names if number else reversed(names):
                helpers.fill(place, {name: 2}, start=10 * names.index(name))
            for words in ({"LC_ALL": "C"}, {"LC_ALL": "C.UTF-8"}, {"LC_ALL": "tr_TR.UTF-8", "PYTHONHASHSEED": "7"}):
                found.add(headstart("inspect", "data", "--json", env=words, cwd=place.parent).well().out)
    finally:
        for place in places[1:]:
            shutil.rmtree(place.parent)
    assert len(found) == 1
    assert json.loads(found.pop())["classes"] == ["1", "10", "2", "A", "a", "z", "Ä", "🐜"]


# --- one cause -----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["git lfs pull", "error page"])
def fetched_badly(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder of which most files are pointers or error pages, and the words that the message must have."""
    data = write_shapes(tmp_path / "data", per_class=10)
    for number, path in enumerate(sorted(data.rglob("*.png"))):
        if number % 3:
            path.write_bytes((POINTER if request.param == "git lfs pull" else ERROR_PAGE) % number)
    before = folder_hash(data)
    yield data, request.param
    assert folder_hash(data) == before, "the user's files were changed"


def test_most_files_spoiled_by_one_cause_stop_every_verb_with_its_name(
    fetched_badly: tuple[Path, str], frozen_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """B8: also `evaluate`, whose score on the rest would stand for nothing; `predict` answers for each file."""
    data, words = fetched_badly
    run = tmp_path / "run"
    commands = [("inspect", data), ("fit", data, "--out", run, *TOY), ("compare", data, "--out", run, *TOY)]
    for command in [*commands, ("evaluate", frozen_run, data, "--split", "all", "--quiet")]:
        told = refused(capsys, *command)
        assert "20 of 30 pictures cannot be read, 20 of them for one cause" in told
        assert words in told
        assert "bar/001.png" in told
    assert not run.exists()
    answers = api.predict(frozen_run, data)
    assert [("error" in answer) for answer in answers] == [number % 3 > 0 for number in range(30)]


def test_a_third_of_bad_files_is_told_beside_the_score(
    frozen_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """B8: less than half is a list, not a stop."""
    data = write_shapes(tmp_path / "data", per_class=6)
    for number in range(2):
        (data / "disc" / f"{number:03d}.png").write_bytes(POINTER % number)
    assert cli.run(["evaluate", str(frozen_run), str(data), "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["items", "16"]
    assert lines[1].split(maxsplit=1)[1] == "2, such as disc/000.png: a Git LFS pointer, not the picture"


# --- many files ----------------------------------------------------------------------------------------------------


def scanned(place: Path, *, files: int, classes: int) -> dict[str, Any]:
    """What `inspect` takes for so many tiny pictures, nine tenths of them in one class; checks what it says."""
    rng = np.random.default_rng(files)
    large, small = files * 9 // 10, files // 10
    for number in range(files):
        name = "large" if number < large else f"class{(number - large) % (classes - 1):04d}"
        if number < 1 or number >= large:
            (place / name).mkdir(parents=True, exist_ok=True)
        rows = rng.integers(0, 256, (8, 25), dtype=np.uint8)
        rows[:, 0] = 0
        (place / name / f"{number:06d}.png").write_bytes(odd_files.png(8, 8, rows=rows.tobytes()))
    started = time.perf_counter()
    ended = headstart("inspect", place, "--json", "found.json", cwd=place.parent, seconds=3000).well()
    seconds = time.perf_counter() - started
    found = json.loads((place.parent / "found.json").read_text())
    counts = found["splits"]["unsplit"]["per_class"]
    assert (len(counts), sum(counts.values()), counts["large"]) == (classes, files, large)
    assert set(counts.values()) - {large} <= {small // (classes - 1), small // (classes - 1) + 1}
    assert found["imbalance"] == pytest.approx(large / (small // (classes - 1)))
    assert any(text.startswith("unbalanced: 'large' has") for text in found["warnings"])
    assert found["skipped"] == found["duplicates"] == []
    return {
        "files": files, "classes": classes, "seconds": round(seconds, 1), "files_per_second": round(files / seconds),
        "peak_mb": round(ended.peak_mb),
    }  # fmt: skip


def test_two_thousand_files_are_scanned_in_little_memory(tmp_path: Path) -> None:
    """B10, the short way."""
    assert scanned(tmp_path / "data", files=2_000, classes=20)["peak_mb"] < 400


@pytest.mark.long
def test_a_hundred_thousand_files_are_scanned_in_little_memory(tmp_path: Path) -> None:
    """B10: a thousand classes, one with nine tenths of the pictures."""
    found = scanned(tmp_path / "data", files=100_000, classes=1_000)
    record("a folder of many files", **found)
    assert found["peak_mb"] < 400
