"""Small picture folders for whole runs: coloured shapes on noise, 32 x 32, a second for a fit."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

__all__ = ["CLASSES", "folder_hash", "picture", "run_files", "write_shapes"]

CLASSES = ("bar", "disc", "square")
_SIDE = 32


def picture(kind: str, number: int, *, noise: float = 45.0) -> Image.Image:
    """One drawn shape; kind and number decide every pixel."""
    rng = np.random.default_rng((CLASSES.index(kind), number))
    colour = tuple(int(c) for c in rng.integers(90, 256, 3))
    ground = tuple(int(c) for c in rng.integers(0, 120, 3))
    image = Image.new("RGB", (_SIDE, _SIDE), ground)
    draw = ImageDraw.Draw(image)
    x, y = (int(v) for v in rng.integers(4, 12, 2))
    size = int(rng.integers(10, 17))
    if kind == "disc":
        draw.ellipse((x, y, x + size, y + size), fill=colour)
    elif kind == "square":
        draw.rectangle((x, y, x + size, y + size), fill=colour)
    else:
        draw.rectangle((x, y, x + size // 3, y + size), fill=colour)
    pixels = np.asarray(image, dtype=np.float64) + rng.normal(0, noise, (_SIDE, _SIDE, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_shapes(folder: Path, *, per_class: int = 20, splits: dict[str, int] | None = None) -> Path:
    """Write FOLDER/CLASS/NN.png, or FOLDER/SPLIT/CLASS/NN.png with so many pictures a class in each split."""
    number = 0
    for split, count in (splits or {"": per_class}).items():
        for kind in CLASSES:
            place = folder / split / kind
            place.mkdir(parents=True, exist_ok=True)
            for n in range(number, number + count):
                picture(kind, n).save(place / f"{n:03d}.png")
        number += count
    return folder


def folder_hash(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder, by its relative name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def run_files(folder: Path) -> set[str]:
    """The names that stand in a run folder."""
    return {entry.name for entry in folder.iterdir()}
