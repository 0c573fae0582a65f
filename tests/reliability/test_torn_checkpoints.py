"""C3, C4: whatever a kill or a disk leaves of a checkpoint, an older or a newer whole state goes on, and it is said."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import _kills
import pytest
import torch
from _kills import NEVER, Forks, Moment, Place, differences, outcome
from figures import record

from headstart.transfer import checkpoint

PAGE = 4096
SAVE = """
import torch
from pathlib import Path
from headstart.transfer import checkpoint
torch.set_num_threads(1)
checkpoint.save(Path("run"), "x", tensors={"a": torch.full((5000,), VALUE)}, facts={"value": VALUE})
"""


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with _kills.serving() as server:
        yield server


def put(folder: Path, value: float, **more: set[str]) -> Path:
    """A checkpoint of several pages whose tensors and facts say the same value."""
    return checkpoint.save(folder, "x", tensors={"a": torch.full((5000,), value)}, facts={"value": value}, **more)


def latest(folder: Path) -> tuple[float | None, dict[str, str]]:
    """The value of the newest whole checkpoint, the same in tensors and facts, and what was passed over."""
    found, notes = checkpoint.load_latest(folder)
    if found is None:
        return None, notes
    value = float(found[0]["a"][0])
    assert torch.equal(found[0]["a"], torch.full((5000,), value))
    assert found[1]["value"] == value
    return value, notes


def test_killed_at_any_deed_of_a_save_an_older_or_a_newer_state_is_loaded_and_the_next_save_works(
    forks: Forks, tmp_path: Path
) -> None:
    """C3: each open, fsync, rename and removal, and writes that end in the middle."""
    place, two = Place(tmp_path / "place"), tmp_path / "two"
    put(two, 1.0)
    put(two, 2.0)
    shutil.copytree(two, place.run)
    log = tmp_path / "log"
    assert forks.do(SAVE.replace("VALUE", "3.0"), place, NEVER, log).code == 0
    struck = [Moment(deed=n) for n in _kills.deeds(log)[1]] + [Moment(size=n) for n in (1, 100, PAGE, 20_000)]
    seen = []
    for moment in struck:
        shutil.rmtree(place.run)
        shutil.copytree(two, place.run)
        assert forks.do(SAVE.replace("VALUE", "3.0"), place, moment).code in _kills.KILLED
        value, notes = latest(place.run)
        assert not notes  # a save that did not end is no damage
        seen.append(value)
        put(place.run, 4.0)
        assert latest(place.run) == (4.0, {})
        assert len(list(place.run.iterdir())) == 2
    assert set(seen) == {2.0, 3.0}


def torn(folder: Path, name: str, *, every: int, bytes_changed: int) -> Iterator[str]:
    """Tear the newest checkpoint's file in each way in turn; what was done. It is whole again after the last."""
    path = max(folder.iterdir()) / name
    whole, rng = path.read_bytes(), random.Random(len(name))
    for size in range(0, len(whole), every):
        path.write_bytes(whole[:size])
        yield f"cut at {size}"
    for at in rng.sample(range(len(whole)), min(bytes_changed, len(whole))):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :])
        yield f"byte {at} changed"
    path.write_bytes(whole + b"\0")
    yield "longer"
    path.write_bytes(whole)


def tear_all(tmp_path: Path, *, every: int, bytes_changed: int) -> int:
    """Tear the newest checkpoint in many ways; how many there were, all passed over and said."""
    folder, count = tmp_path / "checkpoints", 0
    put(folder, 1.0)
    newest = put(folder, 2.0)
    for name, step in (("state.safetensors", every), ("state.json", 1 if every < PAGE else 40)):
        for how in torn(folder, name, every=step, bytes_changed=bytes_changed):
            value, notes = latest(folder)
            if name == "state.json" and value == 2.0:  # white space and the like: it says the same
                continue
            assert value == 1.0, (name, how)
            assert list(notes) == [newest.name], (name, how)
            assert newest.name in notes[newest.name]
            count += 1
    return count


def test_a_newest_checkpoint_torn_anywhere_is_passed_over_and_named(tmp_path: Path) -> None:
    """C4: cut at every page, a bit changed anywhere, in either of its files."""
    assert tear_all(tmp_path, every=PAGE, bytes_changed=60) > 80


@pytest.mark.long
def test_a_newest_checkpoint_torn_in_thousands_of_ways_is_passed_over_and_named(tmp_path: Path) -> None:
    """C4: the same at every eighth byte and a thousand bits."""
    record("torn checkpoints", ways=tear_all(tmp_path, every=8, bytes_changed=1000))


def test_a_folder_that_is_missing_or_holds_no_state_leaves_the_one_before(tmp_path: Path) -> None:
    """C4: folder missing."""
    put(tmp_path, 1.0)
    newest = put(tmp_path, 2.0)
    (newest / "state.safetensors").unlink()
    value, notes = latest(tmp_path)
    assert (value, list(notes)) == (1.0, [newest.name])
    shutil.rmtree(newest)
    assert latest(tmp_path) == (1.0, {})


def test_a_damaged_checkpoint_takes_no_good_one_s_place(tmp_path: Path) -> None:
    put(tmp_path, 1.0)
    (put(tmp_path, 2.0) / "state.safetensors").write_bytes(b"")
    _, notes = latest(tmp_path)
    newest = put(tmp_path, 3.0, damaged=set(notes))
    (newest / "state.safetensors").write_bytes(b"")
    assert latest(tmp_path)[0] == 1.0


def test_a_run_whose_newest_state_is_torn_goes_on_from_the_one_before_says_so_and_ends_the_same(
    forks: Forks, untouched: Path, tmp_path: Path
) -> None:
    """C4, from outside."""
    words = ["fit", str(untouched), "--out", "run", "--strategy", "full", "--epochs", "4", "--source", "toy", "--quiet"]
    words += ["--no-probe-first", "--batch-size", "16", "--workers", "0"]
    whole, place = (Place(tmp_path / name, (("SAVE_SECONDS", "60"),)) for name in ("whole", "torn"))
    assert forks.go(words, whole, NEVER, tmp_path / "log").code == 0
    lines = (tmp_path / "log").read_text().splitlines()
    saved = [n for n, line in enumerate(lines, 1) if line.startswith("os.rename /run/checkpoints") and "json" in line]
    assert forks.go(words, place, Moment(deed=saved[2] + 1)).code == -9
    newest = max((place.run / "checkpoints").iterdir())
    data = (newest / "state.safetensors").read_bytes()
    (newest / "state.safetensors").write_bytes(data[: len(data) // 2])
    told = forks.go(["resume", "run"], place)
    assert told.code == 0, told
    assert f"checkpoint {newest.name} is damaged" in told.err.replace("\n", " ")
    assert differences(outcome(whole.run), outcome(place.run)) == []
