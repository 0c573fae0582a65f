"""Batches of views, decoded ahead by threads while the network computes.

Pillow and torch release the interpreter's lock while they decode and resize, so threads overlap with compute without
worker processes, their start-up, their shared memory and their hangs. The order and the pixels of a batch depend on the
items alone, never on the number of threads. A picture that has become unreadable since the audit is left out of its
batch, named and counted; no other picture takes its place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from headstart.data import decode
from headstart.data.augment import Augmentation, View, augmented_view, draft_side
from headstart.data.cores import default_workers
from headstart.errors import UnreadableImage
from headstart.records import Card, Item, Skipped

__all__ = ["Batch", "Views", "batches"]

_AHEAD = 3  # batches decoded before they are asked for
_TOGETHER = 16  # items of a batch that a thread takes at most in one go


@dataclass(frozen=True, slots=True)
class Batch:
    """Views of some items: `images` uint8 (n, 3, h, w), `index` their positions in the item list."""

    images: Tensor
    index: np.ndarray
    skipped: tuple[Skipped, ...] = ()


class Views:
    """Item position → view. `epoch` and the seed decide an augmented view, so any moment can be repeated.

    `hashes` are the sha256 that the pictures' bytes must have (none: not checked): a file that was replaced since the
    audit is unreadable, so that no view is ever taken for another picture's. `pixels` gives the decoded pictures
    (None: they are decoded here).
    """

    def __init__(
        self,
        items: Sequence[Item],
        card: Card,
        *,
        view: View = View(),  # noqa: B008 - a frozen value
        augmentation: Augmentation | None = None,
        seed: int = 0,
        hashes: Sequence[str] = (),
        pixels: Callable[[int], np.ndarray] | None = None,
    ) -> None:
        self.items, self.card, self.view = items, card, view
        self.augmentation, self.seed, self.epoch = augmentation, seed, 0
        self.hashes, self.pixels = hashes, pixels

    def __call__(self, position: int) -> Tensor:
        image = self._pixels(position) if self.pixels is None else self.pixels(position)
        if self.augmentation is not None:
            rng = np.random.default_rng((self.seed, self.epoch, position))
            return augmented_view(image, self.card, augmentation=self.augmentation, rng=rng)
        return self.view(image, self.card, content=self.hashes[position] if self.hashes else "")

    def _pixels(self, position: int) -> np.ndarray:
        wanted = self.hashes[position] if self.hashes else ""
        return decode.load(self.items[position], draft=draft_side(self.card), sha256=wanted)


def batches(
    view: Callable[[int], Tensor], order: Iterable[np.ndarray], *, workers: int | None = None
) -> Iterator[Batch]:
    """Yield one Batch for each array of positions in `order`, decoding ahead with `workers` threads (0: none)."""
    threads = default_workers() if workers is None else workers
    if threads == 0:
        for positions in order:
            yield _assemble(positions, [_guarded(view, int(p)) for p in positions])
        return
    waiting: deque[tuple[np.ndarray, list[Future[list[Tensor | UnreadableImage]]]]] = deque()
    source = iter(order)
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            while True:
                for upcoming in islice(source, _AHEAD - len(waiting)):
                    parts = _parts(upcoming.tolist(), threads)
                    waiting.append((upcoming, [pool.submit(_several, view, part) for part in parts]))
                if not waiting:
                    return
                positions, futures = waiting.popleft()
                yield _assemble(positions, [found for future in futures for found in future.result()])
        finally:
            for _, futures in waiting:
                for future in futures:
                    future.cancel()


def _parts(positions: list[int], threads: int) -> list[list[int]]:
    """What one thread does in one go: handing over a small picture takes as long as decoding it."""
    size = max(1, min(_TOGETHER, len(positions) // (2 * threads)))
    return [positions[start : start + size] for start in range(0, len(positions), size)]


def _several(view: Callable[[int], Tensor], positions: list[int]) -> list[Tensor | UnreadableImage]:
    return [_guarded(view, position) for position in positions]


def _guarded(view: Callable[[int], Tensor], position: int) -> Tensor | UnreadableImage:
    try:
        return view(position)
    except UnreadableImage as error:
        return error


def _assemble(positions: np.ndarray, views: list[Tensor | UnreadableImage]) -> Batch:
    good = [(p, v) for p, v in zip(positions, views, strict=True) if isinstance(v, Tensor)]
    bad = tuple(Skipped(v.name, v.reason) for v in views if isinstance(v, UnreadableImage))
    images = torch.stack([v for _, v in good]) if good else torch.empty((0, 3, 1, 1), dtype=torch.uint8)
    return Batch(images, np.array([p for p, _ in good], dtype=np.int64), bad)
