"""A small picture that goes into a report."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

__all__ = ["Picture", "data_uri"]

_KINDS = ((b"\x89PNG", "image/png"), (b"GIF8", "image/gif"), (b"RIFF", "image/webp"))


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a report: JPEG bytes and the words below it.

    `label` is the true class, `predicted` what the model said and `probability` how sure it was (0 to 1);
    the last two are empty for a picture that only shows the data. `map` is a transparent PNG of the same proportions
    that shows where the model looked.
    """

    name: str
    data: bytes = field(repr=False)
    label: str
    predicted: str = ""
    probability: float | None = None
    note: str = ""
    map: bytes = field(default=b"", repr=False)


def data_uri(data: bytes) -> str:
    """The bytes as an address that needs no network; "" when there are none."""
    if not data:
        return ""
    kind = next((name for start, name in _KINDS if data.startswith(start)), "image/jpeg")
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
