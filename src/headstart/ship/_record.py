"""headstart.json, read without trusting it: whoever makes a model folder can compute its hashes. No torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from headstart import files
from headstart.errors import ModelError
from headstart.records import SCHEMA

__all__ = ["AGAIN", "BLANK", "KEYS", "LONGEST_NAME", "check_classes", "read_record", "temperature_of"]

AGAIN = "Copy the whole folder again."
"""What to do about a file that is not as it was saved."""

KEYS = ("classes", "card", "plan", "head", "golden", "files", "sha256")
"""What headstart.json must have."""

BLANK = "0" * 64
"""Stands for headstart.json's own sha256 while it is computed."""

LONGEST_NAME = 10_000
"""Letters of a class name."""

_NEEDED = ("config.json", "model.safetensors", "head.safetensors")
_LARGEST = 256 << 20  # bytes of headstart.json; 20 for each training picture
_MOST_GOLDEN = 16
_SHA256 = re.compile("[0-9a-f]{64}")


def read_record(place: Path) -> dict[str, Any]:
    """headstart.json, of a format we know, byte for byte as it was saved, with parts of the right kinds."""
    file = place / "headstart.json"
    try:
        if file.stat().st_size > _LARGEST:
            raise ValueError("it is too large")
        data = file.read_bytes()
        record: dict[str, Any] = files.parse_json(data)
        schema = int(record["schema"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ModelError(f"the file cannot be read: {str(error)[:200]}", where=file, remedy=AGAIN) from error
    if schema > SCHEMA:
        made_by = str(record.get("headstart", "a newer version"))[:40]
        raise ModelError(
            f"the model has format {schema}, this headstart reads up to {SCHEMA}",
            where=file,
            remedy=f"Install headstart {made_by} or newer.",
        )
    missing = [name for name in KEYS if name not in record]
    if missing:
        raise ModelError(f"the file lacks {', '.join(missing)}", where=file, remedy=AGAIN)
    own = str(record["sha256"])
    if files.hash_bytes(data.replace(own.encode("utf-8", "replace"), BLANK.encode())) != own:
        raise ModelError("the file is not as it was saved", where=file, remedy=AGAIN)
    try:
        _check_parts(record)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        what = f"the file does not say what a model is: {str(error)[:200]}"
        raise ModelError(what, where=file, remedy="Ask whoever made it.") from error
    return record


def _check_parts(record: Mapping[str, Any]) -> None:
    """Raise an error where a part is not of its kind: a right hash says that nothing was torn, and no more."""
    check_classes(record["classes"])
    for name, sha256 in record["files"].items():
        if name != Path(name).name or name[:1] in ("", ".") or not name.isprintable() or "\\" in name:
            raise ValueError(f"{name[:80]!r} is no file of a model")
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"{name[:80]} has no sha256")
    if lost := [name for name in _NEEDED if name not in record["files"]]:
        raise ValueError(f"files lack {', '.join(lost)}")
    if not isinstance(record["head"]["kind"], str) or not isinstance(record["plan"], dict):
        raise TypeError("head or plan are not described")
    golden = record["golden"]
    if type(golden["n"]) is not int or not 1 <= golden["n"] <= _MOST_GOLDEN:
        raise ValueError("no number of golden outputs")
    if np.array(golden["probabilities"], dtype=np.float64).shape != (golden["n"], len(record["classes"])):
        raise ValueError("the golden outputs are not one for each class")
    temperature_of(record)
    if not isinstance(seen := record.get("seen") or [], list) or not all(isinstance(one, str) for one in seen):
        raise TypeError("seen is no list of hashes")
    for name in ("versions", "source", "scores", "reject"):
        if not isinstance(record.get(name) or {}, dict):
            raise TypeError(f"{name} is no object")


def check_classes(names: Any) -> None:
    """Raise ValueError or TypeError unless these are the names of classes."""
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise TypeError("the classes are no list of names")
    if len(set(names)) < len(names):
        raise ValueError("two classes have one name")
    if longest := [name for name in names if len(name) > LONGEST_NAME]:
        raise ValueError(f"the class {longest[0][:40]!r}… has a name of {len(longest[0])} letters")


def temperature_of(record: Mapping[str, Any]) -> float:
    """What the logits are divided by beside the head. Raises an error where that is no positive number."""
    told = record.get("calibration") or {"folded": True}
    apart = 1.0 if told["folded"] else float(told["temperature"])
    if not (math.isfinite(apart) and apart > 0):
        raise ValueError("the temperature is no positive number")
    return apart
