"""The demo's data: handwritten digits that come with scikit-learn, written as a folder of pictures.

The toy source was trained on the digits 0 to 4. The demo's task is 5 to 9: classes that the source has never seen, with
ten pictures of each to learn from.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from headstart import files

__all__ = ["write_digits"]

_TRAIN_PER_CLASS = 10
_SIDE = 32


def write_digits(folder: Path, *, classes: tuple[int, ...] = (5, 6, 7, 8, 9), seed: int = 0) -> Path:
    """Write DIR/{train,test}/DIGIT/*.png: ten training pictures a class, all others as test. Returns `folder`."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    rng = np.random.default_rng(seed)
    for digit in classes:
        chosen = rng.permutation(np.flatnonzero(digits.target == digit))
        for place, number in enumerate(chosen):
            split = "train" if place < _TRAIN_PER_CLASS else "test"
            pixels = np.uint8(digits.images[number] * 255 / 16)
            picture = Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
            data = io.BytesIO()
            picture.save(data, "PNG")
            files.write_bytes(folder / split / str(digit) / f"{number:04d}.png", data.getvalue())
    return folder
