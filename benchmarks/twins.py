"""How many planted near-duplicates are found: `python benchmarks/twins.py DATA...`; one row a data set.

Of 150 pictures of each set twins are made (resized, encoded anew, mirrored, brightened, darkened, marked, cropped,
turned) and looked for among all pictures of the set. A group that ties two different pictures counts as a stranger.
`--hashes N` measures the search alone on N made-up fingerprints, a hundredth of which have a twin.
"""

from __future__ import annotations

import argparse
import io
import random
import time
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance

from headstart.data import near
from headstart.data.decode import decode, examine, read_bytes
from headstart.data.read import read

COUNT = 150
Change = Callable[[Image.Image, random.Random], Image.Image]


def cropped(image: Image.Image, share: float, draw: random.Random) -> Image.Image:
    """The picture without a share of its width and height, somewhere."""
    width, height = int(image.width * (1 - share)), int(image.height * (1 - share))
    x, y = draw.randint(0, image.width - width), draw.randint(0, image.height - height)
    return image.crop((x, y, x + width, y + height))


def marked(image: Image.Image) -> Image.Image:
    """The picture with a white sign in its lower right corner."""
    copy = image.copy()
    sign = Image.new("RGB", (max(1, image.width * 37 // 100), max(1, image.height // 10)), (255, 255, 255))
    copy.paste(sign, (image.width * 60 // 100, image.height * 85 // 100))
    return copy


CHANGES: dict[str, Change] = {
    "resized to 60 %": lambda i, _: i.resize((i.width * 6 // 10, i.height * 6 // 10), Image.Resampling.BICUBIC),
    "quality 50": lambda i, _: i,
    "mirrored": lambda i, _: i.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "20 % brighter": lambda i, _: ImageEnhance.Brightness(i).enhance(1.2),
    "20 % darker": lambda i, _: ImageEnhance.Brightness(i).enhance(0.8),
    "marked": lambda i, _: marked(i),
    "cropped by 5 %": lambda i, draw: cropped(i, 0.05, draw),
    "cropped by 10 %": lambda i, draw: cropped(i, 0.10, draw),
    "turned by 3°": lambda i, _: i.rotate(3, Image.Resampling.BICUBIC),
}


def seen(data: bytes) -> bytes:
    """The fingerprint of a picture as the audit sees it."""
    return near.fingerprint(examine(data, "picture", draft=32).pixels)


def measured(path: str) -> None:
    """Print the shares found by hashes (and, after a slash, found or proposed to the features), and the strangers."""
    items = read(path).items
    prints = {item.name: seen(read_bytes(item)) for item in items}
    chosen = random.Random(0).sample(items, min(COUNT, len(items)))
    own = near.groups(prints)
    cells, strangers = [], 0
    for name, change in CHANGES.items():
        draw, twins = random.Random(1), {}
        for item in chosen:
            buffer = io.BytesIO()
            changed = change(Image.fromarray(decode(read_bytes(item), item.name)), draw)
            changed.save(buffer, "JPEG", quality=50 if name == "quality 50" else 85)
            twins[item.name + "\0twin"] = seen(buffer.getvalue())
        groups, pairs = near.groups({**prints, **twins}), near.candidates({**prints, **twins})
        wanted = {(item.name, item.name + "\0twin") for item in chosen}
        found = wanted & set(groups)
        strangers += sum(len({member.split("\0")[0] for member in group}) > 1 for group in groups)
        cells.append(f"{len(found) / len(chosen):.2f} / {len(found | (wanted & set(pairs))) / len(chosen):.2f}")
    print(f"| {path.rstrip('/').rsplit('/', 1)[-1]} | {' | '.join(cells)} | {len(own)}, {strangers} |", flush=True)


def search(count: int) -> None:
    """Print the seconds that groups and candidates take among made-up fingerprints, and how many twins are found."""
    draw = np.random.default_rng(0)
    rises = draw.integers(0, 2, (count, 384), dtype=np.uint8)
    bits = np.concatenate([rises[:, :256], 1 - rises[:, :256], rises[:, 256:], 1 - rises[:, 256:]], axis=1)
    twins = bits[: count // 100] ^ (draw.random((count // 100, 768)) < 0.05).astype(np.uint8)
    packed = np.packbits(np.concatenate([bits, twins]), axis=1)
    prints = {f"{n:07d}": row.tobytes() for n, row in enumerate(packed)}
    start = time.perf_counter()
    groups = near.groups(prints)
    middle = time.perf_counter()
    near.candidates(prints)
    print(
        f"{count} fingerprints: groups {middle - start:.1f} s, candidates {time.perf_counter() - middle:.1f} s,"
        f" {len(groups)} of {count // 100} twins found"
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="*")
    parser.add_argument("--hashes", type=int, nargs="*", default=[])
    options = parser.parse_args()
    if options.data:
        print(f"| set | {' | '.join(CHANGES)} | groups in the set, strangers |")
        print("| --- " * (len(CHANGES) + 2) + "|")
    for path in options.data:
        measured(path)
    for count in options.hashes:
        search(count)


if __name__ == "__main__":
    main()
