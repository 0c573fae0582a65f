"""What headstart keeps on disk between runs: how much, how long, and how to be rid of it.

Kept arrays live below HEADSTART_HOME in one folder a kind; whatever holds rows of one key is a folder with a key.json,
and only such folders are ever counted or removed. Its key.json is touched at every use: when room is needed the folders
that were used least recently go first, never one that this process is using.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakSet

from headstart import files
from headstart.data import _shard
from headstart.errors import OutputError
from headstart.settings import bytes_of

__all__ = [
    "KINDS",
    "PASSING",
    "Entry",
    "clear",
    "described",
    "entries",
    "in_use",
    "limit_of",
    "make_room",
    "prune",
    "touch",
]

KINDS = ("features", "decoded", "engines", "seen")
PASSING = "passing"
"""The folder of arrays that go with the process that made them."""

_MOST, _SHARE = 10_000_000_000, 4  # the default bound: 10 GB, at most a quarter of what the disk could give
_RESERVE, _RESERVE_SHARE = 1_000_000_000, 20  # left free on the disk: 1 GB, at most a twentieth of it
_OURS = re.compile(r"[0-9a-f]{32}\.safetensors|key\.json|\.[0-9a-f]{32}\.safetensors\..+\.tmp|\.key\.json\..+\.tmp")
_ENGINE = re.compile(r"[0-9a-f]{32}-[0-9a-f]{32}\.onnx|\.[0-9a-f]{32}-[0-9a-f]{32}\.onnx\..+\.tmp")
_ABANDONED = 3_600  # seconds after which an unfinished file has no writer any more
_PASSED = 604_800  # seconds after which nobody computes any more with arrays that go with a process

_users: WeakSet[_User] = WeakSet()  # the stores that this process reads or fills
_lock = threading.Lock()
_defaults: dict[Path, int] = {}  # home → the default bound
_counted: dict[Path, tuple[int, int]] = {}  # home → (bytes at the last look, bytes written since)
_swept: set[Path] = set()  # homes whose abandoned files this process has removed


class _User(Protocol):
    """Whatever holds a folder of kept rows open."""

    folder: Path

    def __hash__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One folder of kept rows, or one exported network. `used` is when it was last used, in seconds since 1970."""

    kind: str
    place: Path
    key: dict[str, Any]
    about: dict[str, Any]
    rows: int
    bytes: int
    used: float


# --- looking ------------------------------------------------------------------------------------------------------


def entries(kind: str | None = None) -> list[Entry]:
    """What is kept, of one kind or of all, the least recently used first."""
    found = [
        entry
        for name in KINDS
        if kind in (None, name)
        for path in files.listed(files.home() / name, "*.onnx" if name == "engines" else "*/**/key.json")
        if (entry := _engine(path) if name == "engines" else _entry(name, path)) is not None
    ]
    return sorted(found, key=lambda entry: (entry.used, entry.place))


def _engine(path: Path) -> Entry | None:
    """A network that was exported for another engine."""
    if not _ENGINE.fullmatch(path.name):
        return None
    try:
        told = path.stat()
    except OSError:
        return None
    return Entry("engines", path, {}, {}, 0, told.st_size, told.st_mtime)


def _entry(kind: str, path: Path) -> Entry | None:
    """The folder of a key.json; None where it is not ours or goes away while we look."""
    try:
        told = files.read_json(path)
        if not isinstance(told, dict) or not (told.get("headstart") == "kept arrays" or _of_version_1(told)):
            return None
        key, about = (told.get(name, told if name == "key" else {}) for name in ("key", "about"))
        if not isinstance(key, dict) or not isinstance(about, dict):
            return None
        sizes = [(own, own.stat().st_size) for own in _own_files(path.parent)]
        rows = sum(_rows(own) for own, _ in sizes if own.suffix == ".safetensors")
        return Entry(kind, path.parent, key, about, rows, sum(size for _, size in sizes), path.stat().st_mtime)
    except (OSError, ValueError):
        return None


def _of_version_1(told: dict[str, Any]) -> bool:
    return told.get("format") == 1 and {"weights", "views", "pooling", "dtype"} <= told.keys()


def _own_files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if _OURS.fullmatch(path.name) and path.is_file()]


def _rows(path: Path) -> int:
    """How many rows a shard says it has; 0 where it cannot be read."""
    try:
        return int(_shard.read_head(path)["hashes"]["shape"][0])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return 0


def touch(user: _User) -> None:
    """Note that `user` uses its folder, now; for as long as it lives the folder is not pruned by this process."""
    with _lock:
        _users.add(user)
    with suppress(OSError):  # it may not be there yet, or not be ours to write
        os.utime(user.folder / "key.json")


def in_use() -> frozenset[Path]:
    """The folders that this process is using."""
    with _lock:
        return frozenset(user.folder for user in _users)


def described(entry: Entry) -> dict[str, Any]:
    """An entry as a plain record: kind, source, what, dtype, engine, rows, bytes, used (UTC) and folder."""
    key, about = entry.key, entry.about
    view = key.get("view")
    if isinstance(view, dict):
        told = f"{view.get('kind')} view" + (f" {view['number']}" if view.get("number") else "")
    else:
        told = f"short side {key['side']} px" if "side" in key else ""
    cut = f" at {key['cut']}" if key.get("cut") else ""
    return {
        "kind": entry.kind,
        "source": str(about.get("source", key.get("architecture", ""))),
        "what": told + cut,
        "dtype": str(key.get("dtype", "")),
        "engine": str(key.get("engine", "")),
        "rows": entry.rows,
        "bytes": entry.bytes,
        "used": datetime.fromtimestamp(entry.used, UTC).isoformat(timespec="seconds"),
        "folder": str(entry.place),
    }


