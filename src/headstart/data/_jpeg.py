"""JPEG pixels by simplejpeg (libjpeg-turbo without Pillow's detours), where it is installed and gives Pillow's pixels.

What is asked here never raises: None means that Pillow has to look, which alone decides whether a file is readable and
in what words it is refused. simplejpeg is used in its strict manner, so that every complaint of libjpeg ends here, and
only after it gave the same pixels as Pillow for a small picture of each kind.
"""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["header", "pixels"]

_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive: Huffman coded
_PLAIN = (0xC4, 0xDB, 0xDD, 0xFE)  # tables, restart interval, comment: nothing in them changes how pixels are read
_MODES = {1: "L", 3: "RGB"}


def header(data: bytes) -> tuple[str, int, int] | None:
    """Pillow's mode, width and height of a plain JPEG: 8 bits, grey or three colours, no EXIF, Adobe or other marks."""
    if data[:3] != b"\xff\xd8\xff":
        return None
    place, found = 2, None
    try:
        while True:
            marker, size = data[place + 1], data[place + 2] << 8 | data[place + 3]
            if data[place] != 0xFF or size < 2:
                return None
            if marker == 0xDA:  # the scan begins
                return found
            if marker in _FRAMES:
                mode = _MODES.get(data[place + 9])
                if found is not None or mode is None or data[place + 4] != 8:
                    return None
                found = mode, data[place + 7] << 8 | data[place + 8], data[place + 5] << 8 | data[place + 6]
                if 0 in found:
                    return None
            elif marker not in _PLAIN and not _is_jfif(data, place, marker, size):
                return None
            place += 2 + size
    except IndexError:
        return None


def _is_jfif(data: bytes, place: int, marker: int, size: int) -> bool:
    return marker == 0xE0 and size == 16 and data[place + 4 : place + 9] == b"JFIF\0"


def pixels(data: bytes) -> npt.NDArray[np.uint8] | None:
    """H×W×3 RGB of a grey or three-colour JPEG, at full size and not rotated."""
    library = _library()
    if library is None:
        return None
    try:
        found: npt.NDArray[np.uint8] = library.decode_jpeg(data, "RGB", strict=True)
    except Exception:  # whatever it is, Pillow says it
        return None
    return found


@functools.cache
def _library() -> Any:
    """simplejpeg, when it is installed and computes as Pillow does."""
    try:
        import simplejpeg
    except ImportError:
        return None
    noise = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((51, 37), Image.Resampling.BICUBIC)
    for mode, options in (("RGB", {}), ("RGB", {"subsampling": 0, "progressive": True}), ("L", {})):
        buffer = io.BytesIO()
        picture.convert(mode).save(buffer, "JPEG", quality=60, **options)
        with Image.open(buffer) as again:
            wanted = np.array(again.convert("RGB"))
        try:
            same = np.array_equal(simplejpeg.decode_jpeg(buffer.getvalue(), "RGB", strict=True), wanted)
        except Exception:
            return None
        if not same:
            return None
    return simplejpeg
