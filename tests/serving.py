"""A server in a thread of this process, and raw requests to it."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.ship.model import load
from headstart.ship.neighbours import Neighbours
from headstart.ship.serve.app import create_app
from headstart.ship.serve.limits import Limits
from headstart.ship.serve.server import Server, listening, server_for
from headstart.ship.serve.service import Service

BOUNDARY = "a-border-of-the-tests"


@dataclass(frozen=True)
class Address:
    """Where a server of the tests listens, with the pieces that it is made of."""

    port: int
    service: Service
    server: Server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def served(
    folder: Path, *, limits: Limits | None = None, neighbours: Neighbours | None = None, hosts: Sequence[str] = ()
) -> Iterator[Address]:
    """Serve the run in `folder` on a free port."""
    limits = limits or Limits()
    service = Service(load(folder).to("auto"), folder, neighbours=neighbours, most_pixels=limits.pixels)
    with listening("127.0.0.1", 0) as sock:
        server = server_for(create_app(service, limits=limits, hosts=hosts), limits)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield Address(sock.getsockname()[1], service, server)
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive(), "the server did not stop"


def started(run: Path, *flags: str, port: int = 0) -> tuple[subprocess.Popen[str], int]:
    """`headstart serve` as its own process, when it answers, and its port."""
    command = [sys.executable, "-m", "headstart", "serve", str(run), "--port", str(port), *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if found := re.search(r"answers at http://127\.0\.0\.1:(\d+) until Ctrl-C", line):
            return process, int(found[1])
    raise AssertionError(f"it ended with {process.wait()}: {said}")


def form(pictures: Mapping[str, bytes] | Sequence[tuple[str, bytes]]) -> tuple[bytes, str]:
    """The body of a form with files, and its content type."""
    pairs = pictures.items() if isinstance(pictures, Mapping) else pictures
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        + data + b"\r\n"
        for name, data in pairs
    ]  # fmt: skip
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode(), f"multipart/form-data; boundary={BOUNDARY}"


def asked(
    port: int, path: str, body: bytes | None = None, *, method: str = "", **headers: str
) -> tuple[int, Any, Mapping[str, str]]:
    """Status, content (JSON read) and headers (lower case) of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method or ("GET" if body is None else "POST"), path, body, named)
    answer = connection.getresponse()
    data, found = answer.read(), {name.lower(): value for name, value in answer.getheaders()}
    connection.close()
    content = json.loads(data) if found.get("content-type", "").startswith("application/json") else data
    return answer.status, content, found


def sent(port: int, data: bytes, *, seconds: float = 30.0) -> int | None:
    """The status of the answer to raw bytes; None where the connection is closed without one."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        with suppress(OSError):  # refused while we were still sending
            connection.sendall(data)
        answer = b""
        with suppress(OSError):
            while b"\r\n\r\n" not in answer and (chunk := connection.recv(65_536)):
                answer += chunk
    if not answer.startswith(b"HTTP/1.1 "):
        return None
    return int(answer[9:12])
