"""The command line from outside: a child process with limits, and how it ended; odd files to give it."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "data"))
import helpers
import odd_files

__all__ = ["Ended", "headstart", "helpers", "most_memory", "odd_files"]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended; `peak_mb` is the most memory that it held."""

    code: int
    out: str
    err: str
    peak_mb: float

    def well(self) -> Ended:
        """Itself, once it is sure that it ended well and said nothing strange."""
        assert self.code == 0, (self.code, self.err[-2000:])
        for word in ("Traceback", "Warning"):
            assert word not in self.err, self.err[-2000:]
        return self

    def refused(self) -> str:
        """The one line that it said, once it is sure that it ended as the user's to mend."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert self.code == 2, (self.code, self.err[-2000:])
        assert len(lines) == 1, self.err
        assert self.err.splitlines()[-1] == lines[0]
        return lines[0]


def headstart(
    *words: object,
    env: Mapping[str, str] | None = None,
    before: Callable[[], Any] | None = None,
    seconds: float = 240,
    gigabytes: int = 0,
    cwd: Path | None = None,
) -> Ended:
    """Run `headstart WORDS` in a child that ends after so many seconds and may take so much address space.

    `before` runs in the child first. A child that does not end is killed, and its code is -9.
    """

    def limits() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if gigabytes:
            resource.setrlimit(resource.RLIMIT_AS, (gigabytes << 30, gigabytes << 30))
        if before is not None:
            before()

    command = [sys.executable, "-m", "headstart", *map(str, words)]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env={**os.environ, **(env or {})}, cwd=cwd,
            preexec_fn=limits,
        )  # fmt: skip
        status, peak = _waited(child.pid, seconds)
        child.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode("utf-8"))
    return Ended(child.returncode, *texts, peak)


def most_memory(pid: int | str = "self") -> float:
    """The megabytes that a process held at most, without what it was forked from; 0 where it cannot be told."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmHWM:")), 0.0)


def _waited(pid: int, seconds: float) -> tuple[int, float]:
    """How a child ended, and the megabytes that it held at most; it is killed after so many seconds."""
    end, peak = time.monotonic() + seconds, 0.0
    while True:
        peak = max(peak, most_memory(pid))
        number, status = os.waitpid(pid, os.WNOHANG)
        if number:
            return status, peak
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
