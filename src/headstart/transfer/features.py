"""The store of features: what lies below the cut runs once per item and view.

A row is keyed by the sha256 of the picture's bytes inside a folder keyed by everything else that shapes it: the weights
below the cut, the whole preprocessing, pooling, view, number format and versions. A row can therefore be shared by
every run, strategy, head and fold, and nothing that changed can ever be served for something else.

On disk a key's folder holds shards, each written whole under a new name: any number of processes may fill the same
store at once, and a run that was killed keeps what it had finished. Every row carries a checksum; a damaged row is
dropped, said and computed again.
"""

from __future__ import annotations

import logging
import uuid
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from headstart import files
from headstart.data import augment
from headstart.data.augment import View
from headstart.data.loader import Views, batches
from headstart.errors import OutputError, SourceError
from headstart.progress import Reporter, Silent
from headstart.records import Item, Skipped, plain
from headstart.sources.base import Source, evaluating

__all__ = ["FeatureStore", "Features", "Pass", "embed", "feature_key"]

_FORMAT = 1
_SHARD_ROWS = 2048
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Features:
    """Rows of features for items, and how they came about."""

    rows: np.ndarray  # float32 (n, d)
    computed: int
    reused: int
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True, slots=True)
class Pass:
    """How features are computed: what shapes a row (pooling, view, kind of device) and what does not (the rest)."""

    pooling: str = "native"
    view: View = View()  # noqa: RUF009 - a frozen value
    device: str = "cpu"
    workers: int | None = None
    batch_size: int = 32


def feature_key(source: Source, how: Pass) -> dict[str, object]:
    """Everything besides the picture that shapes a row (devices of one kind are taken to compute alike)."""
    import PIL

    return {
        "format": _FORMAT,
        "views": augment.VERSION,
        "pillow": PIL.__version__.split(".")[0],
        "weights": source.hash_below("head"),
        "architecture": source.card.architecture,
        "model_args": dict(source.card.model_args),
        "preprocessing": source.card.preprocessing,
        "pooling": how.pooling,
        "view": plain(how.view),
        "device": how.device.partition(":")[0],
        "dtype": "float32",
    }


class FeatureStore:
    """Rows on disk for one key; `folder` is its own and is made at the first `put`.

    `damaged` counts the rows and whole shards that `get` had to drop.
    """

    def __init__(self, key: Mapping[str, object], *, root: Path | None = None) -> None:
        name = files.hash_json(key)
        self.key = dict(key)
        self.folder = (root or files.home() / "features") / name[:2] / name
        self.damaged = 0

    def get(self, hashes: Sequence[str]) -> dict[str, np.ndarray]:
        """The rows that are there, by hash; damaged ones are left out, counted and removed from the store."""
        wanted, found = set(hashes), dict[str, np.ndarray]()
        for path in sorted(self.folder.glob("*.safetensors")) if self.folder.is_dir() else ():
            rows, damaged = _read_shard(path)
            found.update((name, row.copy()) for name, row in rows.items() if name in wanted)
            if damaged:
                self.damaged += damaged
                log.info("%d damaged rows in the feature shard %s", damaged, path.name)
                self._mend(path, rows)
        return found

    def put(self, hashes: Sequence[str], rows: np.ndarray) -> None:
        """Add rows (n, d) as one shard. Raises OutputError when the disk refuses; nothing is torn."""
        from safetensors.numpy import save

        rows = np.ascontiguousarray(rows, dtype=np.float32)
        table = {
            "rows": rows,
            "hashes": np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint8).reshape(len(hashes), 32),
            "checksums": np.array([_checksum(h, row) for h, row in zip(hashes, rows, strict=True)], dtype=np.uint32),
        }
        if not (self.folder / "key.json").exists():
            files.write_json(self.folder / "key.json", self.key)
        files.write_bytes(self.folder / f"{uuid.uuid4().hex}.safetensors", save(table))

    def _mend(self, path: Path, good: Mapping[str, np.ndarray]) -> None:
        """Keep a damaged shard's good rows in a new one; a store that cannot be written stays as it is."""
        with suppress(OSError, OutputError):
            if good:
                self.put(list(good), np.stack(list(good.values())))
            path.unlink(missing_ok=True)


