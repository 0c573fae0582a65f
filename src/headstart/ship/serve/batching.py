"""Requests that arrive while the model works are answered together in its next turn.

One thread computes. Whatever came in meanwhile is the next batch, so that nobody waits for a batch to fill. The queue
is bounded: what does not fit is refused at once instead of late.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from headstart.ship.serve.limits import Refused

__all__ = ["Batcher"]

Result = TypeVar("Result")
_SLOWLY = 0.2  # how much the last batch counts in the mean time of a picture


@dataclass(slots=True)
class _Job:
    pictures: Sequence[bytes]
    done: asyncio.Future[Any]


class Batcher(Generic[Result]):
    """Answers pictures in batches of at most `most`, in the order in which they came, in one thread of `pool`.

    `work` gives one result a picture. `queue` is how many pictures may wait; `told` hears of every batch's size.
    """

    def __init__(
        self,
        work: Callable[[list[bytes]], list[Result]],
        *,
        pool: Executor,
        most: int,
        queue: int,
        told: Callable[[int], None] | None = None,
    ) -> None:
        self._work, self._pool, self._most, self._queue = work, pool, most, queue
        self._told, self._waiting = told, deque[_Job]()
        self._task: asyncio.Task[None] | None = None
        self._seconds = 0.05  # a picture takes

    @property
    def waiting(self) -> int:
        """How many pictures wait."""
        return sum(len(job.pictures) for job in self._waiting)

    async def answer(self, pictures: Sequence[bytes]) -> list[Result]:
        """One result for each picture. Raises Refused when the queue is full, and what `work` raises.

        A caller that is cancelled while it waits leaves the queue.
        """
        ahead = self.waiting
        if ahead and ahead + len(pictures) > self._queue:
            seconds = max(1, math.ceil(ahead * self._seconds))
            raise Refused(503, "busy", "too many pictures are waiting; try again soon", retry_after=seconds)
        job = _Job(pictures, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        try:
            answers: list[Result] = await job.done
            return answers
        finally:
            if job in self._waiting:
                self._waiting.remove(job)

    async def _run(self) -> None:
        while self._waiting:
            jobs = [self._waiting.popleft()]
            count = len(jobs[0].pictures)
            while self._waiting and count + len(self._waiting[0].pictures) <= self._most:
                jobs.append(self._waiting.popleft())
                count += len(jobs[-1].pictures)
            await self._compute(jobs)

    async def _compute(self, jobs: list[_Job]) -> None:
        jobs = [job for job in jobs if not job.done.done()]
        pictures = [picture for job in jobs for picture in job.pictures]
        if not pictures:
            return
        if self._told is not None:
            self._told(len(pictures))
        started = time.perf_counter()
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._pool, self._work, pictures)
        except Exception as error:
            if len(jobs) == 1:
                if not jobs[0].done.done():
                    jobs[0].done.set_exception(error)
                return
            for job in jobs:  # only the one at fault shall bear it
                await self._compute([job])
            return
        took = (time.perf_counter() - started) / len(pictures)
        self._seconds += _SLOWLY * (took - self._seconds)
        at = 0
        for job in jobs:
            if not job.done.done():
                job.done.set_result(results[at : at + len(job.pictures)])
            at += len(job.pictures)
