"""Where the batches of training come from: pictures, or the activations that are kept at the cut.

A feed gives batches of what its `module` takes, and knows the network that is trained. Both kinds offer the same views
of the same items in the same order: reading what lies below the cut instead of computing it changes speed only.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from headstart.data import augment
from headstart.data.augment import Augmentation, View
from headstart.data.loader import Batch, Views, batches
from headstart.data.pictures import Pictures
from headstart.progress import Reporter
from headstart.records import Card, Item
from headstart.settings import Settings
from headstart.sources.cutting import Cutting
from headstart.transfer.engine import Engine
from headstart.transfer.features import Rows
from headstart.transfer.memory import in_pieces
from headstart.transfer.net import TransferNet
from headstart.transfer.steps import Samples

__all__ = [
    "AboveNet",
    "Feed",
    "Halted",
    "ImageFeed",
    "KeptRows",
    "StoredFeed",
    "kept_views",
    "predict_logits",
    "which_view",
]

_REMEMBERED = 1 << 30  # bytes of centre views that are held in memory


def kept_views(settings: Settings, n: int) -> list[View]:
    """The first `n` augmented views that the settings ask for; none where augmentation is switched off."""
    augmentation = Augmentation.of(settings)
    if augmentation is None:
        return []
    return [View("augmented", number + 1, augmentation, settings.seed) for number in range(n)]


def which_view(n: int, views: int, *, seed: int, epoch: int) -> np.ndarray:
    """The number of the view (from 0) that each of `n` items has in an epoch, int64 (n,).

    It depends on seed, epoch and position alone; in any `views` epochs in a row an item has each view once.
    """
    first = np.random.default_rng((seed, n, views)).integers(0, views, n)
    return (first + epoch) % views


class AboveNet(nn.Module):
    """What is computed in every epoch where the frozen part is kept: rows at the cut → logits (n, classes).

    It runs the very modules of `net`. Without `above` the rows are the features that the head takes.
    """

    def __init__(self, net: TransferNet, above: nn.Module | None) -> None:
        super().__init__()
        self.net, self.above = net, above

    def forward(self, rows: Tensor) -> Tensor:
        """Logits of a batch."""
        net = self.net
        features = rows if self.above is None else net.source.pooled(self.above(rows), net.pooling)
        logits: Tensor = net.head(features)
        return logits


class Feed(ABC):
    """Batches for a network: `net` is the whole of it, `module` what the batches go through.

    `at_once` is how many images it answers in one go, fewer once memory has run out.
    """

    net: TransferNet
    module: nn.Module
    at_once = 64

    @abstractmethod
    def example(self) -> Tensor:
        """One blank input of `module`, (1, ...)."""

    @abstractmethod
    def training(self, train: Samples, epoch: int, order: Iterable[np.ndarray]) -> Iterator[Batch]:
        """A batch for each array of positions in `train`, as the items look in this epoch."""

    @abstractmethod
    def centre(self, items: Sequence[Item], order: Iterable[np.ndarray]) -> Iterator[Batch]:
        """A batch of centre views for each array of positions in `items`."""

    @abstractmethod
    def inputs(self, batch: Tensor, device: torch.device) -> Tensor:
        """What `module` takes, on the device, of a batch."""

    @abstractmethod
    def remember(self, items: Sequence[Item]) -> None:
        """Be told whose centre views will be asked for after every epoch."""

    @abstractmethod
    def onto(self, net: TransferNet) -> Feed:
        """The same feed for a copy of the network."""


class ImageFeed(Feed):
    """Pictures through the whole network.

    With `views` of 0 an augmented view is drawn anew in every epoch, from pictures that are decoded once and kept; else
    it is one of so many views that could be kept. Centre views that are asked for after every epoch stay in memory, up
    to `_REMEMBERED` bytes. `card` says how views look (None: the network's own does). `hashes` are the sha256 of the
    items' bytes by name (none: not checked), as in Views.
    """

    def __init__(
        self, net: TransferNet, settings: Settings, *, views: int = 0, hashes: Mapping[str, str] | None = None,
        reporter: Reporter | None = None, card: Card | None = None,
    ) -> None:  # fmt: skip
        self.net = self.module = net
        self.card = card or net.source.card
        self.settings, self.views, self.reporter, self.hashes = settings, views, reporter, hashes or {}
        self._pictures: Pictures | None = None
        self._repeated: frozenset[str] = frozenset()
        self._remembered: dict[str, Tensor] = {}

    def example(self) -> Tensor:
        """A black picture's place."""
        return torch.zeros(1, *self.card.input_size)

    def training(self, train: Samples, epoch: int, order: Iterable[np.ndarray]) -> Iterator[Batch]:
        """Augmented views, uint8 (n, 3, h, w)."""
        pictures = self._decoded(train) if Augmentation.of(self.settings) and not self.views else None
        if pictures is not None:
            pictures.refresh()
        try:
            yield from batches(self._views(train, epoch, pictures), order, workers=self.settings.workers)
        finally:
            if pictures is not None:
                pictures.flush()

    def _decoded(self, train: Samples) -> Pictures:
        """The decoded pictures of the training items, the same in all epochs."""
        if self._pictures is None or self._pictures.items is not train.items:
            self._pictures = Pictures(
                train.items, self.card, hashes=train.hashes, use_store=self.settings.cache,
                bound=self.settings.cache_size, reporter=self.reporter,
            )  # fmt: skip
        return self._pictures

    def _views(self, train: Samples, epoch: int, pictures: Pictures | None) -> Callable[[int], Tensor]:
        card, seed, hashes = self.card, self.settings.seed, train.hashes
        kinds = kept_views(self.settings, self.views)
        if not kinds:
            drawn = Views(
                train.items, card, augmentation=Augmentation.of(self.settings), seed=seed, hashes=hashes,
                pixels=pictures,
            )  # fmt: skip
            drawn.epoch = epoch
            return drawn
        kept = [Views(train.items, card, view=kind, hashes=hashes) for kind in kinds]
        number = which_view(len(train.items), len(kept), seed=seed, epoch=epoch)
        return lambda position: kept[number[position]](position)

    def centre(self, items: Sequence[Item], order: Iterable[np.ndarray]) -> Iterator[Batch]:
        """Centre views, uint8 (n, 3, h, w)."""
        hashes = [self.hashes[item.name] for item in items] if self.hashes else ()
        views = Views(items, self.card, hashes=hashes)
        return batches(lambda position: self._centre(views, position), order, workers=self.settings.workers)

    def remember(self, items: Sequence[Item]) -> None:
        """Keep the centre views of as many of the items as the bound allows, from their first use on."""
        room = _REMEMBERED // math.prod(self.card.input_size)
        self._repeated = frozenset(item.name for item in items[:room])

    def _centre(self, views: Views, position: int) -> Tensor:
        name = views.items[position].name
        if name not in self._repeated:
            return views(position)
        if name not in self._remembered:
            self._remembered[name] = views(position)
        return self._remembered[name]

    def inputs(self, batch: Tensor, device: torch.device) -> Tensor:
        """Normalised, channels last."""
        images = augment.normalise(batch.to(device, non_blocking=True), self.card)
        return images.contiguous(memory_format=torch.channels_last)

    def onto(self, net: TransferNet) -> ImageFeed:
        """The same pictures for a copy of the network."""
        twin = ImageFeed(
            net, self.settings, views=self.views, hashes=self.hashes, reporter=self.reporter, card=self.card
        )
        twin._pictures = self._pictures
        return twin


@dataclass(frozen=True, slots=True)
class KeptRows:
    """Rows at the cut (n, width) of items, by name; a memory-mapped table is read row by row."""

    places: Mapping[str, int]
    take: Callable[[np.ndarray], np.ndarray]

    @classmethod
    def of(cls, items: Sequence[Item], rows: np.ndarray | Rows) -> KeptRows:
        """Rows in the order of the items."""
        return cls({item.name: place for place, item in enumerate(items)}, rows.__getitem__)

    def __call__(self, items: Sequence[Item], positions: np.ndarray) -> np.ndarray:
        """The rows of some of the items."""
        return self.take(np.array([self.places[items[int(p)].name] for p in positions], dtype=np.int64))


class StoredFeed(Feed):
    """Activations at the cut, kept for the centre view of every item and some views of the training items.

    Nothing below the cut is run. Without `views` (no augmentation) the centre view is what is trained on; without a
    `cutting` the rows are features at the head.
    """

    def __init__(
        self, net: TransferNet, cutting: Cutting | None, *, centre: KeptRows, views: Sequence[KeptRows],
        settings: Settings,
    ) -> None:  # fmt: skip
        self.net, self.cutting, self.settings = net, cutting, settings
        self._centre, self._views = centre, tuple(views)
        self.module = AboveNet(net, None if cutting is None else cutting.onto(net.source).above)

    def example(self) -> Tensor:
        """A row of zeros."""
        width = self.net.source.width(self.net.pooling) if self.cutting is None else self.cutting.width
        return torch.zeros(1, width)

    def training(self, train: Samples, epoch: int, order: Iterable[np.ndarray]) -> Iterator[Batch]:
        """Rows of the epoch's views, (n, width)."""
        tables = self._views or (self._centre,)
        number = which_view(len(train.items), len(tables), seed=self.settings.seed, epoch=epoch)

        def rows(positions: np.ndarray) -> np.ndarray:
            mine = [np.flatnonzero(number[positions] == view) for view in range(len(tables))]
            found = [(at, tables[view](train.items, positions[at])) for view, at in enumerate(mine) if len(at)]
            if not found:
                return self.example()[:0].numpy()
            table = np.empty((len(positions), found[0][1].shape[1]), np.result_type(*(part for _, part in found)))
            for at, part in found:
                table[at] = part
            return table

        return self._batches(rows, order)

    def centre(self, items: Sequence[Item], order: Iterable[np.ndarray]) -> Iterator[Batch]:
        """Rows of the centre views, (n, width)."""
        return self._batches(lambda positions: self._centre(items, positions), order)

    def _batches(self, rows: Callable[[np.ndarray], np.ndarray], order: Iterable[np.ndarray]) -> Iterator[Batch]:
        """Batches in their order, the next one read by a thread (where threads may be used) while one is computed."""
        made = (Batch(torch.from_numpy(rows(positions)), positions) for positions in order)
        if self.settings.workers == 0:
            yield from made
            return
        with ThreadPoolExecutor(1, thread_name_prefix="rows") as pool:
            coming = pool.submit(next, made, None)
            while (batch := coming.result()) is not None:
                coming = pool.submit(next, made, None)
                yield batch

    def inputs(self, batch: Tensor, device: torch.device) -> Tensor:
        """The rows as float32."""
        return batch.to(device, non_blocking=True).float()

    def remember(self, items: Sequence[Item]) -> None:
        """All rows are kept anyway."""

    def onto(self, net: TransferNet) -> StoredFeed:
        """The same rows for a copy of the network."""
        return StoredFeed(net, self.cutting, centre=self._centre, views=self._views, settings=self.settings)


class Halted(Exception):
    """Somebody asked to stop between two batches of a prediction."""


def predict_logits(
    feed: Feed,
    items: Sequence[Item],
    *,
    engine: Engine,
    halt: Callable[[], bool] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Logits float32 (n, classes) of the centre views, and which items could be read, bool (n,).

    Where memory runs out it goes on with half as many images `at_once`, and SettingsError is raised at one. The work
    is shared among the processes; in float32 always, as the saved model computes. Raises Halted when `halt` says so.
    """
    size = Feed.at_once  # whatever memory one process has, all share the work alike
    order = [np.arange(s, min(s + size, len(items))) for s in range(0, len(items), size)]
    feed.net.eval()
    rows: dict[int, np.ndarray] = {}

    def compute(images: Tensor) -> np.ndarray:
        found: np.ndarray = feed.module(feed.inputs(images, engine.device)).float().cpu().numpy()
        return found

    with torch.inference_mode():
        for batch in feed.centre(items, order[engine.rank :: engine.world]):
            if halt is not None and halt():
                raise Halted
            if len(batch.index):
                parts, feed.at_once = in_pieces(compute, batch.images, feed.at_once)
                rows.update(zip(batch.index.tolist(), np.concatenate(parts), strict=True))
    return engine.collect(rows, len(items))