def _read_shard(path: Path) -> tuple[dict[str, np.ndarray], int]:
    """The good rows of a shard, and the number of bad ones (1 for a shard that cannot be read at all)."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        table = load_file(path)
        rows, hashes, sums = table["rows"], table["hashes"], table["checksums"]
        names = [hashes[number].tobytes().hex() for number in range(len(rows))]
        good = {
            name: row
            for name, row, wanted in zip(names, rows, sums, strict=True)
            if row.dtype == np.float32 and _checksum(name, row) == int(wanted)
        }
    except FileNotFoundError:  # another process has just mended it
        return {}, 0
    except (OSError, SafetensorError, KeyError, ValueError, IndexError, TypeError, OverflowError):
        return {}, 1
    return good, len(names) - len(good)


def _checksum(name: str, row: np.ndarray) -> int:
    return zlib.crc32(row.tobytes(), zlib.crc32(bytes.fromhex(name)))


def embed(
    source: Source,
    items: Sequence[Item],
    *,
    hashes: Mapping[str, str],
    how: Pass = Pass(),
    use_store: bool = True,
    reporter: Reporter | None = None,
) -> Features:
    """Features of `items` at the head's input, float32 (n, d): from the store, or computed once and kept.

    Items with the same bytes are computed once. An item whose file has become unreadable or was replaced since the
    audit gets a row of NaN and is named in `skipped`: the caller drops it, nothing takes its place.
    Batches are always full (the last is filled up with copies), so that a row's bits do not depend on which other rows
    the store held.
    """
    reporter = reporter or Silent()
    keys = [hashes[item.name] for item in items]
    store = FeatureStore(feature_key(source, how))
    known = store.get(keys) if use_store else {}
    if store.damaged:
        reporter.note(f"{store.damaged} damaged rows of kept features are dropped and computed again")
    reused = sum(1 for key in keys if key in known)
    waiting: dict[str, list[Item]] = {}
    for key, item in zip(keys, items, strict=True):
        if key not in known:
            waiting.setdefault(key, []).append(item)
    skipped: list[Skipped] = []
    computed = 0
    while waiting:  # one round, and another for the twins of files that could not be read
        turn = {key: twins.pop(0) for key, twins in waiting.items()}
        fresh, bad = _compute(source, turn, how=how, store=store if use_store else None, reporter=reporter)
        skipped += bad
        computed += len(fresh)
        known.update(fresh)
        waiting = {key: twins for key, twins in waiting.items() if key not in known and twins}
    width = source.width(how.pooling)
    missing = np.full(width, np.nan, dtype=np.float32)
    rows = np.stack([known.get(key, missing) for key in keys]) if keys else np.empty((0, width), np.float32)
    return Features(rows, computed=computed, reused=reused, skipped=tuple(skipped))


def _compute(
    source: Source,
    turn: Mapping[str, Item],
    *,
    how: Pass,
    store: FeatureStore | None,
    reporter: Reporter,
) -> tuple[dict[str, np.ndarray], list[Skipped]]:
    """One pass in inference mode over the items of `turn`, by hash; rows are kept shard by shard."""
    keys = list(turn)
    views = Views(list(turn.values()), source.card, view=how.view, hashes=keys)
    size = how.batch_size
    order = [np.arange(start, min(start + size, len(keys))) for start in range(0, len(keys), size)]
    known: dict[str, np.ndarray] = {}
    pending: list[str] = []
    skipped: list[Skipped] = []
    source.to(device=how.device).to(memory_format=torch.channels_last)  # in inference mode: never to be trained again
    with (
        evaluating(source),
        torch.inference_mode(),
        reporter.progress("Computing features", len(keys)) as bar,
    ):
        for batch in batches(views, order, workers=how.workers):
            skipped += batch.skipped
            if len(batch.index):
                rows = _forward(source, batch.images.to(how.device), pooling=how.pooling, batch_size=size)
                names = [keys[int(i)] for i in batch.index]
                known.update(zip(names, rows, strict=True))
                pending += names
            bar.advance(len(batch.index) + len(batch.skipped))
            if store is not None and len(pending) >= _SHARD_ROWS:
                store, pending = _flush(store, pending, known, reporter), []
        if store is not None and pending:
            _flush(store, pending, known, reporter)
    return known, skipped


def _forward(source: Source, images: Tensor, *, pooling: str, batch_size: int) -> np.ndarray:
    """Rows of a batch of views that is filled up to `batch_size`: kernels may round other sizes differently."""
    filling = images[:1].expand(batch_size - len(images), -1, -1, -1)
    inputs = augment.normalise(torch.cat([images, filling]), source.card)
    features = source(inputs.contiguous(memory_format=torch.channels_last), pooling)[: len(images)]
    rows: np.ndarray = features.float().cpu().numpy()
    if not np.isfinite(rows).all():
        raise SourceError(
            "gives features that are not finite numbers: its weights are damaged or not for this input",
            where=source.address,
            remedy="Fetch the weights again, or choose another --source.",
        )
    return rows


def _flush(
    store: FeatureStore, names: list[str], known: Mapping[str, np.ndarray], reporter: Reporter
) -> FeatureStore | None:
    """Keep rows; a store that cannot be written costs the next run time, and this one nothing."""
    try:
        store.put(names, np.stack([known[name] for name in names]))
    except OutputError as error:
        reporter.note(f"features are not kept for later runs: {error}")
        return None
    return store
