"""Networks of torchvision."""

from __future__ import annotations

from pathlib import Path

from headstart.sources.base import Source

__all__ = ["architecture_of_file", "open_torchvision"]


def architecture_of_file(path: Path) -> str | None:
    """Placeholder."""
    return None


def open_torchvision(name: str, *, weights: str | None, image_size: int | None, seed: int) -> Source:
    """Placeholder."""
    raise NotImplementedError
