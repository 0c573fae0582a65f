"""The charts of a report: parts of a run's record turned into calls of the drawing functions in svg."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headstart.report.reading import entries, interval, number, records, table, text
from headstart.report.svg import Bar, Mark, Row, Series, bar_chart, heat_table, interval_plot, line_chart
from headstart.report.words import clean, count, duration, listed, score

__all__ = ["balance", "confusion", "confusion_matrix", "curves", "headline_plot", "race_plot", "stages"]

SPLITS = ("train", "val", "test")
SPLIT_WORDS = {"train": "training", "val": "validation", "test": "test"}
MOST_BARS = 24
MOST_HEAT = 150


def _mark(measured: Any, style: str) -> Mark | None:
    value = number(measured, "accuracy")
    if value is None:
        return None
    low, high = interval(measured, "accuracy_interval") or (None, None)
    return Mark(value, low, high, style)


def _words(measured: Any) -> str:
    bounds = interval(measured, "accuracy_interval")
    return score(number(measured, "accuracy")) + (f" ({score(bounds[0])} to {score(bounds[1])})" if bounds else "")


def headline_plot(run: Mapping[str, Any]) -> str:
    """The test score beside the majority and the scratch baseline."""
    kind = "test" if number(run, "scores", "test", "accuracy") is not None else "val"
    crossed = kind != "test" and number(run, "cross_validation", "accuracy") is not None
    own = "cross-validated" if crossed else f"{SPLIT_WORDS[kind]} images"
    candidates = (
        (f"This model, {own}", table(run, "cross_validation") if crossed else table(run, "scores", kind), "filled"),
        ("Same network from scratch", table(run, "baselines", "scratch"), "hollow"),
        ("Always the most frequent class", table(run, "baselines", "majority"), "plain"),
    )
    rows = [
        Row(label, (mark,), _words(measured))
        for label, measured, style in candidates
        if (mark := _mark(measured, style)) is not None
    ]
    said = "; ".join(f"{row.label}: {row.text}" for row in rows)
    return interval_plot(rows, title="Share of right answers with 95 % intervals", desc=said, key="headline")


def balance(run: Mapping[str, Any]) -> tuple[str, int]:
    """Images per class and split as bars, and how many classes were left out in the middle of a long list."""
    splits = table(run, "data", "splits")
    names = [name for name in SPLITS if table(splits, name, "per_class")]
    names += [name for name in splits if name not in SPLITS and table(splits, name, "per_class")][: 3 - len(names)]
    classes = [str(name) for name in entries(run, "data", "classes")]
    classes = classes or sorted({name for split in names for name in table(splits, split, "per_class")})
    counts = {c: tuple(number(splits, name, "per_class", c) or 0.0 for name in names) for c in classes}
    if not names or not counts:
        return "", 0
    order = sorted(counts, key=lambda name: -sum(counts[name])) if len(counts) > MOST_BARS else list(counts)
    left_out = max(len(order) - MOST_BARS, 0)
    kept = order if not left_out else order[: MOST_BARS // 2] + order[-MOST_BARS // 2 :]
    bars = [Bar(name, counts[name], " + ".join(count(n) for n in counts[name])) for name in kept]
    words = [SPLIT_WORDS.get(name, name or "unsplit") for name in names]
    desc = "; ".join(f"{bar.label}: {bar.text}" for bar in bars)
    title = f"Images per class ({listed(words)})"
    return bar_chart(bars, title=title, desc=desc, key="balance", parts=words), left_out


def curves(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The learning curves, loss first: (caption, chart) for each that has points."""
    points, axis = records(run, "curves", "points"), text(run, "curves", "axis") or "epochs"
    majority = number(run, "baselines", "majority", "accuracy")
    drawn = []
    for measure, title, aim in (("loss", "Loss", "lower is better"), ("accuracy", "Accuracy", "higher is better")):
        lines = []
        for name, style in (("train", "dashed"), ("val", "solid")):
            found = [(number(point, "x"), number(point, f"{name}_{measure}")) for point in points]
            kept = tuple((x, y) for x, y in found if x is not None and y is not None)
            lines.append(Series(SPLIT_WORDS[name], kept, style))
        lines = [line for line in lines if line.points]
        if not lines:
            continue
        ends = "; ".join(f"{line.label} ends at {line.points[-1][1]:.3f}" for line in lines)
        if measure == "accuracy" and majority is not None:
            xs = [x for line in lines for x, _ in line.points]
            lines.append(Series("majority", ((min(xs), majority), (max(xs), majority)), "dotted"))
        caption = f"{title} over {axis} ({aim})"
        bounds = (0.0, None) if measure == "loss" else (None, 1.0)
        chart = line_chart(lines, title=caption, desc=ends, key=f"curve-{measure}", x_label=axis, bounds=bounds)
        drawn.append((caption, chart))
    return drawn


def race_plot(rows: Sequence[Mapping[str, Any]]) -> str:
    """The raced strategies with their validation (hollow) and test (filled) intervals."""
    plotted = []
    for row in rows:
        marks = tuple(
            mark for name, style in (("val", "hollow"), ("test", "filled")) if (mark := _mark(row.get(name), style))
        )
        test = number(row, "test", "accuracy")
        words = score(number(row, "val", "accuracy") if test is None else test)
        plotted.append(Row(" · ".join(filter(None, (text(row, "strategy"), text(row, "head")))), marks, words))
    desc = "; ".join(f"{row.label}: {row.text}" for row in plotted if row.marks)
    return interval_plot(plotted, title="Accuracy of each strategy with 95 % intervals", desc=desc, key="race")


def stages(run: Mapping[str, Any]) -> str:
    """Seconds per stage as bars."""
    seconds = {name: number(run, "seconds", name) for name in table(run, "seconds") if name != "total"}
    bars = [Bar(clean(name), (value,), duration(value)) for name, value in seconds.items() if value is not None]
    desc = "; ".join(f"{bar.label}: {bar.text}" for bar in bars)
    return bar_chart(bars, title="Time per stage", desc=desc, key="stages")


def confusion_matrix(run: Mapping[str, Any]) -> list[list[float]]:
    """The test set's confusion matrix (validation's without a test set); empty when it is missing or not square."""
    for name in ("test", "val"):
        rows = [[number(cell) for cell in entries(row)] for row in entries(run, "scores", name, "confusion")]
        if rows and all(len(row) == len(rows) and None not in row for row in rows):
            return [[max(cell or 0.0, 0.0) for cell in row] for row in rows]
    return []


def confusion(run: Mapping[str, Any]) -> str:
    """The confusion matrix of many classes as shades; "" when even that would be too fine to see."""
    matrix = confusion_matrix(run)
    if len(matrix) > MOST_HEAT:
        return ""
    labels = [str(name) for name in entries(run, "data", "classes")]
    right = sum(matrix[index][index] for index in range(len(matrix)))
    desc = f"{count(right)} of {count(sum(map(sum, matrix)))} images lie on the diagonal, where the answer is right."
    return heat_table(matrix, labels=labels, title="Confusion matrix", desc=desc, key="confusion")
