"""The time that a run may take: how much is left, and what fits into it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Clock"]


class Clock:
    """A budget of seconds that began `used` seconds ago; None: there is no limit.

    `reserve` is kept for what comes at the end: judging, saving, the report.
    """

    def __init__(
        self,
        seconds: float | None,
        *,
        used: float = 0.0,
        reserve: float = 0.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now, self._started = now, now() - used
        self._worked = _processor_seconds()
        self.seconds, self.reserve = seconds, reserve

    @property
    def used(self) -> float:
        """Seconds since the beginning."""
        return self._now() - self._started

    @property
    def processor(self) -> float:
        """Seconds that this process and its ended children have kept a core busy since the clock was made."""
        return _processor_seconds() - self._worked

    @property
    def left(self) -> float:
        """Seconds until the reserve begins; never below 0, and infinite without a limit."""
        return math.inf if self.seconds is None else max(0.0, self.seconds - self.reserve - self.used)

    @contextmanager
    def keeping(self, seconds: float) -> Iterator[None]:
        """Inside the block so many seconds more are reserved."""
        self.reserve += seconds
        try:
            yield
        finally:
            self.reserve -= seconds

    def fits(self, seconds: float, *, share: float = 1.0) -> bool:
        """Whether work of so many seconds fits into a share of what is left."""
        return seconds <= share * self.left

    def deadline(self, *, share: float = 1.0, most: float = math.inf) -> float | None:
        """A time of the clock at which a share of what is left is over, `most` seconds from now; None: never."""
        seconds = min(share * self.left, most)
        return None if math.isinf(seconds) else self._now() + seconds


def _processor_seconds() -> float:
    """Processor time in user and system mode; where the system counts no children (Windows) that of the process."""
    found = os.times()
    return found.user + found.system + found.children_user + found.children_system
