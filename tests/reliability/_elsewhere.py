"""A command in a child process in another place: folder, user, zone, language, hash seed, mask, order of listings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["Place", "can_be_nobody", "files_of", "open_folder", "run_in", "same_record", "write_hook"]

_SOURCE = Path(__file__).resolve().parent.parent.parent / "src"
# Become nobody, but able to read everything: the interpreter may lie in a folder that is closed to others.
_NOBODY = """
import ctypes, os
_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
_header = (ctypes.c_uint32 * 2)(0x20080522, 0)
_read = 1 << 2  # CAP_DAC_READ_SEARCH
if _libc.capset(_header, (ctypes.c_uint32 * 6)(_read, _read, 0, 0, 0, 0)):
    raise OSError(ctypes.get_errno(), "capset")
"""
# Listings come in the order of a hash of the names, as another file system may give them.
_TURNED = """
import hashlib, os
_scandir, _listdir = os.scandir, os.listdir
def _key(name):
    return hashlib.md5(os.fsencode(name)).digest()
class _Turned:
    def __init__(self, found):
        self._found = found
        self._left = iter(sorted(found, key=lambda entry: _key(entry.name)))
    def __iter__(self):
        return self
    def __next__(self):
        return next(self._left)
    def __enter__(self):
        return self
    def __exit__(self, *_):
        self._found.close()
    def close(self):
        self._found.close()
os.scandir = lambda path=".": _Turned(_scandir(path))
os.listdir = lambda path=".": sorted(_listdir(path), key=_key)
"""


@dataclass(frozen=True)
class Place:
    """Where a command is run, beside its data and its run folder."""

    cwd: str = "here"
    zone: str = "UTC"
    language: str = "C.UTF-8"
    hash_seed: str = "0"
    mask: int = 0o022
    home: str = "home"
    nobody: bool = False
    turned: bool = False
    more: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every user may read and write; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="headstart-elsewhere-"))
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_hook(folder: Path, *, nobody: bool = False, turned: bool = False) -> Path:
    """A folder for PYTHONPATH whose code runs as a child starts: another user, other orders of listings."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_NOBODY * nobody + _TURNED * turned)
    return folder


@cache
def can_be_nobody() -> bool:
    """Whether children may run as another user here: on Linux, where we are root."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return False
    with open_folder() as folder:
        hook = write_hook(folder / "hook", nobody=True)
        done = subprocess.run(
            [sys.executable, "-c", "import os, headstart.errors; print(os.geteuid())"], capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": f"{hook}{os.pathsep}{_SOURCE}"}, timeout=120, check=False,
        )  # fmt: skip
    return done.stdout == "65534\n"


def run_in(place: Place, root: Path, words: list[str]) -> None:
    """Run `headstart WORDS` in a child; fails with what it said where it does not end with 0."""
    for name in (place.cwd, place.home):
        (root / name).mkdir(exist_ok=True)
        (root / name).chmod(0o777)
    hook = root / f"hook{place.nobody:d}{place.turned:d}"
    path = [str(write_hook(hook, nobody=place.nobody, turned=place.turned)), str(_SOURCE)]
    env = {
        **os.environ, "TZ": place.zone, "LANG": place.language, "LC_ALL": place.language, "HF_HUB_OFFLINE": "1",
        "PYTHONHASHSEED": place.hash_seed, "HOME": str(root / place.home), "PYTHONPATH": os.pathsep.join(path),
        "HEADSTART_HOME": str(root / place.home / "kept"), "OMP_NUM_THREADS": "1", **place.more,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "headstart", *words], cwd=root / place.cwd, env=env, umask=place.mask, text=True,
        capture_output=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def same_record(run: Path, *unlike: str) -> dict[str, Any]:
    """run.json without clocks, and without what differs between two places by its nature."""
    found: dict[str, Any] = json.loads((run / "run.json").read_text("utf-8"))
    for name in ("seconds", "work", *unlike):
        found.pop(name, None)
    found["data"].pop("path")
    for row in found.get("race", []):
        row.pop("seconds", None)
    return found


def files_of(run: Path) -> dict[str, bytes]:
    """The bytes of all files of a run but for those that hold clocks or paths."""
    clocks = ("run.json", "report.html", "report.md", "settings.json", "log.jsonl", "README.md", "headstart.json")
    kept: dict[str, bytes] = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if path.is_file() and path.name not in clocks and not name.startswith((".", "checkpoints/")):
            kept[name] = path.read_bytes()
    card: dict[str, Any] = json.loads((run / "model" / "headstart.json").read_text("utf-8"))
    card["files"].pop("README.md")
    card.pop("sha256")
    return {**kept, "headstart.json": json.dumps(card, sort_keys=True).encode()}
