"""Mutated pictures, each made from its number alone, and a child process that puts some of them through the loader.

`python _mutants.py FIRST COUNT` loads the mutants FIRST to FIRST + COUNT and prints what came out as one line of JSON.
A mutant that takes more than SECONDS of the processor ends the child with SIGPROF; its number is the last that was
written to standard error.
"""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import struct
import sys
import time
import warnings
import zlib
from functools import cache

import numpy as np
from _outside import most_memory, odd_files
from PIL import Image

from headstart.data import decode, near
from headstart.data.audit import odd
from headstart.errors import UnreadableImage
from headstart.records import Item, MemoryOrigin

__all__ = ["SECONDS", "mutant", "seeds"]

SECONDS = float(os.environ.get("MUTANT_SECONDS", "5"))
"""Of the processor, for one picture."""

_WORDS = (0, 1, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 13_000)


@cache
def seeds() -> tuple[tuple[str, bytes], ...]:
    """A small whole picture of every kind that the loader knows, and of the odd kinds of each."""
    rgb = Image.fromarray(odd_files.photo(90, 70))
    other = Image.fromarray(odd_files.photo(90, 70, 1))
    deep = Image.fromarray(np.linspace(0, 65535, 90 * 70).astype(np.uint16).reshape(70, 90))
    frames = {"save_all": True, "append_images": [other, rgb.rotate(90)]}  # MPO leaves its mark on them
    made: list[tuple[str, Image.Image, str, dict[str, object]]] = [
        ("jpeg", rgb, "JPEG", {"quality": 85}),
        ("progressive", rgb, "JPEG", {"quality": 85, "progressive": True}),
        ("large-jpeg", rgb.resize((600, 500)), "JPEG", {"quality": 40}),
        ("grey-jpeg", rgb.convert("L"), "JPEG", {"restart_marker_blocks": 2}),
        ("cmyk", rgb.convert("CMYK"), "JPEG", {}),
        ("exif", rgb, "JPEG", {"exif": odd_files.exif(6)}),
        ("mpo", rgb, "MPO", frames),
        ("png", rgb, "PNG", {}),
        ("alpha", rgb.convert("RGBA"), "PNG", {"exif": odd_files.exif(3)}),
        ("palette", rgb.quantize(32), "PNG", {"transparency": b"\0\x80\xff"}),
        ("deep-png", deep, "PNG", {}),
        ("apng", rgb, "PNG", frames),
        ("bits", rgb.convert("1"), "PNG", {}),
        ("gif", rgb.quantize(64), "GIF", {}),
        ("moving-gif", rgb, "GIF", frames),
        ("bmp", rgb, "BMP", {}),
        ("palette-bmp", rgb.quantize(16), "BMP", {}),
        ("tiff", rgb, "TIFF", {}),
        ("tiff-lzw", rgb, "TIFF", {"compression": "tiff_lzw"}),
        ("tiff-deflate", rgb.convert("RGBA"), "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("tiff-jpeg", rgb, "TIFF", {"compression": "jpeg"}),
        ("tiff-packbits", rgb.quantize(64), "TIFF", {"compression": "packbits"}),
        ("tiff-fax", rgb.convert("1"), "TIFF", {"compression": "group4"}),
        ("tiff-float", Image.fromarray(np.linspace(-1, 1, 6300, dtype=np.float32).reshape(70, 90)), "TIFF", {}),
        ("tiff-pages", rgb.copy(), "TIFF", {"save_all": True, "append_images": [other.rotate(9)]}),
        ("webp", rgb, "WEBP", {"quality": 60}),
        ("webp-lossless", rgb.convert("RGBA"), "WEBP", {"lossless": True}),
        ("moving-webp", rgb, "WEBP", frames),
        ("ppm", rgb, "PPM", {}),
        ("pgm16", deep, "PPM", {}),
        ("jp2", rgb, "JPEG2000", {}),
        ("avif", rgb, "AVIF", {}),
    ]
    found = [
        (name, odd_files.encoded(image, kind, **options))
        for name, image, kind, options in made
        if kind in (*decode.FORMATS, "MPO")
    ]
    found += [("tiff12", odd_files.tiff12()), ("bomb", odd_files.png(60000, 60000)), ("text", odd_files.text_bomb())]
    return tuple(found)


def mutant(number: int) -> tuple[str, bytes]:
    """Mutant `number`: a name that says how it was made, and its bytes."""
    rng = np.random.default_rng((20, number))
    name, data = seeds()[number % len(seeds())]
    spoiled = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        kind = list(_KINDS)[int(rng.integers(len(_KINDS)))]
        _KINDS[kind](spoiled, rng)
        name += f" {kind}"
        if not spoiled:
            break
    if spoiled.startswith(b"\x89PNG") and rng.random() < 0.7:
        spoiled, name = _with_right_sums(spoiled), f"{name} summed"
    return f"{number}: {name}", bytes(spoiled)


def _flip(data: bytearray, rng: np.random.Generator) -> None:
    for place in rng.integers(0, len(data), int(rng.integers(1, 20))):
        data[place] ^= 1 << int(rng.integers(8))


def _head(data: bytearray, rng: np.random.Generator) -> None:
    for place in rng.integers(0, min(len(data), 80), int(rng.integers(1, 6))):
        data[place] = int(rng.integers(256))


def _word(data: bytearray, rng: np.random.Generator) -> None:
    """A number that programs stumble over, in either order of bytes, mostly near the head."""
    order, wide = "<>"[int(rng.integers(2))], bool(rng.integers(2))
    value = _WORDS[int(rng.integers(len(_WORDS)))]
    packed = struct.pack(order + ("I" if wide else "H"), value if wide else value & 0xFFFF)
    reach = len(data) if rng.random() < 0.3 else min(len(data), 200)
    place = int(rng.integers(0, max(1, reach - len(packed))))
    data[place : place + len(packed)] = packed


def _size(data: bytearray, rng: np.random.Generator) -> None:
    """Another width and height, where the header holds them."""
    places = {b"GIF8": (6, "<HH"), b"\x89PNG": (16, ">II"), b"BM": (18, "<ii")}
    width, height = (int(v) for v in rng.choice([1, 90, 4_000, 12_000, 13_000, 40_000], 2))
    for start, (place, form) in places.items():
        if data.startswith(start) and len(data) > place + 8:
            data[place : place + struct.calcsize(form)] = struct.pack(form, width, height)
    for mark in (b"\xff\xc0", b"\xff\xc2"):
        if data.startswith(b"\xff\xd8") and 0 < (place := data.find(mark)) < len(data) - 9:
            data[place + 5 : place + 9] = struct.pack(">HH", height, width)
    if 0 < (place := data.find(b"VP8X")) < len(data) - 18:
        data[place + 12 : place + 18] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


def _cut(data: bytearray, rng: np.random.Generator) -> None:
    del data[int(rng.integers(0, len(data))) :]


def _drop(data: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(0, len(data)))
    del data[start : start + int(rng.integers(1, 200))]


def _double(data: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(0, len(data)))
    data[start:start] = data[start : start + int(rng.integers(1, 2_000))] * int(rng.integers(1, 8))


def _blank(data: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(0, len(data)))
    end = min(len(data), start + int(rng.integers(1, 2_000)))
    data[start:end] = bytes([int(rng.choice([0, 255]))]) * (end - start)


def _splice(data: bytearray, rng: np.random.Generator) -> None:
    other = seeds()[int(rng.integers(len(seeds())))][1]
    start, end = sorted(int(v) for v in rng.integers(0, len(other) + 1, 2))
    place = int(rng.integers(0, len(data)))
    data[place : place + (end - start if rng.random() < 0.5 else 0)] = other[start:end]


_KINDS = {
    "flip": _flip, "head": _head, "word": _word, "size": _size, "cut": _cut, "drop": _drop, "double": _double,
    "blank": _blank, "splice": _splice,
}  # fmt: skip


def _with_right_sums(data: bytearray) -> bytearray:
    """A PNG whose chunks have the checksums of what they hold, so that what lies behind the check is reached."""
    place = 8
    while place + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, place)
        end = place + 8 + size
        if end + 4 > len(data):
            break
        struct.pack_into(">I", data, end, zlib.crc32(data[place + 4 : end]))
        place = end + 4
    return data


