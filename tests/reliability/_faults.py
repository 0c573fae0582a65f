"""A disk that fails on demand, and a warm process that forks a child for every command line.

Run as a script this file is the warm process: it imports what a run needs, starts no thread, and forks for each line of
JSON on its standard input. In a child the calls that change a disk (open to write, write, fsync, mkdir, rename, unlink,
rmdir, symlink, utime) are counted below the watched folders; call number `call` fails:

ENOSPC, EDQUOT  this call and all later ones that need room, on the same disk (watched folder)
EROFS           this call and all later ones, on the same disk
EIO             this call alone
kill, killed    SIGKILL before the call (of a write: after half of it), or after it
"""

# ruff: noqa: PTH100, PTH113, PTH115, PTH118 - what stands below pathlib is patched here
from __future__ import annotations

import builtins
import errno
import importlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["KINDS", "Done", "Fault", "Forge", "Job", "chosen"]

KINDS = ("ENOSPC", "EDQUOT", "EROFS", "EIO", "kill", "killed")
_ROOM = ("create", "write", "fsync", "mkdir", "symlink")
_LIMIT = 120  # seconds after which a child counts as hung


@dataclass(frozen=True)
class Fault:
    """What happens at which call."""

    call: int
    kind: str


@dataclass(frozen=True)
class Done:
    """How a child ended: exit code (minus the signal), its words, and the calls that it made, as "operation path"."""

    code: int
    out: str
    err: str
    calls: tuple[str, ...]


def chosen(calls: int, count: int, *, seed: int) -> list[Fault]:
    """`count` different faults: all kinds in turn, at calls spread evenly, in the order of a seed."""
    rng = random.Random(seed)
    every = [Fault(call, kind) for call in range(calls) for kind in KINDS]
    rng.shuffle(every)
    picked: list[Fault] = []
    for n, kind in enumerate(KINDS):
        own = [fault for fault in every if fault.kind == kind]
        share = count // len(KINDS) + (n < count % len(KINDS))
        picked += own[:share]
    rng.shuffle(picked)
    return picked


@dataclass(frozen=True)
class Job:
    """One command line: `headstart WORDS` in the folder `place`; calls below `watched` are counted.

    `limits` are names and values for resource.setrlimit, `user` a number to become, `shm` bytes of shared memory.
    """

    words: tuple[str, ...]
    place: Path
    watched: tuple[Path, ...] = ()
    fault: Fault | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    user: int | None = None
    shm: int | None = None


