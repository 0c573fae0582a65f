"""How long work tells where it is: one Protocol, three ways to show it. Standard library, and rich when shown.

`Silent` says nothing (the default in Python), `Plain` writes a line now and then (logs, pipes), `RichConsole` draws
bars with throughput and time left (terminals). Everything goes to standard error: standard output is for results.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, TextIO

__all__ = ["Plain", "Progress", "Reporter", "RichConsole", "Silent", "duration", "epoch_line", "reporter_for", "safe"]


class Progress(Protocol):
    """One piece of counted work under way."""

    def advance(self, n: int = 1) -> None:
        """Say that `n` more units are done."""

    def update(self, **fields: object) -> None:
        """Show these values beside the count, for example loss=0.31."""


class Reporter(Protocol):
    """What long work calls; how it is shown is not its business."""

    def say(self, text: str) -> None:
        """Tell something worth a line."""

    def note(self, text: str) -> None:
        """Tell something that the user should look at (a warning)."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Enclose one stage of the run."""

    def progress(self, description: str, total: int | None, unit: str = "images") -> AbstractContextManager[Progress]:
        """Enclose counted work of `total` units (None: not known)."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Tell the measures of one finished epoch."""


# --- words ------------------------------------------------------------------------------------------------

_BIDI = {0x2028, 0x2029, 0x202A, 0x202B, 0x202C, 0x202D, 0x202E, 0x2066, 0x2067, 0x2068, 0x2069}


def safe(text: object) -> str:
    """`text` with control characters, direction marks and undecodable bytes written out, so none steers a terminal."""

    def written(character: str) -> str:
        code = ord(character)
        hostile = code < 32 or 127 <= code < 160 or 0xD800 <= code < 0xE000 or code in _BIDI
        return character.encode("unicode_escape", "surrogatepass").decode("ascii") if hostile else character

    return "".join(map(written, str(text)))


def duration(seconds: float) -> str:
    """Seconds as people say them: "0.4 s", "12 s", "3 min 05 s", "2 h 10 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _value(name: str, value: object) -> str:
    if isinstance(value, float):
        if "accuracy" in name:
            return f"{value:.1%}"
        return f"{value:.1f} s" if name == "seconds" else f"{value:.4g}"
    return safe(value)


def _fields(fields: Mapping[str, Any]) -> str:
    titles = {name: "" if name == "seconds" else safe(name).replace("_", " ") + " " for name in fields}
    shown = (titles[name] + _value(name, value) for name, value in fields.items() if value is not None)
    return "  ".join(shown)


def epoch_line(row: Mapping[str, Any]) -> str:
    """One epoch's measures as one line, in the order of `row`; nested values are left out."""
    rest = {name: value for name, value in row.items() if not isinstance(value, (Mapping, list, tuple))}
    epoch, epochs = rest.pop("epoch", None), rest.pop("epochs", None)
    start = "" if epoch is None else f"epoch {epoch}" + (f"/{epochs}" if epochs is not None else "") + "  "
    return start + _fields(rest)


def _rate(done: int, seconds: float, unit: str) -> str:
    if seconds <= 0 or not done:
        return ""
    rate = done / seconds
    return f"{rate:.0f} {unit}/s" if rate >= 10 else f"{rate:.1f} {unit}/s"


def _result(description: str, done: int, unit: str, seconds: float) -> str:
    parts = [f"{safe(description)}: {done} {unit} in {duration(seconds)}", _rate(done, seconds, unit)]
    return ", ".join(part for part in parts if part)


# --- nothing ----------------------------------------------------------------------------------------------


class _NoProgress:
    def advance(self, n: int = 1) -> None:
        """Nothing to show."""

    def update(self, **fields: object) -> None:
        """Nothing to show."""


class Silent:
    """A Reporter that shows nothing."""

    def say(self, text: str) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Show nothing."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:  # noqa: ARG002  the Protocol's signature
        """Run the block."""
        yield

    @contextmanager
    def progress(self, description: str, total: int | None, unit: str = "images") -> Iterator[Progress]:  # noqa: ARG002
        """Run the block."""
        yield _NoProgress()


# --- lines ------------------------------------------------------------------------------------------------


class _PlainProgress:
    def __init__(self, owner: Plain, description: str, total: int | None, unit: str) -> None:
        self._owner, self._description, self._total, self._unit = owner, description, total, unit
        self._begun = self._told = owner.clock()
        self._done, self._fields = 0, dict[str, object]()
        self._lock = threading.Lock()  # decoding threads may report side by side

    def advance(self, n: int = 1) -> None:
        with self._lock:
            self._done += n
            now = self._owner.clock()
            if now - self._told < self._owner.every or self._done == self._total:
                return
            self._told = now
            self._owner.line(self._where(now - self._begun))

    def update(self, **fields: object) -> None:
        with self._lock:
            self._fields.update(fields)

    def _where(self, seconds: float) -> str:
        of = "" if self._total is None else f"/{self._total}"
        parts = [f"{safe(self._description)}: {self._done}{of} {self._unit}", _rate(self._done, seconds, self._unit)]
        if self._total and self._done:
            parts.append(f"{duration(seconds / self._done * max(self._total - self._done, 0))} left")
        return ", ".join(part for part in (*parts, _fields(self._fields)) if part)

    def finish(self) -> None:
        if self._fields:
            return  # a training loop: its epoch line tells more
        seconds = self._owner.clock() - self._begun
        self._owner.line(_result(self._description, self._done, self._unit, seconds))


