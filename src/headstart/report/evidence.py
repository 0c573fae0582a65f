"""The charts behind the answers: parts of a run's record turned into calls of the drawing functions in diagrams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headstart.report import choosing
from headstart.report.claims import share_of
from headstart.report.diagrams import Bin, Lane, Sample, forecast_chart, forest, quadrant, reliability, strip
from headstart.report.reading import interval, number, records, table, text
from headstart.report.svg import Bar, Mark, Row, bar_chart, interval_plot
from headstart.report.words import count, listed, percent, plural, score

__all__ = [
    "advice_plot",
    "bins",
    "forecast_plot",
    "race_forest",
    "reliability_plots",
    "repeats_strip",
    "twin_plot",
    "unknown_bars",
]

MOST_LANES = 24


def race_forest(run: Mapping[str, Any]) -> tuple[str, int]:
    """Every candidate's accuracy on held-out images as dot and whisker, finalists apart; how many are not drawn."""
    rows = [row for row in choosing.raced(run) if number(row, "score") is not None]
    kept = rows[:MOST_LANES]
    network = choosing.main_source(run)
    final: list[Lane] = []
    early: list[Lane] = []
    for row in kept:
        kind = "chosen" if row.get("chosen") is True else "open" if row.get("finalist") is True else "stopped"
        value, fate = number(row, "score") or 0.0, choosing.outcome(row)
        lane = Lane(
            choosing.way(row, source=network),
            value,
            interval(row, "interval"),
            score(value),
            "" if fate in ("chosen", "finalist") else fate,
            kind,
        )
        (early if kind == "stopped" else final).append(lane)
    told = listed([f"{lane.label} {lane.text}{' (chosen)' if lane.kind == 'chosen' else ''}" for lane in final], most=9)
    desc = (
        f"Finalists: {told or 'none'}. Stopped early: {listed([f'{one.label} {one.text}' for one in early]) or 'none'}."
    )
    groups = (("Finalists", final), ("Stopped early", early))
    title = "Accuracy on held-out images with 95 % intervals, one line for each way that was tried"
    return forest(groups, title=title, desc=desc, key="forest"), len(rows) - len(kept)


def advice_plot(run: Mapping[str, Any]) -> str:
    """Where these data stand among the four kinds of data."""
    size, level = text(run, "advice", "size"), text(run, "advice", "similarity", "level")
    strategy = text(run, "advice", "strategy")
    if size not in ("small", "large") or level not in ("similar", "different") or not strategy:
        return ""
    return quadrant(
        small=size == "small",
        similar=level == "similar",
        advised=strategy,
        title="The four kinds of data, by the number of images and their likeness to what the network has seen",
        desc=f"These data are {size} and {level}; advised is {strategy}.",
        key="advice",
    )


def bins(measured: Mapping[str, Any]) -> list[Bin]:
    """The bins of a reliability diagram that hold answers."""
    found = []
    for row in records(measured, "bins"):
        said, right, n = (number(row, key) for key in ("confidence", "accuracy", "n"))
        if said is not None and right is not None and n is not None and n > 0:
            found.append(Bin(said, right, n))
    return found


def reliability_plots(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(caption, reliability diagram) before and after the correction, each where there are bins."""
    drawn = []
    for when, title in (("before", "Before the correction"), ("after", "After it, as the model is shipped")):
        measured = table(run, "calibration", when)
        found, error = bins(measured), number(measured, "calibration_error")
        told = "; ".join(f"said {score(one.said)}, right {score(one.right)}, {count(one.n)} images" for one in found)
        chart = reliability(found, title=f"Reliability: {title}", desc=told, key=f"reliability-{when}")
        if chart:
            off = f": {100 * error:.1f} percentage points off on average" if error is not None else ""
            drawn.append((f"{title}{off}.", chart))
    return drawn


def unknown_bars(run: Mapping[str, Any]) -> str:
    """Of a hundred pictures of each kind, how many are answered rightly, wrongly, and with "unknown"."""
    held, rows = table(run, "reject", "held_out"), []
    refused = share_of(held, "rejected")
    given = number(held, "accuracy_kept")
    if refused is not None and (given is not None or refused >= 1):
        refused = min(max(refused, 0.0), 1.0)
        kept = 1 - refused
        right = kept * min(max(given or 0.0, 0.0), 1.0)
        rows.append(Bar("own test images", (right, kept - right, refused), percent(refused)))
    for row in records(run, "reject", "foreign")[:12]:
        accepted = share_of(row, "accepted")
        if accepted is not None:
            accepted = min(max(accepted, 0.0), 1.0)
            name = text(row, "name") or "foreign"
            rows.append(Bar(name, (0.0, accepted, 1 - accepted), percent(1 - accepted)))
    desc = "Answered with unknown: " + "; ".join(f"{bar.label} {bar.text}" for bar in rows)
    parts = ("right", "wrong", "unknown")
    return bar_chart(rows, title="Answers and refusals", desc=desc, key="unknown", parts=parts, label_width=130)


def _samples(rows: Sequence[Mapping[str, Any]]) -> list[Sample]:
    found = []
    for row in rows:
        n, value = number(row, "n"), number(row, "accuracy")
        if n is not None and value is not None:
            found.append(Sample(n, value, number(row, "low"), number(row, "high")))
    return found


def forecast_plot(run: Mapping[str, Any]) -> str:
    """Accuracy over the number of training images: measured, fitted, and forecast with its band."""
    measured, band = (_samples(records(run, "forecast", key)) for key in ("points", "band"))
    if not measured:
        return ""
    desc = "Measured: " + "; ".join(f"{count(one.x)} images {score(one.value)}" for one in measured)
    ahead = [one for one in band if one.x > max(point.x for point in measured)]
    if ahead:
        last = ahead[-1]
        desc += f". Forecast for {count(last.x)} images: {score(last.value)} ({score(last.low)} to {score(last.high)})"
    return forecast_chart(
        measured,
        band=band,
        title="Accuracy over the number of training images",
        desc=desc + ".",
        key="forecast",
        x_label="training images",
    )


def twin_plot(run: Mapping[str, Any]) -> str:
    """The score on test images with and without a near twin."""
    rows = []
    for key, label, style in (
        ("with_twin", "With a near twin", "hollow"),
        ("without_twin", "Without one", "filled"),
    ):
        measured = table(run, "near_duplicates", "test", key)
        value, n = number(measured, "accuracy"), number(measured, "n")
        if value is None or n == 0:
            continue
        low, high = interval(measured, "accuracy_interval") or (None, None)
        of = f" ({plural(n, 'test image')})" if n is not None else ""
        rows.append(Row(label + of, (Mark(value, low, high, style),), score(value)))
    if len(rows) < 2:
        return ""
    desc = "; ".join(f"{row.label}: {row.text}" for row in rows)
    return interval_plot(rows, title="Accuracy with and without near twins", desc=desc, key="twins")


def repeats_strip(run: Mapping[str, Any]) -> str:
    """The accuracy of every repetition as a dot."""
    values = [value for row in records(run, "repeats", "seeds") if (value := number(row, "accuracy")) is not None]
    if len(values) < 2:
        return ""
    desc = f"From {score(min(values))} to {score(max(values))}."
    mean = number(run, "repeats", "accuracy", "mean")
    return strip(values, mean=mean, title="Accuracy of each repetition", desc=desc, key="repeats")
