"""A small web server on this computer that stands in for the places where weights are published."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serving(files: dict[str, bytes], *, headers: dict[str, str] | None = None) -> Iterator[tuple[str, list[str]]]:
    """Serve `files` (path → bytes); yields the address and the list of requests, "GET /path"."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(self.command == "GET")

        do_HEAD = do_GET  # noqa: N815

        def _answer(self, body: bool) -> None:
            asked.append(f"{self.command} {self.path}")
            data = files.get(self.path)
            self.send_response(404 if data is None else 200)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            if data is None:
                self.send_header("X-Error-Code", "EntryNotFound")
            else:
                self.send_header("ETag", f'"{hash(data) & 0xFFFFFFFF:040x}"')
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            if body:
                self.wfile.write(data or b"")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
