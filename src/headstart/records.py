"""The facts that travel through headstart, as frozen dataclasses. Standard library only.

Item and Dataset know no pixels; `Item.origin` says where the bytes are, and data.decode alone opens it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

__all__ = [
    "SCHEMA",
    "Block",
    "Card",
    "Dataset",
    "Facts",
    "FileOrigin",
    "Interval",
    "Item",
    "MemoryOrigin",
    "Origin",
    "ParquetOrigin",
    "Plan",
    "Run",
    "Scores",
    "Skipped",
    "plain",
]

SCHEMA = 1
"""Version of run.json and of headstart.json; a newer one is refused by name."""


# --- data -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, init=False)
class FileOrigin:
    """The picture is a file, kept as its folder, which its neighbours share, and its name: a sixth of a Path."""

    folder: str
    file: str

    def __init__(self, path: str | os.PathLike[str]) -> None:
        folder, file = os.path.split(path)
        object.__setattr__(self, "folder", sys.intern(folder))
        object.__setattr__(self, "file", file)

    @property
    def path(self) -> Path:
        """Where the file is."""
        return Path(self.folder, self.file)


@dataclass(frozen=True, slots=True)
class ParquetOrigin:
    """The picture is the bytes of one cell of a Parquet file: row `row` (over the whole file) of `column`."""

    path: Path
    row: int
    column: str


@dataclass(frozen=True, slots=True)
class MemoryOrigin:
    """The picture is in memory: encoded bytes, a PIL image or a uint8/uint16 array (H×W, H×W×1, H×W×3 or H×W×4)."""

    value: Any


Origin = FileOrigin | ParquetOrigin | MemoryOrigin


@dataclass(frozen=True, slots=True)
class Item:
    """One input with its label, group and split.

    `name` is the path relative to the data folder with forward slashes (unique in a Dataset);
    `label` an index into Dataset.classes or None when unknown; `split` "train", "val", "test" or "" (not yet split).
    """

    name: str
    origin: Origin
    label: int | None = None
    split: str = ""
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was not used, and why."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """Items and classes, no pixels. Classes are sorted by code point and matched by name over all splits."""

    path: str
    classes: tuple[str, ...]
    items: tuple[Item, ...]
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()

    def split(self, name: str) -> tuple[Item, ...]:
        """The items of one split, in the order of the data set."""
        return tuple(item for item in self.items if item.split == name)

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits that hold items, in the order train, val, test, unsplit."""
        present = {item.split for item in self.items}
        return tuple(name for name in ("train", "val", "test", "") if name in present)

    def with_items(self, items: tuple[Item, ...], **changes: Any) -> Dataset:
        """The same data set with other items."""
        return replace(self, items=items, **changes)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the audit found. Every file is named as Item.name; hashes are sha256 of the file's bytes in hex."""

    n_items: int
    classes: tuple[str, ...]
    splits: Mapping[str, Mapping[str, int]]  # split → class → count ("" is shown as "unsplit")
    skipped: tuple[Skipped, ...]
    duplicates: tuple[tuple[str, ...], ...]  # groups of names with identical bytes
    leaks: tuple[tuple[str, ...], ...]  # the groups among them that stand in more than one split
    contradictions: tuple[tuple[str, ...], ...]  # the groups among them with more than one label
    sizes: Mapping[
        str, Any
    ]  # {"width": {"min", "median", "max"}, "height": {...}, "modes": {"RGB": 12}, "formats": {...}}
    imbalance: float  # items of the largest class / of the smallest, over train (or all when unsplit)
    warnings: tuple[str, ...]
    hashes: Mapping[str, str] = field(default_factory=dict, repr=False)  # Item.name → sha256
    suspicious: tuple[Skipped, ...] = ()  # readable but odd (half empty, one colour); used and reported
    near_duplicates: tuple[tuple[str, ...], ...] = ()  # groups of names that show one photo, not all of one file
    near_leaks: tuple[tuple[str, ...], ...] = ()  # the groups among them that stand in more than one split
    near_contradictions: tuple[tuple[str, ...], ...] = ()  # the groups among them with more than one label
    near_confirmed: int = 0  # pairs that features added to them
    group_leaks: tuple[tuple[str, tuple[str, ...]], ...] = ()  # Item.group in more than one split, and the splits
    fingerprints: Mapping[str, bytes] = field(default_factory=dict, repr=False)  # Item.name → data.near.fingerprint


