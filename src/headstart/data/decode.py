"""The one loader: every picture that headstart scans, trains on, predicts or serves is decoded here.

The result is always H×W×3 uint8 RGB with the EXIF rotation applied. Transparent pictures are laid over BACKGROUND,
deep grey values are scaled by their bit depth (never clipped), float pictures by their range, animations give their
first frame. Colour profiles are not applied. A picture that cannot be decoded whole raises UnreadableImage.
No global state of Pillow is changed, and everything here may be called from several threads.
"""

from __future__ import annotations

import errno
import importlib
import io
import math
import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from headstart.data import _jpeg, cells
from headstart.data.walk import refuse_crowd
from headstart.errors import UnreadableImage
from headstart.files import hash_bytes
from headstart.records import FileOrigin, Item, MemoryOrigin, ParquetOrigin

__all__ = [
    "BACKGROUND",
    "FORMATS",
    "MAX_BYTES",
    "MAX_PIXELS",
    "SUFFIXES",
    "Decoded",
    "decode",
    "examine",
    "from_memory",
    "header_size",
    "is_array",
    "load",
    "read_bytes",
    "thumbnail",
]

Pixels = npt.NDArray[np.uint8]

BACKGROUND = (255, 255, 255)
"""The colour under transparent pixels: white."""

MAX_PIXELS = 178_956_970
"""Pictures with more pixels are refused from their header (the limit at which Pillow itself raises)."""

_LARGE, _DENSE = 1 << 25, 2_000
"""Over `_LARGE` pixels a picture is refused too when its file has less than a byte for `_DENSE` of them: photos and
scans are larger, and the empty canvas takes gigabytes."""

MAX_BYTES = 1 << 30
"""Encoded pictures over 1 GiB are refused unread."""

for _plugin in ("Avif", "Bmp", "Gif", "Jpeg2K", "Jpeg", "Mpo", "Png", "Ppm", "WebP"):
    with suppress(ImportError):  # named here, so that Image.open never imports those that start programs (EPS)
        importlib.import_module(f"PIL.{_plugin}ImagePlugin")

FORMATS = tuple(
    name
    for name in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "MPO", "AVIF")
    if name in Image.OPEN
)
"""The only formats that are ever tried."""

