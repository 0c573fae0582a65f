"""The licence that a data set states: a licence file beside the data, or the front matter of their README. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["find_licence"]

_NAMES = ("license", "licence", "copying", "unlicense")
_SUFFIXES = ("", ".txt", ".md", ".rst")
_MOST = 100_000  # bytes that are looked at
_LINE = 100  # signs of a first line that stands for a text that is not known
_TEXTS = (
    (r"apache license.{0,40}version 2\.0", "Apache-2.0"),
    (r"mit license|permission is hereby granted, free of charge", "MIT"),
    (r"cc0 1\.0|cc0-1\.0", "CC0-1.0"),
    (r"gnu affero general public license.{0,40}version 3", "AGPL-3.0"),
    (r"gnu lesser general public license.{0,40}version 3", "LGPL-3.0"),
    (r"gnu general public license.{0,40}version 3", "GPL-3.0"),
    (r"gnu general public license.{0,40}version 2", "GPL-2.0"),
    (r"open data commons attribution", "ODC-By"),
    (r"open database license", "ODbL"),
    (r"this is free and unencumbered software", "Unlicense"),
)
_COMMONS = re.compile(
    r"(?:creative commons )?attribution((?:[- ](?:non-?commercial|share-?alike|no-?deriv\w+))*) (\d\.\d)"
)
_PARTS = (("commercial", "NC"), ("sharealike", "SA"), ("noderiv", "ND"))


def find_licence(path: str) -> dict[str, str] | None:
    """The licence that the data at `path` state, {name, file}; None where they state none.

    Looked for are LICENSE, LICENCE and COPYING, then `license` in the front matter of README.md, in the folder of the
    data itself. A text that is not recognised is named by its first line.
    """
    for file in _files(Path(path).expanduser()) if path != "memory" else ():
        text = _read(file)
        name = _front_matter(text) if file.stem.lower() == "readme" else _named(text)
        if name:
            return {"name": name, "file": file.name}
    return None


def _files(place: Path) -> Iterator[Path]:
    """The files that may state a licence, licence files first."""
    try:
        if not place.exists() and not set(place.name) & set("*?["):  # data in memory
            return
        folder = place if place.is_dir() else place.parent
        found = sorted(entry for entry in folder.iterdir() if entry.suffix.lower() in _SUFFIXES and entry.is_file())
    except (OSError, ValueError):
        return
    yield from (file for file in found if file.stem.lower() in _NAMES)
    yield from (file for file in found if file.name.lower() == "readme.md")


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return stream.read(_MOST).decode("utf-8", "replace")
    except OSError:
        return ""


def _front_matter(text: str) -> str:
    """The `license` in the front matter of a README; "" without one."""
    head = re.match(r"\s*---\s*\n(.*?)\n---\s*(?:\n|$)", text, re.DOTALL)
    stated = re.search(r"^licen[sc]e:[ \t]*(?:\n[ \t]*-[ \t]*)?([^\n]+)$", head[1], re.MULTILINE) if head else None
    return stated[1].strip().strip("\"'[]")[:_LINE] if stated else ""


def _named(text: str) -> str:
    """What a licence text is called."""
    words = " ".join(text.lower().split())
    for pattern, name in _TEXTS:
        if re.search(pattern, words[:2_000]):
            return name
    if found := _COMMONS.search(words):
        kind = found[1].replace("-", "").replace(" ", "")
        return "-".join(["CC-BY", *(short for word, short in _PARTS if word in kind), found[2]])
    lines = [line.strip(" #*=-\t") for line in text.splitlines()]
    return next((line for line in lines if line), "")[:_LINE]
