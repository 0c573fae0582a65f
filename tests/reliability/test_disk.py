"""D1, D2, D4, D5, D6: full, read-only and crowded disks are told before the first step, or cost nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _faults import Done, Forge

import headstart
from headstart import api, files
from headstart.data import store as storing
from headstart.data.store import ArrayStore
from headstart.errors import OutputError
from headstart.progress import Silent
from toydata import folder_hash, run_files, write_shapes

FIT = ("fit", "data", "--source", "toy", "--engine", "torch", "--quiet", "--out")
FROZEN = ("--strategy", "frozen", "--head", "ridge", "--views", "0")
FULL = {"source": "toy", "strategy": "full", "epochs": 3, "batch_size": 16, "workers": 0, "engine": "torch"}
NOBODY = 65534

Disk = Callable[[str, str], Path]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Makes small disks: name and size → folder. Skips where mounting is not allowed."""
    made: list[Path] = []

    def make(name: str, size: str) -> Path:
        place = tmp_path / name
        place.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        told = subprocess.run(words, capture_output=True, text=True, check=False)
        if told.returncode:
            pytest.skip(f"no disk can be mounted here: {told.stderr.strip()}")
        made.append(place)
        return place

    yield make
    for place in reversed(made):
        subprocess.run(["umount", "-l", str(place)], check=True)