class Plain:
    """A Reporter that writes lines: one every `every` seconds at most while counted work goes on, one at its end."""

    def __init__(
        self, stream: TextIO | None = None, *, every: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.stream, self.every, self.clock = stream, every, clock
        self._epoch_told = -every

    def line(self, text: str) -> None:
        """Write one line and flush it, so that a log shows it at once."""
        stream = self.stream or sys.stderr
        stream.write(text + "\n")
        stream.flush()

    def say(self, text: str) -> None:
        """Write a line."""
        self.line(safe(text))

    def note(self, text: str) -> None:
        """Write a line that begins with "note:"."""
        self.line(f"note: {safe(text)}")

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Write the epoch's measures as one line, when `every` seconds went by since the last such line."""
        now = self.clock()
        if now - self._epoch_told >= self.every or (row.get("epoch") is not None and row["epoch"] == row.get("epochs")):
            self._epoch_told = now
            self.line(epoch_line(row))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Name the stage when it begins, and its time when it took longer than `every`."""
        begun = self.clock()
        self.line(safe(name))
        yield
        if (seconds := self.clock() - begun) >= self.every:
            self.line(f"{safe(name)}: done in {duration(seconds)}")

    @contextmanager
    def progress(self, description: str, total: int | None, unit: str = "images") -> Iterator[Progress]:
        """Write lines now and then, and one when the work is done (not when it fails)."""
        work = _PlainProgress(self, description, total, unit)
        yield work
        work.finish()


# --- bars -------------------------------------------------------------------------------------------------


class _RichProgress:
    def __init__(self, bars: Any, task: Any, unit: str, clock: Callable[[], float]) -> None:
        self._bars, self._task, self._unit, self._clock = bars, task, unit, clock
        self._begun, self._done, self._fields = clock(), 0, dict[str, object]()
        self._lock = threading.Lock()

    def advance(self, n: int = 1) -> None:
        with self._lock:
            self._done += n
            rate = _rate(self._done, self._clock() - self._begun, self._unit)
            self._bars.update(self._task, advance=n, rate=rate)

    def result(self, description: str) -> str:
        if self._fields:
            return ""  # a training loop: its epoch line tells more
        return _result(description, self._done, self._unit, self._clock() - self._begun)

    def update(self, **fields: object) -> None:
        with self._lock:
            self._fields.update(fields)
            self._bars.update(self._task, fields=_fields(self._fields))


class RichConsole:
    """A Reporter that draws bars with throughput and time left on a terminal."""

    def __init__(self, console: Any = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        if console is None:
            from rich.console import Console

            console = Console(stderr=True)
        self.console, self.clock = console, clock
        self._bars: Any = None
        self._open = 0

    def _print(self, text: str, style: str | None = None) -> None:
        # A file name may look like rich's markup: it is printed as it stands.
        self.console.print(safe(text), style=style, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._print(text)

    def note(self, text: str) -> None:
        """Print a yellow line that begins with "note:"."""
        self._print(f"note: {text}", style="yellow")

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Print the epoch's measures as one line."""
        self._print(epoch_line(row))

    @contextmanager
    def _live(self) -> Iterator[Any]:
        """The one set of bars: nested work shares it, and it vanishes when the outermost is done."""
        from rich import progress as rich_progress

        if self._bars is None:
            self._bars = rich_progress.Progress(
                rich_progress.SpinnerColumn(),
                rich_progress.TextColumn("{task.description}", markup=False),
                rich_progress.BarColumn(bar_width=30),
                rich_progress.MofNCompleteColumn(),
                rich_progress.TextColumn("{task.fields[rate]}", markup=False),
                rich_progress.TimeRemainingColumn(compact=True),
                rich_progress.TextColumn("{task.fields[fields]}", markup=False),
                console=self.console,
                transient=True,
            )
            self._bars.start()
        self._open += 1
        try:
            yield self._bars
        finally:
            self._open -= 1
            if not self._open:
                self._bars.stop()
                self._bars = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show the stage with a spinner, then a line with its time."""
        begun = self.clock()
        with self._live() as bars:
            task = bars.add_task(safe(name), total=None, rate="", fields="")
            try:
                yield
            finally:
                bars.remove_task(task)
        self._print(f"{name}: {duration(self.clock() - begun)}", style="dim")

    @contextmanager
    def progress(self, description: str, total: int | None, unit: str = "images") -> Iterator[Progress]:
        """Show a bar while the block runs, then a line with the throughput."""
        with self._live() as bars:
            task = bars.add_task(safe(description), total=total, rate="", fields="")
            work = _RichProgress(bars, task, unit, self.clock)
            try:
                yield work
            finally:
                bars.remove_task(task)
        if result := work.result(description):
            self._print(result, style="dim")


def reporter_for(stream: TextIO | None = None, *, quiet: bool = False) -> Reporter:
    """The Reporter that fits `stream` (standard error): nothing when quiet, bars on a terminal, lines elsewhere."""
    target = stream or sys.stderr
    if quiet:
        return Silent()
    if target.isatty() and os.environ.get("TERM") != "dumb":
        return RichConsole()
    return Plain(stream)
