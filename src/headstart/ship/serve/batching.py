"""Requests that arrive while the model works are answered together in its next turn.

One thread computes. Whatever came in meanwhile is the next turn, so that nobody waits for a batch to fill. The thread
takes its next turn itself: it never stands idle until the event loop, busy with refusals, finds time for it. How much
may wait is bounded in pictures and in seconds: what does not fit is refused at once instead of late.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from headstart.ship.serve.limits import Refused

__all__ = ["Batcher", "Place"]

Result = TypeVar("Result")
_SLOWLY = 0.2  # how much the last turn counts in the mean time of a picture


@dataclass(slots=True)
class _Job:
    pictures: Sequence[bytes]
    done: asyncio.Future[Any]


class Place:
    """A place that is kept for one picture of a request that is there and not yet read, until it takes it.

    So of many requests that come at once only as many get in as there is room for. `entering` is where they are kept.
    """

    def __init__(self, entering: set[Place]) -> None:
        self._entering = entering
        entering.add(self)

    def leave(self) -> None:
        """Give the place back; a second time does nothing."""
        self._entering.discard(self)


class Batcher(Generic[Result]):
    """Answers pictures in turns of about `most`, in the order in which they came, in one thread of `pool`.

    `work` gives one result a picture. `queue` is how many pictures may be in hand, waiting or being computed, and
    `patience` how many seconds they may be expected to take; `told` hears of every turn's size. Several batchers may
    share a pool: they take turns.
    """

    def __init__(
        self,
        work: Callable[[list[bytes]], list[Result]],
        *,
        pool: Executor,
        most: int,
        queue: int,
        patience: float = math.inf,
        told: Callable[[int], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._work, self._pool, self._most, self._clock = work, pool, most, clock
        self._queue, self._patience, self._told = queue, patience, told
        self._waiting, self._lock = deque[_Job](), threading.Lock()
        self._entering: set[Place] = set()
        self._computing = 0  # pictures
        self._running = False  # whether a turn is under way or will be
        self._seconds = 0.0  # a picture takes; 0: not known yet

    @property
    def waiting(self) -> int:
        """How many pictures wait."""
        with self._lock:
            return sum(len(job.pictures) for job in self._waiting)

    @property
    def in_hand(self) -> int:
        """How many pictures wait or are being computed."""
        with self._lock:
            return self._computing + sum(len(job.pictures) for job in self._waiting)

    def enter(self) -> Place:
        """A place for a request that is there. Raises Refused where there is none."""
        self.check()
        return Place(self._entering)

    def check(self, count: int = 1) -> None:
        """Raise Refused where `count` more pictures find no place. What finds nobody before it always has one."""
        ahead = self.in_hand + len(self._entering)
        seconds = ahead * self._seconds
        if ahead and (ahead + count > self._queue or seconds > self._patience):
            again = max(1, math.ceil(seconds))
            raise Refused(503, "busy", "too many pictures are waiting; try again soon", retry_after=again)

    async def answer(self, pictures: Sequence[bytes], place: Place | None = None) -> list[Result]:
        """One result for each picture. Raises Refused when too much waits, and what `work` raises.

        `place` is the one that was kept for it. A caller that is cancelled while it waits leaves the queue.
        """
        if place is not None:
            place.leave()
        self.check(len(pictures))
        loop = asyncio.get_running_loop()
        job = _Job(pictures, loop.create_future())
        with self._lock:
            self._waiting.append(job)
            idle, self._running = not self._running, True
        if idle:
            self._pool.submit(self._turn, loop, self._clock())
        try:
            answers: list[Result] = await job.done
            return answers
        finally:
            with self._lock:
                if job in self._waiting:
                    self._waiting.remove(job)

    # --- in the pool's thread -------------------------------------------------------------------------------------

    def _turn(self, loop: asyncio.AbstractEventLoop, since: float) -> None:
        """Compute what waits, tell the loop, and queue up for the next turn; this one was asked for at `since`."""
        found: list[tuple[_Job, Any]] = []
        try:
            if jobs := self._taken():
                found = self._computed(jobs)
                took = (self._clock() - since) / sum(len(job.pictures) for job in jobs)
                self._seconds += (_SLOWLY if self._seconds else 1.0) * (took - self._seconds)
        finally:
            with self._lock:
                self._computing = 0  # before anybody hears of an answer and asks again
                self._running = bool(self._waiting)
                if self._running:
                    self._pool.submit(self._turn, loop, self._clock())
            _tell(loop, found)

    def _taken(self) -> list[_Job]:
        """The next jobs, those left out whose callers went away; one job may be larger than a turn."""
        jobs: list[_Job] = []
        with self._lock:
            while self._waiting:
                count = len(self._waiting[0].pictures)
                if jobs and self._computing + count > self._most:
                    break
                job = self._waiting.popleft()
                if not job.done.done():
                    jobs.append(job)
                    self._computing += count
        return jobs

    def _computed(self, jobs: list[_Job]) -> list[tuple[_Job, Any]]:
        """Jobs with their results, or with what went wrong."""
        pictures = [picture for job in jobs for picture in job.pictures]
        if self._told is not None:
            self._told(len(pictures))
        try:
            results = self._work(pictures)
        except Exception as error:
            if len(jobs) == 1:
                return [(jobs[0], error)]
            return [found for job in jobs for found in self._computed([job])]  # only the one at fault shall bear it
        found, at = list[tuple[_Job, Any]](), 0
        for job in jobs:
            found.append((job, results[at : at + len(job.pictures)]))
            at += len(job.pictures)
        return found


def _tell(loop: asyncio.AbstractEventLoop, found: list[tuple[_Job, Any]]) -> None:
    """Give jobs their results, or what went wrong, in the loop's own thread."""

    def give() -> None:
        for job, result in found:
            if job.done.done():  # its caller went away
                continue
            if isinstance(result, Exception):
                job.done.set_exception(result)
            else:
                job.done.set_result(result)

    loop.call_soon_threadsafe(give)
