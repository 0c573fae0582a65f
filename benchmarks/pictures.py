"""Folders of pictures for the benchmarks, outside the repository: exported, repeated with other bytes, or drawn.

    python benchmarks/pictures.py export SHARED/data/cifar10 TO --train 10000 --val 2000
    python benchmarks/pictures.py repeat FROM TO --count 2000
    python benchmarks/pictures.py draw TO --count 1000 [--splits] [--side 32]

Both sides of a comparison read the very same folder, TO/SPLIT/CLASS/FILE. Encoded bytes are copied, never encoded anew.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

from headstart.data.decode import read_bytes
from headstart.data.read import read
from headstart.records import Item

CLASSES = 10


def export(place: Path, target: Path, *, train: int, val: int, three: bool) -> None:
    """Write a data set as train and val, or train, val and test; at most so many pictures each, classes in turn.

    Where the data set has no split for a name, its held-back pictures are dealt out alternately.
    """
    dataset = read(place)
    held = [item for item in dataset.items if item.split in ("val", "test")]
    parts = {"train": dataset.split("train"), "val": tuple(held)}
    if three:
        both = bool(dataset.split("val")) and bool(dataset.split("test"))
        parts["val"] = dataset.split("val") if both else tuple(held[::2])
        parts["test"] = dataset.split("test") if both else tuple(held[1::2])
    for split, items in parts.items():
        most = train if split == "train" else val
        for number, item in enumerate(_in_turn(items, most)):
            folder = target / split / dataset.classes[int(item.label or 0)]
            folder.mkdir(parents=True, exist_ok=True)
            data = read_bytes(item)
            (folder / f"{number:05d}{_suffix(data)}").write_bytes(data)


def _in_turn(items: tuple[Item, ...], most: int) -> Iterator[Item]:
    """The first items of every class, the classes in turn; all of them where `most` is 0."""
    queues: dict[int, list[Item]] = {}
    for item in items:
        queues.setdefault(int(item.label or 0), []).append(item)
    deepest = max((len(queue) for queue in queues.values()), default=0)
    dealt = (queue[n] for n in range(deepest) for _, queue in sorted(queues.items()) if n < len(queue))
    return islice(dealt, most or None)


def _suffix(data: bytes) -> str:
    return ".png" if data.startswith(b"\x89PNG") else ".jpg"


def repeat(place: Path, target: Path, *, count: int) -> None:
    """Write `count` JPEG files: those of `place` over and over, told from their copies by a comment in the header."""
    files = sorted(path for path in place.rglob("*.jpg"))
    for number, path in enumerate(islice(cycle(files), count)):
        folder = target / "train" / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        data, words = path.read_bytes(), f"copy {number}".encode()
        comment = b"\xff\xfe" + (len(words) + 2).to_bytes(2, "big") + words
        (folder / f"{number:06d}.jpg").write_bytes(data[:2] + comment + data[2:])


def draw(target: Path, *, count: int, splits: bool, side: int = 32) -> None:
    """Write `count` different square JPEG files in ten classes, which a colour tells apart roughly."""

    def one(number: int) -> None:
        rng = np.random.default_rng(number)
        label = number % CLASSES
        grid = max(8, side // 8)
        pixels = rng.integers(0, 150, (grid, grid, 3))
        pixels[:, :, label % 3] += 30 * (1 + label // 3) % 106
        split = ("train", "train", "val", "test")[number // CLASSES % 4] if splits else ""
        folder = target / split / f"class_{label}"
        folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).resize((side, side), Image.Resampling.BILINEAR).save(buffer, "JPEG")
        (folder / f"{number:06d}.jpg").write_bytes(buffer.getvalue())

    with ThreadPoolExecutor() as pool:
        list(pool.map(one, range(count)))


def main() -> None:
    """One of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("export", "repeat", "draw"):
        own = verbs.add_parser(verb)
        if verb != "draw":
            own.add_argument("place", type=Path)
        own.add_argument("target", type=Path)
        if verb == "export":
            own.add_argument("--train", type=int, default=0)
            own.add_argument("--val", type=int, default=0)
            own.add_argument("--three", action="store_true")
        else:
            own.add_argument("--count", type=int, required=True)
        if verb == "draw":
            own.add_argument("--splits", action="store_true")
            own.add_argument("--side", type=int, default=32)
    told = vars(parser.parse_args())
    {"export": export, "repeat": repeat, "draw": draw}[told.pop("verb")](**told)


if __name__ == "__main__":
    main()