_PHOTOS = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".avif", ".jp2", ".j2k", ".jpx", ".jpf")
_DRAWINGS = (".png", ".apng", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm")
SUFFIXES = frozenset(_PHOTOS + _DRAWINGS)
"""File names that are taken for pictures when a folder is read (compared in lower case)."""

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"II*\x00", b"MM\x00*", b"BM", b"\x00\x00\x00\x0cjP  ")
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION, _BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 0x0112, 258, 262, 339  # tags of TIFF and EXIF
_STRIP = 1 << 20  # values that are scaled at a time


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded picture and what its file said: the pixels (perhaps drafted), and the full size after rotation."""

    pixels: Pixels
    mode: str  # Pillow's mode before conversion, such as "RGB", "P", "I;16"
    format: str  # "JPEG", "PNG", …; "memory" for arrays
    width: int
    height: int


# --- bytes ------------------------------------------------------------------------------------------------


def read_bytes(item: Item) -> bytes:
    """The encoded bytes of an item: of its file, its Parquet cell or its memory (arrays and PIL images become PNG).

    `decode(read_bytes(item), item.name)` equals `load(item)`. Raises UnreadableImage when there is nothing to read.
    """
    origin = item.origin
    if isinstance(origin, FileOrigin):
        return _file_bytes(origin.path, item.name)
    if isinstance(origin, ParquetOrigin):
        return _cell_bytes(origin, item.name)
    if isinstance(origin.value, (bytes, bytearray, memoryview)):
        return bytes(origin.value)
    buffer = io.BytesIO()
    Image.fromarray(from_memory(origin.value, item.name).pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _file_bytes(path: Path, name: str) -> bytes:
    try:
        facts = path.stat()
        if stat.S_ISDIR(facts.st_mode):
            os.scandir(path).close()  # raises where it is forbidden
        if not stat.S_ISREG(facts.st_mode):
            raise UnreadableImage(name, f"not a regular file but {_kind(facts.st_mode)}")
        if facts.st_size > MAX_BYTES:
            raise UnreadableImage(name, f"file is too large: {facts.st_size / 2**30:.1f} GiB")
        return path.read_bytes()
    except OSError as error:
        refuse_crowd(error)
        raise UnreadableImage(name, _os_reason(error, path)) from error
    except ValueError as error:  # a NUL in the name
        raise UnreadableImage(name, "not a possible file name") from error


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _os_reason(error: OSError, path: Path) -> str:
    if isinstance(error, FileNotFoundError):
        return "a link to nothing" if path.is_symlink() else "no such file"
    if isinstance(error, PermissionError):
        return "permission denied"
    if error.errno == errno.ELOOP:
        return "a link that points to itself"
    return f"cannot be read ({error.strerror or error})"


def _cell_bytes(origin: ParquetOrigin, name: str) -> bytes:
    try:
        value = cells.cell(origin.path, origin.row, column=origin.column)
    except OSError as error:
        refuse_crowd(error)
        raise UnreadableImage(name, _os_reason(error, origin.path)) from error
    except (ValueError, IndexError, KeyError) as error:
        raise UnreadableImage(name, f"the Parquet file cannot be read ({_short(error)})") from error
    if isinstance(value, dict):
        if value.get("bytes") is not None:
            return bytes(value["bytes"])
        value = value.get("path")
    if isinstance(value, str):
        return _file_bytes(origin.path.parent / value, name)
    if value is None:
        raise UnreadableImage(name, "the cell is empty")
    return bytes(value)


# --- pixels -----------------------------------------------------------------------------------------------


def decode(data: bytes, name: str, *, draft: int | None = None) -> Pixels:
    """Decode encoded bytes to H×W×3 uint8 RGB with the EXIF rotation applied.

    `draft` is the shortest side that is wanted: a JPEG may then be decoded at 1/2, 1/4 or 1/8 as long as both
    sides stay at least twice that. Raises UnreadableImage(name, reason).
    """
    return examine(data, name, draft=draft).pixels


def load(item: Item, *, draft: int | None = None, sha256: str = "") -> Pixels:
    """Read and decode an item; see `decode`.

    A file whose bytes do not have the `sha256` (empty: not checked) is unreadable. What lies in memory is not replaced
    by anyone else and not checked.
    """
    if isinstance(item.origin, MemoryOrigin) and is_array(item):
        return from_memory(item.origin.value, item.name).pixels
    data = read_bytes(item)
    if sha256 and not isinstance(item.origin, MemoryOrigin) and hash_bytes(data) != sha256:
        raise UnreadableImage(item.name, "the file has changed since it was checked")
    return decode(data, item.name, draft=draft)


def is_array(item: Item) -> bool:
    """Whether an item is pixels in memory, not an encoded picture."""
    origin = item.origin
    return isinstance(origin, MemoryOrigin) and not isinstance(origin.value, (bytes, bytearray, memoryview))


def examine(data: bytes, name: str, *, draft: int | None = None) -> Decoded:
    """Decode like `decode`, and also tell the picture's mode, format and full size."""
    if reason := _reason_without_decoding(data):
        raise UnreadableImage(name, reason)
    if (quick := _plain_jpeg(data, draft)) is not None:
        return quick
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _refuse_bomb(image.size, name, size=len(data))
            full = image.size
            if draft is not None:
                image.draft(None, (2 * draft, 2 * draft))
            pixels = None
            if image.format == "JPEG" and image.mode in ("L", "RGB"):
                pixels = _jpeg.pixels(data, *full, scale=_jpeg.scale_of(*full, draft))
            if pixels is not None:
                return _turned(pixels, image, full)
            image.load()
            return _decoded(image, full)
    except UnreadableImage:
        raise
    except Image.DecompressionBombError as error:
        size = header_size(data)
        count = re.search(r"\d+ pixels", str(error))
        shown = f"{size[0]} x {size[1]} pixels" if size else count[0] if count else "too many pixels"
        raise UnreadableImage(name, f"decompression bomb: {shown}") from error
    except UnidentifiedImageError as error:
        raise UnreadableImage(name, _unidentified_reason(data)) from error
    except MemoryError as error:
        raise UnreadableImage(name, "does not fit in memory") from error
    except Exception as error:  # Pillow's plugins raise nearly every kind of error on damaged bytes
        raise UnreadableImage(name, _damage_reason(error)) from error


