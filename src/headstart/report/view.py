"""A run's record as the plain values that the page's template shows. A part that is missing becomes an empty value."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from headstart.report import charts, choosing, sections, sentences
from headstart.report.footprint import footprint, footprint_words
from headstart.report.picture import Picture, data_uri
from headstart.report.reading import MOST_CLASSES, entries, interval, number, part, records, table, text, texts
from headstart.report.svg import meter
from headstart.report.words import count, duration, network_name, plural, rate, score, short_hash, shown, signed

__all__ = ["view"]

MOST_ROWS = 50
MOST_NUMBERS = 20  # classes for which the confusion matrix shows numbers


def view(run: Mapping[str, Any], pictures: Mapping[str, Sequence[Picture]]) -> dict[str, Any]:
    """Everything the template shows, section by section."""
    head = sentences.headline(run)
    answer, reasons = sentences.trust(run)
    return {
        "version": text(run, "headstart"),
        "head": head,
        "trust": {"answer": answer, "reasons": reasons},
        "headline_plot": Markup(charts.headline_plot(run)),
        "facts_rows": _facts(run),
        "choice": sections.choice(run),
        "sure": sections.sure(run),
        "unknown": sections.unknown(run),
        "helps": sections.helps(run, [_picture(picture) for picture in pictures.get("label_issues") or ()]),
        "honest": sections.honest(run),
        "data": _data(run, pictures.get("sample") or ()),
        "plan": _plan(run),
        "scores": _scores(run),
        "curves": _curves(run),
        "confusion": _confusion(run),
        "errors": [_picture(picture) for picture in pictures.get("errors") or ()],
        "race": _race(run),
        "made": _made(run),
        "notes": texts(run, "notes"),
    }


def _facts(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The four or five facts that stand beside the headline."""
    plan = table(run, "plan")
    found = (
        ("Data", text(run, "data", "path")),
        ("Network", network_name(text(run, "source", "address")) or text(run, "source", "architecture")),
        ("Strategy", " · ".join(filter(None, (text(plan, "strategy"), text(plan, "head") and f"{plan['head']} head")))),
        ("Time", duration(number(run, "seconds", "total")) if number(run, "seconds", "total") is not None else ""),
        ("Seed", text(run, "seed")),
    )
    return [(name, value) for name, value in found if value]


def _picture(picture: Picture) -> dict[str, str]:
    said = f"{picture.name}, labelled {picture.label}" if picture.label else picture.name
    if picture.predicted:
        said += f", predicted {picture.predicted}"
    return {
        "src": data_uri(picture.data),
        "map": data_uri(picture.map),
        "alt": said,
        "name": picture.name,
        "label": picture.label,
        "predicted": picture.predicted,
        "probability": "" if number(picture.probability) is None else score(picture.probability),
        "note": picture.note,
    }


def _groups(run: Mapping[str, Any], key: str) -> list[list[str]]:
    return [texts(group) for group in entries(run, "data", key) if texts(group)]


def _data(run: Mapping[str, Any], sample: Sequence[Picture]) -> dict[str, Any]:
    chart, left_out = charts.balance(run)
    sizes = table(run, "data", "sizes")
    rows = [
        (side.capitalize(), *(count(number(sizes, side, key)) for key in ("min", "median", "max")))
        for side in ("width", "height")
        if table(sizes, side)
    ]
    kinds = [(name.capitalize(), shown(table(sizes, name))) for name in ("formats", "modes") if table(sizes, name)]
    splits = table(run, "data", "splits")
    per_class = [
        (str(name), [number(splits, split, "per_class", str(name)) for split in splits])
        for name in entries(run, "data", "classes")
    ]
    return {
        "words": sentences.data_words(run),
        "sample": [_picture(picture) for picture in sample],
        "balance": Markup(chart),
        "left_out": left_out,
        "splits": [charts.SPLIT_WORDS.get(name, name or "unsplit") for name in splits],
        "per_class": [(name, [count(n or 0) for n in counts]) for name, counts in per_class]
        if left_out and len(per_class) <= MOST_CLASSES
        else [],
        "sizes": rows,
        "kinds": kinds,
        "skipped": _files(run, "skipped"),
        "suspicious": _files(run, "suspicious"),
        "groups": [
            {"title": title, "words": words, "groups": found[:MOST_ROWS], "more": max(len(found) - MOST_ROWS, 0)}
            for key, title, words in _GROUPS
            if (found := _groups(run, key))
        ],
        "warnings": texts(run, "data", "warnings"),
        "notes": texts(run, "data", "notes"),
    }


_GROUPS = (
    ("leaks", "Leaks", "Identical pictures in more than one split: the model may have met a test image in training."),
    ("contradictions", "Contradictions", "Identical pictures with different labels: at least one label is wrong."),
    ("duplicates", "Duplicates", "Identical pictures: they count more than once."),
)


