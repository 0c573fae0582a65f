"""Reading, checking, splitting and decoding labelled pictures."""

from __future__ import annotations

__all__: list[str] = []
