"""A bounded client of the prediction server: raw HTTP/1.1 over kept connections, one request at a time on each.

Every answer is compared with the one that its picture got alone. Standard library only, and little work a request, so
that the server is what is measured.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Asked", "Connection", "Told", "closed", "opened", "percentile", "request_of", "slowly"]

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it is sent, and the body that its answer must have ("" where that is not known yet)."""

    data: bytes
    wanted: bytes = b""


@dataclass(slots=True)
class Told:
    """What came back: seconds of answers with 200, counts of the rest; `seconds` is how long it was asked."""

    good: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    without_time: int = 0  # 503 that do not say when to come again
    other: int = 0  # other codes
    broken: int = 0  # connections that ended instead of an answer
    different: int = 0  # answers with other bytes than alone
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.good) / self.seconds if self.seconds else 0.0

    def add(self, status: int, seconds: float, *, again: bool, same: bool) -> None:
        """Count one answer."""
        if status == 200:
            self.good.append(seconds)
            self.different += not same
        elif status == 503:
            self.busy.append(seconds)
            self.without_time += not again
        else:
            self.other += 1


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values do not exceed; nan where there are none."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, max(0, int(-(-share * len(ranked) // 1)) - 1))] if ranked else float("nan")


def request_of(picture: bytes, *, path: str = "/predict") -> bytes:
    """A request with one JPEG as its body."""
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
    return head.encode() + picture


class Connection(asyncio.Protocol):
    """One kept connection with one request on its way at most."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[tuple[int, bool, bytes]] | None = None
        self._read = b""

    @classmethod
    async def to(cls, port: int) -> Connection:
        """A new connection to this machine's port."""
        _, made = await asyncio.get_running_loop().create_connection(cls, HOST, port)
        return made

    @property
    def usable(self) -> bool:
        """Whether the other side still listens."""
        return self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.abort()

    async def ask(self, data: bytes) -> tuple[int, bool, bytes]:
        """Status, whether there is a Retry-After, and body. Raises ConnectionError where the other side ends it."""
        if not self.usable or self._transport is None:
            raise ConnectionResetError
        self._read, self._waiting = b"", asyncio.get_running_loop().create_future()
        self._transport.write(data)
        return await self._waiting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, mark, body = self._read.partition(b"\r\n\r\n")
        if not mark or self._waiting is None:
            return
        low = head.lower()
        length = int(low.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if len(body) >= length and not self._waiting.done():
            if b"\r\nconnection: close" in low and self._transport is not None:
                self._transport.close()
            self._waiting.set_result((int(head[9:12]), b"\r\nretry-after:" in low, body))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(exc if isinstance(exc, ConnectionError) else ConnectionResetError())


async def _one(connection: Connection, asked: Asked, told: Told, since: float) -> None:
    try:
        status, again, body = await connection.ask(asked.data)
    except ConnectionError:
        told.broken += 1
        return
    told.add(status, time.perf_counter() - since, again=again, same=body == asked.wanted)


async def closed(port: int, asked: Sequence[Asked], *, connections: int, seconds: float) -> Told:
    """So many connections that each ask again as soon as they are answered, for so long."""
    told, end = Told(), time.perf_counter() + seconds

    async def client(number: int) -> None:
        connection, turn = await Connection.to(port), number
        while time.perf_counter() < end:
            if not connection.usable:
                connection = await Connection.to(port)
            await _one(connection, asked[turn % len(asked)], told, time.perf_counter())
            turn += connections
        connection.close()

    started = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(connections)))
    told.seconds = time.perf_counter() - started
    return told


async def opened(port: int, asked: Sequence[Asked], *, rate: float, seconds: float, connections: int) -> Told:
    """`rate` requests a second whatever comes back, for so long, over at most so many connections.

    A request's time counts from when it was due, also where no connection was free for it.
    """
    told, due = Told(), deque[float]()
    wake, over = asyncio.Condition(), False

    async def client(number: int) -> None:
        connection, turn = await Connection.to(port), number
        while True:
            async with wake:
                await wake.wait_for(lambda: due or over)
                if not due:
                    break
                since = due.popleft()
            if not connection.usable:
                connection = await Connection.to(port)
            await _one(connection, asked[turn % len(asked)], told, since)
            turn += connections
        connection.close()

    clients = [asyncio.create_task(client(number)) for number in range(connections)]
    started, sent = time.perf_counter(), 0
    while (now := time.perf_counter() - started) < seconds:
        wanted = int(now * rate)
        async with wake:
            due.extend(started + number / rate for number in range(sent, wanted))
            wake.notify(wanted - sent)
        sent = wanted
        await asyncio.sleep(0.002)
    told.seconds = time.perf_counter() - started
    over = True
    async with wake:
        due.clear()  # what could not be sent in time is not sent
        wake.notify_all()
    await asyncio.gather(*clients)
    return told


async def slowly(port: int, *, connections: int, every: float = 1.0) -> None:
    """So many connections that send a byte every so many seconds, and come again when they are closed; for ever."""
    start = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: 9999\r\n\r\n"

    async def client(number: int) -> None:
        writer = None
        while True:
            try:
                if writer is None or writer.is_closing():
                    _, writer = await asyncio.open_connection(HOST, port)
                    writer.write(start if number % 2 else b"POST /pre")
                writer.write(b"x")
                await writer.drain()
            except OSError:
                writer = None
            await asyncio.sleep(every)

    await asyncio.gather(*(client(number) for number in range(connections)))


async def alone(port: int, pictures: Sequence[bytes]) -> list[Asked]:
    """The pictures as requests, each with the answer that it got alone. Raises RuntimeError for another one."""
    connection, found = await Connection.to(port), []
    for picture in pictures:
        status, _, body = await connection.ask(request := request_of(picture))
        if status != 200:
            raise RuntimeError(f"a picture got {status} alone: {body[:200]!r}")
        found.append(Asked(request, body))
    connection.close()
    return found


async def back_to_normal(port: int, asked: Sequence[Asked], *, normal: float, most: float = 60.0) -> float:
    """Seconds until three answers in a row are as quick as `normal`; nan where they are not within `most`."""
    started, last = time.perf_counter(), deque[float](maxlen=3)
    for turn in range(1_000_000):
        if time.perf_counter() - started > most:
            return float("nan")
        told = Told()
        begun = time.perf_counter()
        connection = await Connection.to(port)
        await _one(connection, asked[turn % len(asked)], told, time.perf_counter())
        connection.close()
        last.append(told.good[0] if told.good else most)
        if len(last) == 3 and max(last) <= normal:
            return begun - started
    raise AssertionError


def middle(values: Sequence[float]) -> float:
    """The median; nan where there are no values."""
    return statistics.median(values) if values else float("nan")