def _files(run: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = [(text(row, "file") or "–", text(row, "reason") or "–") for row in records(run, "data", key)]
    return {"rows": found[:MOST_ROWS], "n": len(found), "more": max(len(found) - MOST_ROWS, 0)}


def _plan(run: Mapping[str, Any]) -> dict[str, Any]:
    plan, frozen, features = table(run, "plan"), table(run, "frozen"), table(run, "features")
    rows = [
        (label, shown(plan[key]))
        for key, label in (
            ("strategy", "Strategy"), ("start", "Start"), ("cut", "Cut: trained from"), ("head", "Head"),
            ("pooling", "Pooling"), ("epochs", "Epochs"), ("trained_parameters", "Trained parameters"),
        )
        if plan.get(key) not in (None, "")
    ]  # fmt: skip
    rows += [(f"Chosen {name}", shown(value)) for name, value in table(plan, "chosen").items()]
    rows += [(f"Schedule: {name.replace('_', ' ')}", shown(value)) for name, value in table(plan, "schedule").items()]
    return {
        "words": sentences.done_words(run),
        "rows": rows,
        "rates": [(name, rate(number(value))) for name, value in table(plan, "rates").items()],
        "reasons": texts(plan, "reasons"),
        "frozen": _frozen(frozen),
        "features": _features(features, table(run, "work")),
    }


def _frozen(frozen: Mapping[str, Any]) -> dict[str, Any]:
    before, after = part(frozen, "sha256_before"), part(frozen, "sha256_after")
    if not frozen or not (before or after or frozen.get("unchanged") is not None):
        return {}
    unchanged = frozen.get("unchanged")
    same = bool(unchanged) if unchanged is not None else before == after
    blocks = part(frozen, "blocks")
    named = shown(blocks) if blocks not in (None, [], "") else "none"
    n = number(frozen, "entries")
    words = (
        "What was to stay frozen stayed frozen: its weights and statistics have the same hash before and after."
        if same
        else "Something below the cut changed although it was to stay frozen: do not use this model."
    )
    rows = [("Frozen blocks", named), ("State entries", count(n)), ("sha256 before", _hash(before))]
    return {"same": same, "words": words, "rows": [*rows, ("sha256 after", _hash(after))]}


def _hash(value: Any) -> str:
    return "; ".join(f"{key} {short_hash(entry)}" for key, entry in value.items()) if isinstance(value, Mapping) else (
        short_hash(value) if value else "–"
    )  # fmt: skip


def _features(features: Mapping[str, Any], work: Mapping[str, Any]) -> str:
    n = number(features, "items")
    computed, reused = (
        value if (value := number(features, key)) is not None else number(work, f"features_{key}")
        for key in ("computed", "reused")
    )
    if n is None and computed is None and reused is None:
        return ""
    words = f"Features of {plural(n, 'item')} were needed" if n is not None else "Features were needed"
    words += f" at the cut {text(features, 'cut')}" if text(features, "cut") else ""
    parts = [
        f"{count(value)} {name}" for value, name in ((computed, "computed"), (reused, "reused")) if value is not None
    ]
    return words + (f": {', '.join(parts)}." if parts else ".") + _engine(work)


def _engine(work: Mapping[str, Any]) -> str:
    """Which engine computed the features, and how far its numbers are from torch's."""
    name, off = text(work, "engine", "identity"), number(work, "engine", "max_relative_difference")
    if not name:
        return ""
    return f" They come from {name}" + (
        f", whose numbers are within {off:.0e} of the largest value from plain PyTorch's." if off is not None else "."
    )


def _scores(run: Mapping[str, Any]) -> dict[str, Any]:
    found = [(name, table(run, "scores", name)) for name in ("test", "val", "train")]
    found = [(name, measured) for name, measured in found if measured]
    rows = []
    for key, label in _MEASURES:
        if any(number(measured, key) is not None for _, measured in found):
            rows.append((label, [_measured(measured, key) for _, measured in found]))
    best = found[0][1] if found else {}
    per_class: list[dict[str, Any]] = [
        {"name": name, "n": count(number(row, "n")),
         "cells": [(score(number(row, key)), Markup(meter(number(row, key)))) for key in ("precision", "recall", "f1")],
         "f1": number(row, "f1")}
        for name, row in table(best, "per_class").items()
    ]  # fmt: skip
    worst = sorted((row for row in per_class if row["f1"] is not None), key=lambda row: row["f1"])[:10]
    guess = sentences.log_loss_of_guessing(run)
    return {
        "splits": [charts.SPLIT_WORDS[name] for name, _ in found],
        "rows": rows,
        "per_class": per_class if len(per_class) <= MOST_CLASSES else [],
        "classes": count(len(per_class)),
        "worst": worst if len(per_class) > 24 else [],
        "per_class_split": charts.SPLIT_WORDS[found[0][0]] if found else "",
        "calibration": sentences.calibration_words(best),
        "baseline": sentences.baseline_words(run),
        "gain": sentences.gain_words(run),
        "guess": f"Log loss is 0 for perfect answers and {score(guess)} for guessing evenly." if guess and rows else "",
    }


_MEASURES = (
    ("n", "Images"), ("accuracy", "Accuracy"), ("top5_accuracy", "Right class among the first five"),
    ("balanced_accuracy", "Balanced accuracy (mean over classes)"), ("macro_f1", "Macro F1"),
    ("log_loss", "Log loss"), ("calibration_error", "Calibration error"),
)  # fmt: skip


def _measured(measured: Mapping[str, Any], key: str) -> tuple[str, str]:
    value, bounds = number(measured, key), interval(measured, f"{key}_interval")
    words = count(value) if key == "n" else score(value)
    return words, f"{score(bounds[0])} to {score(bounds[1])}" if bounds else ""


def _curves(run: Mapping[str, Any]) -> dict[str, Any]:
    diagnosis = table(run, "diagnosis")
    gap, bounds = number(diagnosis, "gap"), interval(diagnosis, "gap_interval")
    words = ""
    if gap is not None:
        words = f"Training accuracy minus validation accuracy: {signed(gap, 3)}"
        words += f" (95 % interval {signed(bounds[0], 3)} to {signed(bounds[1], 3)})." if bounds else "."
    return {
        "charts": [(caption, Markup(chart)) for caption, chart in charts.curves(run)],
        "sentence": text(diagnosis, "sentence"),
        "verdict": text(diagnosis, "verdict"),
        "advice": texts(diagnosis, "advice"),
        "gap": words,
    }


def _confusion(run: Mapping[str, Any]) -> dict[str, Any]:
    matrix = charts.confusion_matrix(run)
    names = [str(name) for name in entries(run, "data", "classes")]
    names += [f"class {index + 1}" for index in range(len(names), len(matrix))]
    pairs = [
        (names[i], names[j], value, sum(row))
        for i, row in enumerate(matrix)
        for j, value in enumerate(row)
        if i != j and value > 0
    ]
    pairs.sort(key=lambda pair: (-pair[2], pair[0], pair[1]))
    small = len(matrix) <= MOST_NUMBERS
    rows = []  # mistakes are shaded by the root of their share, or the rare ones could not be seen
    for i, row in enumerate(matrix if small else []):
        total = sum(row) or 1
        cells = [
            {"n": count(v) if v else "·", "right": i == j, "heat": f"{(v / total) ** (1 if i == j else 0.5):.2f}"}
            for j, v in enumerate(row)
        ]
        rows.append((names[i], cells))
    wrong, total = sum(pair[2] for pair in pairs), sum(map(sum, matrix))
    words = f"{plural(wrong, 'mistake')} in {plural(total, 'image')}." if matrix else ""
    if pairs:
        words += f" The most frequent: {pairs[0][0]} taken for {pairs[0][1]} ({count(pairs[0][2])} times)."
    return {
        "words": words,
        "names": names[: len(matrix)],
        "rows": rows,
        "chart": Markup("" if small else charts.confusion(run)),
        "large": bool(matrix) and not small,
        "pairs": [(true, said, count(n), count(of)) for true, said, n, of in pairs[:15]] if not small else [],
    }


def _race(run: Mapping[str, Any]) -> dict[str, Any]:
    rows = [] if choosing.raced(run) else records(run, "race")
    plan = table(run, "plan")
    shown_rows = []
    for row in rows:
        chosen = all(text(row, key) == text(plan, key) for key in ("strategy", "head")) and not text(row, "error")
        shown_rows.append({
            "strategy": text(row, "strategy") or "–", "head": text(row, "head") or "–", "source": text(row, "source"),
            "chosen": chosen, "error": text(row, "error"),
            "cells": [(count(number(row, "trained_parameters")), ""), (duration(number(row, "seconds")), ""),
                      _measured(table(row, "val"), "accuracy"), _measured(table(row, "test"), "accuracy"),
                      (signed(number(row, "gap"), 3), "")],
            "verdict": text(row, "verdict"),
        })  # fmt: skip
    failed = sentences.failed(run)
    return {
        "rows": shown_rows,
        "sources": len({row["source"] for row in shown_rows if row["source"]}) > 1,
        "plot": Markup(charts.race_plot(rows)),
        "failed": len(failed),
    }


def _made(run: Mapping[str, Any]) -> dict[str, Any]:
    total = number(run, "seconds", "total")
    source = table(run, "source")
    labels = {"sha256": "sha256 of the weights", "input_size": "Input size", "licence": "Licence"}
    command = part(run, "command")
    if isinstance(command, Sequence) and not isinstance(command, str):
        command = shlex.join(texts(command))
    return {
        "words": f"The whole run took {duration(total)}." if total is not None else "",
        "footprint": footprint_words(footprint(run)),
        "stages": Markup(charts.stages(run)),
        "source": [(labels.get(name, name.capitalize()), shown(value)) for name, value in source.items()],
        "environment": [(name.replace("_", " "), shown(value)) for name, value in table(run, "environment").items()],
        "settings": [(name.replace("_", " "), shown(value)) for name, value in table(run, "settings").items()],
        "seed": text(run, "seed"),
        "command": command if isinstance(command, str) else "",
    }
