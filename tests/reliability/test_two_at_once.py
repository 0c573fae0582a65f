"""I1 to I4, E4: several processes and threads at once: one writes, the others are told who, and nobody sees half."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from _faults import Fault, Forge, Job
from figures import record

import headstart
from headstart import files, runfolder
from headstart.data._shard import Shard
from headstart.errors import HeadstartError, OutputError
from toydata import CLASSES, folder_hash, run_files, write_shapes

WORDS = ("fit", "data", "--source", "toy", "--engine", "torch", "--quiet", "--strategy", "frozen", "--head", "ridge",
         "--views", "0")  # fmt: skip


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with `data` and a store that is warm already."""
    write_shapes(tmp_path / "data", per_class=6)
    return tmp_path


def job(here: Path, *words: str, home: str = "home", **more: Any) -> Job:
    return Job((*WORDS, *words), here, env={"HEADSTART_HOME": str(here / home)}, **more)


def whole(folder: Path) -> None:
    """A run folder is finished, and its files are those that its model names."""
    assert json.loads((folder / "run.json").read_text())["scores"]
    told = json.loads((folder / "model" / "headstart.json").read_text())
    assert {name: files.hash_file(folder / "model" / name) for name in told["files"]} == told["files"]
    assert not list(folder.rglob("*.tmp"))
    assert not (folder / ".lock.holder").exists()


def raced(forge: Forge, here: Path, rounds: int) -> dict[str, int]:
    """Pairs of runs into one folder, let go at the same moment; how the second ones were told."""
    outcomes: Counter[str] = Counter()
    before = folder_hash(here / "data")
    for number in range(rounds):
        out = f"run-{number}"
        pair = forge.together(job(here, "--out", out), job(here, "--out", out))
        assert sorted(done.code for done in pair) == [0, 2], [done.err for done in pair]
        (line,) = next(done.err for done in pair if done.code).strip().splitlines()
        held = re.fullmatch(rf"error: another run \(process \d+ on .+\) is working here \[{out}\]\. .+", line)
        stands = line.startswith(f"error: a run stands there already [{out}]")  # it came after the other had ended
        assert held or stands, line
        outcomes["held" if held else "late"] += 1
        whole(here / out)
    assert folder_hash(here / "data") == before
    return dict(outcomes)


def test_i1_of_two_runs_into_one_folder_one_runs_and_the_other_is_told_who(forge: Forge, here: Path) -> None:
    assert forge.together(job(here, "--out", "first"))[0].code == 0
    outcomes = raced(forge, here, 5)
    assert outcomes["held"] >= 1


@pytest.mark.long
def test_i1_a_hundred_pairs_of_runs_into_one_folder(forge: Forge, here: Path) -> None:
    assert forge.together(job(here, "--out", "first"))[0].code == 0
    record("I1: two runs into one folder", pairs=100, **raced(forge, here, 100))


def test_i1_the_lock_and_the_name_of_a_dead_holder_are_taken_over(forge: Forge, here: Path) -> None:
    watched = (here / "run",)
    calls = forge.together(job(here, "--out", "run", watched=watched))[0].calls
    shutil.rmtree(here / "run")
    at = next(n for n, call in enumerate(calls) if call.startswith("rename ") and call.endswith("/run/settings.json"))
    killed = forge.together(job(here, "--out", "run", watched=watched, fault=Fault(at, "killed")))[0]
    assert killed.code == -9
    assert re.match(r"process \d+ on ", (here / "run" / ".lock.holder").read_text())
    again = forge.run("resume", "run", "--quiet", place=here, env={"HEADSTART_HOME": str(here / "home")})
    assert (again.code, again.err) == (0, "")
    whole(here / "run")


def test_i1_who_comes_while_the_holder_has_not_written_its_name_waits_for_it(tmp_path: Path) -> None:
    from filelock import FileLock

    held = FileLock(tmp_path / ".lock")
    held.acquire()
    writer = threading.Timer(0.2, lambda: (tmp_path / ".lock.holder").write_text("process 1 on earth"))
    writer.start()
    with pytest.raises(OutputError, match="process 1 on earth"), files.lock(tmp_path):
        pass
    writer.join()
    held.release()


