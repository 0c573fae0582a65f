"""What a client may ask of the server, and how the rest is refused: sizes, times, names of hosts, parts of a form.

Everything that is sent is counted as it comes; no header is believed. Nothing that a client sends or names reaches the
disk. Plain ASGI and the standard library.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

__all__ = [
    "Claim",
    "Gone",
    "Held",
    "Limits",
    "Receive",
    "Refused",
    "Upload",
    "body_of",
    "foreign_origin",
    "known_host",
    "unless_gone",
    "uploads_of",
]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

_HEAD = 8_192  # bytes of the headers of one part
_NAME = 200  # characters of a file's name that are repeated in the answer
_FALSE_ENDS = 1_000  # places that begin like a border between parts and are none
_LINGER = 3.0  # seconds for which the rest of a refused body is read and dropped, so that the refusal can be read
_DISPOSITION = re.compile(rb"^content-disposition\s*:\s*form-data\s*(;.*)$", re.IGNORECASE | re.MULTILINE)
_PARAMETER = re.compile(rb';\s*(name|filename)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))', re.IGNORECASE)
_BOUNDARY = re.compile(r';\s*boundary\s*=\s*(?:"([^"]{1,100})"|([^\s;"]{1,100}))\s*(?:;|$)', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may ask: bytes, pictures, pixels, places in the queue, seconds and connections."""

    body: int = 20_000_000  # of one request
    pictures: int = 32  # of one request
    pixels: int = 64_000_000  # of one picture, by its header
    queue: int = 64  # pictures that wait
    held: int = 200_000_000  # bytes of all requests together
    head_seconds: float = 10.0  # until a request's headers are there
    body_seconds: float = 20.0  # until its body is there
    answer_seconds: float = 30.0  # from then until the answer
    stop_seconds: float = 30.0  # for accepted requests after a signal to stop
    connections: int = 1_000  # of more, the one that has been sending for longest is closed


class Refused(Exception):
    """A request that gets no answer: HTTP status, a word for programs, a sentence for people."""

    def __init__(self, status: int, reason: str, detail: str, *, retry_after: int | None = None) -> None:
        self.status, self.reason, self.detail, self.retry_after = status, reason, detail, retry_after
        super().__init__(detail)

    @property
    def content(self) -> dict[str, str]:
        """The body of the answer."""
        return {"detail": self.detail, "reason": self.reason}

    @property
    def headers(self) -> dict[str, str]:
        """The headers that go with it."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


class Gone(Exception):
    """The client has hung up: nobody waits for the answer."""


# --- who asks -----------------------------------------------------------------------------------------------------


def known_host(host: str, allowed: Iterable[str]) -> bool:
    """Whether a Host header names this server: an address, localhost, or a name in `allowed` (lower case).

    A page of somebody else's whose name was pointed at this machine (DNS rebinding) comes with that name.
    """
    name = re.sub(r":\d{1,5}$", "", host.strip().lower())
    if name == "localhost" or name in allowed:
        return True
    try:
        ipaddress.ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
    except ValueError:
        return False
    return True


def foreign_origin(origin: str | None, host: str) -> bool:
    """Whether a browser says that another site's page sent the request."""
    return origin is not None and origin.lower().partition("://")[2] != host.strip().lower()


# --- how much -----------------------------------------------------------------------------------------------------


class Held:
    """The bytes of all requests that are in memory."""

    def __init__(self, most: int) -> None:
        self.most, self.total = most, 0


class Claim:
    """What one request holds; given back at the end of the block."""

    def __init__(self, held: Held) -> None:
        self._held, self._mine = held, 0

    def add(self, count: int) -> None:
        """Hold `count` more bytes. Raises Refused when all requests together would hold too many."""
        if self._held.total + count > self._held.most:
            raise Refused(503, "busy", "the server holds all it can; try again soon", retry_after=1)
        self._held.total += count
        self._mine += count

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._held.total -= self._mine
        self._mine = 0


async def body_of(receive: Receive, headers: Mapping[str, str], *, limits: Limits, claim: Claim) -> bytes:
    """The whole body of a request. Raises Refused when it is too large or comes too slowly, Gone when it breaks off."""
    said = headers.get("content-length", "")
    if said.isdigit() and int(said[:20]) > limits.body:
        raise await _too_large(receive, limits, waiting="expect" in headers)
    chunks: list[bytes] = []
    size, more = 0, True
    try:
        async with asyncio.timeout(limits.body_seconds):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                chunk = message.get("body", b"")
                size, more = size + len(chunk), bool(message.get("more_body"))
                if size > limits.body:
                    chunks.clear()
                    break
                claim.add(len(chunk))
                chunks.append(chunk)
    except TimeoutError:
        raise Refused(408, "slow", f"the request did not arrive within {limits.body_seconds:g} seconds") from None
    if size > limits.body:
        raise await _too_large(receive, limits, waiting=not more)
    return b"".join(chunks)