def thumbnail(item: Item, *, side: int = 160, sha256: str = "") -> bytes:
    """A small JPEG for reports, at most `side` pixels on its longer side; see `load`. Raises UnreadableImage."""
    image = Image.fromarray(load(item, draft=side, sha256=sha256))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


def from_memory(value: Any, name: str) -> Decoded:
    """Turn a PIL image or an array (uint8, uint16, float in [0, 1]; H×W or H×W×1, 3, 4) into a Decoded picture."""
    if isinstance(value, Image.Image):
        _refuse_bomb(value.size, name)
        try:
            return _decoded(value, value.size)
        except Exception as error:
            raise UnreadableImage(name, _damage_reason(error)) from error
    array = np.asarray(value)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise UnreadableImage(name, f"an array of shape {np.shape(value)}, not H×W, H×W×1, H×W×3 or H×W×4")
    _refuse_bomb((array.shape[1], array.shape[0]), name)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype == np.uint16:
        array = _scaled(array, 0, 65535)
    elif np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise UnreadableImage(name, "float values outside [0, 1]")
        array = _scaled(array, 0, 1)
    elif array.dtype != np.uint8:
        raise UnreadableImage(name, f"an array of {array.dtype}, not uint8, uint16 or float")
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    if array.shape[2] == 4:
        array = np.asarray(_over_background(Image.fromarray(np.ascontiguousarray(array))))
    height, width = array.shape[:2]
    return Decoded(np.ascontiguousarray(array), "array", "memory", width, height)


def _plain_jpeg(data: bytes, draft: int | None) -> Decoded | None:
    """The short way for most JPEGs; None where Pillow has to look."""
    found = _jpeg.header(data)
    if found is None:
        return None
    mode, width, height = found
    if _bomb((width, height), len(data)):
        return None
    pixels = _jpeg.pixels(data, width, height, scale=_jpeg.scale_of(width, height, draft))
    return None if pixels is None else Decoded(pixels, mode, "JPEG", width, height)


def _turned(pixels: Pixels, image: Image.Image, full: tuple[int, int]) -> Decoded:
    """Pixels of an opened picture, rotated as its EXIF says."""
    orientation = _orientation(image)
    if orientation in _TRANSPOSE:
        pixels = np.array(Image.fromarray(pixels).transpose(_TRANSPOSE[orientation]))
    width, height = full[::-1] if orientation in (5, 6, 7, 8) else full
    return Decoded(pixels, image.mode, image.format or "memory", width, height)


def _decoded(image: Image.Image, full: tuple[int, int]) -> Decoded:
    orientation = _orientation(image)
    rgb = _to_rgb(image)
    if orientation in _TRANSPOSE:
        rgb = rgb.transpose(_TRANSPOSE[orientation])
    width, height = full[::-1] if orientation in (5, 6, 7, 8) else full
    return Decoded(np.array(rgb, dtype=np.uint8), image.mode, image.format or "memory", width, height)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF does not spoil the pixels
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode.startswith("I;16") or mode == "I":
        return _grey(_deep(image))
    if mode == "F":
        return _grey(_ranged(np.asarray(image)))
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return _over_background(image)
    if mode == "LAB":
        return _from_lab(image)
    return image if mode == "RGB" else image.convert("RGB")


def _grey(values: Pixels) -> Image.Image:
    return Image.fromarray(values).convert("RGB")


def _deep(image: Image.Image) -> Pixels:
    """Integers of more than 8 bits, scaled by their depth; 32-bit ones have no customary white: by their range."""
    values = np.asarray(image)
    depth, inverted = 16, False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        depth, kind = _first(image.tag_v2.get(_BITS, 16)), _first(image.tag_v2.get(_SAMPLE_FORMAT, 1))
        inverted = image.tag_v2.get(_PHOTOMETRIC) == 0  # 0 means white
        if kind == 1 and values.dtype == np.int32:
            values = values.view(np.uint32)  # Pillow reads unsigned ones as signed
        depth = min(depth, 16) - (1 if kind == 2 else 0)  # one bit of signed ones is the sign
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        scaled = _scaled(values, low, high)
    else:
        scaled = _scaled(values, 0, 2**depth - 1 if high < 2**depth else 65535)
    return np.asarray(255 - scaled, dtype=np.uint8) if inverted else scaled


