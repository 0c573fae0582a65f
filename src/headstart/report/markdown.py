"""A run's record as a short Markdown text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headstart.report import choosing, sentences
from headstart.report.footprint import footprint, footprint_words
from headstart.report.markdown_answers import answers
from headstart.report.markup import bullets, plain, sentence
from headstart.report.markup import table as grid
from headstart.report.reading import MOST_CLASSES, interval, number, records, table, text, texts
from headstart.report.words import count, duration, score, shown

__all__ = ["to_markdown"]


def _measured(measured: Mapping[str, Any], key: str) -> str:
    bounds = interval(measured, f"{key}_interval")
    value = count(number(measured, key)) if key == "n" else score(number(measured, key))
    return value + (f" ({score(bounds[0])} to {score(bounds[1])})" if bounds else "")


def to_markdown(run: Mapping[str, Any]) -> str:
    """Write a run's record as a short Markdown text; parts that are missing are left out."""
    head = sentences.headline(run)
    answer, reasons = sentences.trust(run)
    blocks = [
        f"# {sentence(head.title)}",
        sentence(head.plain),
        f"**{sentence(head.figures)}**" if head.figures else "",
    ]
    blocks += ["## Can I trust this?", sentence(answer), bullets(reasons)]
    blocks += answers(run)
    blocks += ["## Data", sentence(sentences.data_words(run)), bullets(texts(run, "data", "warnings"))]
    if done := sentences.done_words(run):
        blocks += ["## What was done", sentence(done), bullets(texts(run, "plan", "reasons"))]
    blocks += _scores(run) + _race(run) + _made(run)
    return "\n\n".join(block for block in blocks if block) + "\n"


def _scores(run: Mapping[str, Any]) -> list[str]:
    found = [(name, table(run, "scores", name)) for name in ("test", "val") if table(run, "scores", name)]
    if not found:
        return []
    keys = ("n", "accuracy", "balanced_accuracy", "macro_f1", "log_loss", "calibration_error")
    rows = [[key.replace("_", " "), *(_measured(measured, key) for _, measured in found)] for key in keys]
    per_class = [
        [plain(name), count(number(row, "n")), *(score(number(row, key)) for key in ("precision", "recall", "f1"))]
        for name, row in table(found[0][1], "per_class").items()
    ]
    words = " ".join(filter(None, (sentences.baseline_words(run), sentences.gain_words(run))))
    calibration = "" if table(run, "calibration") else sentences.calibration_words(found[0][1])
    names = ["test" if name == "test" else "validation" for name, _ in found]
    blocks = ["## Scores", sentence(words), grid(["measure", *names], rows), sentence(calibration)]
    if len(per_class) > MOST_CLASSES:
        return [*blocks, sentence(f"run.json holds the measures of all {count(len(per_class))} classes.")]
    return [*blocks, grid(["class", "images", "precision", "recall", "F1"], per_class)]


def _race(run: Mapping[str, Any]) -> list[str]:
    rows = [
        [plain(text(row, "strategy") or "–"), plain(text(row, "head") or "–"), duration(number(row, "seconds")),
         _measured(table(row, "val"), "accuracy"), _measured(table(row, "test"), "accuracy"),
         plain(text(row, "error") or text(row, "verdict") or "–")]
        for row in ([] if choosing.raced(run) else records(run, "race"))
    ]  # fmt: skip
    return ["## Strategies", grid(["strategy", "head", "time", "validation", "test", "verdict"], rows)] if rows else []


def _made(run: Mapping[str, Any]) -> list[str]:
    rows = [[plain(name), plain(shown(value))] for name, value in table(run, "source").items()]
    if text(run, "seed"):
        rows.append(["seed", plain(text(run, "seed"))])
    if text(run, "headstart"):
        rows.append(["headstart", plain(text(run, "headstart"))])
    said = sentence(footprint_words(footprint(run)))
    return ["## How it was made", grid(["fact", "value"], rows), said] if rows else []
