"""What every request passes and every answer carries: the host's name, the site it came from, security headers, counts.

Plain ASGI, around the whole application, so that nothing gets out without it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from types import MappingProxyType
from typing import Any

from headstart.ship.serve.batching import Batcher
from headstart.ship.serve.limits import Gone, Receive, Refused, foreign_origin, known_host
from headstart.ship.serve.metrics import Metrics

__all__ = ["HEADERS", "Guard"]

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Scope = MutableMapping[str, Any]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
log = logging.getLogger(__name__)

HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "geolocation=(), microphone=()",
    "cache-control": "no-store",
}
"""The headers of every answer that does not set its own."""


class Guard:
    """The application behind its checks. `hosts` are names by which it may be called, besides addresses.

    `doors` are asked whether there is room for a POST to their path; where there is none it is refused, and has cost
    neither the application nor a wait for its body. To a request that is `whole` (in the scope) a place is kept, which
    the application finds as `place`; who is still sending keeps none from others.
    """

    def __init__(
        self, app: App, *, hosts: Iterable[str], paths: Iterable[str], metrics: Metrics,
        doors: Mapping[str, Batcher[Any]] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        self.app, self.metrics, self.doors = app, metrics, doors
        self.hosts, self.paths = {name.lower() for name in hosts}, set(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, passing = time.perf_counter(), _Passing(scope, receive, send)
        try:
            self._check(scope)
            if scope["method"] == "POST" and scope["path"] in self.doors:
                passing.enter(scope, self.doors[scope["path"]])
            await self.app(scope, passing.receive, passing.send)
        except Refused as error:
            await passing.refuse(error)
        except Gone:
            passing.code = 499
        except Exception:
            log.exception("a request failed")
            await passing.refuse(Refused(500, "bug", "this is a bug in headstart, please report it"))
        finally:
            if "place" in scope:
                scope["place"].leave()
        path = scope["path"] if scope["path"] in self.paths else "other"
        self.metrics.requests[path, passing.code] += 1
        self.metrics.seconds.add(time.perf_counter() - started)

    def _check(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if not known_host(host, self.hosts):
            raise Refused(400, "host", "the server is not called by this name; see --allow-host")
        origin = headers.get(b"origin")
        if scope["method"] == "POST" and foreign_origin(origin and origin.decode("latin-1"), host):
            raise Refused(403, "origin", "another site may not use this server")


class _Passing:
    """One request on its way: has its body been read, has its answer begun, with which code."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive, self._send, self.code, self.begun = receive, send, 499, False
        names = {name for name, _ in scope["headers"]}
        self._unread = bool(names & {b"transfer-encoding", b"content-length"})
        self._patient = b"expect" in names  # the client sends its body when it is told to

    def enter(self, scope: Scope, door: Batcher[Any]) -> None:
        """Pass a door. Raises Refused; the client may ask again on its connection, its body is read and dropped."""
        try:
            if scope.get("whole"):
                scope["place"] = door.enter()
            else:
                door.check()
        except Refused:
            self._unread = self._patient
            raise

    async def receive(self) -> MutableMapping[str, Any]:
        """A message of the request."""
        message = await self._receive()
        if not message.get("more_body"):
            self._unread = False
        return message

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """A message of the answer, with the headers that every answer has."""
        if message["type"] == "http.response.start":
            self.begun, self.code = True, message["status"]
            given = {name.lower() for name, _ in message["headers"]}
            more = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in given]
            if self._unread:  # what else the client sends must not be taken for a request, nor be read for ever
                more.append((b"connection", b"close"))
            message = {**message, "headers": [*message["headers"], *more]}
        await self._send(message)

    async def refuse(self, error: Refused) -> None:
        """Answer with a refusal, unless an answer has begun."""
        if self.begun:
            return
        body = json.dumps(error.content).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": error.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})