def _first(value: Any) -> int:
    return int(value[0] if isinstance(value, tuple) else value)


def _ranged(values: npt.NDArray[Any]) -> Pixels:
    """Scaled by the smallest and largest finite value; NaN becomes the smallest."""
    finite = np.isfinite(values)
    if not finite.any():
        raise ValueError("no finite value")
    low = float(np.min(values, where=finite, initial=np.inf))
    return _scaled(values, low, float(np.max(values, where=finite, initial=-np.inf)))


def _scaled(values: npt.NDArray[Any], low: float, high: float) -> Pixels:
    """`low`..`high` to 0..255, rounded; a constant picture becomes black. In strips of rows, which saves memory."""
    scaled = np.zeros(values.shape, dtype=np.uint8)
    span = float(high) - float(low)
    if not 0 < span < math.inf:
        return scaled
    rows = max(1, _STRIP // max(1, values[:1].size))
    for start in range(0, len(values), rows):
        strip = values[start : start + rows].astype(np.float64)
        strip = np.nan_to_num(strip, nan=low, posinf=high, neginf=low)
        scaled[start : start + rows] = np.rint((strip - low) * (255.0 / span))
    return scaled


def _over_background(image: Image.Image) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    below = Image.new("RGBA", rgba.size, (*BACKGROUND, 255))
    return Image.alpha_composite(below, rgba).convert("RGB")


def _from_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    turned = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    if turned is None:  # pragma: no cover - only in-place conversion returns None
        raise ValueError("LAB colours cannot be converted")
    return turned


# --- reasons ----------------------------------------------------------------------------------------------


def _refuse_bomb(shape: tuple[int, int], name: str, *, size: int | None = None) -> None:
    """Raise for a picture of this width and height; `size` is that of its file, where there is one."""
    if _bomb(shape, size):
        within = f" in {size / 1000:.1f} kB" if size is not None and math.prod(shape) <= MAX_PIXELS else ""
        raise UnreadableImage(name, f"decompression bomb: {shape[0]} x {shape[1]} pixels{within}")
    if 0 in shape:
        raise UnreadableImage(name, "has no pixels")


def _bomb(shape: tuple[int, int], size: int | None) -> bool:
    pixels = math.prod(shape)
    return pixels > MAX_PIXELS or (size is not None and pixels > max(_LARGE, _DENSE * size))


def header_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that the header claims, undecoded; None where no plugin knows it.

    The plugins are asked themselves, since Image.open refuses to give the size of a bomb.
    """
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        try:
            if accept is None or accept(data[:16]) is True:
                return factory(io.BytesIO(data), "").size
        except Exception:
            continue
    return None


def _reason_without_decoding(data: bytes) -> str:
    if not data:
        return "file is empty"
    if len(data) > MAX_BYTES:
        return f"file is too large: {len(data) / 2**30:.1f} GiB"
    if data.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the picture"
    return ""


def _unidentified_reason(data: bytes) -> str:
    head = data[:64]
    if head.startswith(_SIGNATURES):
        return "truncated" if len(data) < 64 else "damaged header, or a kind of picture that cannot be opened"
    if head[4:8] == b"ftyp":
        return "a HEIC or AVIF picture that cannot be opened here; convert it to JPEG or PNG"
    if not head.strip(b"\0"):
        return "not a picture (only zero bytes)"
    word = re.split(rb"[\s>]", head.lstrip(b"\xef\xbb\xbf \t\r\n"), maxsplit=1)[0][:16]
    if word and all(32 < byte < 127 for byte in word):
        return f"not a picture (starts with '{word.decode('ascii')}')"
    return f"not a picture (starts with the bytes {head[:4].hex(' ')})"


def _damage_reason(error: Exception) -> str:
    text = str(error).lower()
    if isinstance(error, EOFError) or "truncated" in text or "broken data stream" in text or "unexpected end" in text:
        return "truncated"
    return f"damaged ({_short(error)})"


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (text or type(error).__name__)[:80]
