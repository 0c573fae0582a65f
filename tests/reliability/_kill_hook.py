"""Counts what a process does to files and ends it at the n-th deed, as abruptly as a power cut. Standard library only.

Armed by environment variables, in a forked child of `_kills` or, through a sitecustomize module, in a fresh process.
"""

from __future__ import annotations

import itertools
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

READS = "read"
_DEEDS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}


def _settle() -> None:
    """What a run otherwise decides by the clock: plain torch computes features; SAVE_SECONDS: when states are saved."""
    own: dict[str, dict[str, float]] = {"headstart.transfer.runner": {"WORTH": math.inf}}
    if seconds := os.environ.get("SAVE_SECONDS"):
        own["headstart.transfer.tuning"] = {"_SAVE_SECONDS": float(seconds), "_SAVE_SHARE": math.inf}
    for name, values in own.items():
        if name in sys.modules:
            vars(sys.modules[name]).update(values)
    sys.meta_path.insert(0, _Settled(own))


class _Settled:
    """Sets values in modules that are imported later."""

    def __init__(self, own: dict[str, dict[str, float]]) -> None:
        self.own = own

    def find_spec(self, name: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        """The module's own spec, with a loader that sets the values."""
        spec = PathFinder.find_spec(name, path) if name in self.own else None
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_set(module: ModuleType) -> None:
            run(module)
            vars(module).update(self.own[name])

        spec.loader.exec_module = run_and_set  # type: ignore[method-assign]
        return spec


def arm() -> None:
    """Begin to count. KILL_ROOT: the folder whose files count. KILL_AT: the deed that is never done (0: none), for the
    process gets the signal KILL_BY before it.

    KILL_LOG: a file that gets one line a deed. KILL_FSIZE: no file may grow beyond so many bytes; the write that tries
    ends the process with half of its bytes on disk. SLOW_SYNC: files of this name take so many seconds to sync, as
    NAME=SECONDS. Ctrl-C works, also where whoever started us had it ignored.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _settle()
    root, at = os.environ["KILL_ROOT"], int(os.environ.get("KILL_AT", "0"))
    log = os.environ.get("KILL_LOG", "")
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if log else -1
    count, by = itertools.count(1), int(os.environ.get("KILL_BY", signal.SIGKILL))

    def done(deed: str) -> None:
        number = next(count)
        if handle >= 0:
            os.write(handle, f"{deed}\n".encode("utf-8", "backslashreplace"))
        if number == at:
            os.kill(os.getpid(), by)

    def below(name: object) -> str | None:
        if not isinstance(name, str | os.PathLike):
            return None
        place = os.path.abspath(os.fspath(name))  # noqa: PTH100 - a Path would be slow
        return place[len(root) :] if place.startswith(root) else None

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            name, _, flags = args
            if (place := below(name)) is not None:
                writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
                done(f"{'open' if writes else READS} {place}")
        elif event in _DEEDS and (place := below(args[0])) is not None:
            done(f"{event} {place}")

    sys.addaudithook(hook)
    sync = os.fsync
    slow, _, seconds = os.environ.get("SLOW_SYNC", "").partition("=")

    def fsync(number: int) -> None:
        done("before fsync")
        if slow and slow in str(Path(f"/proc/self/fd/{number}").resolve()):
            time.sleep(float(seconds))
        sync(number)
        done("after fsync")

    os.fsync = fsync
    if limit := int(os.environ.get("KILL_FSIZE", "0")):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it, and the write would only fail