async def _too_large(receive: Receive, limits: Limits, *, waiting: bool) -> Refused:
    """The refusal of a large body, when what can be dropped quickly was dropped: else the client sees a broken pipe."""
    dropped = 0
    try:
        async with asyncio.timeout(_LINGER):
            while not waiting and dropped < 4 * limits.body:
                message = await receive()
                dropped += len(message.get("body", b""))
                waiting = not message.get("more_body")
    except TimeoutError:
        pass
    return Refused(413, "too_large", f"a request may have {limits.body / 1e6:g} MB at most")


async def unless_gone(receive: Receive, work: Awaitable[Any], *, seconds: float) -> Any:
    """The result of `work`. Raises Gone when the client hangs up, Refused after `seconds`; the work is dropped then."""

    async def hung_up() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(hung_up())
    try:
        await asyncio.wait({task, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise Gone
        raise Refused(503, "slow", f"no answer within {seconds:g} seconds; try again later", retry_after=5)
    finally:
        task.cancel()
        gone.cancel()


# --- what is in a body --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Upload:
    """One picture as it was sent: what the client calls it (only ever repeated to the client) and its bytes."""

    name: str
    data: bytes


def uploads_of(body: bytes, content_type: str, *, limits: Limits) -> list[Upload]:
    """The pictures in a body: a form (RFC 7578), or one picture as it is. Raises Refused for anything else."""
    kind = content_type.partition(";")[0].strip().lower()
    if not body:
        raise Refused(400, "empty", "no picture was sent")
    if kind.startswith("image/") or kind == "application/octet-stream":
        return [Upload("image", body)]
    if kind != "multipart/form-data":
        raise Refused(415, "kind", "send pictures as multipart/form-data, or one picture as image/*")
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise Refused(400, "form", "the form names no boundary")
    uploads = _parts(body, (found[1] or found[2]).encode("latin-1", "replace"), limits)
    if not uploads:
        raise Refused(400, "empty", "no picture was sent")
    return uploads


def _parts(body: bytes, boundary: bytes, limits: Limits) -> list[Upload]:
    """The files of a form."""
    border = b"--" + boundary
    at = 0 if body.startswith(border) else body.find(b"\r\n" + border) + 2
    if at == 1:
        raise Refused(400, "form", "the form does not begin with its boundary")
    found: list[Upload] = []
    while True:
        start = _after_border(body, at + len(border))
        if start is None:
            return found
        if len(found) == limits.pictures:
            raise Refused(413, "too_many", f"a request may have {limits.pictures} pictures at most")
        if start < 0:
            raise Refused(400, "form", "the form is damaged")
        end_of_head = body.find(b"\r\n\r\n", start, start + _HEAD)
        if end_of_head < 0:
            raise Refused(400, "form", f"the headers of a part are damaged or longer than {_HEAD} bytes")
        at = _next_border(body, border, end_of_head + 4)
        found.append(Upload(_name_of(body[start:end_of_head]), body[end_of_head + 4 : at - 2]))


def _after_border(body: bytes, at: int) -> int | None:
    """Where the part after a border begins; None after the last one, -1 where this is no border."""
    if body.startswith(b"--", at):
        return None
    line = body.find(b"\r\n", at, at + 100)
    return line + 2 if line >= 0 and not body[at:line].strip(b" \t") else -1


def _next_border(body: bytes, border: bytes, at: int) -> int:
    for _ in range(_FALSE_ENDS):
        at = body.find(b"\r\n" + border, at) + 2
        if at == 1:
            break
        if _after_border(body, at + len(border)) != -1:
            return at
    raise Refused(400, "form", "a part of the form has no end")


def _name_of(head: bytes) -> str:
    """What the client calls the file. Raises Refused for a part that is no file."""
    disposition = _DISPOSITION.search(head)
    if disposition is None:
        raise Refused(400, "form", "a part of the form has no Content-Disposition")
    given: dict[bytes, bytes] = {
        key.lower(): quoted or plain for key, quoted, plain in _PARAMETER.findall(disposition[1])
    }
    if b"filename" not in given:
        name = given.get(b"name", b"").decode("utf-8", "replace")[:_NAME]
        raise Refused(400, "form", f"the field {name!r} is no file; addresses and paths are not followed")
    return given[b"filename"].decode("utf-8", "replace")[:_NAME]
