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

__all__ = ["header", "pixels", "scale_of"]

_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive: Huffman coded
_PLAIN = (0xC4, 0xDB, 0xDD, 0xFE)  # tables, restart interval, comment: nothing in them changes how pixels are read
_LEAST = 16  # shortest side of a divided picture: among smaller ones two divisors may give the same size
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


def scale_of(width: int, height: int, draft: int | None) -> int:
    """By how much Pillow's draft divides the sides of a picture of which both shall stay twice `draft` at least."""
    if draft is None:
        return 1
    room = min(width // (2 * draft), height // (2 * draft))
    return next((scale for scale in (8, 4, 2) if room >= scale), 1)


def pixels(data: bytes, width: int, height: int, *, scale: int = 1) -> npt.NDArray[np.uint8] | None:
    """H×W×3 RGB of a grey or three-colour JPEG of this size, not rotated; its sides divided by `scale`, rounded up."""
    library = _library()
    if library is None or (scale > 1 and min(width, height) < _LEAST * scale):
        return None
    try:
        return _decode(library, data, (-(-height // scale), -(-width // scale)))
    except Exception:  # whatever it is, Pillow says it
        return None


def _decode(library: Any, data: bytes, shape: tuple[int, int]) -> npt.NDArray[np.uint8] | None:
    """The pixels at the smallest size that libjpeg can give and that is not under `shape`; None where it is over it."""
    found: npt.NDArray[np.uint8] = library.decode_jpeg(
        data, "RGB", min_height=shape[0], min_width=shape[1], strict=True
    )
    return found if found.shape[:2] == shape else None


@functools.cache
def _library() -> Any:
    """simplejpeg, when it is installed and computes as Pillow does."""
    try:
        import simplejpeg
    except ImportError:
        return None
    noise = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((151, 137), Image.Resampling.BICUBIC)
    for mode, options in (("RGB", {}), ("RGB", {"subsampling": 0, "progressive": True}), ("L", {})):
        buffer = io.BytesIO()
        picture.convert(mode).save(buffer, "JPEG", quality=60, **options)
        for scale in (1, 2, 4, 8):
            with Image.open(buffer) as again:
                again.draft(None, (again.width // scale, again.height // scale))
                wanted = np.array(again.convert("RGB"))
            try:
                found = _decode(simplejpeg, buffer.getvalue(), wanted.shape[:2])
            except Exception:
                return None
            if found is None or not np.array_equal(found, wanted):
                return None
    return simplejpeg
