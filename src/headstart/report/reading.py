"""Reading a run's record without trusting that a part is there: each function answers with an empty value instead.

A run.json may be old, unfinished or edited by hand; a report shows what is there and stays silent on the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["MOST_CLASSES", "entries", "interval", "number", "part", "records", "table", "text", "texts"]

MOST_CLASSES = 500
"""Classes up to which a report has a row for each."""


def part(value: Any, *keys: str) -> Any:
    """What stands under the keys, one below the other; None when it is missing."""
    for key in keys:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def table(value: Any, *keys: str) -> dict[str, Any]:
    """A mapping with text keys; empty when it is missing."""
    found = part(value, *keys)
    return {str(key): entry for key, entry in found.items()} if isinstance(found, Mapping) else {}


def entries(value: Any, *keys: str) -> list[Any]:
    """A list; empty when it is missing or something else."""
    found = part(value, *keys)
    return list(found) if isinstance(found, Sequence) and not isinstance(found, (str, bytes)) else []


def records(value: Any, *keys: str) -> list[dict[str, Any]]:
    """A list of mappings; entries of another kind are left out."""
    return [table(entry) for entry in entries(value, *keys) if isinstance(entry, Mapping)]


def number(value: Any, *keys: str) -> float | None:
    """A finite number; None when it is missing, not a number or not finite."""
    found = part(value, *keys)
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return None
    try:
        finite = float(found)
    except OverflowError:  # an integer with hundreds of digits
        return None
    return finite if math.isfinite(finite) else None


def interval(value: Any, *keys: str) -> tuple[float, float] | None:
    """Two finite bounds; None when one is missing."""
    bounds = [number(entry) for entry in entries(value, *keys)]
    if len(bounds) == 2 and bounds[0] is not None and bounds[1] is not None:
        return bounds[0], bounds[1]
    return None


def text(value: Any, *keys: str) -> str:
    """Text; "" when it is missing. A number is written out."""
    found = part(value, *keys)
    return "" if found is None or isinstance(found, (Mapping, list, tuple)) else str(found)


def texts(value: Any, *keys: str) -> list[str]:
    """A list of texts without the empty ones; one text alone is a list of one."""
    found = part(value, *keys)
    if isinstance(found, str):
        return [found] if found else []
    return [text(entry) for entry in entries(found) if text(entry)]
