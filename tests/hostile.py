"""Requests that no well-meaning client sends, drawn from a seed: raw bytes of one request each."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator

from PIL import Image

from serving import BOUNDARY, form

HOST = b"Host: 127.0.0.1\r\n"


def _picture(draw: random.Random, kind: str) -> bytes:
    side = draw.randrange(1, 60)
    stream = io.BytesIO()
    Image.effect_noise((side, draw.randrange(1, 60)), 60).convert("RGB").save(stream, kind)
    return stream.getvalue()


def post(body: bytes, kind: str, *, path: str = "/predict", more: bytes = b"", length: int | None = None) -> bytes:
    """A request with a body."""
    head = f"POST {path} HTTP/1.1\r\nContent-Type: {kind}\r\n".encode("latin-1") + HOST + more
    return head + f"Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body


def _mutated(draw: random.Random) -> bytes:
    data = bytearray(_picture(draw, draw.choice(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])))
    for _ in range(draw.randrange(1, 12)):
        data[draw.randrange(len(data))] = draw.randrange(256)
    if draw.random() < 0.5:
        data = data[: draw.randrange(len(data))]
    return bytes(data)


def _file(draw: random.Random) -> bytes:
    data = draw.choice([_mutated, lambda d: d.randbytes(d.randrange(3_000)), _lies])(draw)
    path = draw.choice(["/predict", "/explain"])
    if draw.random() < 0.5:
        return post(data, draw.choice(["image/jpeg", "image/svg+xml", "application/octet-stream"]), path=path)
    return post(*form([(draw.choice(NAMES), data)]), path=path)


def _lies(draw: random.Random) -> bytes:
    """Headers that claim sizes, pointers, other kinds of file."""
    bomb = io.BytesIO()
    Image.new("1", (draw.randrange(10_000, 30_000), draw.randrange(10_000, 30_000) // 20)).save(bomb, "PNG")
    return draw.choice([
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + b"\x7f\xff\xff\xff" * 2 + b"\x08\x02\x00\x00\x00\x00\x00\x00\x00",
        bomb.getvalue(), b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"version https://git-lfs.github.com/spec/v1\n", b"GIF89a", b"\xff\xd8\xff" * 50, b"http://127.0.0.1/x.jpg",
        b"II*\x00\x08\x00\x00\x00\xff\xff" + draw.randbytes(400), b"\x00" * 1_000, b"BM" + draw.randbytes(60),
    ])  # fmt: skip


NAMES = (
    "../../etc/passwd", "/etc/passwd", "..\\..\\windows\\win.ini", "\\\\server\\share\\x.png", "a\x00b.jpg",
    "%2e%2e%2f", "<script>alert(1)</script>.jpg", "n" * 300, "nul", "\u202egpj.exe", "a;b=c", "'", "file:///etc/passwd",
)  # fmt: skip


def _form(draw: random.Random) -> bytes:
    """A form that is damaged, or not what was asked for."""
    whole, kind = form([("a.png", _picture(draw, "PNG"))])
    border = f"--{BOUNDARY}".encode()
    head = b'Content-Disposition: form-data; name="files"; filename="a.png"\r\n'
    return draw.choice([
        lambda: post(whole, "multipart/form-data"),
        lambda: post(whole, f"multipart/form-data; boundary={'x' * draw.randrange(90, 300)}"),
        lambda: post(whole[: draw.randrange(len(whole))], kind),
        lambda: post(whole.replace(b"\r\n", b"\n"), kind),
        lambda: post(whole.replace(b"filename", b"file\x00name"), kind),
        lambda: post((border + b"\r\n" + head + b"\r\n\r\n") * draw.randrange(33, 10_000), kind),
        lambda: post(border + b"\r\n" + b"X: y\r\n" * draw.randrange(1, 5_000) + b"\r\nz\r\n" + border + b"--", kind),
        lambda: post(border + b'\r\nContent-Disposition: form-data; name="files"; filename="' + b"n" * 200_000, kind),
        lambda: post(form([])[0], kind),
        lambda: post(b"", kind),
        lambda: post((b"\r\n" + border + b"?") * draw.randrange(1, 20_000), kind),
        lambda: post(border + b'\r\nContent-Disposition: form-data; name="url"\r\n\r\nfile:///etc/passwd\r\n' + border
                     + b"--\r\n", kind),
        lambda: post(draw.randbytes(draw.randrange(2_000)), kind),
        lambda: post(b"{}", draw.choice(["application/json", "text/plain", "", "multipart/mixed; boundary=a", ";;;="])),
    ])()  # fmt: skip


PATHS = (
    "/../etc/passwd", "/..%2f..%2fetc%2fpasswd", "/%00", "/static/..%5c..%5cx", "//etc/passwd", "/predict/../../x",
    "/predict?file=/etc/passwd", "/predict?url=http://127.0.0.1", "/explain/1", "/page.html", "/" + "a" * 3_000, "/%ff",
    "/predict?top_k=0", "/predict?top_k=-1", "/predict?top_k=x", "/predict?top_k=1e9", "/predict?top_k=" + "9" * 500,
    "/favicon.ico", "/model?x=" + "y" * 2_000, "/openapi.json/..", "/docs%2f", "*", "http://other.example/predict",
)  # fmt: skip


def _route(draw: random.Random) -> bytes:
    path = draw.choice(PATHS).encode("latin-1")
    method = draw.choice(
        [b"GET", b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"TRACE", b"PATCH", b"CONNECT", b"XYZ"]
    )
    return method + b" " + path + b" HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n"


def _http(draw: random.Random) -> bytes:
    """Requests that are hardly HTTP, or say one thing and send another."""
    picture = _picture(draw, "PNG")
    start = b"POST /predict HTTP/1.1\r\nContent-Type: image/png\r\n" + HOST
    chunk = f"{len(picture):x}\r\n".encode() + picture + b"\r\n"
    return draw.choice([
        draw.randbytes(draw.randrange(1, 400)) + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\n" + HOST + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: attacker.example\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 70_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"Range: bytes=0-1,5-9999999\r\n\r\n",
        post(picture, "image/png", more=b"Origin: https://attacker.example\r\n"),
        post(picture, "image/png", more=b"Expect: 100-continue\r\n"),
        post(picture, "image/png", more=b"Transfer-Encoding: chunked\r\n"),
        post(picture, "image/png", length=-5),
        post(picture, "image/png", length=10**18),
        post(picture, "image/png", length=len(picture) + draw.randrange(1, 99)),
        post(picture, "image/png", length=max(0, len(picture) - draw.randrange(1, 99))),
        post(picture, "image/png", more=b"Content-Length: 3\r\n"),
        start + b"Content-Length: ten\r\n\r\n" + picture,
        start + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n",
        start + b"Transfer-Encoding: chunked\r\n\r\n" + b"zz\r\n" + picture,
        start + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + b"ffffffffffffffff\r\n",
        start + b"Transfer-Encoding: chunked\r\n\r\n" + (b"10000\r\n" + b"\0" * 65_536 + b"\r\n") * 5,
        post(picture, "image/png") * draw.randrange(2, 4),
    ])  # fmt: skip


def requests(n: int, seed: int = 0) -> Iterator[bytes]:
    """`n` hostile requests."""
    draw = random.Random(seed)
    kinds: list[Callable[[random.Random], bytes]] = [_file, _file, _form, _route, _http]
    for _ in range(n):
        yield draw.choice(kinds)(draw)
