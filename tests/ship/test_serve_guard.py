"""What passes every request: what is refused at the door costs nothing and leaves the connection of use."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from headstart.ship.serve.batching import Batcher
from headstart.ship.serve.guard import HEADERS, Guard
from headstart.ship.serve.limits import Refused
from headstart.ship.serve.metrics import Metrics

Message = MutableMapping[str, Any]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


class Door(Batcher[bytes]):
    """Room for some pictures, of which nobody is ever computed."""

    def __init__(self, room: int, pool: ThreadPoolExecutor) -> None:
        super().__init__(list, pool=pool, most=1, queue=room)

    def check(self, count: int = 1) -> None:
        """Refuse what there is no room for, also where nobody is before it."""
        if len(self._entering) + count > self._queue:
            raise Refused(503, "busy", "too many pictures are waiting", retry_after=7)


def passed(
    method: str, path: str, door: Batcher[Any], *, whole: bool = False, **headers: str
) -> tuple[list[Message], list[str], Metrics]:
    """What a guard sends, and what was asked of the application and of the client."""
    sent, asked, metrics = list[Message](), list[str](), Metrics()

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        asked.append("application with a place" if "place" in scope else "application")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Message:
        asked.append("client")
        return {"type": "http.request", "body": b"x", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.lower().replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": [(b"host", b"localhost"), *raw]}
    if whole:
        scope["whole"] = True
    guard = Guard(app, hosts=(), paths=("/predict",), metrics=metrics, doors={"/predict": door})
    asyncio.run(guard(scope, receive, send))
    return sent, asked, metrics


def headers_of(sent: list[Message]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in sent[0]["headers"]}


@pytest.mark.parametrize("whole", [False, True])
def test_what_is_refused_at_the_door_reaches_nobody_and_may_ask_again_on_its_connection(
    pool: ThreadPoolExecutor, whole: bool
) -> None:
    sent, asked, metrics = passed("POST", "/predict", Door(0, pool), whole=whole, Content_Length="50000")
    assert asked == []
    assert (sent[0]["status"], headers_of(sent)["retry-after"]) == (503, "7")
    assert "connection" not in headers_of(sent)
    assert {*HEADERS} <= {*headers_of(sent)}
    assert metrics.requests == {("/predict", 503): 1}


def test_a_client_that_waits_to_be_told_to_send_is_let_go(pool: ThreadPoolExecutor) -> None:
    sent, asked, _ = passed("POST", "/predict", Door(0, pool), Content_Length="50000", Expect="100-continue")
    assert asked == []
    assert headers_of(sent)["connection"] == "close"


@pytest.mark.parametrize(("method", "path"), [("GET", "/predict"), ("POST", "/other")])
def test_a_full_door_keeps_nobody_else_out(pool: ThreadPoolExecutor, method: str, path: str) -> None:
    sent, asked, _ = passed(method, path, Door(0, pool))
    assert (sent[0]["status"], asked) == (200, ["application"])


def test_other_names_are_refused_before_they_learn_that_it_is_full(pool: ThreadPoolExecutor) -> None:
    sent, _, _ = passed("POST", "/predict", Door(0, pool), Host="attacker.example")
    assert sent[0]["status"] == 400


def test_a_place_is_kept_for_what_is_there_and_given_back_at_the_end(pool: ThreadPoolExecutor) -> None:
    door = Door(1, pool)
    for _ in range(2):
        sent, asked, _ = passed("POST", "/predict", door, whole=True)
        assert (sent[0]["status"], asked) == (200, ["application with a place"])
    _, asked, _ = passed("POST", "/predict", door)
    assert asked == ["application"], "who is still sending has none"