def _load(first: int, count: int) -> dict[str, object]:
    """What comes of some mutants; raises what is no refusal."""
    told: dict[str, object] = {"files": count, "used": 0, "refused": 0, "seconds": 0.0, "slowest": ""}
    for number in range(first, first + count):
        name, data = mutant(number)
        sys.stderr.write(f"{number}\n")
        sys.stderr.flush()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        started, reason = time.process_time(), ""
        try:
            pixels = decode.load(Item(name, MemoryOrigin(data)), draft=(None, 16)[number % 2])
            assert pixels.dtype == np.uint8, name
            assert pixels.ndim == 3, name
            assert pixels.shape[2] == 3, name
            assert pixels.size, name
            odd(pixels)
            near.fingerprint(pixels)
            told["used"] += 1
        except UnreadableImage as error:
            reason = error.reason
            told["refused"] += 1
        assert len(reason) < 120, reason
        assert "\n" not in reason, reason
        spent = time.process_time() - started
        signal.setitimer(signal.ITIMER_PROF, 0)
        if spent > told["seconds"]:
            told |= {"seconds": spent, "slowest": name}
    assert "torch" not in sys.modules
    return told


def main() -> None:
    """Load some mutants within four gigabytes, and say what came of them."""
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    out, sys.stdout = sys.stdout, io.StringIO()
    told = _load(int(sys.argv[1]), int(sys.argv[2]))
    told["peak_mb"] = most_memory()
    out.write(json.dumps(told))
    out.flush()  # Python itself flushes what is called sys.stdout, which is another one now


if __name__ == "__main__":
    main()
