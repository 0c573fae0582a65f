"""A small stratified version of a data set, as folders of links or copies; the source is never altered."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from headstart.data.decode import read_bytes
from headstart.data.grid import sample
from headstart.data.splits import tied
from headstart.errors import DataError, OutputError, SettingsError, UnreadableImage
from headstart.files import check_writable, hash_bytes, write_bytes
from headstart.records import Dataset, FileOrigin, Item, Skipped

__all__ = ["subset"]

_UNSAFE = re.compile(r'[\x00-\x1f<>:"/\\|?*]')
_KINDS = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"GIF8", ".gif"),
    (b"II*\x00", ".tif"),
    (b"MM\x00*", ".tif"),
    (b"BM", ".bmp"),
    (b"\x00\x00\x00\x0cjP  ", ".jp2"),
)


def subset(
    dataset: Dataset,
    out: str | Path,
    *,
    per_class: int,
    val: int,
    test: int,
    seed: int = 0,
    mode: str = "link",
) -> Dataset:
    """Write OUT/{train,val,test}/CLASS/file with `per_class` training items a class and `val`, `test` items in all.

    val and test come from the data's own splits where it has them, else from the pool of train and unsplit items, each
    class keeping one item for train; both are spread evenly over the classes, and neither identical pictures nor
    groups are divided between splits that come from the pool. `mode` "link" makes symbolic links to picture files
    (copies where links are not possible), "copy" copies; cells of Parquet files and pictures in memory are always
    written out. What is too few is taken whole, with a note. Files that cannot be read at all go to `Dataset.skipped`;
    pictures are not decoded here.

    Raises OutputError when `out` exists and is not empty or cannot be written (nothing is left then), SettingsError for
    a wrong mode or count, DataError when nothing is there to take.
    """
    if mode not in ("link", "copy"):
        raise SettingsError(f"mode must be link or copy, got {mode!r}")
    if per_class < 1 or val < 0 or test < 0:
        raise SettingsError("per_class must be at least 1, and val and test at least 0")
    target = Path(out).expanduser()
    _refuse_taken(target, dataset.path)
    chosen, notes = _choose(dataset, per_class=per_class, val=val, test=test, seed=seed)
    folders = _folder_names(dataset.classes)
    items: list[Item] = []
    skipped: list[Skipped] = []
    taken: set[str] = set()
    try:
        for split, item in chosen:
            folder = f"{split}/{folders[item.label or 0]}"  # only labelled items are chosen
            try:
                name = _write(item, target, folder, mode=mode, taken=taken)
            except UnreadableImage as error:
                skipped.append(Skipped(item.name, error.reason))
                continue
            items.append(Item(name, FileOrigin(target / name), item.label, split, item.group))
    except OutputError:
        _undo(target, [item.name for item in items])
        raise
    if not items:
        raise DataError(
            "no item could be taken", where=dataset.path, remedy="Look at the data with `headstart inspect`"
        )
    items.sort(key=lambda item: item.name)
    return Dataset(target.as_posix(), dataset.classes, tuple(items), tuple(skipped), tuple(notes))


def _undo(target: Path, names: Sequence[str]) -> None:
    """Take half a data set away again."""
    for name in names:
        with suppress(OSError):
            (target / name).unlink()
    for folder in sorted((path for path in target.rglob("*") if path.is_dir()), reverse=True):
        with suppress(OSError):
            folder.rmdir()


def _refuse_taken(target: Path, source: str) -> None:
    try:
        taken = target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir())))
    except OSError as error:
        raise OutputError(f"cannot be read: {error.strerror}", where=target, remedy="Choose another folder") from error
    if taken:
        raise OutputError("exists already and is not an empty folder", where=target, remedy="Choose another folder")
    if Path(source).is_dir() and target.resolve().is_relative_to(Path(source).resolve()):
        raise OutputError("lies inside the data, which is never altered", where=target, remedy="Choose another folder")
    check_writable(target)


def _choose(
    dataset: Dataset, *, per_class: int, val: int, test: int, seed: int
) -> tuple[list[tuple[str, Item]], list[str]]:
    """The (split, item) pairs: test and val from their own splits or from the pool, then train from what is left."""
    notes: list[str] = []
    pool = _Pool([item for item in dataset.items if item.split in ("train", "") and item.label is not None], seed)
    chosen: list[tuple[str, Item]] = []
    for split, count in (("test", test), ("val", val)):
        own = [item for item in dataset.split(split) if item.label is not None]
        picked = sample(own, count, seed=seed) if own else pool.take(count)
        if len(picked) < count:
            notes.append(f"{split}: {len(picked)} items instead of {count}: no more are there")
        chosen += [(split, item) for item in picked]
    for label, name in enumerate(dataset.classes):
        picked = sample([item for item in pool.items if item.label == label], per_class, seed=seed)
        if len(picked) < per_class:
            notes.append(f"train: {len(picked)} items of {name!r} instead of {per_class}: no more are there")
        chosen += [("train", item) for item in picked]
    return chosen, notes


class _Pool:
    """Items to take from; whatever is tied to a taken item (same group, same bytes) leaves with it."""

    def __init__(self, items: list[Item], seed: int) -> None:
        self.items, self._seed = items, seed

    def take(self, count: int) -> list[Item]:
        """Take `count` items, evenly over the classes, and leave every class one item at least."""
        if not count or not self.items:
            return []
        keys = dict(zip((item.name for item in self.items), tied(self.items, _hashes(self.items)), strict=True))
        members: dict[str, list[Item]] = {}
        for item in self.items:
            members.setdefault(keys[item.name], []).append(item)
        left = Counter(item.label for item in self.items)
        picked: list[Item] = []
        gone: set[str] = set()
        for item in sample(self.items, len(self.items), seed=self._seed, by_turns=True):
            tie = Counter(other.label for other in members[keys[item.name]])
            if len(picked) == count:
                break
            if keys[item.name] not in gone and all(left[label] > n for label, n in tie.items()):
                picked.append(item)
                gone.add(keys[item.name])
                left -= tie
        self.items = [item for item in self.items if keys[item.name] not in gone]
        return picked


def _hashes(items: Sequence[Item]) -> dict[str, str]:
    hashes = {}
    for item in items:
        with suppress(UnreadableImage):  # told when it is written
            hashes[item.name] = hash_bytes(read_bytes(item))
    return hashes


def _folder_names(classes: Sequence[str]) -> list[str]:
    """A folder name for every class: the class itself where file systems allow it."""
    names = [_UNSAFE.sub("_", name).strip(". ") or "_" for name in classes]
    return [name if names.count(name) == 1 else f"{name}-{index}" for index, name in enumerate(names)]


def _write(item: Item, target: Path, folder: str, *, mode: str, taken: set[str]) -> str:
    """Link or write one item; give its name below `target`."""
    if isinstance(item.origin, FileOrigin):
        source = item.origin.path
        name = _free_name(folder, PurePosixPath(item.name).name, taken)
        if mode == "link" and _linked(source, target / name):
            return name
        write_bytes(target / name, read_bytes(item))
        return name
    data = read_bytes(item)
    stem = _UNSAFE.sub("_", item.name).replace(".parquet#", "-").replace("#", "-")
    name = _free_name(folder, stem + _suffix(data), taken)
    write_bytes(target / name, data)
    return name


def _linked(source: Path, place: Path) -> bool:
    if not source.is_file():
        raise UnreadableImage(str(source), "no such file")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(os.path.relpath(source.resolve(), place.parent.resolve()))
    except (OSError, ValueError, NotImplementedError):  # no links on this file system, or another drive
        return False
    return True


def _free_name(folder: str, base: str, taken: set[str]) -> str:
    base = _UNSAFE.sub("_", base)
    name, number = f"{folder}/{base}", 1
    while name.casefold() in taken:  # file systems may not tell cases apart
        number += 1
        plain = PurePosixPath(base)
        name = f"{folder}/{plain.stem}-{number}{plain.suffix}"
    taken.add(name.casefold())
    return name


def _suffix(data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    return next((suffix for start, suffix in _KINDS if data.startswith(start)), ".png")
