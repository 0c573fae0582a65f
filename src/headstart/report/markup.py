"""Pieces of Markdown in which no name can become markup: escaped text, sentences, bullets, tables."""

from __future__ import annotations

import re
from collections.abc import Sequence

from headstart.report.words import clean

__all__ = ["bullets", "plain", "sentence", "table"]

_SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+!|~$&])")


def plain(value: object) -> str:
    """Text that Markdown shows as it is: its special signs are escaped."""
    return _SPECIAL.sub(r"\\\1", clean(value))


def sentence(value: str) -> str:
    """A sentence of ours that may hold names: only what could start a tag, a link or a cell is escaped."""
    return re.sub(r"([\\`*_\[\]<>|~&])", r"\\\1", clean(value))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; "" without rows."""
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bullets(lines: Sequence[str]) -> str:
    """A list of sentences."""
    return "\n".join(f"- {sentence(line)}" for line in lines)
