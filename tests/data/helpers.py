"""Small data sets on disk, and the hash of a folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import odd_files

from headstart.records import Dataset, Item, MemoryOrigin


def picture(seed: int = 0, *, kind: str = "JPEG") -> bytes:
    """Encoded bytes of a small picture that differs with the seed."""
    return odd_files.encoded(odd_files.photo(24, 16, seed), kind)


def fill(root: Path, layout: Mapping[str, int], *, start: int = 0) -> Path:
    """Write pictures: {"train/cat": 3} gives three different ones in that folder."""
    seed = start
    for folder, count in layout.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (root / folder / f"{number:03d}.jpg").write_bytes(picture(seed))
            seed += 1
    return root


def shard(
    path: Path,
    cells: Sequence[Any],
    labels: Sequence[Any],
    *,
    names: Sequence[str] | None = None,
    plain: bool = False,
    row_group: int = 3,
    **more: Sequence[Any],
) -> Path:
    """Write a Parquet file in the Hugging Face convention (`plain`: a binary column and no metadata)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.binary() if plain else pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    values = [
        cell if plain or cell is None or isinstance(cell, dict) else {"bytes": cell, "path": None} for cell in cells
    ]
    table = pa.table(
        {"image": pa.array(values, kind), "label": pa.array(labels), **{k: pa.array(v) for k, v in more.items()}}
    )
    if not plain:
        label: dict[str, Any] = {"_type": "ClassLabel", "names": list(names)} if names else {"_type": "Value"}
        features = {"image": {"_type": "Image"}, "label": label}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group)
    return path


def folder_hash(root: Path) -> str:
    """Names, kinds, times of change and contents of everything below a folder."""
    digest = hashlib.sha256()
    for place, folders, files in sorted(os.walk(root)):
        folders.sort()
        for name in sorted(files):
            path = Path(place) / name
            facts = path.lstat()
            digest.update(f"{str(path)!a} {facts.st_mode} {facts.st_mtime_ns} {facts.st_size}".encode())
            if path.is_file() and not path.is_symlink() and facts.st_size < 1 << 24:
                digest.update(path.read_bytes())
    return digest.hexdigest()


def made(
    labels: Sequence[int],
    *,
    splits: Sequence[str] | None = None,
    groups: Sequence[str | None] | None = None,
    names: Sequence[str] | None = None,
) -> Dataset:
    """A data set without pictures: item i has labels[i]."""
    classes = tuple(f"class{number}" for number in range(max(labels, default=0) + 1))
    items = tuple(
        Item(
            names[i] if names else f"item{i:04d}",
            MemoryOrigin(b""),
            label,
            splits[i] if splits else "",
            groups[i] if groups else None,
        )
        for i, label in enumerate(labels)
    )
    return Dataset("made", classes, items)
