"""What waits is answered together, in order, by one thread; the queue has an end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def test_what_does_not_fit_is_refused_at_once(pool: ThreadPoolExecutor) -> None:
    work = Work()
    batcher = Batcher(work, pool=pool, most=1, queue=4)

    async def run() -> None:
        tasks = await _started(batcher, [[b"a"]])
        while batcher.waiting:  # until it is being computed
            await asyncio.sleep(0.001)
        tasks += await _started(batcher, [[b"b"], [b"c"], [b"d"]])
        assert (batcher.waiting, batcher.in_hand) == (3, 4)
        with pytest.raises(Refused):
            batcher.enter()
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


def test_who_asks_again_as_soon_as_it_is_answered_finds_its_place_free(pool: ThreadPoolExecutor) -> None:
    batcher = Batcher(list, pool=pool, most=2, queue=3)

    async def client(name: bytes) -> None:
        for _ in range(200):
            assert await batcher.answer([name]) == [name]

    async def run() -> None:
        await asyncio.gather(*(client(name) for name in (b"a", b"b", b"c")))

    asyncio.run(run())
    assert batcher.in_hand == 0


def test_the_model_works_on_while_the_event_loop_has_no_time_for_it(pool: ThreadPoolExecutor) -> None:
    work = Work()
    batcher = Batcher(work, pool=pool, most=1, queue=64)

    async def run() -> list[list[bytes]]:
        tasks = await _started(batcher, [[b"a"], [b"b"], [b"c"]])
        work.go.set()
        for _ in range(3_000):
            if len(work.batches) == 3:
                break
            time.sleep(0.01)  # the loop is busy
        assert not any(task.done() for task in tasks)
        return list(await asyncio.gather(*tasks))

    assert asyncio.run(run()) == [[b"A"], [b"B"], [b"C"]]
    assert work.batches == [[b"a"], [b"b"], [b"c"]]


def test_batchers_of_one_pool_take_turns(pool: ThreadPoolExecutor) -> None:
    order, go = list[str](), threading.Event()

    def working(name: str) -> Callable[[list[bytes]], list[bytes]]:
        def work(pictures: list[bytes]) -> list[bytes]:
            assert go.wait(30)
            order.append(name)
            return pictures

        return work

    one, two = (Batcher(working(name), pool=pool, most=1, queue=64) for name in ("one", "two"))

    async def run() -> None:
        tasks = [*await _started(one, [[b"a"]] * 3), *await _started(two, [[b"a"]] * 3)]
        go.set()
        await asyncio.gather(*tasks)

    asyncio.run(run())
    assert order == ["one", "two"] * 3


def test_who_would_wait_longer_than_the_patience_is_refused_and_told_for_how_long(pool: ThreadPoolExecutor) -> None:
    now, go = [0.0], threading.Event()

    def work(pictures: list[bytes]) -> list[bytes]:
        assert go.wait(30)
        now[0] += 4.0 * len(pictures)  # each takes four seconds
        return pictures

    batcher = Batcher(work, pool=pool, most=1, queue=64, patience=10.0, clock=lambda: now[0])

    async def run() -> None:
        go.set()
        await batcher.answer([b"a"])
        go.clear()
        tasks = await _started(batcher, [[b"b"], [b"c"], [b"d"]])
        with pytest.raises(Refused) as error:
            await batcher.answer([b"e"])
        assert error.value.headers == {"Retry-After": "12"}
        go.set()
        await asyncio.gather(*tasks)
        assert await batcher.answer([b"f"]) == [b"f"]

    asyncio.run(run())


def test_however_slow_the_model_is_the_first_in_line_is_not_refused(pool: ThreadPoolExecutor) -> None:
    now = [0.0]

    def work(pictures: list[bytes]) -> list[bytes]:
        now[0] += 1_000.0
        return pictures

    batcher = Batcher(work, pool=pool, most=1, queue=1, patience=10.0, clock=lambda: now[0])

    async def run() -> None:
        for _ in range(3):
            assert await batcher.answer([b"a", b"b"]) == [b"a", b"b"]

    asyncio.run(run())


def test_of_many_that_come_at_once_as_many_get_in_as_there_is_room_for(pool: ThreadPoolExecutor) -> None:
    batcher = Batcher(list, pool=pool, most=1, queue=3)

    async def run() -> None:
        places = [batcher.enter() for _ in range(3)]
        with pytest.raises(Refused):
            batcher.enter()
        with pytest.raises(Refused):
            await batcher.answer([b"x"])
        assert await batcher.answer([b"a"], places.pop()) == [b"a"]
        for place in places:
            place.leave()
            place.leave()
        for place in [batcher.enter() for _ in range(3)]:
            place.leave()

    asyncio.run(run())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 12), st.integers(1, 6), st.integers(0, 3))
def test_whatever_comes_no_more_is_in_hand_than_fits_and_each_gets_its_own_answer_or_a_refusal(
    sizes: list[int], queue: int, most: int, pause: int
) -> None:
    seen = [0]

    async def run() -> list[object]:
        with ThreadPoolExecutor(1) as pool:
            batcher = Batcher(lambda pictures: [one * 2 for one in pictures], pool=pool, most=most, queue=queue)

            async def ask(number: int, size: int) -> list[bytes]:
                for _ in range(number * pause % 7):
                    await asyncio.sleep(0)
                answer = asyncio.ensure_future(batcher.answer([f"{number}.{n} ".encode() for n in range(size)]))
                await asyncio.sleep(0)
                seen[0] = max(seen[0], batcher.in_hand)
                return await answer

            asking = (ask(number, size) for number, size in enumerate(sizes))
            found: list[object] = list(await asyncio.gather(*asking, return_exceptions=True))
            assert batcher.in_hand == 0
            return found

    for number, (size, answer) in enumerate(zip(sizes, asyncio.run(run()), strict=True)):
        if not isinstance(answer, Refused):
            assert answer == [f"{number}.{n} ".encode() * 2 for n in range(size)]
    assert seen[0] <= max(queue, *sizes)
