"""A run's record as a short Markdown text, which is also the body of a model card."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from headstart.report import sentences
from headstart.report.reading import interval, number, records, table, text, texts
from headstart.report.words import clean, count, duration, score, shown

__all__ = ["to_markdown"]

_SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+!|~$&])")


def _plain(value: object) -> str:
    """Text that Markdown shows as it is: its special signs are escaped."""
    return _SPECIAL.sub(r"\\\1", clean(value))


def _sentence(value: str) -> str:
    """A sentence of ours that may hold names: only what could start a tag, a link or a cell is escaped."""
    return re.sub(r"([\\`*_\[\]<>|~&])", r"\\\1", clean(value))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _measured(measured: Mapping[str, Any], key: str) -> str:
    bounds = interval(measured, f"{key}_interval")
    value = count(number(measured, key)) if key == "n" else score(number(measured, key))
    return value + (f" ({score(bounds[0])} to {score(bounds[1])})" if bounds else "")


def to_markdown(run: Mapping[str, Any]) -> str:
    """Write a run's record as a short Markdown text; parts that are missing are left out."""
    head = sentences.headline(run)
    answer, reasons = sentences.trust(run)
    blocks = [
        f"# {_sentence(head.title)}",
        _sentence(head.plain),
        f"**{_sentence(head.figures)}**" if head.figures else "",
    ]
    blocks += ["## Can I trust this?", _sentence(answer), _bullets(reasons)]
    blocks += ["## Data", _sentence(sentences.data_words(run)), _bullets(texts(run, "data", "warnings"))]
    if done := sentences.done_words(run):
        blocks += ["## What was done", _sentence(done), _bullets(texts(run, "plan", "reasons"))]
    blocks += _scores(run) + _race(run) + _made(run)
    return "\n\n".join(block for block in blocks if block) + "\n"


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_sentence(line)}" for line in lines)


def _scores(run: Mapping[str, Any]) -> list[str]:
    found = [(name, table(run, "scores", name)) for name in ("test", "val") if table(run, "scores", name)]
    if not found:
        return []
    keys = ("n", "accuracy", "balanced_accuracy", "macro_f1", "log_loss", "calibration_error")
    rows = [[key.replace("_", " "), *(_measured(measured, key) for _, measured in found)] for key in keys]
    per_class = [
        [_plain(name), count(number(row, "n")), *(score(number(row, key)) for key in ("precision", "recall", "f1"))]
        for name, row in table(found[0][1], "per_class").items()
    ]
    words = " ".join(filter(None, (sentences.baseline_words(run), sentences.gain_words(run))))
    calibration = sentences.calibration_words(found[0][1])
    names = ["test" if name == "test" else "validation" for name, _ in found]
    blocks = ["## Scores", _sentence(words), _table(["measure", *names], rows), _sentence(calibration)]
    return [*blocks, _table(["class", "images", "precision", "recall", "F1"], per_class)]


def _race(run: Mapping[str, Any]) -> list[str]:
    rows = [
        [_plain(text(row, "strategy") or "–"), _plain(text(row, "head") or "–"), duration(number(row, "seconds")),
         _measured(table(row, "val"), "accuracy"), _measured(table(row, "test"), "accuracy"),
         _plain(text(row, "error") or text(row, "verdict") or "–")]
        for row in records(run, "race")
    ]  # fmt: skip
    return (
        ["## Strategies", _table(["strategy", "head", "time", "validation", "test", "verdict"], rows)] if rows else []
    )


def _made(run: Mapping[str, Any]) -> list[str]:
    rows = [[_plain(name), _plain(shown(value))] for name, value in table(run, "source").items()]
    if text(run, "seed"):
        rows.append(["seed", _plain(text(run, "seed"))])
    if text(run, "headstart"):
        rows.append(["headstart", _plain(text(run, "headstart"))])
    return ["## How it was made", _table(["fact", "value"], rows)] if rows else []
