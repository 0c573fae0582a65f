"""From a path or a list to a Dataset: which pictures there are, their labels, groups and splits; no pixels are read.

Layouts: DIR/{train,val,test}/CLASS/file, DIR/CLASS/file, a CSV/TSV/JSONL/Parquet manifest (the file, or a folder with
metadata.csv), Parquet with picture cells (the file, or a folder of SPLIT-00000-of-0000N.parquet), Python lists.
Classes are sorted by code point and matched by name over all splits. Nothing is ever written.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from headstart.data import tables
from headstart.data.decode import SUFFIXES
from headstart.data.tables import SPLIT_NAMES, Found
from headstart.data.walk import Walked, is_hidden, suffix_counts, walk
from headstart.errors import DataError, did_you_mean
from headstart.records import Dataset, FileOrigin, Item, MemoryOrigin, Origin, Skipped

__all__ = ["LAYOUTS", "assemble", "find_images", "read"]

LAYOUTS = (
    "Wanted: DIR/CLASS/picture.jpg, or DIR/train/CLASS/picture.jpg with val and test beside it, or a CSV, JSONL or"
    " Parquet file with the columns file_name and label"
)
_TABLE = "a table with the columns file_name, label and the one to group by"
_FOLDER_SPLITS = ("train", "val", "valid", "validation", "test")
_MANIFESTS = ("metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.parquet")
_MANIFEST_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")


@dataclass(slots=True)
class _Folder:
    """What was met while folders were walked."""

    found: list[Found] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    walked: list[Walked] = field(default_factory=list)


def read(
    data: str | Path | Sequence[Any],
    *,
    labels: Sequence[Any] | None = None,
    fewest: int = 2,
    group: str | None = None,
) -> Dataset:
    """Read a data folder, a manifest, Parquet files or Python lists (`data` with `labels`) into a Dataset.

    `group` names the column of a table whose equal values stay on one side; in folders "folder" groups the pictures in
    CLASS/NAME/ by NAME. Raises DataError when the layout is not one of ours, when there is no such column, when a class
    of val or test is missing in train, or when there are less than `fewest` classes (two to learn from, one to judge a
    model on); MissingExtraError for Parquet without pyarrow.
    """
    try:
        dataset = _read(data, labels, group)
    except PermissionError as error:
        where = error.filename or data
        raise DataError("permission denied", where=where, remedy="Make it readable for this user") from error
    if len(dataset.classes) < fewest:
        seen = f"only one class, {dataset.classes[0]!r}" if dataset.classes else "no class"
        told = f"{seen} in {len(dataset.items)} pictures: two at least are needed"
        raise DataError(told, where=dataset.path, remedy=LAYOUTS)
    return dataset


def _read(data: str | Path | Sequence[Any], labels: Sequence[Any] | None, group: str | None) -> Dataset:
    """The data set as it is, whatever its classes."""
    if not isinstance(data, (str, Path)):
        if group is not None:
            raise _no_columns("pictures in memory", group, None)
        return _from_lists(data, labels)
    if labels is not None:
        raise DataError("labels belong to a list of pictures, not to a path", where=data, remedy="Give the path alone")
    path = Path(data).expanduser()
    if path.is_dir():
        return _from_folder(path, group)
    if path.is_file() or path.exists():
        return _from_file(path, group)
    raise _missing(path)


def find_images(paths: Iterable[str | Path] | str | Path) -> list[Item]:
    """Unlabelled items for prediction, from files (whatever their suffix) and folders (recursively, pictures only).

    A folder that cannot be read is an item too, of which nothing can be read. Names are as the user gave them, with
    forward slashes. Raises DataError when a path is missing or nothing is found.
    """
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    items: dict[Path, Item] = {}
    for entry in given:
        path = Path(entry)
        try:
            is_folder, there = path.is_dir(), path.exists() or path.is_symlink()
        except PermissionError:
            is_folder, there = False, True  # reading it says so
        if is_folder:
            whole = walk(path)
            places = [path / relative for relative in whole.files if _is_picture(relative)]
            places += [path / folder.file for folder in whole.skipped]  # forbidden: reading it says so
            found = [(place.as_posix(), place) for place in places]
        elif there:
            found = [(str(entry).replace(os.sep, "/"), path)]
        else:
            raise _missing(path)
        for name, place in found:
            items.setdefault(place, Item(name, FileOrigin(place)))
    if not items:
        raise DataError(
            "no pictures found",
            where=", ".join(str(entry) for entry in given) or None,
            remedy="Give pictures, or folders that hold some",
        )
    return list(items.values())


def assemble(
    path: str,
    found: Sequence[Found],
    *,
    skipped: Sequence[Skipped] = (),
    notes: Sequence[str] = (),
) -> Dataset:
    """Turn class names into indices and check the classes: the last step of every layout.

    Raises DataError for a class of val or test that train lacks.
    """
    named = [(entry, unicodedata.normalize("NFC", entry.label)) for entry in found]
    classes = tuple(sorted({label for _, label in named}))
    index = {name: number for number, name in enumerate(classes)}
    notes = [*notes, *_check_splits(path, named, classes)]
    items = tuple(Item(entry.name, entry.origin, index[label], entry.split, entry.group) for entry, label in named)
    return Dataset(path, classes, items, tuple(skipped), tuple(notes))


def _check_splits(path: str, named: Sequence[tuple[Found, str]], classes: tuple[str, ...]) -> list[str]:
    """Raise for a class that train lacks; note a class that val or test lacks."""
    present: dict[str, set[str]] = {}
    for entry, label in named:
        present.setdefault(entry.split, set()).add(label)
    learnable = present.get("train", set()) | present.get("", set())
    notes: list[str] = []
    for split in ("val", "test"):
        if split not in present:
            continue
        strangers = sorted(present[split] - learnable)
        if learnable and strangers:
            raise DataError(
                f"{split} has the class {strangers[0]!r}"
                + (f" (and {len(strangers) - 1} more)" if len(strangers) > 1 else "")
                + f", which train lacks (train has {_few(sorted(learnable))})",
                where=path,
                remedy=f"Add pictures of it to train, or take it out of {split}",
            )
        absent = [name for name in classes if name in learnable and name not in present[split]]
        if absent:
            notes.append(f"{split} has no picture of {_few(absent)}")
    return notes


# --- folders ----------------------------------------------------------------------------------------------


def _from_folder(path: Path, group: str | None) -> Dataset:
    problem: DataError | None = None
    for name in _MANIFESTS:
        if (path / name).is_file():
            problem = tables.header_problem(path / name)
            if problem is None:
                return _assemble_table(path.as_posix(), tables.read_manifest(path / name, group=group), group)
    if problem is not None:
        return _without_manifest(path, problem, group)
    return _from_shards_or_folders(path, group)


def _without_manifest(path: Path, problem: DataError, group: str | None) -> Dataset:
    """The folder's own layout where metadata.csv is about something else; else the manifest's problem."""
    try:
        dataset = _from_shards_or_folders(path, group)
    except DataError:
        raise problem from None
    note = f"{Path(str(problem.where)).name} was not used as a manifest: {problem.what}"
    return dataset.with_items(dataset.items, notes=(*dataset.notes, note))


def _from_shards_or_folders(path: Path, group: str | None) -> Dataset:
    top = walk(path, depth=1)
    if path_errors := [entry for entry in top.skipped if entry.file in ("", ".")]:
        raise DataError(
            f"the folder cannot be read: {path_errors[0].reason}", where=path, remedy="Check its permissions"
        )
    shards = [path / name for name in top.files if name.lower().endswith(".parquet")]
    if not shards and "data" in top.folders:
        inner = walk(path / "data", depth=1)
        shards = [path / "data" / name for name in inner.files if name.lower().endswith(".parquet")]
    if shards:
        return _assemble_table(path.as_posix(), tables.read_shards(shards, path, group=group), group)
    return _from_class_folders(path, group)


def _assemble_table(path: str, table: tuple[list[Found], list[str]], group: str | None) -> Dataset:
    """A Dataset from the rows and notes of a manifest or of Parquet shards."""
    found, notes = table
    if not found:
        raise DataError("no rows", where=path, remedy=LAYOUTS)
    alone = sum(1 for entry in found if entry.group is None)
    if group is not None and alone:
        notes = [*notes, f"{alone} rows have no {group}: each of them stands alone"]
    return assemble(path, found, notes=notes)


def _from_class_folders(path: Path, group: str | None) -> Dataset:
    if group not in (None, "folder"):
        raise _no_columns("a folder of class folders", group, path)
    state = _Folder()
    whole = walk(path)
    tree: dict[str, list[str]] = {folder: [] for folder in whole.folders if "/" not in folder}
    loose: list[str] = []
    for name in whole.files:
        first, _, rest = name.partition("/")
        if rest:
            tree.setdefault(first, []).append(rest)
        else:
            loose.append(name)
    if not any(_is_picture(name) for name in whole.files):
        raise _no_picture(path, whole)
    split_folders = _split_folders(path, tree)
    if split_folders:
        for folder, split in split_folders.items():
            _add_classes(state, path, folder, tree[folder], split, whole)
    else:
        _add_classes(state, path, "", [n for n in whole.files if "/" in n], "", whole)
        state.notes += _loose_note(loose, "beside the class folders")
    state.notes += _walk_notes(whole)
    if not state.found:
        raise DataError(
            f"{sum(map(_is_picture, whole.files))} pictures but no class folders", where=path, remedy=LAYOUTS
        )
    if group is not None:
        _group_by_folder(state, path, depth=2 if split_folders else 1)
    return assemble(path.as_posix(), state.found, skipped=[*state.skipped, *whole.skipped], notes=state.notes)


def _split_folders(path: Path, tree: dict[str, list[str]]) -> dict[str, str]:
    """Folder → split, or nothing when the folders are classes (a class may well be called "train")."""
    named = {folder: SPLIT_NAMES[folder.lower()] for folder in tree if folder.lower() in _FOLDER_SPLITS}
    if not named:
        return {}
    others = [folder for folder in tree if folder not in named and any(map(_is_picture, tree[folder]))]
    if others:
        if not any("/" in name for folder in named for name in tree[folder]):
            return {}
        raise DataError(
            f"the folder mixes splits ({_few(sorted(named))}) with other folders ({_few(sorted(others))})",
            where=path,
            remedy="Keep only train, val and test there, or move the split folders out. " + LAYOUTS,
        )
    for split in ("train", "val", "test"):
        twice = sorted(folder for folder, name in named.items() if name == split)
        if len(twice) > 1:
            raise DataError(f"{' and '.join(twice)} mean the same split", where=path, remedy="Keep one of them")
    return named


def _add_classes(state: _Folder, path: Path, folder: str, names: list[str], split: str, whole: Walked) -> None:
    """Add every picture under FOLDER/CLASS/ with its class; note empty classes and pictures outside classes."""
    prefix = f"{folder}/" if folder else ""
    loose = [name for name in names if "/" not in name]
    state.notes += _loose_note(loose, f"in {folder} outside the class folders")
    filled: set[str] = set()
    base = os.path.join(path, "") if path != Path() else ""  # noqa: PTH118 - a Path an item takes long
    for name in names:
        label, _, rest = name.partition("/")
        if rest and _is_picture(rest):
            filled.add(label)
            state.found.append(Found(prefix + name, FileOrigin(base + prefix + name), label, split))
    depth = prefix.count("/")
    classes = [
        entry[len(prefix) :] for entry in whole.folders if entry.startswith(prefix) and entry.count("/") == depth
    ]
    if empty := [name for name in classes if name not in filled]:
        state.notes.append(f"no picture in {_few([prefix + name for name in empty])}: left out")


def _group_by_folder(state: _Folder, path: Path, *, depth: int) -> None:
    """Give every picture in CLASS/NAME/ the group NAME; `depth` folders come before NAME."""
    names = ["/".join(entry.name.split("/")[depth:-1]) for entry in state.found]
    alone = names.count("")
    if alone == len(names):
        raise DataError(
            "no picture lies in a folder below its class: there is nothing to group by",
            where=path,
            remedy=f"Wanted: CLASS/NAME/picture.jpg, or {_TABLE}",
        )
    state.found = [replace(entry, group=name or None) for entry, name in zip(state.found, names, strict=True)]
    if alone:
        state.notes.append(f"{alone} pictures lie in no folder below their class: each of them stands alone")


def _loose_note(names: list[str], place: str) -> list[str]:
    count = sum(1 for name in names if _is_picture(name))
    return [f"{count} pictures {place} were not used"] if count else []


def _walk_notes(whole: Walked) -> list[str]:
    notes = []
    others = [name for name in whole.files if not _is_picture(name)]
    if others:
        notes.append(f"{len(others)} files are no pictures and were left out ({suffix_counts(others)})")
    if whole.hidden:
        notes.append(f"{whole.hidden} hidden or system files and folders were left out")
    if whole.repeated:
        notes.append(f"{_few(list(whole.repeated))}: reached a second time through a link, and left out")
    return notes


def _is_picture(name: str) -> bool:
    file = name.rpartition("/")[2]  # a tenth of the time that pathlib needs for it
    dot = file.rfind(".")
    return 0 < dot < len(file) - 1 and file[dot:].lower() in SUFFIXES


def _no_picture(path: Path, whole: Walked) -> DataError:
    archives = [name for name in whole.files if name.lower().endswith(_ARCHIVES)]
    if archives:
        return DataError("no picture, but an archive", where=path / archives[0], remedy="Unpack it first")
    if not whole.files and not whole.folders:
        return DataError("the folder is empty", where=path, remedy=LAYOUTS)
    seen = f" among {len(whole.files)} files ({suffix_counts(whole.files)})" if whole.files else ""
    return DataError(f"no picture{seen}", where=path, remedy=LAYOUTS)


# --- files and lists --------------------------------------------------------------------------------------


def _from_file(path: Path, group: str | None) -> Dataset:
    suffix = path.suffix.lower()
    if suffix in _ARCHIVES:
        raise DataError("an archive is not a data folder", where=path, remedy="Unpack it and give the folder")
    if suffix not in _MANIFEST_SUFFIXES or not path.is_file():
        raise DataError("neither a folder nor a manifest", where=path, remedy=LAYOUTS)
    if suffix == ".parquet":
        return _assemble_table(path.as_posix(), tables.read_shards([path], path.parent, group=group), group)
    return _assemble_table(path.as_posix(), tables.read_manifest(path, group=group), group)


def _from_lists(data: Sequence[Any], labels: Sequence[Any] | None) -> Dataset:
    values = list(data)
    if not values:
        raise DataError("the list of pictures is empty", remedy="Give pictures and a label for each")
    if labels is None:
        raise DataError(
            "a list of pictures needs labels", remedy="Give labels=[...], one for each picture, or a folder"
        )
    names = [_label(label, position) for position, label in enumerate(labels)]
    if len(names) != len(values):
        raise DataError(f"{len(values)} pictures but {len(names)} labels", remedy="Give one label for each picture")
    taken: Counter[str] = Counter()
    found: list[Found] = []
    for position, (value, label) in enumerate(zip(values, names, strict=True)):
        is_path = isinstance(value, (str, Path))
        name = Path(value).as_posix() if is_path else f"item-{position:06d}"
        taken[name] += 1
        if taken[name] > 1:
            name = f"{name}#{taken[name]}"
        origin: Origin = FileOrigin(Path(value).expanduser()) if is_path else MemoryOrigin(value)
        found.append(Found(name, origin, label))
    return assemble("memory", found)


def _label(label: Any, position: int) -> str:
    if hasattr(label, "item"):
        label = label.item()
    if label is None or label != label or (isinstance(label, str) and not label.strip()):
        raise DataError(f"label {position} is empty", remedy="Give every picture a label")
    return str(label)


# --- messages ---------------------------------------------------------------------------------------------


def _no_columns(what: str, group: str | None, path: Path | None) -> DataError:
    folders = "" if path is None else "Use the group 'folder' where pictures lie in CLASS/NAME/, or give "
    return DataError(
        f"{what} has no column {group!r} to group by" if path else f"{what} have no column {group!r} to group by",
        where=path,
        remedy=f"{folders or 'Give '}{_TABLE}",
    )


def _missing(path: Path) -> DataError:
    hint = ""
    try:
        near = [entry.name for entry in path.parent.iterdir() if not is_hidden(entry.name)]
    except OSError:
        near = []
    if path.is_symlink():
        hint = "It is a link to nothing"
    elif near:
        guess = did_you_mean(path.name, sorted(near))
        hint = guess if guess.startswith("Did") else ""
    return DataError("no such file or folder", where=path, remedy=hint or "Check the path")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
