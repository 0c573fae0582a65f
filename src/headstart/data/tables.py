"""Manifests (CSV, TSV, JSONL, Parquet) and Parquet shards with picture cells, as rows with class names."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from headstart.data.cells import open_parquet
from headstart.errors import DataError, did_you_mean
from headstart.records import FileOrigin, Origin, ParquetOrigin

__all__ = ["SPLIT_NAMES", "Found", "header_problem", "read_manifest", "read_shards"]

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""Words for splits in manifests and Parquet names (in any case) → train, val, test."""


_PICTURE = ("file_name", "image", "path", "file", "filename", "filepath", "img")
_LABEL = ("label", "labels", "class", "class_name", "category", "target")
_SPLIT = ("split",)
_GROUP = ("group", "group_id")
_SHARD = re.compile(r"^(?P<split>[A-Za-z]+)(?:-(?P<number>\d{5})-of-(?P<count>\d{5}))?(?:-[0-9a-f]{16})?$")


@dataclass(frozen=True, slots=True)
class Found:
    """One picture as a layout gives it: its class by name."""

    name: str
    origin: Origin
    label: str
    split: str = ""
    group: str | None = None


Rows = tuple[list[Found], list[str]]


def read_manifest(path: Path, *, group: str | None = None) -> Rows:
    """The rows of a manifest file; picture paths are relative to its folder. `group` names the column of groups.

    Raises DataError with the line number for a wrong header, a missing value, an unknown split or bad encoding.
    """
    if path.suffix.lower() == ".parquet":
        return read_shards([path], path.parent, group=group)
    found: list[Found] = []
    lines: dict[str, tuple[int, tuple[str, str]]] = {}
    repeats = 0
    columns: dict[str, str | None] | None = None
    for line, row in _rows(path):
        columns = columns or _grouped(_columns(list(row), path, line), list(row), group, path)
        entry = _manifest_row(row, columns, path, line)
        if entry.name in lines:
            first, meaning = lines[entry.name]
            if meaning != (entry.label, entry.split):
                raise DataError(
                    f"{entry.name} stands in line {first} and line {line} with different labels or splits",
                    where=path,
                    remedy="Keep one of the two lines",
                )
            repeats += 1
            continue
        lines[entry.name] = (line, (entry.label, entry.split))
        found.append(entry)
    found.sort(key=lambda entry: entry.name)
    return found, [f"{repeats} repeated lines of the manifest were left out"] if repeats else []


def header_problem(path: Path) -> DataError | None:
    """What is wrong with the columns of a manifest, or None: a metadata.csv may well be about something else."""
    if path.suffix.lower() == ".parquet":
        return None
    try:
        for line, row in _rows(path):
            _columns(list(row), path, line)
            break
    except DataError as error:
        return error
    return None


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    text, suffix = _text(path), path.suffix.lower()
    return _json_rows(text, path) if suffix in (".jsonl", ".ndjson") else _csv_rows(text, path, suffix)


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror})", where=path, remedy="Check the path and its permissions"
        ) from error
    try:
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"line {line} is not UTF-8 (byte {error.start})", where=path, remedy="Save the file as UTF-8"
        ) from error


