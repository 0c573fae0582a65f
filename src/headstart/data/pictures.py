"""Pictures for training, each decoded once: shrunk to a little above the training size and kept in the store.

What is kept are the pixels that training would see anyway: a picture is always shrunk in the same way, whether its row
is read, written or neither. So results do not depend on what the store holds, only their time does.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import PIL
import torch
from torch.nn import functional

from headstart.data import decode
from headstart.data.augment import draft_side
from headstart.data.store import ArrayStore, Found
from headstart.errors import OutputError
from headstart.progress import Reporter, Silent
from headstart.records import Card, Item

__all__ = ["HEADROOM", "Pictures", "shrunk", "training_side"]

HEADROOM = 1.3
"""How much longer than evaluation's short side (before its crop) the short side of a kept picture is.

Five of six random crops of at least 35 % of the area are then still shrunk to the input, not enlarged. Measured on
photos of 500 x 375 pixels for an input of 224: features of a crop from the kept picture lie from those of the same crop
of the original 16 % as far as another crop's do (1.15: 26 %, 1.6: 2 %), for 0.45 MB a picture (1.15: 0.35, 1.6: 0.52).
"""

_VERSION = 1  # part of the key: raised when `shrunk` gives other pixels
_BUFFER = 64 << 20  # bytes of fresh pictures that are held before they are written


def training_side(card: Card) -> int:
    """The short side (in pixels) of pictures that are trained on."""
    return round(HEADROOM * draft_side(card))


def shrunk(image: np.ndarray, side: int) -> np.ndarray:
    """An H×W×3 uint8 picture whose short side is at most `side`: proportions kept, antialiased, never enlarged."""
    tall, wide = image.shape[:2]
    if min(tall, wide) <= side:
        return image
    size = (side, round(wide * side / tall)) if tall <= wide else (round(tall * side / wide), side)
    tensor = torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)[None]
    small = functional.interpolate(tensor, size, mode="bicubic", antialias=True, align_corners=False)
    return np.ascontiguousarray(small[0].permute(1, 2, 0).numpy())


class Pictures:
    """Position → decoded, shrunk picture of an item, H×W×3 uint8; may be called from several threads.

    `hashes` are the sha256 of the items' bytes: a file that was replaced since is unreadable, as in Views. Without
    hashes, or with `use_store` off, nothing is kept. `bound` limits the store. `decoded` counts decoded pictures.
    """

    def __init__(
        self,
        items: Sequence[Item],
        card: Card,
        *,
        hashes: Sequence[str] = (),
        use_store: bool = True,
        bound: str | int | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        self.items, self.hashes, self.decoded = items, list(hashes), 0
        self.side = training_side(card)
        self.reporter = reporter or Silent()
        self._lock = threading.Lock()
        self._fresh: dict[str, np.ndarray] = {}
        self._held, self._judged = 0, False
        self._store: ArrayStore | None = None
        self._found: Found | None = None
        if self.hashes and use_store:
            self._store = ArrayStore(self._key(), kind="decoded", bound=bound)

    def _key(self) -> dict[str, object]:
        return {
            "format": _VERSION, "pillow": PIL.__version__.split(".")[0], "side": self.side,
            "dtype": "uint8",
        }  # fmt: skip

    def refresh(self) -> None:
        """See what the store holds by now; call it when no other thread is reading."""
        if self._store is not None:
            before = self._store.damaged
            self._found = self._store.find(self.hashes)
            if self._store.damaged > before:
                self.reporter.note(f"{self._store.damaged - before} damaged kept pictures are decoded again")

    def __call__(self, position: int) -> np.ndarray:
        """The picture at a position; raises UnreadableImage."""
        if self._found is not None and self._found.there[position]:
            return self._found.rows([position])[0]  # type: ignore[no-any-return]
        image = shrunk(self._decode(position), self.side)
        if self._store is not None and not decode.is_array(self.items[position]):
            self._keep(self.hashes[position], image)
        return image

    def _decode(self, position: int) -> np.ndarray:
        with self._lock:
            self.decoded += 1
        item = self.items[position]
        return decode.load(item, draft=self.side, sha256=self.hashes[position] if self.hashes else "")

    def _keep(self, name: str, image: np.ndarray) -> None:
        with self._lock:
            if name not in self._fresh:
                self._fresh[name] = image
                self._held += image.nbytes
            full = self._held >= _BUFFER
        if full:
            self.flush()

    def flush(self) -> None:
        """Write the fresh pictures that are held; a store that cannot take them costs time, and is said once."""
        with self._lock:
            fresh, self._fresh, held, self._held = self._fresh, {}, self._held, 0
            store, first, self._judged = self._store, not self._judged, True
        if store is None or not fresh:
            return
        try:
            if first:  # the rest will need about as much a picture
                there = 0 if self._found is None else int(self._found.there.sum())
                store.reserve(held * max(1, len(set(self.hashes)) - there) // len(fresh))
            store.put(list(fresh), list(fresh.values()))
        except OutputError as error:
            with self._lock:
                told, self._store = self._store is not None, None
            if told:
                self.reporter.note(f"decoded pictures are not kept, each epoch decodes them again: {error}")
