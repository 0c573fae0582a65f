"""Walk folders in a fixed order, whatever the listing order: every folder once, hidden and system files left out.

A folder is known by its device and inode, so a link loop ends and a folder that is reached twice counts once; real
folders are walked before links, so that the real name wins.
"""

from __future__ import annotations

import errno
import os
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from headstart.errors import DataError
from headstart.records import Skipped

__all__ = ["Walked", "is_hidden", "refuse_crowd", "suffix_counts", "walk"]

_SYSTEM = frozenset({"__macosx", "thumbs.db", "desktop.ini", "ehthumbs.db", "$recycle.bin", "__pycache__"})


@dataclass(frozen=True, slots=True)
class Walked:
    """What a walk found; every name is relative to its root, with forward slashes, sorted by code point."""

    files: tuple[str, ...]  # everything that is no folder, also links to nothing, pipes and devices
    folders: tuple[str, ...]
    skipped: tuple[Skipped, ...]  # folders that cannot be read
    repeated: tuple[str, ...]  # links to folders that were reached already
    hidden: int  # hidden and system files and folders, left out


def is_hidden(name: str) -> bool:
    """Whether a file or folder name is hidden (starts with a dot) or the operating system's own."""
    return name.startswith(".") or name.lower() in _SYSTEM


def suffix_counts(names: tuple[str, ...] | list[str]) -> str:
    """How many files there are of each suffix, in words: ".txt 3, .md 1"."""
    counts = Counter(PurePosixPath(name).suffix.lower() or "no suffix" for name in names)
    shown = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{suffix} {count}" for suffix, count in shown[:5]) + (", …" if len(shown) > 5 else "")


def walk(root: Path, *, depth: int | None = None) -> Walked:
    """List everything below `root` (to `depth` levels, when given); links to folders are followed once."""
    files: list[str] = []
    folders: list[str] = []
    skipped: list[Skipped] = []
    repeated: list[str] = []
    hidden = 0
    seen: set[tuple[int, int]] = set()
    real: deque[str] = deque([""])
    links: list[str] = []
    while real or links:
        relative = real.popleft() if real else links.pop(0)
        try:
            facts = os.stat(root / relative)  # noqa: PTH116
            if (facts.st_dev, facts.st_ino) in seen:
                repeated.append(relative)
                continue
            seen.add((facts.st_dev, facts.st_ino))
            with os.scandir(root / relative) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            refuse_crowd(error)
            skipped.append(Skipped(relative or ".", f"folder cannot be read ({error.strerror})"))
            continue
        if relative:
            folders.append(relative)
        for entry in entries:
            name = f"{relative}/{entry.name}" if relative else entry.name
            if is_hidden(entry.name):
                hidden += 1
            elif not _is_folder(entry):
                files.append(name)
            elif depth is not None and name.count("/") + 1 >= depth:
                folders.append(name)
            elif entry.is_symlink():
                links.append(name)
            else:
                real.append(name)
        links.sort()
    return Walked(tuple(sorted(files)), tuple(sorted(folders)), tuple(skipped), tuple(repeated), hidden)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that points to itself
        return False


def refuse_crowd(error: OSError) -> None:
    """Raise DataError where the process has too many files open: that is no picture's fault."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        raise DataError(
            "too many files are open", where=error.filename, remedy="Raise the limit, for example: ulimit -n 1024"
        ) from error
