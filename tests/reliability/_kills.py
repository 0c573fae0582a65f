"""Runs of the command line that are struck and go on: a server that forks a run, and what must be equal.

The server imports headstart once, computes nothing and has one thread; every run is a fork of it. `Fresh` starts a
process of its own for each run instead, and a test holds that both give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Protocol

HERE = Path(__file__).resolve().parent
HANGS = 600.0  # seconds after which a run that should be done counts as hanging
KILLED = (-signal.SIGKILL, -signal.SIGXFSZ)


@dataclass(frozen=True)
class Ended:
    """How a process ended: its code (-9: killed), the seconds since it was first struck, and what it said."""

    code: int
    seconds: float
    out: str
    err: str


@dataclass(frozen=True)
class Moment:
    """When and how a run is struck.

    At the deed of this number (see `_kill_hook`); in the write that goes beyond `size` bytes; or, `after` so many
    seconds from the start or from when the file `when` is there, by the signal `by`, and `again` seconds later once
    more (0: once).
    """

    deed: int = 0
    size: int = 0
    after: float = 0.0
    when: str = ""
    by: int = signal.SIGKILL
    again: float = 0.0

    @property
    def outside(self) -> bool:
        """Whether the blow comes from another process."""
        return bool(self.after or self.when)


NEVER = Moment()


@dataclass(frozen=True)
class Place:
    """Where one run lives: `run`, its cache `home`, and variables of its environment."""

    root: Path
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def run(self) -> Path:
        """The run folder, which is always called so."""
        return self.root / "run"

    def variables(self, moment: Moment, log: Path | None) -> dict[str, str]:
        """The environment of one process, for `_kill_hook` too."""
        self.root.mkdir(parents=True, exist_ok=True)
        told = {"KILL_ROOT": str(self.root), "KILL_AT": str(moment.deed), "KILL_FSIZE": str(moment.size)}
        told["KILL_BY"] = str(int(moment.by))
        told |= {"KILL_LOG": str(log)} if log is not None else {}
        return {**told, "HEADSTART_HOME": str(self.root / "home"), **dict(self.environment)}


class Runs(Protocol):
    """Forks or fresh processes."""

    def go(self, words: Sequence[str], place: Place, moment: Moment = NEVER, log: Path | None = None) -> Ended:
        """Run `headstart WORDS` in a place to its end, or until it is struck."""


class Forks:
    """Forks of one server."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, str(HERE / "_kills.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=_environment({}),
        )  # fmt: skip

    def go(self, words: Sequence[str], place: Place, moment: Moment = NEVER, log: Path | None = None) -> Ended:
        """Run `headstart WORDS` in a fork."""
        return self._job(place, moment, log, words=list(words))

    def do(self, code: str, place: Place, moment: Moment = NEVER, log: Path | None = None) -> Ended:
        """Run a piece of Python in a fork."""
        return self._job(place, moment, log, code=code)

    def _job(self, place: Place, moment: Moment, log: Path | None, **job: Any) -> Ended:
        job |= {"env": place.variables(moment, log), "root": str(place.root), "moment": vars(moment)}
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        return Ended(**json.loads(self._server.stdout.readline()))

    def close(self) -> None:
        """End the server."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(HANGS)


class Fresh:
    """A new process a run, as a user starts it."""

    def go(self, words: Sequence[str], place: Place, moment: Moment = NEVER, log: Path | None = None) -> Ended:
        """Run `headstart WORDS` in a new process."""
        variables, hooks = place.variables(moment, log), place.root / "hook"
        hooks.mkdir(exist_ok=True)
        start = f"import sys; sys.path.insert(0, {str(HERE)!r}); import _kill_hook; _kill_hook.arm()\n"
        (hooks / "sitecustomize.py").write_text(start)
        env = _environment(variables)
        env["PYTHONPATH"] = f"{hooks}{os.pathsep}{env['PYTHONPATH']}"
        out, err = (place.root / f"std{name}" for name in ("out", "err"))
        with out.open("wb") as out_stream, err.open("wb") as err_stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "headstart", *words], cwd=place.root, env=env, stdout=out_stream,
                stderr=err_stream,
            )  # fmt: skip
            code, seconds = _struck(process.pid, moment, place.root)
            process.returncode = code
        return Ended(code, seconds, out.read_text(errors="replace"), err.read_text(errors="replace"))


def _environment(own: dict[str, str]) -> dict[str, str]:
    """The environment of a run: one thread, our sources, no hub."""
    return {
        **os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(HERE.parent.parent / "src"), **own,
    }  # fmt: skip


def _struck(pid: int, moment: Moment, root: Path) -> tuple[int, float]:
    """Wait for a process, striking it at its moment; its exit code, and the seconds since the first blow."""
    began = first = time.monotonic()
    waiting, blows = bool(moment.when), [moment.after, *([moment.after + moment.again] if moment.again else [])]
    blows = blows if moment.outside else []
    while True:
        gone, status = os.waitpid(pid, os.WNOHANG)
        now = time.monotonic()
        if gone:
            return os.waitstatus_to_exitcode(status), now - first
        if waiting and (root / moment.when).exists():
            waiting, began = False, now
        if blows and not waiting and now - began >= blows[0]:
            first = now if len(blows) == 1 + bool(moment.again) else first
            del blows[0]
            os.kill(pid, moment.by)
        if now - began > HANGS:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.002 if blows else 0.01)


@contextmanager
def serving() -> Iterator[Forks]:
    """A server, ended afterwards."""
    server = Forks()
    try:
        yield server
    finally:
        server.close()


# --- what must be equal -----------------------------------------------------------------------------------------------


def _timeless(value: Any) -> Any:
    """A record without times and without what was computed or found."""
    if isinstance(value, dict):
        return {name: _timeless(part) for name, part in value.items() if name not in ("seconds", "work")}
    return [_timeless(part) for part in value] if isinstance(value, list) else value


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def outcome(run: Path) -> dict[str, Any]:
    """All that must be the same bit for bit, by the name of its file.

    run.json and log.jsonl without their times; report.md and the model card, in which times stand, by whether they are
    the ones of run.json; the report by its pictures; the last checkpoint with the optimiser's state.
    """
    from headstart import report

    record = json.loads((run / "run.json").read_text())
    names = [p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file() and not p.name.startswith(".lock")]
    found: dict[str, Any] = {"names": sorted(name for name in names if "checkpoints/" not in name)}
    for name in sorted(names):
        data = (run / name).read_bytes()
        if name.endswith("run.json"):
            found[name] = _timeless(record)
        elif name.endswith("log.jsonl"):
            found[name] = [_timeless(json.loads(line)) for line in data.decode().splitlines()]
        elif name.endswith(".md"):
            found[name] = data.decode() == report.to_markdown(record)
        elif name.endswith("report.html"):
            found[name] = [_digest(picture) for picture in re.findall(rb"data:image/[^\"]+", data)]
        elif name.endswith("headstart.json"):
            model = json.loads(data)
            whole = all(
                hashlib.sha256((run / "model" / n).read_bytes()).hexdigest() == h for n, h in model["files"].items()
            )
            del model["sha256"], model["files"]["README.md"]
            found[name] = {**model, "whole": whole}
        elif "checkpoints/" not in name and name not in ("settings.json", "race.json"):
            found[name] = _digest(data)
    for place in run.rglob("checkpoints"):
        newest = max(path.parent for path in place.glob("*/state.json"))
        found[place.relative_to(run).as_posix()] = _digest((newest / "state.safetensors").read_bytes())
    return found


def differences(one: Any, two: Any, where: str = "") -> list[str]:
    """Where two outcomes differ, one line each."""
    if isinstance(one, dict) and isinstance(two, dict):
        names = [*one, *(name for name in two if name not in one)]
        return [line for name in names for line in differences(one.get(name), two.get(name), f"{where}/{name}")]
    if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        pairs = enumerate(zip(one, two, strict=True))
        return [line for number, (a, b) in pairs for line in differences(a, b, f"{where}[{number}]")]
    return [] if one == two else [f"{where}: {one!r} / {two!r}"]


# --- kills and going on -----------------------------------------------------------------------------------------------

MENDED = "Give the `headstart fit` command again"
Told = Callable[[Ended], None]


def to_the_end(runs: Runs, words: Sequence[str], place: Place, moments: Sequence[Moment]) -> list[str]:
    """Begin a run, kill it at the first moment, go on, kill it at the next, and so on; then let it end.

    Returns what each kill left: "nothing", "begun" or "finished". A run that had not begun when it was killed is begun
    again, after `resume` has said just that; one that ended before its moment is not killed.
    """
    left: list[str] = []
    for moment in (*moments, NEVER):
        begun = (place.run / "settings.json").is_file()
        if left and not begun:
            told = runs.go(["resume", "run"], place)
            assert told.code == 2, told
            assert MENDED in told.err or not place.run.exists(), told
        ended = runs.go(["resume", "run", "--quiet"] if begun else words, place, moment)
        if ended.code not in KILLED:
            assert ended.code == 0, ended
            continue
        finished = (place.run / "run.json").is_file()
        left.append("finished" if finished else "begun" if (place.run / "settings.json").is_file() else "nothing")
    stray = list(place.run.rglob("*.tmp"))
    assert not stray, stray
    return left


def deeds(log: Path) -> tuple[list[int], list[int]]:
    """The numbers of all deeds that a run did, and of those that change something."""
    lines = log.read_text().splitlines()
    changing = [number for number, line in enumerate(lines, 1) if not line.startswith("read ")]
    return list(range(1, len(lines) + 1)), changing


def moments(seed: int, number: int, *, log: Path, seconds: float, sizes: Sequence[int]) -> list[Moment]:
    """One or, each third time, two moments to strike at: a deed, a time or a write, by the number of the trial."""
    import numpy as np

    rng = np.random.default_rng((seed, number))
    every, changing = deeds(log)
    drawn = []
    for _ in range(2 if number % 3 == 2 else 1):
        kind = rng.choice(["deed", "change", "time", "size"], p=[0.2, 0.4, 0.3, 0.1])
        if kind == "time":
            drawn.append(Moment(after=float(rng.uniform(0.02, 0.95)) * seconds))
        elif kind == "size":
            drawn.append(Moment(size=int(rng.integers(1, max(sizes)))))
        else:
            drawn.append(Moment(deed=int(rng.choice(changing if kind == "change" else every))))
    # what goes on does less than what begins: strike it earlier
    return [replace(m, deed=-(-m.deed // (n + 1)), after=m.after / (n + 1)) for n, m in enumerate(drawn)]


# --- the server -------------------------------------------------------------------------------------------------------


def _child(job: dict[str, Any], out: IO[bytes], err: IO[bytes]) -> None:
    """Become the run."""
    import _kill_hook

    from headstart import cli

    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(job["env"])
    os.chdir(job["root"])
    _kill_hook.arm()
    if "code" in job:
        exec(job["code"], {})
        sys.stdout.flush()
        os._exit(0)
    sys.argv = ["headstart", *job["words"]]
    cli.main()


def _serve() -> None:
    """A line in, a fork, a line out."""
    import gc
    import pkgutil
    import tempfile
    import traceback

    import headstart
    from headstart.sources._importing import import_timm

    for module in pkgutil.walk_packages(headstart.__path__, "headstart."):
        if not module.name.endswith("__main__"):
            __import__(module.name)
    import_timm()
    status = Path("/proc/self/status")
    assert not status.exists() or "Threads:\t1\n" in status.read_text(), "a fork would lose the other threads"
    gc.freeze()
    for line in sys.stdin:
        job = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            pid = os.fork()
            if pid == 0:
                try:
                    _child(job, out, err)
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stderr.flush()
                    os._exit(70)
            code, seconds = _struck(pid, Moment(**job["moment"]), Path(job["root"]))
            told = []
            for stream in (out, err):
                stream.seek(0)
                told.append(stream.read().decode(errors="replace"))
        print(json.dumps({"code": code, "seconds": seconds, "out": told[0], "err": told[1]}), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    _serve()
