"""uvicorn with limits of time: slow, silent and too many connections, and a stop that lets accepted requests finish."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from headstart.errors import SettingsError
from headstart.ship.serve.limits import Limits

__all__ = ["Server", "listening", "server_for"]

_STALLED = 20.0  # seconds for which a client may read nothing of its answer


class _Protocol(H11Protocol):
    """uvicorn's, which by itself waits for ever for the headers of a request and for a reader of its answer."""

    limits = Limits()
    opened: dict[Any, None]  # all connections, the oldest first

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._watch()
        self.opened[self] = None
        if len(self.opened) > self.limits.connections:
            oldest = next((one for one in self.opened if one.receiving), self)
            oldest.drop()

    def connection_lost(self, exc: Exception | None) -> None:
        self.opened.pop(self, None)
        self._unwatch()
        self.resume_writing()
        super().connection_lost(exc)

    @property
    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def receiving(self) -> bool:
        """Whether nothing is being computed for this client: it is silent, or still sending."""
        return not self._busy or self.cycle.more_body

    def drop(self) -> None:
        """Close the connection at once."""
        self.opened.pop(self, None)
        self.transport.abort()

    def _watch(self) -> None:
        self._unwatch()
        self._timer = self.loop.call_later(self.limits.head_seconds, self.drop)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def handle_events(self) -> None:
        super().handle_events()
        if self._busy:
            self._unwatch()
            if not self.cycle.more_body:  # it came at once: the application, which has not begun, need not wait for it
                scope: Any = self.cycle.scope
                scope["whole"] = True

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._busy and not self.transport.is_closing():
            self._watch()

    def send_400_response(self, msg: str) -> None:
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:  # an answer has begun already
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall = self.loop.call_later(_STALLED, self.transport.abort)

    def resume_writing(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        super().resume_writing()


class Server(uvicorn.Server):
    """uvicorn's server; a first signal lets accepted requests finish, a second one ends it at once.

    `ready` is called when the server answers.
    """

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say so."""
        await super().startup(sockets)
        self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Listen to Ctrl-C and SIGTERM, and do not send them to ourselves again afterwards: a stop is no failure."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._asked) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _asked(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  the signal module's signature
        self.force_exit = self.should_exit
        self.should_exit = True


def listening(host: str, port: int) -> socket.socket:
    """A socket that is bound to `host` and `port` (0: a free one). Raises SettingsError where that cannot be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except (OSError, OverflowError) as error:
        what = getattr(error, "strerror", None) or error
        raise SettingsError(
            f"cannot listen on {host} port {port}: {what}", remedy="Choose another --port or --host."
        ) from error
    return sock


def server_for(app: Callable[..., Any], limits: Limits, *, ready: Callable[[], None] = lambda: None) -> Server:
    """A server of an ASGI application with these limits; `run(sockets=[...])` serves until it is told to stop.

    `ready` is called when it answers.
    """
    protocol = type("Protocol", (_Protocol,), {"limits": limits, "opened": {}})
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",  # Guard tells of our own errors; what strangers send is no event
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=16_384,
        timeout_graceful_shutdown=round(limits.stop_seconds),
    )
    return Server(config, ready)
