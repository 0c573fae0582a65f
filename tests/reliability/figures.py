"""What a long test measured, for docs/reliability.md."""

from __future__ import annotations

import json
import os
from pathlib import Path

__all__ = ["record"]


def record(name: str, **figures: object) -> None:
    """Append one line of JSON to the file that HEADSTART_LONG_LOG names; without it nothing is kept."""
    if place := os.environ.get("HEADSTART_LONG_LOG"):
        with Path(place).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"name": name, **figures}) + "\n")
