"""Write odd and hostile picture files, each with what the loader must make of it."""

from __future__ import annotations

import io
import os
import socket
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 48, 32


@dataclass(frozen=True)
class Odd:
    """A file and its outcome: the reason it is refused with, or a check of its pixels."""

    name: str
    reason: str = ""
    check: Callable[[np.ndarray], bool] = lambda pixels: True


def scene(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A picture whose four corners differ: red, green, blue, white quarters with a soft ramp."""
    pixels = np.zeros((height, width, 3), np.uint8)
    h, w = height // 2, width // 2
    pixels[:h, :w] = (250, 10, 10)
    pixels[:h, w:] = (10, 250, 10)
    pixels[h:, :w] = (10, 10, 250)
    pixels[h:, w:] = (245, 245, 245)
    return pixels


def photo(width: int = 200, height: int = 150, seed: int = 0) -> np.ndarray:
    """A picture with soft structure everywhere, as photographs have."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (max(2, height // 8), max(2, width // 8), 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def is_scene(pixels: np.ndarray, tolerance: int = 30) -> bool:
    wanted = scene().astype(int)
    spots = [(4, 4), (4, -5), (-5, 4), (-5, -5)]
    return pixels.shape == wanted.shape and all(
        np.abs(pixels[y, x].astype(int) - wanted[y, x]).max() <= tolerance for y, x in spots
    )


def png(width: int, height: int, *, rows: bytes = b"", extra: bytes = b"", depth: int = 8, colour: int = 2) -> bytes:
    """A PNG made by hand, whatever its header claims."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def text_bomb() -> bytes:
    """A PNG with a small compressed text that unpacks to 64 MB."""
    data = b"comment\0\0" + zlib.compress(b"\0" * (64 << 20))
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    return png(4, 4, rows=(b"\0" + b"\1\2\3" * 4) * 4, extra=chunk)


def exif(orientation: int) -> bytes:
    data = Image.Exif()
    data[0x0112] = orientation
    return data.tobytes()


def turned(orientation: int) -> Image.Image:
    """The scene as a camera would store it for this orientation: undoing it gives the scene."""
    back = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    image = Image.fromarray(scene())
    return image if back is None else image.transpose(back)


def tiff(data: bytes, width: int, height: int, *, bits: int, sample: int = 1) -> bytes:
    """A grey TIFF made by hand, of kinds that Pillow cannot write (sample: 1 unsigned, 2 signed, 3 float)."""
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    tags += [(279, len(data)), (339, sample)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + b"\0" * 4


def tiff12() -> bytes:
    """A TIFF of 12 packed bits a pixel, as scanners and microscopes write it: a ramp of 256 x 4."""
    row = np.linspace(0, 4095, 256).astype(int)
    pairs = zip(row[::2], row[1::2], strict=True)
    packed = bytes(byte for x, y in pairs for byte in (x >> 4, (x & 15) << 4 | y >> 8, y & 255))
    return tiff(packed * 4, 256, 4, bits=12)


def ramp_checks(pixels: np.ndarray) -> bool:
    """Black to white from left to right, in many steps and not clipped."""
    row = pixels[0, :, 0].astype(int)
    return bool(row[0] <= 1 and row[-1] >= 254 and (np.diff(row) >= 0).all() and len(set(row.tolist())) > 40)


def write(folder: Path) -> list[Odd]:
    """Write every odd file into `folder` and tell what must come of each."""
    odd: list[Odd] = []

    def add(name: str, data: bytes, reason: str = "", check: Callable[[np.ndarray], bool] = lambda p: True) -> None:
        (folder / name).write_bytes(data)
        odd.append(Odd(name, reason, check))

    _readable(add)
    _broken(add)
    _special(folder, odd)
    return odd


def _readable(add: Callable[..., None]) -> None:
    picture = Image.fromarray(scene())
    for orientation in range(1, 9):
        add(
            f"exif{orientation}.jpg",
            encoded(turned(orientation), "JPEG", exif=exif(orientation), quality=95),
            check=is_scene,
        )
        turned_exif = {"exif": exif(orientation)}
        add(f"exif{orientation}.tif", encoded(turned(orientation), "TIFF", **turned_exif), check=is_scene)
        add(f"exif{orientation}-lzw.tif", _lzw(orientation), check=is_scene)
        add(
            f"exif{orientation}.webp",
            encoded(turned(orientation), "WEBP", lossless=True, **turned_exif),
            check=is_scene,
        )
        add(f"exif{orientation}.png", encoded(turned(orientation), "PNG", exif=exif(orientation)), check=is_scene)
    for name, kind in [
        ("a.webp", "WEBP"),
        ("a.bmp", "BMP"),
        ("a.tif", "TIFF"),
        ("a.ppm", "PPM"),
        ("a.jp2", "JPEG2000"),
    ]:
        add(name, encoded(picture, kind), check=lambda p: is_scene(p, 40))
    add("UPPER.JPG", encoded(picture, "JPEG", quality=95), check=is_scene)
    add("wrong-suffix.jpg", encoded(picture, "PNG"), check=is_scene)
    add("ü é 日本 🐜 \u202ertl.png", encoded(picture), check=is_scene)
    add(os.fsdecode(b"broken-\xff-name.png"), encoded(picture), check=is_scene)
    add("<img src=x onerror=alert(1)>,=1+1;\n'.png", encoded(picture), check=is_scene)
    add("grey.png", encoded(picture.convert("L")), check=lambda p: bool((p[..., 0] == p[..., 1]).all()))
    add("bits.png", encoded(Image.fromarray(scene()[..., 0] > 128)), check=lambda p: set(np.unique(p)) == {0, 255})
    add("palette.gif", encoded(picture.quantize(8), "GIF"), check=is_scene)
    frames = [picture, Image.new("RGB", picture.size), Image.new("RGB", picture.size, "white")]
    add("moving.gif", encoded(picture, "GIF", save_all=True, append_images=frames[1:]), check=is_scene)
    add("moving.webp", encoded(picture, "WEBP", save_all=True, append_images=frames[1:], lossless=True), check=is_scene)
    add("moving.png", encoded(picture, "PNG", save_all=True, append_images=frames[1:]), check=is_scene)
    add("cmyk.jpg", encoded(picture.convert("CMYK"), "JPEG", quality=95), check=is_scene)
    add("cmyk.tif", encoded(picture.convert("CMYK"), "TIFF"), check=is_scene)
    add("lab.tif", encoded(_lab(picture), "TIFF"), check=lambda p: is_scene(p, 40))
    _transparent(add, picture)
    _deep(add)
    add("bad-exif.jpg", encoded(picture, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff", quality=95), check=is_scene)
    add("trailing.jpg", encoded(picture, "JPEG", quality=95) + b"<script>" * 100, check=is_scene)
    add("tiny.png", encoded(picture.resize((1, 1))), check=lambda p: p.shape == (1, 1, 3))
    add("long.png", encoded(picture.resize((4000, 1))), check=lambda p: p.shape == (1, 4000, 3))


def _lzw(orientation: int) -> bytes:
    return encoded(turned(orientation), "TIFF", exif=exif(orientation), compression="tiff_lzw")


def _lab(picture: Image.Image) -> Image.Image:
    from PIL import ImageCms

    turned = ImageCms.profileToProfile(
        picture, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert turned is not None
    return turned


def _transparent(add: Callable[..., None], picture: Image.Image) -> None:
    def white_left(pixels: np.ndarray) -> bool:
        return bool((pixels[:, :20] == 255).all()) and int(pixels[4, -5].min()) < 30

    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[:, :24] = 0
    rgba = Image.fromarray(np.dstack([np.where(scene() > 200, 20, scene()), alpha]))
    add("alpha.png", encoded(rgba), check=white_left)
    add("alpha.webp", encoded(rgba, "WEBP", lossless=True), check=white_left)
    add("la.png", encoded(rgba.convert("LA")), check=white_left)
    half = np.dstack([np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 128, np.uint8)])
    add("half.png", encoded(half), check=lambda p: bool((np.abs(p.astype(int) - 127) <= 1).all()))
    palette = Image.new("P", (WIDTH, HEIGHT), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.paste(0, (0, 0, 24, HEIGHT))
    add("palette.png", encoded(palette, transparency=0), check=white_left)
    add("palette-alpha.gif", encoded(palette, "GIF", transparency=0), check=white_left)
    keyed = Image.new("RGB", (WIDTH, HEIGHT), (9, 9, 9))
    keyed.paste((1, 2, 3), (0, 0, 24, HEIGHT))
    add("rgb-key.png", encoded(keyed, transparency=(1, 2, 3)), check=white_left)


def _deep(add: Callable[..., None]) -> None:
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (16, 1))
    add("deep.png", encoded(Image.fromarray(ramp)), check=ramp_checks)
    add("deep.tif", encoded(Image.fromarray(ramp), "TIFF"), check=ramp_checks)
    add(
        "deep-big.tif",
        encoded(Image.frombytes("I;16B", (256, 16), ramp.astype(">u2").tobytes()), "TIFF"),
        check=ramp_checks,
    )
    header = b"P5 256 16 65535\n"
    add("deep.pgm", header + ramp.astype(">u2").tobytes(), check=ramp_checks)
    add("int32.tif", encoded(Image.fromarray(ramp.astype(np.int32) * 1000), "TIFF"), check=ramp_checks)
    add("float.tif", encoded(Image.fromarray(ramp.astype(np.float32) / 65535 - 7), "TIFF"), check=ramp_checks)
    nan = (ramp / 65535).astype(np.float32)
    nan[3, 7], nan[4, 8] = np.nan, np.inf
    add("float-nan.tif", encoded(Image.fromarray(nan), "TIFF"), check=ramp_checks)
    add(
        "float-flat.tif",
        encoded(Image.fromarray(np.full((9, 9), 0.5, np.float32)), "TIFF"),
        check=lambda p: not p.any(),
    )
    add(
        "float-empty.tif",
        encoded(Image.fromarray(np.full((9, 9), np.nan, np.float32)), "TIFF"),
        "damaged (no finite value)",
    )
    add("bits12.tif", tiff12(), check=ramp_checks)
    wide = np.tile(np.linspace(0, 2**32 - 1, 256).astype("<u4"), (4, 1))
    add("uint32.tif", tiff(wide.tobytes(), 256, 4, bits=32), check=ramp_checks)
    half = np.tile(np.linspace(0, 32767, 256).astype("<i2"), (4, 1))
    add("int16.tif", tiff(half.tobytes(), 256, 4, bits=16, sample=2), check=ramp_checks)
    add("int16-negative.tif", tiff((half * 2 - 32767).tobytes(), 256, 4, bits=16, sample=2), check=ramp_checks)
    add("float64.tif", tiff(half.astype("<f8").tobytes(), 256, 4, bits=64, sample=3), "cannot be opened")
    rows = b"".join(b"\0" + np.repeat(line, 3).astype(">u2").tobytes() for line in ramp)
    add("deep-rgb.png", png(256, 16, rows=rows, depth=16), check=ramp_checks)
    middle = np.full((8, 8), 30000, np.uint16)
    add("deep-grey.png", encoded(Image.fromarray(middle)), check=lambda p: bool((p == 117).all()))


def _broken(add: Callable[..., None]) -> None:
    jpeg, flat = encoded(photo(), "JPEG", quality=90), encoded(photo(), "PNG")
    add("empty.jpg", b"", "file is empty")
    add("cut.jpg", jpeg[: len(jpeg) // 2], "truncated")
    add("cut-late.jpg", jpeg[: len(jpeg) * 9 // 10], "truncated")
    add("cut.png", flat[: len(flat) // 2], "truncated")
    add("cut.webp", encoded(photo(), "WEBP")[:900], "damaged")
    add("cut.gif", encoded(photo(), "GIF")[:2000], "truncated")
    add("cut.bmp", encoded(photo(), "BMP")[:700], "truncated")
    add("head-only.jpg", jpeg[:8], "truncated")
    add("flipped.png", flat[:200] + bytes(255 - byte for byte in flat[200:260]) + flat[260:], "damaged")
    add("page.jpg", b"<!DOCTYPE html><html><body>404</body></html>", "not a picture (starts with '<!DOCTYPE')")
    add("drawing.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture (starts with '<svg')")
    add(
        "post.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture (starts with '%!PS-Adobe-3.0')"
    )
    add("paper.jpg", b"%PDF-1.7\n", "not a picture (starts with '%PDF-1.7')")
    add("layers.png", b"8BPS\0\1" + b"\0" * 40, "not a picture (starts with the bytes 38 42 50 53)")
    add("phone.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 40, "a HEIC or AVIF picture")
    add("zeros.jpg", b"\0" * 500, "not a picture (only zero bytes)")
    add("noise.jpg", bytes(range(129, 250)), "not a picture (starts with the bytes 81 82 83 84)")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
    add("pointer.jpg", pointer, "a Git LFS pointer, not the picture")
    add("bomb.png", png(60000, 60000), "decompression bomb: 60000 x 60000 pixels")
    add("bomb400.png", png(20000, 20000), "decompression bomb: 20000 x 20000 pixels")
    add("bomb.gif", b"GIF89a\x60\xea\x60\xea\0\0\0" + encoded(scene(), "GIF")[13:], "bomb")
    add("text-bomb.png", text_bomb(), "damaged")
    add("no-pixels.ppm", b"P6 0 0 255\n", "not a picture")
    add("pickle.png", b"\x80\x04\x95\x0b\0\0\0\0\0\0\0", "not a picture (starts with the bytes 80 04 95 0b)")


def _special(folder: Path, odd: list[Odd]) -> None:
    os.mkfifo(folder / "pipe.jpg")
    odd.append(Odd("pipe.jpg", "not a regular file but a pipe"))
    (folder / "device.jpg").symlink_to("/dev/zero")
    odd.append(Odd("device.jpg", "not a regular file but a device"))
    (folder / "nothing.jpg").symlink_to("no-such-file.jpg")
    odd.append(Odd("nothing.jpg", "a link to nothing"))
    (folder / "self.jpg").symlink_to("self.jpg")
    odd.append(Odd("self.jpg", "a link that points to itself"))
    with (folder / "sparse.jpg").open("wb") as stream:
        stream.truncate(2 << 30)
    odd.append(Odd("sparse.jpg", "file is too large: 2.0 GiB"))
    server = socket.socket(socket.AF_UNIX)
    here = os.open(folder, os.O_RDONLY)
    try:
        server.bind(f"/proc/self/fd/{here}/plug.jpg")  # the path of a socket must be short
    finally:
        server.close()
        os.close(here)
    odd.append(Odd("plug.jpg", "not a regular file but a socket"))
