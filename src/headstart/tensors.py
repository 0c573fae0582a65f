"""Files of tensors that others wrote, looked at before a library opens them. No torch, and nothing is unpickled.

A safetensors file is 8 bytes that tell the length of a JSON header, the header, and the tensors' bytes; it names each
tensor's type, shape and place (https://github.com/huggingface/safetensors). torch's own files are zip archives whose
entries are stored as they are; one that unpacks to more than it holds was made by something else.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["check_archive", "read", "shapes"]

_LONGEST_HEADER = 8 << 20
_MOST = 50_000  # tensors of a file; the largest networks have some thousand
_DEEPEST = 16  # dimensions of a tensor
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


def shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in a safetensors file whose header is sound, by name.

    Sound is: of bounded length, no name twice, types that are known, and tensors that fill the rest of the file without
    a gap or an overlap. Raises OSError, and ValueError saying what is wrong.
    """
    with file.open("rb") as stream:
        size, length = file.stat().st_size, int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(_LONGEST_HEADER, size - 8):
            raise ValueError(f"its header cannot be {length} bytes long")
        head = _parsed(stream.read(length))
    head.pop("__metadata__", None)
    if len(head) > _MOST:
        raise ValueError(f"it says that it holds {len(head)} tensors")
    places = sorted(_place(name, told) for name, told in head.items())
    at = 0
    for start, end, name in places:
        if start != at:
            raise ValueError(f"{name[:80]!r} does not begin where the tensor before it ends")
        at = end
    if at != size - 8 - length:
        raise ValueError(f"its tensors take {at} bytes, and there are {size - 8 - length}")
    return {name: tuple(told["shape"]) for name, told in head.items()}


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        told = json.loads(data.decode("utf-8"), object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError("its header is nested too deeply") from error
    if not isinstance(told, dict):
        raise ValueError("its header is no object")
    return told


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("its header names a tensor twice")
    return found


def _place(name: str, told: Any) -> tuple[int, int, str]:
    """Where a tensor begins and ends, once it is sure that it is of that size."""
    if not isinstance(told, Mapping) or told.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"its header does not describe {name[:80]!r}")
    shape, place, bits = told["shape"], told["data_offsets"], _BITS.get(str(told["dtype"]))
    if bits is None:
        raise ValueError(f"{name[:80]!r} is of the unknown type {str(told['dtype'])[:20]!r}")
    whole = isinstance(shape, list) and len(shape) <= _DEEPEST and isinstance(place, list) and len(place) == 2
    if not whole or not all(type(n) is int and 0 <= n < 1 << 62 for n in [*shape, *place]):
        raise ValueError(f"the shape or place of {name[:80]!r} is none")
    if 8 * (place[1] - place[0]) != prod(shape) * bits:
        raise ValueError(f"{name[:80]!r} does not have the bytes of its shape")
    return place[0], place[1], name


def read(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a sound safetensors file. Raises OSError, and ValueError where it is not sound or holds NaN."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    shapes(file)
    try:
        found: dict[str, np.ndarray] = load_file(file)
    except (SafetensorError, KeyError, TypeError) as error:  # a type that NumPy lacks is a KeyError
        raise ValueError(f"it cannot be read: {error}") from error
    if odd := next((n for n, a in found.items() if a.dtype.kind == "f" and not np.isfinite(a).all()), None):
        raise ValueError(f"{odd!r} holds NaN or infinite numbers")
    return found


def check_archive(file: Path) -> None:
    """Raise ValueError where a zip archive cannot be one that torch wrote; other files pass.

    Entries must be stored as they are and lie within the file, under names once each: then what is read of it is no
    more than its size.
    """
    if not zipfile.is_zipfile(file):
        return
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, OSError) as error:
        raise ValueError(f"the archive is damaged: {error}") from error
    if len(entries) > _MOST or len({entry.filename for entry in entries}) < len(entries):
        raise ValueError("the archive has too many entries, or two of one name")
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if packed or sum(entry.file_size for entry in entries) > file.stat().st_size:
        raise ValueError("the archive holds packed entries, which torch does not write")
