"""J of the catalogue: the same command gives the same result wherever and by whomever it is given."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _elsewhere import Place, can_be_nobody, files_of, open_folder, run_in, same_record, write_hook
from figures import record

import headstart
from noting import Noting
from toydata import folder_hash, write_shapes

FROZEN = ["--strategy", "frozen", "--engine", "torch"]
TUNED = ["--strategy", "full", "--epochs", "2", "--batch-size", "16", "--lr", "1e-3", "--engine", "torch"]
PARTIAL = ["--strategy", "partial", "--train-last", "1", "--epochs", "2", "--engine", "torch"]
UNLIKE = ("command", "settings")  # the path of the data, the number of workers


def fitted(place: Place, root: Path, data: Path, name: str, words: list[str], *, workers: int = 0) -> Path:
    """A run in a place; its folder."""
    run = root / name
    words = ["fit", str(data), "--out", str(run), "--source", "toy", *words, "--workers", str(workers), "--quiet"]
    run_in(place, root, words)
    return run


def agree(one: Path, two: Path) -> int:
    """Fail where two runs differ in anything but clocks and paths; how many files were compared byte for byte."""
    assert same_record(one, *UNLIKE) == same_record(two, *UNLIKE)
    first, second = files_of(one), files_of(two)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    return len(first)


@pytest.fixture(scope="module")
def room() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def data(room: Path) -> Path:
    return write_shapes(room / "data", splits={"train": 8, "test": 4})


@pytest.fixture(scope="module")
def usual(room: Path, data: Path) -> dict[str, Path]:
    """Runs in the usual place, by their words; made when they are asked for."""
    return {}


def usual_run(usual: dict[str, Path], room: Path, data: Path, words: list[str]) -> Path:
    key = words[1]
    if key not in usual:
        usual[key] = fitted(Place(), room, data, f"usual-{key}", words)
    return usual[key]


def elsewhere(**more: Any) -> Place:
    """Everything otherwise at once."""
    usual = {
        "cwd": "there", "zone": "Asia/Kathmandu", "language": "tr_TR.UTF-8", "hash_seed": "4711", "mask": 0o077,
        "home": "other-home", "nobody": can_be_nobody(), "turned": True,
    }  # fmt: skip
    return Place(**{**usual, **more})


@pytest.mark.parametrize("words", [FROZEN, TUNED], ids=["frozen", "tuned"])
def test_j1_another_folder_user_zone_language_hash_seed_mask_and_order_change_nothing(
    words: list[str], room: Path, data: Path, usual: dict[str, Path]
) -> None:
    here = usual_run(usual, room, data, words)
    copy = Path(shutil.copytree(data, room / f"copy-{words[1]}"))
    before = folder_hash(copy)
    there = fitted(place := elsewhere(), room, copy, f"there-{words[1]}", words, workers=4)
    agree(here, there)
    assert folder_hash(copy) == before
    assert ((there / "run.json").stat().st_uid == here.stat().st_uid) is not place.nobody
    assert (there / "run.json").stat().st_mode & 0o077 == 0


def test_j1_one_other_byte_or_number_is_seen(room: Path, data: Path, usual: dict[str, Path]) -> None:
    here = usual_run(usual, room, data, FROZEN)
    for name, old, new in (("predictions.csv", "0.", "1."), ("run.json", '"accuracy": ', '"accuracy": 7')):
        copy = Path(shutil.copytree(here, room / f"changed-{name}"))
        (copy / name).write_text((copy / name).read_text("utf-8").replace(old, new, 1), "utf-8")
        with pytest.raises(AssertionError):
            agree(here, copy)
    agree(here, here)


SINGLE: dict[str, dict[str, Any]] = {
    "folder": {"cwd": "there", "home": "other-home"},
    "user": {"nobody": True, "home": "nobody-home"},
    "zone": {"zone": "Asia/Kathmandu"},
    "language": {"language": "tr_TR.UTF-8"},
    "hash seed": {"hash_seed": "1"},
    "mask": {"mask": 0o077},
    "listing": {"turned": True},
}


@pytest.mark.long
@pytest.mark.parametrize("words", [FROZEN, TUNED, PARTIAL], ids=["frozen", "tuned", "partial"])
@pytest.mark.parametrize("what", SINGLE)
def test_j1_each_by_itself_changes_nothing(
    what: str, words: list[str], room: Path, data: Path, usual: dict[str, Path]
) -> None:
    if what == "user" and not can_be_nobody():
        pytest.skip("children cannot run as another user here")
    here = usual_run(usual, room, data, words)
    files = agree(here, fitted(Place(**SINGLE[what]), room, data, f"{what} {words[1]}", words))
    record("j1_elsewhere", other=what, strategy=words[1], files_compared=files, differing=0)


def test_j1_the_turned_listing_turns_listings(tmp_path: Path) -> None:
    for name in "abcdefgh":
        (tmp_path / name).touch()
    turned = write_hook(tmp_path / "turned", turned=True)
    code = "import os, sys; print([e.name for e in os.scandir(sys.argv[1]) if e.is_file()])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env={"PYTHONPATH": str(turned)}, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout.replace("'", '"'))
    assert sorted(found) == list("abcdefgh")
    assert found != sorted(found)


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "full", "epochs": 2, "batch_size": 8},
        {"strategy": "partial", "train_last": 1, "epochs": 2},
        {"strategy": "frozen"},
    ],
    ids=lambda options: options["strategy"],
)
def test_j2_any_number_of_workers_gives_the_same_weights(options: dict[str, Any], data: Path) -> None:
    states = []
    for workers in (0, 1, 4):
        found = headstart.fit(data, source="toy", engine="torch", cache=False, workers=workers, **options)
        states.append(found.model.net.state_dict())
    for state in states[1:]:
        assert [name for name, value in states[0].items() if not torch.equal(value, state[name])] == []


@pytest.fixture
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
def test_j3_one_and_two_threads_agree_within_a_millionth_and_the_number_is_recorded(data: Path) -> None:
    pictures = sorted(data.rglob("*.png"))
    answers = []
    for threads in (1, 2):
        found = headstart.fit(data, source="toy", strategy="frozen", engine="torch", cache=False, threads=threads)
        assert found.run["environment"]["threads"] == threads
        answers.append(found.model.predict_proba(pictures))
    assert np.abs(answers[0] - answers[1]).max() <= 1e-6
    assert (answers[0].argmax(1) == answers[1].argmax(1)).all()


@pytest.mark.usefixtures("_threads", "_every_epoch_is_saved")
def test_j3_another_number_of_threads_is_told_at_resume_and_in_the_report(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, listener = tmp_path / "run", Noting()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    first = headstart.fit(data, run, source="toy", strategy="full", epochs=1, batch_size=16, lr=1e-3)
    for name in ("run.json", "report.html", "report.md", "predictions.csv"):
        (run / name).unlink()  # as if it had been killed after the last checkpoint
    shutil.rmtree(run / "model")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    again = headstart.resume(run, reporter=listener)
    (told,) = [note for note in listener.notes if "last digits may differ" in note]
    assert "threads 1, now 2" in told
    assert any("'threads': 2" in note for note in again.run["notes"])
    assert not any("last digits" in note for note in first.run["notes"])
    assert again.run["environment"]["threads"] == 2
    assert [found.run["work"]["processor"]["whole"] for found in (first, again)] == [True, False]
    mine, other = (found.model.predict_proba(sorted(data.rglob("*.png"))) for found in (first, again))
    assert np.abs(mine - other).max() <= 1e-6