def test_i1_a_loser_never_removes_the_winners_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both found no folder; the winner has the lock and has written nothing yet."""
    folder, started = tmp_path / "run", {"data": "data"}
    with ExitStack() as winner:

        def winner_comes_first(place: Path) -> Path:
            place.mkdir()
            winner.enter_context(files.lock(place))
            return place

        monkeypatch.setattr(files, "make_folder", winner_comes_first)
        loser = runfolder.hold(folder, started, overwrite=False, going_on=False)
        with pytest.raises(OutputError, match="process"), loser:
            pass
        assert run_files(folder) == {".lock", ".lock.holder"}


def test_i2_who_reads_while_a_run_is_replaced_sees_a_whole_state_or_none(forge: Forge, here: Path) -> None:
    assert forge.together(job(here, "--out", "run"))[0].code == 0
    run, seen = here / "run", Counter[str]()
    ended = threading.Event()

    def replace() -> None:
        try:
            for _ in range(2):
                assert forge.together(job(here, "--out", "run", "--overwrite"))[0].code == 0
        finally:
            ended.set()

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(replace)
        while not ended.is_set():
            try:
                seen["run"] += bool(json.loads((run / "run.json").read_text())["scores"])
            except FileNotFoundError:
                seen["none"] += 1
            try:
                assert (run / "report.html").read_text().rstrip().endswith("</html>")
            except FileNotFoundError:
                seen["none"] += 1
            try:
                model = headstart.load(run)
            except HeadstartError:
                seen["no model"] += 1
            else:
                assert model.classes == CLASSES
                seen["model"] += 1
        writer.result()
    assert seen["run"] > 0
    assert seen["model"] > 0
    whole(run)


def test_i3_twenty_predictions_in_threads_equal_those_one_after_another(frozen_run: Path, split_shapes: Path) -> None:
    model, pictures = headstart.load(frozen_run), sorted((split_shapes / "test").rglob("*.png"))
    alone = [model.predict(path) for path in pictures[:20]]
    together = model.predict(pictures[:20])
    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(model.predict, pictures[:20])) == alone
        for answers in pool.map(model.predict, [pictures[:20]] * 20):
            assert answers == together


def predicted(forge: Forge, run: Path, data: Path, place: Path, *, count: int) -> None:
    words = ("predict", str(run), str(data / "test"), "--json", "--quiet")
    env = {"HEADSTART_HOME": str(place / "home")}
    alone = forge.run(*words, place=place, env=env)
    assert alone.code == 0
    for done in forge.together(*[Job(words, place, env=env)] * count):
        assert (done.code, done.out) == (0, alone.out)


def test_i3_predictions_of_several_processes_equal_those_of_one(
    forge: Forge, frozen_run: Path, split_shapes: Path, tmp_path: Path
) -> None:
    before = folder_hash(frozen_run)
    predicted(forge, frozen_run, split_shapes, tmp_path, count=3)
    assert folder_hash(frozen_run) == before


@pytest.mark.long
def test_i3_predictions_of_twenty_processes_equal_those_of_one(
    forge: Forge, frozen_run: Path, split_shapes: Path, tmp_path: Path
) -> None:
    predicted(forge, frozen_run, split_shapes, tmp_path, count=20)
    record("I3: predictions at once", processes=20, different=0)


def test_i4_runs_in_the_same_second_get_folders_of_their_own(forge: Forge, here: Path) -> None:
    dones = forge.together(*[job(here)] * 3)
    assert [done.code for done in dones] == [0, 0, 0], [done.err for done in dones]
    assert run_files(here / "headstart-runs") == {"data-1", "data-2", "data-3"}
    for folder in (here / "headstart-runs").iterdir():
        whole(folder)
    same = {files.hash_file(folder / "predictions.csv") for folder in (here / "headstart-runs").iterdir()}
    assert len(same) == 1


def test_i4_a_run_that_fails_leaves_no_numbered_folder(forge: Forge, here: Path) -> None:
    done = forge.run("fit", "nowhere", "--source", "toy", "--quiet", place=here)
    assert done.code == 2
    assert not (here / "headstart-runs").exists()


def test_e4_processes_that_fill_one_store_at_once_are_both_right(forge: Forge, here: Path) -> None:
    alone = forge.together(job(here, "--out", "alone", home="own"))[0]
    assert alone.code == 0
    clearing = Job(("cache", "--clear", "--json"), here, env={"HEADSTART_HOME": str(here / "home")})
    dones = forge.together(job(here, "--out", "one"), job(here, "--out", "two"), clearing)
    assert [done.code for done in dones] == [0, 0, 0], [done.err for done in dones]
    for name in ("one", "two"):
        for file in ("predictions.csv", "model/model.safetensors"):
            assert (here / name / file).read_bytes() == (here / "alone" / file).read_bytes()
    for path in (here / "home").rglob("*.safetensors"):
        dtype = "uint8" if "seen" in path.parts else "float32"
        assert len(Shard(path, dtype)) > 0
    assert not list((here / "home").rglob("*.tmp"))
    warm = forge.together(job(here, "--out", "warm"))[0]
    assert warm.code == 0
    assert (here / "warm" / "predictions.csv").read_bytes() == (here / "alone" / "predictions.csv").read_bytes()
