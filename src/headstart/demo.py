"""The demo's data: handwritten digits that come with scikit-learn, written askew as a folder of pictures.

The toy source was trained on the digits 0 to 4. The demo's task is 5 to 9: classes that the source has never seen, with
five pictures of each to learn from. Every picture is turned, scaled and shifted a little and gets some noise, as a
photograph would be.
"""

from __future__ import annotations

import io
import math
import re
from pathlib import Path

import numpy as np

from headstart import files

__all__ = ["is_digits", "write_digits"]

_TRAIN_PER_CLASS = 5
_SIDE = 32
_OURS = re.compile(r"(train|test)/\d/(\d{4}\.png|\.\d{4}\.png\.\w+\.tmp)")


def write_digits(folder: Path, *, classes: tuple[int, ...] = (5, 6, 7, 8, 9), seed: int = 0) -> Path:
    """Write DIR/{train,test}/DIGIT/*.png: five training pictures a class, all others as test. Returns `folder`."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    rng = np.random.default_rng(seed)
    for digit in classes:
        chosen = rng.permutation(np.flatnonzero(digits.target == digit))
        for place, number in enumerate(chosen):
            split = "train" if place < _TRAIN_PER_CLASS else "test"
            picture = _askew(digits.images[number], np.random.default_rng((seed, int(number))))
            files.write_bytes(folder / split / str(digit) / f"{number:04d}.png", picture)
    return folder


def is_digits(folder: Path) -> bool:
    """Whether nothing but pictures of `write_digits` lies in the folder, all or some of them."""
    return all(_OURS.fullmatch(p.relative_to(folder).as_posix()) for p in folder.rglob("*") if not p.is_dir())


def _askew(image: np.ndarray, rng: np.random.Generator) -> bytes:
    """An 8×8 digit (0 to 16) as a 32×32 PNG: turned by up to 15°, scaled by 0.8 to 1.1, shifted, with noise."""
    from PIL import Image

    picture = Image.fromarray(np.uint8(image * 255 / 16)).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    angle, scale = math.radians(rng.uniform(-15, 15)), rng.uniform(0.8, 1.1)
    cos, sin, middle = math.cos(angle) / scale, math.sin(angle) / scale, _SIDE / 2
    right, down = rng.uniform(-3, 3, size=2)
    matrix = (cos, sin, middle - cos * (middle + right) - sin * (middle + down),
              -sin, cos, middle + sin * (middle + right) - cos * (middle + down))  # fmt: skip
    moved = picture.transform((_SIDE, _SIDE), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    noisy = np.asarray(moved, dtype=np.float64) + rng.normal(0, 16, size=(_SIDE, _SIDE))
    data = io.BytesIO()
    Image.fromarray(np.uint8(noisy.clip(0, 255))).save(data, "PNG")
    return data.getvalue()
