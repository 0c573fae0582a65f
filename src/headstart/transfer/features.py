"""The store of features: what lies below the cut runs once per item and view.

A row is keyed by the sha256 of the picture's bytes inside a folder keyed by everything else that shapes it: the weights
below the cut, the whole preprocessing, pooling, view, number format and versions. A row can therefore be shared by
every run, strategy, head and fold, and nothing that changed can ever be served for something else.

On disk a key's folder holds shards, each written whole under a new name: any number of processes may fill the same
store at once, and a run that was killed keeps what it had finished. Every row carries a checksum; a damaged row is
dropped and computed again.
"""

from __future__ import annotations

import logging
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from headstart import files
from headstart.data import augment
from headstart.data.loader import Views, batches
from headstart.errors import HeadstartError, OutputError
from headstart.progress import Reporter, Silent
from headstart.records import Item, Skipped
from headstart.sources.base import Source, evaluating

__all__ = ["FeatureStore", "Features", "embed", "feature_key"]

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


def feature_key(source: Source, *, pooling: str, view: str = "center") -> dict[str, object]:
    """Everything besides the picture that shapes a row."""
    import PIL

    return {
        "format": _FORMAT,
        "views": augment.VERSION,
        "pillow": PIL.__version__.split(".")[0],
        "weights": source.hash_below("head"),
        "architecture": source.card.architecture,
        "model_args": dict(source.card.model_args),
        "preprocessing": source.card.preprocessing,
        "pooling": pooling,
        "view": view,
        "dtype": "float32",
    }


class FeatureStore:
    """Rows on disk for one key; `folder` is its own and is made at the first `put`."""

    def __init__(self, key: Mapping[str, object], *, root: Path | None = None) -> None:
        name = files.hash_json(key)
        self.key = dict(key)
        self.folder = (root or files.home() / "features") / name[:2] / name
        self._rows: dict[str, np.ndarray] = {}
        self.damaged = 0
        self._read: set[str] = set()

    def get(self, hashes: Sequence[str]) -> dict[str, np.ndarray]:
        """The rows that are there, by hash; damaged ones are left out and counted."""
        self._refresh()
        return {h: self._rows[h] for h in hashes if h in self._rows}

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
        name = f"{uuid.uuid4().hex}.safetensors"
        files.write_bytes(self.folder / name, save(table))
        self._read.add(name)
        self._rows.update(zip(hashes, rows, strict=True))

    def _refresh(self) -> None:
        if not self.folder.is_dir():
            return
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name not in self._read:
                self._read.add(path.name)
                self._load(path)

    def _load(self, path: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            table = load_file(path)
            rows, hashes, sums = table["rows"], table["hashes"], table["checksums"]
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            log.warning("feature shard %s is damaged and is computed again: %s", path.name, error)
            self.damaged += 1
            return
        for number, row in enumerate(rows):
            name = hashes[number].tobytes().hex()
            if _checksum(name, row) == int(sums[number]):
                self._rows[name] = row
            else:
                self.damaged += 1


def _checksum(name: str, row: np.ndarray) -> int:
    return zlib.crc32(row.tobytes(), zlib.crc32(bytes.fromhex(name)))


def embed(
    source: Source,
    items: Sequence[Item],
    *,
    hashes: Mapping[str, str],
    pooling: str = "native",
    view: str = "center",
    use_store: bool = True,
    device: str = "cpu",
    reporter: Reporter | None = None,
    workers: int | None = None,
    batch_size: int = 32,
) -> Features:
    """Features of `items` at the head's input, float32 (n, d): from the store, or computed once and kept.

    Items with the same bytes are computed once. An item whose file has become unreadable since the audit gets a row of
    NaN and is named in `skipped`: the caller drops it, nothing takes its place.
    """
    keys = [hashes[item.name] for item in items]
    store = FeatureStore(feature_key(source, pooling=pooling, view=view))
    known = store.get(keys) if use_store else {}
    reused = sum(1 for key in keys if key in known)
    first: dict[str, int] = {}
    for position, key in enumerate(keys):
        if key not in known:
            first.setdefault(key, position)
    todo = list(first.values())
    skipped: list[Skipped] = []
    if todo:
        views = Views([items[p] for p in todo], source.card, kind=view)
        keep = store if use_store else None
        fresh = _compute(
            source, views, [keys[p] for p in todo],
            pooling=pooling, store=keep, device=device, reporter=reporter or Silent(), workers=workers,
            batch_size=batch_size, skipped=skipped,
        )  # fmt: skip
        known.update(fresh)
    width = source.width(pooling)
    missing = np.full(width, np.nan, dtype=np.float32)
    rows = np.stack([known.get(key, missing) for key in keys]) if keys else np.empty((0, width), np.float32)
    return Features(rows, computed=len(todo) - len(skipped), reused=reused, skipped=tuple(skipped))


def _compute(
    source: Source,
    views: Views,
    keys: list[str],
    *,
    pooling: str,
    store: FeatureStore | None,
    device: str,
    reporter: Reporter,
    workers: int | None,
    batch_size: int,
    skipped: list[Skipped],
) -> dict[str, np.ndarray]:
    """One pass in inference mode over `views`; rows are kept shard by shard."""
    order = [np.arange(start, min(start + batch_size, len(keys))) for start in range(0, len(keys), batch_size)]
    known: dict[str, np.ndarray] = {}
    pending: list[str] = []
    network = source.to(device=device).to(memory_format=torch.channels_last)  # inside, its weights could not be trained
    with (
        evaluating(source),
        torch.inference_mode(),
        reporter.progress("Computing features", len(keys)) as bar,
    ):
        for batch in batches(views, order, workers=workers):
            skipped += batch.skipped
            if len(batch.index):
                images = augment.normalise(batch.images.to(device), source.card)
                rows = network(images.contiguous(memory_format=torch.channels_last), pooling).float().cpu().numpy()
                if not np.isfinite(rows).all():
                    raise HeadstartError(
                        f"the source {source.address} gives features that are not finite: its weights are damaged"
                    )
                names = [keys[int(i)] for i in batch.index]
                known.update(zip(names, rows, strict=True))
                pending += names
            bar.advance(len(batch.index) + len(batch.skipped))
            if store is not None and len(pending) >= _SHARD_ROWS:
                store, pending = _flush(store, pending, known, reporter), []
        if store is not None and pending:
            _flush(store, pending, known, reporter)
    return known


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


def store_size(root: Path | None = None) -> int:
    """Bytes that the store takes on disk."""
    base = root or files.home() / "features"
    return sum(entry.stat().st_size for entry in base.rglob("*") if entry.is_file() and not entry.is_symlink())