def read_only(place: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with `data` in it, which must not change."""
    write_shapes(tmp_path / "data", per_class=6)
    return tmp_path


@pytest.fixture(autouse=True)
def _inputs_stay(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    data = tmp_path / "data"
    if "here" in request.fixturenames:
        request.getfixturevalue("here")
    before = folder_hash(data) if data.exists() else {}
    yield
    assert (folder_hash(data) if data.exists() else {}) == before


def told_once(done: Done, *words: str) -> None:
    """E: exit code 2 and one line that says what, where and what to do."""
    assert (done.code, done.out) == (2, ""), done.err
    (line,) = done.err.strip().splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line, line


def home(place: Path) -> dict[str, str]:
    return {"HEADSTART_HOME": str(place)}


# --- full -------------------------------------------------------------------------------------------------------------


def test_d1_a_small_disk_is_told_with_need_and_free_space_before_the_first_step(
    forge: Forge, here: Path, disk: Disk
) -> None:
    small = disk("small", "20m")
    done = forge.run(*FIT, str(small / "run"), *FROZEN, place=here, env=home(here / "home"))
    told_once(done, "needs 50 MB", "MB are free", str(small), "--out")
    assert run_files(small) == set()


def test_d1_the_checkpoints_of_a_large_network_are_counted_before_the_first_step(
    forge: Forge, here: Path, disk: Disk
) -> None:
    """A ResNet-18 has 11.2 million weights: 45 MB, and three checkpoints of four copies."""
    small = disk("small", "400m")
    words = ("fit", "data", "--source", "random:resnet18", "--image-size", "32", "--strategy", "full", "--quiet")
    done = forge.run(*words, "--out", str(small / "run"), place=here, env=home(here / "home"))
    told_once(done, "needs 63", "MB are free", str(small))
    assert run_files(small) == set()


def test_d1_a_quota_is_told_where_room_can_be_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def over(*_: Any) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr("os.posix_fallocate", over)
    with pytest.raises(OutputError, match="50 MB are needed: Disk quota exceeded"):
        files.check_writable(tmp_path, need_bytes=50_000_000)
    files.check_writable(tmp_path)
    assert run_files(tmp_path) == set()


def test_a_file_system_that_sets_nothing_aside_is_not_blamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr("os.posix_fallocate", unknown)
    files.check_writable(tmp_path, need_bytes=50_000_000)


class Filler(Silent):
    """Fills a disk after an epoch, as another process may."""

    def __init__(self, place: Path, after: int) -> None:
        self.place, self.after = place, after

    def epoch(self, row: Any) -> None:
        if row["epoch"] == self.after:
            with (self.place / "filler").open("wb") as stream:
                try:
                    while True:
                        stream.write(bytes(1 << 16))
                        stream.flush()
                except OSError:
                    pass


@pytest.mark.usefixtures("_every_epoch_is_saved")
def test_d2_a_disk_that_fills_up_in_mid_run_costs_nothing_once_there_is_room(here: Path, disk: Disk) -> None:
    whole = headstart.fit(here / "data", here / "whole", **FULL)
    small = disk("small", "64m")
    with pytest.raises(OutputError, match=r"No space left .*headstart resume ") as caught:
        headstart.fit(here / "data", small / "run", reporter=Filler(small, 2), **FULL)
    assert str(small) in str(caught.value)
    assert not (small / "run" / "run.json").exists()
    kept = [json.loads(path.read_text())["at"]["epoch"] for path in small.glob("run/checkpoints/*/state.json")]
    assert kept == [2]
    (small / "filler").unlink()
    resumed = api.resume(small / "run")
    assert resumed.run["scores"] == whole.run["scores"]
    for name in ("predictions.csv", "model/model.safetensors"):
        assert (small / "run" / name).read_bytes() == (here / "whole" / name).read_bytes()
    assert not list((small / "run").rglob("*.tmp"))


def test_d2_an_old_run_stays_whole_where_the_disk_refuses_the_new_one(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"source": "toy", "strategy": "frozen", "head": "ridge", "views": 0}
    headstart.fit(here / "data", here / "run", **options)
    before = folder_hash(here / "run")

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", refuse)
        with pytest.raises(OutputError, match="No space"):
            headstart.fit(here / "data", here / "run", overwrite=True, **options)
    assert folder_hash(here / "run") == before


# --- read-only --------------------------------------------------------------------------------------------------------


def test_d4_read_only_data_and_a_read_only_cache_are_no_hindrance(forge: Forge, here: Path, disk: Disk) -> None:
    place = disk("still", "30m")
    shutil.copytree(here / "data", place / "data")
    (place / "home").mkdir()
    before = folder_hash(place)
    read_only(place)
    words = ("fit", str(place / "data"), "--source", "toy", *FROZEN, "--engine", "torch")
    done = forge.run(*words, "--out", str(here / "run"), place=here, env=home(place / "home"))
    assert done.code == 0, done.err
    assert "features are not kept for later runs: cannot write: Read-only file system" in done.err + done.out
    again = forge.run(*words, "--out", str(here / "with"), "--quiet", place=here, env=home(here / "home"))
    assert again.code == 0
    for name in ("predictions.csv", "model/model.safetensors"):
        assert (here / "run" / name).read_bytes() == (here / "with" / name).read_bytes()
    assert folder_hash(place) == before


def test_d4_a_read_only_cache_serves_what_it_has(forge: Forge, here: Path, disk: Disk) -> None:
    place = disk("still", "30m")
    for name in ("first", "second"):
        done = forge.run(*FIT, name, *FROZEN, place=here, env=home(place))
        assert done.code == 0, done.err
        if name == "first":
            read_only(place)
    work = json.loads((here / "second" / "run.json").read_text())["work"]
    assert (work["features_computed"], work["features_reused"] > 0) == (0, True)


def test_d4_a_read_only_output_is_refused_before_training(forge: Forge, here: Path, disk: Disk) -> None:
    place = disk("still", "100m")
    read_only(place)
    done = forge.run(*FIT, str(place / "run"), *FROZEN, place=here, env=home(here / "home"))
    told_once(done, "Read-only file system", str(place / "run"), "--out")
    assert not (here / "home").exists(), "the pictures were looked at before the folder was"


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs root to become somebody else")
def test_d4_another_users_cache_and_output(forge: Forge) -> None:
    """Folders that belong to somebody else: the cache is done without, the output is refused."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        write_shapes(place / "data", per_class=6)
        for folder, mode in (("closed", 0o700), ("mine", 0o755), ("open", 0o777)):
            (place / folder).mkdir()
            (place / folder).chmod(mode)
        done = forge.run(*FIT, "open/run", *FROZEN, place=place, user=NOBODY, env=home(place / "closed" / "home"))
        assert done.code == 0, done.err
        assert (place / "open" / "run" / "run.json").stat().st_uid == NOBODY
        done = forge.run(*FIT, "mine/run", *FROZEN, place=place, user=NOBODY, env=home(place / "open" / "home"))
        told_once(done, "Permission denied", "mine/run")
        assert run_files(place / "mine") == run_files(place / "closed") == set()


# --- crowded ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [8, 12, 64])
def test_d5_few_file_handles_end_in_one_line_or_in_the_same_result(forge: Forge, here: Path, limit: int) -> None:
    words = (*FIT, "run", *FROZEN, "--workers", "2")
    done = forge.run(*words, place=here, env=home(here / "home"), limits={"RLIMIT_NOFILE": limit})
    assert done.code == 0 or limit < 64
    if done.code:
        told_once(done, "oo many")
        assert not (here / "run").exists()
    else:
        assert json.loads((here / "run" / "run.json").read_text())["data"]["skipped"] == []


def test_d5_a_picture_is_not_called_unreadable_where_handles_are_out(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path) -> bytes:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(self))

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.read_bytes", refuse)
        with pytest.raises(headstart.DataError, match=r"too many files are open .*ulimit"):
            api.inspect(here / "data")


