"""Model files that somebody made to do harm, and folders whose hashes fit whatever lies in them."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from headstart import files

__all__ = ["archive_of", "packed", "pickles", "safetensors_of", "signed", "signed_export"]


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.marker)!r}, 'w').close()",)


def pickles(marker: Path) -> dict[str, bytes]:
    """Every way in which a pickle comes, each of which makes the file `marker` when it is loaded carelessly."""
    import numpy as np
    import torch

    found = {f"protocol {n}": pickle.dumps(Trap(marker), n) for n in range(pickle.HIGHEST_PROTOCOL + 1)}
    stream = io.BytesIO()
    torch.save({"state_dict": Trap(marker), "conv1.weight": torch.zeros(1)}, stream)
    found["torch zip"] = stream.getvalue()
    stream = io.BytesIO()
    torch.save({"state_dict": Trap(marker)}, stream, _use_new_zipfile_serialization=False)
    found["torch of old"] = stream.getvalue()
    stream = io.BytesIO()
    np.save(stream, np.array([Trap(marker)], dtype=object), allow_pickle=True)
    found["npy"] = stream.getvalue()
    stream = io.BytesIO()
    np.savez(stream, a=np.array([Trap(marker)], dtype=object))
    found["npz"] = stream.getvalue()
    joblib = io.BytesIO()
    __import__("joblib").dump({"model": Trap(marker)}, joblib)
    found["joblib"] = joblib.getvalue()
    return found


def packed(head: Any, body: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file of this header, right or wrong."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def _entry(start: int, end: int, *, dtype: str = "F32", shape: list[Any] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(end - start) // 4] if shape is None else shape, "data_offsets": [start, end]}


def safetensors_of() -> dict[str, Callable[[], bytes]]:
    """safetensors files that are none, by what is wrong with each."""
    many = ",".join(f'"{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for i in range(60_000))
    million = b"{" + b'"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},' * 1_000_000 + b'"b":0}'
    one = json.dumps(_entry(0, 4)).encode()
    return {
        "a header of 2^63 bytes": lambda: packed({"a": _entry(0, 4)}, b"\0" * 4, length=1 << 63),
        "a header of 2^64 - 1 bytes": lambda: packed({"a": _entry(0, 4)}, b"\0" * 4, length=(1 << 64) - 1),
        "a header longer than the file": lambda: packed({"a": _entry(0, 4)}, b"\0" * 4, length=1_000),
        "overlapping tensors": lambda: packed({"a": _entry(0, 8), "b": _entry(4, 12)}, b"\0" * 12),
        "a gap": lambda: packed({"a": _entry(0, 4), "b": _entry(8, 12)}, b"\0" * 12),
        "a tail": lambda: packed({"a": _entry(0, 4)}, b"\0" * 4 + b"PK\x05\x06" + b"\0" * 18),
        "an unknown type": lambda: packed({"a": _entry(0, 4, dtype="F128")}, b"\0" * 4),
        "more numbers than bytes": lambda: packed({"a": _entry(0, 4, shape=[1 << 40])}, b"\0" * 4),
        "a shape that overflows": lambda: packed({"a": _entry(0, 4, shape=[1 << 32, 1 << 32, 1])}, b"\0" * 4),
        "a negative shape": lambda: packed({"a": _entry(0, 4, shape=[-1, -1])}, b"\0" * 4),
        "a shape of words": lambda: packed({"a": _entry(0, 4, shape=["1"])}, b"\0" * 4),
        "a million tensors": lambda: packed(million),
        "sixty thousand tensors": lambda: packed(b"{" + many.encode() + b"}"),
        "a name twice": lambda: packed(b'{"a":' + one + b',"a":' + one + b"}", b"\0" * 4),
        "no header": lambda: packed(b""),
        "a deep header": lambda: packed(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        "a list for a header": lambda: packed(b"[]"),
        "no UTF-8": lambda: packed(b"\xff\xfe{}"),
        "nothing": lambda: b"",
        "seven bytes": lambda: b"\x01" * 7,
        "a zip archive": lambda: archive_of({"data.pkl": b"\x80\x04."}),
    }


def archive_of(entries: Mapping[str, bytes], *, how: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", how) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return stream.getvalue()


def signed(folder: Path, change: Callable[[dict[str, Any]], Any] = lambda record: None) -> Path:
    """Change a model's record and make every hash in it fit again: whoever makes a folder can."""
    record = json.loads((folder / "headstart.json").read_bytes())
    record["files"] = {name: files.hash_file(folder / name) for name in record["files"]}
    change(record)
    record["sha256"] = "0" * 64
    text = json.dumps(record)
    own = files.hash_bytes(text.encode())
    (folder / "headstart.json").write_text(text.replace("0" * 64, own))
    return folder


def signed_export(folder: Path, change: Callable[[dict[str, Any]], Any] = lambda told: None) -> Path:
    """Change an export's certificate and make the hashes of its files fit again."""
    told = json.loads((folder / "certificate.json").read_bytes())
    for name, facts in told["export"]["files"].items():
        facts["sha256"] = files.hash_file(folder / name)
    change(told)
    (folder / "certificate.json").write_text(json.dumps(told))
    return folder
