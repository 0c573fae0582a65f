"""E1, E3, E5: what is kept never shows in a result: not when pictures change, not when it is damaged or half there.

Other keys (E2) and damage of every byte (E3) are held by tests/data/test_store.py and tests/transfer/test_features.py.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import headstart
from headstart import files
from noting import Noting
from toydata import CLASSES, picture

FROZEN: dict[str, Any] = {"source": "toy", "strategy": "frozen", "head": "ridge", "views": 1, "engine": "torch"}
CUT: dict[str, Any] = {
    "source": "toy", "strategy": "partial", "train_last": 1, "epochs": 1, "views": 1, "engine": "torch", "workers": 0,
}  # fmt: skip
STAMP = 1_700_000_000


def draw(folder: Path, first: int, *, count: int = 8) -> Path:
    """Pictures of the same names, sizes and time stamps, whatever they show: bitmaps of 32 x 32 pixels."""
    for kind in CLASSES:
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            path = folder / kind / f"{number}.bmp"
            picture(kind, first + number).save(path)
            os.utime(path, (STAMP, STAMP))
    return folder


def told(result: headstart.RunResult) -> dict[str, Any]:
    """What must not depend on what was kept."""
    run = {name: value for name, value in result.run.items() if name not in ("seconds", "work")}
    run["race"] = [{k: v for k, v in row.items() if k != "seconds"} for row in run["race"]]
    state = {name: files.hash_bytes(value.numpy().tobytes()) for name, value in result.model.net.state_dict().items()}
    return {"run": files.hash_json(run), "state": files.hash_json(state)}


def fresh_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> Path:
    monkeypatch.setenv("HEADSTART_HOME", str(tmp_path / name))
    return tmp_path / name


def test_e1_other_pixels_under_the_same_name_size_and_time_are_never_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh_home(tmp_path, monkeypatch, "warm")
    before = {p: p.stat() for p in draw(tmp_path / "data", 0).rglob("*.bmp")}
    first = headstart.fit(tmp_path / "data", **FROZEN)
    draw(tmp_path / "data", 100)
    after = {p: p.stat() for p in (tmp_path / "data").rglob("*.bmp")}
    assert {p: (s.st_size, s.st_mtime_ns) for p, s in before.items()} == {
        p: (s.st_size, s.st_mtime_ns) for p, s in after.items()
    }
    second = headstart.fit(tmp_path / "data", **FROZEN)
    assert second.run["work"]["features_reused"] == 0
    fresh_home(tmp_path, monkeypatch, "cold")
    assert told(second) == told(headstart.fit(tmp_path / "data", **FROZEN)) != told(first)


def test_e1_two_pictures_that_change_places_keep_their_own_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is keyed by path serves each of them the other's features."""
    fresh_home(tmp_path, monkeypatch, "warm")
    data = draw(tmp_path / "data", 0)
    headstart.fit(data, **FROZEN)
    one, two = data / "bar" / "0.bmp", data / "disc" / "0.bmp"
    shutil.move(one, tmp_path / "aside")
    shutil.move(two, one)
    shutil.move(tmp_path / "aside", two)
    moved = headstart.fit(data, **FROZEN)
    fresh_home(tmp_path, monkeypatch, "cold")
    assert told(moved) == told(headstart.fit(data, **FROZEN))


@pytest.mark.parametrize("options", [FROZEN, CUT], ids=["frozen", "cut"])
def test_e5_an_empty_a_half_filled_and_a_warm_store_give_the_same_bits(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, half = draw(tmp_path / "data", 0), draw(tmp_path / "half", 0, count=4)
    fresh_home(tmp_path, monkeypatch, "home")
    empty = headstart.fit(data, **options)
    warm = headstart.fit(data, **options)
    fresh_home(tmp_path, monkeypatch, "other")
    headstart.fit(half, **options)
    filled = headstart.fit(data, **options)
    assert empty.run["work"]["features_reused"] == 0
    assert warm.run["work"]["features_computed"] == 0
    assert filled.run["work"]["features_computed"] > 0
    assert filled.run["work"]["features_reused"] > 0
    without = headstart.fit(data, cache=False, **options)
    assert told(empty) == told(warm) == told(filled)
    assert told(without)["state"] == told(empty)["state"]  # its settings are others


def _flip(data: bytes) -> bytes:
    return data[: 3 * len(data) // 4] + bytes([data[3 * len(data) // 4] ^ 8]) + data[3 * len(data) // 4 + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a flipped bit": _flip,
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "another format": lambda data: b"\x02\0\0\0\0\0\0\0{}",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_e3_damaged_rows_are_dropped_told_and_computed_again(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = fresh_home(tmp_path, monkeypatch, "home")
    data = draw(tmp_path / "data", 0, count=6)
    good = headstart.fit(data, **FROZEN)
    shards = list(home.rglob("*.safetensors"))
    assert {path.relative_to(home).parts[0] for path in shards} == {"features", "seen"}
    for path in shards:
        path.write_bytes(DAMAGE[damage](path.read_bytes()))
    listener = Noting()
    again = headstart.fit(data, reporter=listener, **FROZEN)
    assert told(again) == told(good)
    assert again.run["work"]["features_computed"] > 0
    assert any("damaged rows" in note for note in listener.notes)
    warm = headstart.fit(data, **FROZEN)
    assert warm.run["work"]["features_computed"] == 0
    assert told(warm) == told(good)


def test_e3_files_that_are_not_ours_and_torn_notes_in_the_store_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = fresh_home(tmp_path, monkeypatch, "home")
    data = draw(tmp_path / "data", 0, count=6)
    good = headstart.fit(data, **FROZEN)
    for key in home.rglob("key.json"):
        key.write_bytes(key.read_bytes()[:20])
        (key.parent / "notes.txt").write_text("mine")
        (key.parent / "sub.safetensors").mkdir()
    assert told(headstart.fit(data, **FROZEN)) == told(good)
    assert len(list(home.rglob("notes.txt"))) > 1