# --- source -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Card:
    """The facts that travel with weights. It alone decides the preprocessing, in training and in prediction."""

    architecture: str  # timm's name, or "torchvision/NAME"
    input_size: tuple[int, int, int] = (3, 224, 224)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: str = "bicubic"  # "bicubic", "bilinear", "nearest", "lanczos"
    crop_pct: float = 0.875
    crop_mode: str = "center"  # "center" or "squash" or "border"
    num_features: int = 0
    classes: tuple[str, ...] = ()
    licence: str = ""
    origin: str = ""  # where the weights came from, in words or an address
    model_args: Mapping[str, Any] = field(default_factory=dict)  # keyword arguments of the architecture
    sha256: str = ""  # of the weights

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Everything that shapes the pixels, as a plain dict: the part of a cache key that stands for preprocessing."""
        names = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
        return {name: plain(getattr(self, name)) for name in names}


@dataclass(frozen=True, slots=True)
class Block:
    """One stage of a source network, from input to head: its name and the names of its state entries."""

    name: str
    entries: tuple[str, ...]  # keys of the backbone's state_dict, parameters and buffers
    modules: tuple[str, ...]  # leaf modules (dotted names) that are put in eval mode when the block is frozen
    parameters: int = 0


# --- plan and result ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """Start + cut + rates + head + schedule, with a reason for each choice."""

    strategy: str  # "frozen", "partial", "discriminative", "full", "scratch"
    start: str  # "pretrained" or "random"
    cut: str  # name of the first trained block; "input" (all blocks) or "head" (none)
    head: str
    pooling: str
    epochs: int
    rates: Mapping[str, float]  # block or "head" → learning rate; empty for the head's own solver
    schedule: Mapping[str, Any] = field(default_factory=dict)  # optimizer, weight_decay, warmup, batch_size, …
    probe_first: bool = True
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its lower and upper bound (95 % unless said otherwise)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Scores:
    """Measures on one split with their intervals."""

    n: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    balanced_accuracy: float
    macro_f1: float
    log_loss: float
    calibration_error: float
    per_class: Mapping[str, Mapping[str, float]]  # class → n, precision, recall, f1
    confusion: tuple[tuple[int, ...], ...]  # rows: true class, columns: predicted
    top5_accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """The record of it all: what run.json holds (see the documentation's page on the run folder)."""

    headstart: str
    seed: int
    settings: Mapping[str, Any]
    data: Mapping[str, Any]
    source: Mapping[str, Any]
    plan: Mapping[str, Any]
    scores: Mapping[str, Any]
    baselines: Mapping[str, Any]
    seconds: Mapping[str, float]
    environment: Mapping[str, Any]
    gain_over_scratch: Mapping[str, Any] | None = None
    race: tuple[Mapping[str, Any], ...] = ()
    diagnosis: Mapping[str, Any] = field(default_factory=dict)
    features: Mapping[str, Any] = field(default_factory=dict)
    frozen: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    schema: int = SCHEMA


def plain(value: Any) -> Any:
    """Turn records, tuples, paths and numpy values into what JSON knows."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (set, frozenset)):  # sorted: their own order changes from one process to the next
        return sorted((plain(entry) for entry in value), key=repr)
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, Path):
        return value.as_posix()
    if hasattr(value, "tolist"):  # numpy arrays and scalars
        return plain(value.tolist())
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None  # JSON has no NaN; a missing number is null
    return value