# --- how much -----------------------------------------------------------------------------------------------------


def limit_of(size: str | int | None) -> int:
    """Bytes that may be kept: what `size` says ("20GB", 0 for nothing), or the default.

    The default is 10 GB, or a quarter of what is free and kept already where that is less.
    """
    if size is not None:
        return bytes_of(size)
    home = files.home()
    if home not in _defaults:
        _defaults[home] = min(_MOST, (_free(home) + _kept_bytes()) // _SHARE)
    return _defaults[home]


def _free(place: Path) -> int:
    return shutil.disk_usage(_standing(place)).free


def _standing(place: Path) -> Path:
    """`place`, or the nearest folder above it that is there and may be looked at."""
    for folder in (place, *place.parents):
        with suppress(OSError):
            if folder.exists():
                return folder
    return Path()


def _kept_bytes() -> int:
    """All that is kept, counted now."""
    home, total = files.home(), 0
    for kind in KINDS:
        for folder, _, found in os.walk(home / kind):
            for name in found:
                with suppress(OSError):  # removed while we look
                    total += Path(folder, name).stat().st_size
    _counted[home] = total, 0
    return total


def make_room(need: int, *, limit: int, ahead: bool = False) -> None:
    """See that `need` more bytes may be written: remove what was used least recently, never what this process uses.

    They are counted as written, or, with `ahead`, as asked about only.

    Raises OutputError when that is not enough, when nothing is to be kept (`limit` 0), or when the disk is nearly full.
    """
    home = files.home()
    if need > limit:
        raise OutputError(
            f"{need / 1e6:,.0f} MB are more than may be kept ({limit / 1e6:,.0f} MB)",
            where=home,
            remedy="Raise --cache-size.",
        )
    if home not in _swept:
        _swept.add(home)
        _sweep()
    before, written = _counted.get(home, (0, limit))
    if before + written + need > limit or written > limit // 20:  # others may have written, too
        total = _kept_bytes()
        if total + need > limit:
            total -= sum(entry.bytes for entry in prune(max(0, limit * 9 // 10 - need)))
        if total + need > limit:
            raise OutputError(
                f"what is in use now leaves no room for {need / 1e6:,.0f} MB of the {limit / 1e6:,.0f} MB to be kept",
                where=home,
                remedy="Raise --cache-size.",
            )
    free, reserve = _free(home), min(_RESERVE, _disk(home) // _RESERVE_SHARE)
    if free - need < reserve:
        raise OutputError(
            f"the disk is nearly full: {free / 1e6:,.0f} MB are free",
            where=home,
            remedy="Free some space, or clear what is kept with: headstart cache --clear",
        )
    before, written = _counted.get(home, (0, 0))
    _counted[home] = before, written + (0 if ahead else need)


def _disk(place: Path) -> int:
    return shutil.disk_usage(_standing(place)).total


# --- removing -----------------------------------------------------------------------------------------------------


def prune(to: int, *, spare: Iterable[Path] | None = None) -> list[Entry]:
    """Remove the least recently used until at most `to` bytes are kept; what was removed.

    `spare` are folders to leave alone, by default those that this process uses.
    """
    kept = entries()
    total, safe = sum(entry.bytes for entry in kept), in_use() if spare is None else frozenset(spare)
    _sweep()
    gone = []
    for entry in kept:
        if total <= to:
            break
        if entry.place not in safe and _removed(entry.place):
            total -= entry.bytes
            gone.append(entry)
    return gone


def clear(kind: str | None = None) -> list[Entry]:
    """Remove everything that is kept, of one kind or of all; what was removed. Files that are not ours stay."""
    gone = [entry for entry in entries(kind) if _removed(entry.place)]
    _sweep()
    return gone


def _removed(place: Path) -> bool:
    """Remove an exported network, or our files of a folder and what is empty then; whether that was done."""
    done = True
    ours = [place] if place.suffix == ".onnx" else _own_files(place) if place.is_dir() else []
    for path in sorted(ours, key=lambda path: path.name == "key.json"):
        if path.name == "key.json" and not done:
            break  # what could not be removed is still known, and counted
        try:
            path.unlink(missing_ok=True)
        except OSError:  # it is not ours to remove
            done = False
    home, folder = files.home(), place
    while done and folder.suffix != ".onnx" and home in folder.parent.parents:
        try:
            folder.rmdir()
        except OSError:  # something else lies there
            break
        folder = folder.parent
    return done


def _sweep() -> None:
    """Remove what processes left that died: unfinished files, and arrays that went with them."""
    now = time.time()
    old = now - _ABANDONED
    for folder in files.listed(files.home() / PASSING, "rows-*"):
        with suppress(OSError):
            if max(path.stat().st_mtime for path in (folder, *folder.rglob("*"))) < now - _PASSED:
                shutil.rmtree(folder, ignore_errors=True)
    for kind in KINDS:
        for path in files.listed(files.home() / kind, "**/.*.tmp"):
            with suppress(OSError):
                known = _ENGINE if kind == "engines" else _OURS
                if known.fullmatch(path.name) and path.stat().st_mtime < old:
                    path.unlink(missing_ok=True)