def test_d5_three_hundred_shards_take_no_three_hundred_handles(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArrayStore({"dtype": "float32"}, kind="features")
    names = [files.hash_bytes(str(n).encode()) for n in range(300)]
    for number, name in enumerate(names):
        store.put([name], np.full((1, 4), number, np.float32))
    handles = Path("/proc/self/fd")
    before = len(list(handles.iterdir())) if handles.exists() else 0
    found = store.find(names)
    assert np.array_equal(found.rows()[:, 0], np.arange(300))
    if before:
        assert len(list(handles.iterdir())) <= before + 8


def test_d5_a_shard_that_cannot_be_opened_now_is_not_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArrayStore({"dtype": "float32"}, kind="features")
    names = [files.hash_bytes(str(n).encode()) for n in range(5)]
    store.put(names, np.ones((5, 4), np.float32))

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(storing, "Shard", refuse)
        assert not store.find(names).there.any()
        assert store.damaged == 0
    assert store.find(names).there.all()


def test_d5_shared_memory_of_64_kb_is_enough_for_two_workers(forge: Forge, here: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root for a /dev/shm of its own")
    words = (*FIT, "run", "--strategy", "full", "--epochs", "1", "--workers", "2")
    done = forge.run(*words, place=here, env=home(here / "home"), shm=1 << 16)
    assert done.code == 0, done.err


# --- elsewhere --------------------------------------------------------------------------------------------------------


def test_d6_an_output_that_is_a_link_to_another_disk_is_written_there_and_whole(
    forge: Forge, here: Path, disk: Disk
) -> None:
    other = disk("other", "100m")
    (here / "link").symlink_to(other)
    done = forge.run(
        *FIT, "link/run", *FROZEN, place=here, watched=(here / "link", here / "other"), env=home(here / "home")
    )
    assert done.code == 0, done.err
    assert (here / "link").is_symlink()
    renamed = [call for call in done.calls if call.startswith("rename ")]
    assert len(renamed) > 8
    assert (other / "run" / "run.json").is_file()
    assert not list(other.rglob("*.tmp"))


def test_d6_a_file_that_is_a_link_keeps_its_link_and_its_target_is_written(here: Path, disk: Disk) -> None:
    other = disk("other", "1m")
    (here / "told.json").symlink_to(other / "real.json")
    for value in (1, 2):
        files.write_json(here / "told.json", value)
        assert (here / "told.json").is_symlink()
        assert files.read_json(other / "real.json") == value
    assert run_files(other) == {"real.json"}


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "place"
    {"pipe": os.mkfifo, "folder": os.mkdir, "device": lambda p: p.symlink_to("/dev/null")}[kind](place)
    before = place.stat().st_mode
    with pytest.raises(OutputError, match="not a file"):
        files.write_text(place, "x")
    assert place.stat().st_mode == before
