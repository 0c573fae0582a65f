"""Ctrl-C and SIGTERM: finish the step, save, then stop; a second signal stops at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Stop", "listening"]


class Stop:
    """Whether somebody asked the run to end, or its time is over.

    `deferred` is set while a loop looks at `code` by itself. `deadline` is a time of time.monotonic() after which a
    training ends with what it has.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        self.deadline: float | None = None
        self._deferred = 0

    @property
    def late(self) -> bool:
        """Whether the deadline is past."""
        return self.deadline is not None and time.monotonic() > self.deadline

    @contextmanager
    def until(self, deadline: float | None) -> Iterator[None]:
        """A deadline for the block; None: none. An earlier one that stands already still holds."""
        before = self.deadline
        self.deadline = min((t for t in (before, deadline) if t is not None), default=None)
        try:
            yield
        finally:
            self.deadline = before

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside the block a first signal only sets `code`; one that the loop did not see is raised at the end."""
        self._deferred += 1
        try:
            yield
        finally:
            self._deferred -= 1
        if self.code is not None and not self._deferred:
            raise KeyboardInterrupt

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """The signal handler."""
        again = self.code is not None
        self.code = 143 if number == signal.SIGTERM else 130
        if again or not self._deferred:
            raise KeyboardInterrupt


@contextmanager
def listening() -> Iterator[Stop]:
    """Listen for SIGINT and SIGTERM in the main thread; elsewhere (a notebook's worker, a server) change nothing."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: set outside of Python