def _csv_rows(text: str, path: Path, suffix: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    header = text.partition("\n")[0]
    delimiter = "\t" if suffix == ".tsv" else max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if None in row:
                raise DataError(
                    f"line {reader.line_num} has more cells than the header",
                    where=path,
                    remedy="Mend that line, or quote cells that hold the separator",
                )
            yield reader.line_num, {str(key).strip(): value for key, value in row.items()}
    except csv.Error as error:
        raise DataError(f"line {reader.reader.line_num}: {error}", where=path, remedy="Mend that line") from error


def _json_rows(text: str, path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line, words in enumerate(text.split("\n"), start=1):
        if not words.strip():
            continue
        try:
            row = json.loads(words)
        except (ValueError, RecursionError) as error:
            raise DataError(f"line {line} is not JSON ({error})", where=path, remedy="Mend that line") from error
        if not isinstance(row, dict):
            raise DataError(f"line {line} is not a JSON object", where=path, remedy="Mend that line")
        yield line, row


def _columns(names: Sequence[str], path: Path, line: int) -> dict[str, str | None]:
    """Our word → the name of the column that holds it."""
    lower = {name.lower(): name for name in reversed(names)}
    wanted = {"picture": _PICTURE, "label": _LABEL, "split": _SPLIT, "group": _GROUP}
    columns = {word: next((lower[name] for name in known if name in lower), None) for word, known in wanted.items()}
    for word, shown in (("picture", "file_name"), ("label", "label")):
        if columns[word] is None:
            raise DataError(
                f"line {min(line, 1)} has no column {shown!r}: it has {', '.join(names) or 'nothing'}",
                where=path,
                remedy="Wanted: file_name (or image, or path), label, and if you like split and group",
            )
    return columns


def _grouped(
    columns: dict[str, str | None], names: Sequence[str], group: str | None, path: Path
) -> dict[str, str | None]:
    """The columns with the one that the user named for the groups."""
    if group is None:
        return columns
    lower = {name.lower(): name for name in reversed(names)}
    found = group if group in names else lower.get(group.lower())
    if found is None:
        raise DataError(
            f"there is no column {group!r} to group by: there are {', '.join(names[:20])}",
            where=path,
            remedy=did_you_mean(group, list(names)),
        )
    for word in ("picture", "label", "split"):
        if columns[word] == found:
            raise DataError(
                f"the column {found!r} holds the {word} and cannot be the group too",
                where=path,
                remedy="Name a column that says what belongs together, such as patient or video",
            )
    return {**columns, "group": found}


def _manifest_row(row: Mapping[str, Any], columns: Mapping[str, str | None], path: Path, line: int) -> Found:
    def value(word: str) -> str:
        column = columns[word]
        entry = None if column is None else row.get(column)
        if isinstance(entry, (dict, list)):
            raise DataError(f"line {line}: {column} is not a text", where=path, remedy="Mend that line")
        return "" if entry is None else str(entry).strip()

    picture, label = value("picture"), value("label")
    for word, entry in (("picture", picture), ("label", label)):
        if not entry:
            raise DataError(f"line {line} has no {columns[word]}", where=path, remedy="Fill it in or drop the line")
    name = PurePosixPath(picture.replace("\\", "/")).as_posix()
    return Found(
        name, FileOrigin(path.parent / name), label, _split_word(value("split"), path, line), value("group") or None
    )


def _split_word(word: str, path: Path, line: int) -> str:
    if not word:
        return ""
    if word.lower() not in SPLIT_NAMES:
        raise DataError(
            f"line {line}: unknown split {word!r}", where=path, remedy=did_you_mean(word, ["train", "val", "test"])
        )
    return SPLIT_NAMES[word.lower()]


# --- Parquet ----------------------------------------------------------------------------------------------


def read_shards(paths: Sequence[Path], root: Path, *, group: str | None = None) -> Rows:
    """The rows of Parquet files; splits come from a split column or from names like train-00000-of-00002.parquet.

    `group` names the column of groups. Raises DataError for a damaged file or missing columns, MissingExtraError
    without pyarrow.
    """
    found: list[Found] = []
    counts: dict[tuple[str, int], set[int]] = {}
    for path in sorted(paths):
        split = ""
        if match := _SHARD.match(path.stem):
            split = SPLIT_NAMES.get(match["split"].lower(), "")
            if match["count"]:
                counts.setdefault((match["split"], int(match["count"])), set()).add(int(match["number"]))
        found += _shard(path, root, split, group)
    notes = [
        f"{split}: {len(numbers)} of {count} Parquet files are there"
        for (split, count), numbers in sorted(counts.items())
        if len(numbers) < count
    ]
    return found, notes


def _shard(path: Path, root: Path, split: str, by: str | None) -> list[Found]:
    try:
        file = open_parquet(path)
        schema = file.schema_arrow
        columns, names = _shard_columns(schema, path)
        columns = _grouped(columns, schema.names, by, path)
        wanted = [name for word, name in columns.items() if name and (word != "picture" or _is_text(schema, name))]
        table = file.read(columns=wanted).to_pydict()
        rows = file.metadata.num_rows
        file.close()
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot be read as Parquet ({' '.join(str(error).split())[:120]})",
            where=path,
            remedy="Write the file again as Parquet",
        ) from error
    picture = columns["picture"] or ""
    base = path.relative_to(root).as_posix()
    found: list[Found] = []
    for row in range(rows):
        value = {word: table[name][row] if name in table else None for word, name in columns.items()}
        label = value["label"]
        if label is None or label == "":
            raise DataError(f"row {row} has no {columns['label']}", where=path, remedy="Fill it in or drop the row")
        if isinstance(label, int) and names is not None:
            if not 0 <= label < len(names):
                raise DataError(
                    f"row {row} has the label {label}, and there are {len(names)} names",
                    where=path,
                    remedy="Mend that row, or the names",
                )
            label = names[label]
        origin: Origin = ParquetOrigin(path, row, picture)
        name = f"{base}#{row}"
        if picture in table:
            name = PurePosixPath(str(value["picture"])).as_posix()
            origin = FileOrigin(path.parent / name)
        own = _split_word(str(value["split"] or ""), path, row) or split
        group = value["group"]
        alone = group is None or group != group or not str(group).strip()  # a missing number is NaN
        found.append(Found(name, origin, str(label), own, None if alone else str(group)))
    return found


def _is_text(schema: Any, name: str) -> bool:
    return str(schema.field(name).type) in ("string", "large_string", "string_view")


def _shard_columns(schema: Any, path: Path) -> tuple[dict[str, str | None], list[str] | None]:
    """The columns by our words, and the class names of the Hugging Face metadata if they are there."""
    features = _features(schema)
    columns: dict[str, str | None] = {}
    pictures = [name for name, facts in features.items() if facts.get("_type") == "Image" and name in schema.names]
    classes = [name for name, facts in features.items() if facts.get("_type") == "ClassLabel" and name in schema.names]
    if pictures or classes:
        known = [name for name in schema.names if name not in pictures and name not in classes]
        renamed = [*pictures[:1], *[name for name in classes if name.lower() in _LABEL][:1], *classes[:1], *known]
        lower = {name.lower(): name for name in reversed(renamed)}
        columns["picture"] = pictures[0] if pictures else next((lower[n] for n in _PICTURE if n in lower), None)
        columns["label"] = next((lower[n] for n in _LABEL if n in lower), classes[0] if classes else None)
        columns["split"] = lower.get("split")
        columns["group"] = next((lower[n] for n in _GROUP if n in lower), None)
    if not columns.get("picture") or not columns.get("label"):
        columns = _columns(schema.names, path, 1)
    names = features.get(columns["label"] or "", {}).get("names")
    return columns, [str(name) for name in names] if isinstance(names, list) else None


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    try:
        stored = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    if not isinstance(stored, dict):
        return {}
    return {name: facts for name, facts in stored.items() if isinstance(facts, dict)}
