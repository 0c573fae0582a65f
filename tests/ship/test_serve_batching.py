"""What waits is answered together, in order, by one thread; the queue has an end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from headstart.ship.serve.batching import Batcher
from headstart.ship.serve.limits import Refused


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


class Work:
    """Gives pictures back in capitals, waits for `go` and remembers its batches."""

    def __init__(self) -> None:
        self.go, self.batches = threading.Event(), list[list[bytes]]()

    def __call__(self, pictures: list[bytes]) -> list[bytes]:
        assert self.go.wait(30)
        self.batches.append(pictures)
        if b"bad" in pictures:
            raise ValueError("bad")
        return [picture.upper() for picture in pictures]


async def _started(batcher: Batcher[bytes], pictures: list[list[bytes]]) -> list[asyncio.Task[list[bytes]]]:
    tasks = []
    for some in pictures:
        tasks.append(asyncio.create_task(batcher.answer(some)))
        await asyncio.sleep(0)
    return tasks


def test_what_came_in_meanwhile_is_one_batch_and_everybody_gets_its_own(pool: ThreadPoolExecutor) -> None:
    work, told = Work(), list[int]()
    batcher = Batcher(work, pool=pool, most=4, queue=64, told=told.append)

    async def run() -> list[list[bytes]]:
        tasks = await _started(batcher, [[b"a"], [b"b"], [b"c", b"d"], [b"e", b"f"]])
        await asyncio.sleep(0.05)
        work.go.set()
        return list(await asyncio.gather(*tasks))

    assert asyncio.run(run()) == [[b"A"], [b"B"], [b"C", b"D"], [b"E", b"F"]]
    assert b"".join(b"".join(batch) for batch in work.batches) == b"abcdef"
    assert max(map(len, work.batches)) > 1
    assert max(map(len, work.batches)) <= 4
    assert told == [len(batch) for batch in work.batches]


def test_what_does_not_fit_in_the_queue_is_refused_at_once(pool: ThreadPoolExecutor) -> None:
    work = Work()
    batcher = Batcher(work, pool=pool, most=1, queue=3)

    async def run() -> None:
        tasks = await _started(batcher, [[b"a"]])
        await asyncio.sleep(0.05)  # it is being computed: the queue is empty
        tasks += await _started(batcher, [[b"b"], [b"c"], [b"d"]])
        assert batcher.waiting == 3
        with pytest.raises(Refused) as error:
            await batcher.answer([b"e"])
        assert error.value.status == 503
        assert int(error.value.headers["Retry-After"]) >= 1
        work.go.set()
        await asyncio.gather(*tasks)
        assert await batcher.answer([b"f"]) == [b"F"]

    asyncio.run(run())


def test_who_goes_away_leaves_the_queue_and_costs_nothing(pool: ThreadPoolExecutor) -> None:
    work = Work()
    batcher = Batcher(work, pool=pool, most=1, queue=3)

    async def run() -> None:
        tasks = await _started(batcher, [[b"a"]])
        await asyncio.sleep(0.05)
        tasks += await _started(batcher, [[b"b"], [b"c"]])
        tasks[1].cancel()
        await asyncio.sleep(0)
        assert batcher.waiting == 1
        work.go.set()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())
    assert work.batches == [[b"a"], [b"c"]]


def test_only_the_request_at_fault_fails(pool: ThreadPoolExecutor) -> None:
    work = Work()
    batcher = Batcher(work, pool=pool, most=8, queue=64)

    async def run() -> list[object]:
        tasks = await _started(batcher, [[b"z"]])
        await asyncio.sleep(0.05)
        tasks += await _started(batcher, [[b"a"], [b"bad"], [b"c"]])
        work.go.set()
        return list(await asyncio.gather(*tasks, return_exceptions=True))

    first, a, bad, c = asyncio.run(run())
    assert (first, a, c) == ([b"Z"], [b"A"], [b"C"])
    assert isinstance(bad, ValueError)