class Forge:
    """The warm process. It forks a child for every command line and waits for it."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, *words: str, place: Path, **more: Any) -> Done:
        """One command line; `more` are fields of Job."""
        return self.together(Job(words, place, **more))[0]

    def together(self, *jobs: Job) -> list[Done]:
        """Several at once: their children are let go at the same moment."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps([asdict(job) for job in jobs], default=str) + "\n")
        stdin.flush()
        codes = json.loads(stdout.readline())
        return [_done(job, number, code) for number, (job, code) in enumerate(zip(jobs, codes, strict=True))]

    def close(self) -> None:
        """End the warm process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(300)


def _done(job: Job, number: int, code: int) -> Done:
    out, err, calls = (
        path.read_text(errors="replace") if (path := job.place / f".{name}-{number}").exists() else ""
        for name in ("out", "err", "calls")
    )
    return Done(code, out, err, tuple(calls.splitlines()))


# --- in the child ---------------------------------------------------------------------------------------------------


class Disk:
    """Counts the calls below the watched folders, and fails."""

    def __init__(self, watched: Sequence[str], fault: Fault | None, log: str) -> None:
        self.watched, self.fault, self.count, self.bad = [os.path.abspath(w) for w in watched], fault, 0, ""
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self.write = os.write
        self.mutex = threading.RLock()

    def root(self, path: str) -> str:
        """The watched folder that a path lies in, or ""."""
        return next((w for w in self.watched if path == w or path.startswith(w + "/")), "")

    def happens(self, operation: str, path: str) -> str:
        """Count a call; the kind of fault that is due ("" for none)."""
        root = self.root(path)
        if not root:
            return ""
        with self.mutex:
            now, self.count = self.count, self.count + 1
            self.write(self.log, f"{operation} {path}\n".encode("utf-8", "backslashreplace"))
            if self.fault is None or now < self.fault.call:
                return ""
            if now == self.fault.call:
                self.bad = root
            kind, first = self.fault.kind, now == self.fault.call
            if kind in ("kill", "killed", "EIO"):
                return kind if first else ""
            return kind if root == self.bad and (kind == "EROFS" or operation in _ROOM) else ""

    def call(self, operation: str, path: str, work: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        """Do `work`, or fail as is due."""
        kind = self.happens(operation, path)
        if not kind:
            return work()
        if kind == "killed":
            with suppress(OSError):
                work()
        elif half is not None:
            half()
        if kind in ("kill", "killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        number = getattr(errno, kind)
        raise OSError(number, os.strerror(number), path)


class _Stream:
    """A stream for writing whose writes are calls of the disk."""

    def __init__(self, disk: Disk, stream: Any, path: str) -> None:
        self.__dict__.update(_disk=disk, _stream=stream, _path=path)

    def write(self, data: Any) -> Any:
        def half() -> None:
            self._stream.write(data[: len(data) // 2])
            self._stream.flush()

        return self._disk.call("write", self._path, lambda: self._stream.write(data), half)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._stream, name, value)

    def __enter__(self) -> _Stream:
        self._stream.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._stream.__exit__(*error)

    def __iter__(self) -> Any:
        return iter(self._stream)


def _path_of(path: Any, dir_fd: int | None = None) -> str:
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}").removesuffix(" (deleted)")
    text = os.fsdecode(path)
    if dir_fd is not None:
        text = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), text)
    return os.path.abspath(text)


def install(disk: Disk) -> None:
    """Put the disk between Python and the system, for this process and for good."""
    plain_open, plain_io = os.open, io.open

    def opened(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        work = lambda: plain_open(path, flags, mode, dir_fd=dir_fd)  # noqa: E731
        if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return work()
        place = _path_of(path, dir_fd)
        operation = "open" if os.path.isfile(place) else "create"
        return int(disk.call(operation, place, work))

    def streamed(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if not set(mode) & set("wax+"):
            return plain_io(file, mode, *rest, **more)
        place = _path_of(file)
        work = lambda: plain_io(file, mode, *rest, **more)  # noqa: E731
        if isinstance(file, int) or more.get("opener"):  # counted when it was opened
            stream = work()
        else:
            stream = disk.call("open" if os.path.isfile(place) else "create", place, work)
        return _Stream(disk, stream, place) if disk.root(place) else stream

    def guarded(name: str, operation: str, which: int = 0) -> None:
        plain = getattr(os, name)

        def call(*args: Any, **more: Any) -> Any:
            try:
                place = _path_of(args[which], more.get("dir_fd"))
            except OSError:  # a handle of no file
                place = ""
            return disk.call(operation, place, lambda: plain(*args, **more))

        setattr(os, name, call)

    os.open, io.open, builtins.open = opened, streamed, streamed  # type: ignore[assignment]
    for name in ("fsync", "mkdir", "rmdir", "unlink", "utime", "chmod"):
        guarded(name, name)
    guarded("remove", "unlink")
    guarded("replace", "rename", 1)
    guarded("rename", "rename", 1)
    guarded("symlink", "symlink", 1)
    guarded("posix_fallocate", "write")


def _child(told: Mapping[str, Any], number: int) -> int:
    import resource

    os.setsid()
    os.chdir(told["place"])
    os.environ.update(told["env"])
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f".{name}-{number}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), stream)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    if told["watched"]:
        fault = Fault(**told["fault"]) if told["fault"] else None
        install(Disk(told["watched"], fault, f".calls-{number}"))
    if told["shm"] is not None:
        _own_shared_memory(told["shm"])
    for name, value in told["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    if told["user"] is not None:
        os.setgroups([])
        os.setgid(told["user"])
        os.setuid(told["user"])
    from headstart import cli

    code = cli.run(told["words"])
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _own_shared_memory(size: int) -> None:
    """A /dev/shm of `size` bytes for this process alone."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).unshare(0x20000):  # CLONE_NEWNS
        raise OSError(ctypes.get_errno(), "no mounts of one's own")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", "/dev/shm"], check=True)


def _born(told: Mapping[str, Any], number: int, gate: int, handle: int) -> int:
    """Fork a child that waits until the gate is shut."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.close(handle)
        os.read(gate, 1)
        os.close(gate)
        code = _child(told, number)
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    os._exit(code)


_WARM = (
    "headstart.api", "headstart.running", "headstart.choice.automatic", "headstart.choice.nested", "headstart.console",
    "headstart.insight", "headstart.data.cache", "headstart.data.subset", "headstart.record", "headstart.report.view",
    "headstart.stages", "headstart.ship.evaluate", "headstart.ship.exported", "jinja2", "safetensors.numpy",
    "sklearn.linear_model", "sklearn.model_selection",
    "typer._adapters", "zoneinfo", "encodings.unicode_escape",  # a child of another user may not see the library
)  # fmt: skip


def _serve() -> None:
    for name in _WARM:
        with suppress(ImportError):
            importlib.import_module(name)
    import torch

    from headstart.sources import open_source
    from headstart.transfer import tuning

    open_source("toy")
    tuning._SAVE_SHARE = float("inf")  # every epoch is saved, however slow the disk
    torch.optim.AdamW([torch.zeros(1)])  # the first optimiser imports half of torch
    assert threading.active_count() == 1, "a child of a process with threads may hang"
    for line in sys.stdin:
        gate, handle = os.pipe()
        children = []
        for number, told in enumerate(json.loads(line)):
            children.append(_born(told, number, gate, handle))
        os.close(handle)
        os.close(gate)
        signal.signal(signal.SIGALRM, lambda *_: [os.killpg(child, signal.SIGKILL) for child in children])  # noqa: B023
        signal.alarm(_LIMIT)
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)
        signal.alarm(0)


if __name__ == "__main__":
    _serve()
