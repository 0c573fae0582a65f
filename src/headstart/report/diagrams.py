"""Charts that answer one question each: race, reliability, forecast, spread. Pure functions like those of svg."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headstart.report.shapes import (
    WIDTH,
    axes,
    fit,
    framed,
    nice_ticks,
    share,
    short,
    stroke,
    tick_labels,
    written,
    x_axis,
)
from headstart.report.words import clean, count

__all__ = ["Bin", "Lane", "Sample", "forecast_chart", "forest", "quadrant", "reliability", "strip"]

_LANE = {"chosen": ("filled", "filled"), "open": ("hollow", "hollow"), "stopped": ("dashed", "plain")}


@dataclass(frozen=True, slots=True)
class Lane:
    """One candidate of a race: its value with bounds, the text at the right, and a `note` below.

    `kind` is "chosen" (filled), "open" (hollow) or "stopped" (hollow and grey).
    """

    label: str
    value: float
    bounds: tuple[float, float] | None = None
    text: str = ""
    note: str = ""
    kind: str = "open"


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers given with about the same probability: what was said, what was right (shares), and how many."""

    said: float
    right: float
    n: float


@dataclass(frozen=True, slots=True)
class Sample:
    """A value at x with its bounds."""

    x: float
    value: float
    low: float | None = None
    high: float | None = None


def forest(groups: Sequence[tuple[str, Sequence[Lane]]], *, title: str, desc: str, key: str) -> str:
    """Candidates as dots with whiskers on one axis, group below group; a dotted line goes through the chosen one.

    Returns "" when there is no candidate.
    """
    lanes = [lane for _, group in groups for lane in group]
    if not lanes:
        return ""
    values = [v for lane in lanes for v in (lane.value, *(lane.bounds or ()))]
    ticks = nice_ticks(min(values), max(values), most=5)
    left, right = 12.0, WIDTH - 16.0

    def across(value: float) -> float:
        return left + (right - left) * share(value, ticks[0], ticks[-1])

    y, body = 0.0, []
    for heading, group in groups:
        if not group:
            continue
        body.append(written((0, y + 13), fit(heading, WIDTH), style="muted"))
        body.append(stroke((0, y + 20), (WIDTH, y + 20), style="rule"))
        y += 30
        for lane in group:
            drawn, height = _lane(lane, across, y)
            body.append(drawn)
            y += height
        y += 6
    top = 22.0
    grid = "".join(stroke((across(tick), top), (across(tick), y), style="grid") for tick in ticks)
    for lane in lanes:
        if lane.kind == "chosen":
            grid += stroke((across(lane.value), top), (across(lane.value), y), style="reference")
    axis = stroke((left, y), (right, y), style="axis")
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        axis += written((across(tick), y + 18), label, style="muted", anchor="middle")
    return framed(grid + "".join(body) + axis, height=y + 24, title=title, desc=desc, key=key)


def _lane(lane: Lane, across: Callable[[float], float], y: float) -> tuple[str, float]:
    """A lane that begins at height y, and how high it is."""
    dot, span = _LANE[lane.kind]
    told = html.escape(": ".join(filter(None, (clean(lane.label), clean(lane.text), clean(lane.note)))))
    tag = "✓ chosen" if lane.kind == "chosen" else ""
    room = WIDTH - 7.4 * len(lane.text) - 12
    label = fit(lane.label, room - (66 if tag else 0))
    parts = [f"<g><title>{told}</title>", written((0, y + 12), label, style="strong" if tag else "", tag=tag)]
    parts.append(written((WIDTH, y + 12), lane.text, style="muted figure", anchor="end"))
    middle = y + 25
    if lane.bounds:
        low, high = across(lane.bounds[0]), across(lane.bounds[1])
        parts.append(stroke((low, middle), (high, middle), style=f"span {span}"))
        parts += [stroke((end, middle - 4), (end, middle + 4), style=f"span {span}") for end in (low, high)]
    parts.append(f'<circle cx="{short(across(lane.value))}" cy="{short(middle)}" r="5" class="dot {dot}"/>')
    height = 44.0
    if lane.note:
        parts.append(written((0, y + 46), fit(lane.note, WIDTH, 12), style="muted note"))
        height = 60.0
    return "".join([*parts, "</g>"]), height


def quadrant(*, small: bool, similar: bool, advised: str, title: str, desc: str, key: str) -> str:
    """The four kinds of data, by size and likeness; the cell of these data is framed and holds what is advised."""
    left, top, width, height = 0.0, 0.0, (WIDTH - 6) / 2, 62.0
    body = []
    for row, many in enumerate((True, False)):
        for column, like in enumerate((False, True)):
            x, y = left + column * (width + 6), top + row * (height + 6)
            own = (many, like) == (not small, similar)
            size = f'width="{short(width)}" height="{short(height)}" rx="5"'
            body.append(f'<rect x="{short(x)}" y="{short(y)}" {size} class="{"cell own" if own else "cell"}"/>')
            name = f"{'many' if many else 'few'} images, {'similar' if like else 'different'}"
            body.append(written((x + 12, y + 25), name, style="strong" if own else "muted"))
            if own:
                body.append(written((x + 12, y + 46), fit(f"advised: {advised}", width - 24), style="solid"))
    return framed("".join(body), height=2 * height + 8, title=title, desc=desc, key=key)


def reliability(bins: Sequence[Bin], *, title: str, desc: str, key: str) -> str:
    """How often answers were right over how sure they were said; below, how many answers each dot stands for.

    A dot's area grows with its number of answers; the stroke to the diagonal is by how much it is off.
    Returns "" when there is no answer.
    """
    bins = sorted((one for one in bins if one.n > 0), key=lambda one: one.said)
    if not bins:
        return ""
    left, right, top, bottom = 46.0, WIDTH - 14.0, 10.0, 270.0
    most = max(one.n for one in bins)
    floor, strip_height = 336.0, 42.0

    def across(value: float) -> float:
        return left + (right - left) * min(max(value, 0.0), 1.0)

    def up(value: float) -> float:
        return bottom - (bottom - top) * min(max(value, 0.0), 1.0)

    body = []
    for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        body.append(stroke((left, up(tick)), (right, up(tick)), style="grid"))
        body.append(written((left - 6, up(tick) + 4.5), f"{tick:.1f}", style="muted", anchor="end"))
        body.append(written((across(tick), floor + 18), f"{tick:.1f}", style="muted", anchor="middle"))
    body.append(stroke((across(0), up(0)), (across(1), up(1)), style="series dotted"))
    body.append(stroke((left, bottom), (right, bottom), style="axis"))
    body.append(written((across(0.06), up(0.93)), "right, share of answers", style="muted"))
    if bins[0].said > 0.35:  # the lower corner is free
        body.append(written((across(0.27), up(0.17)), "dotted: as sure as right", style="muted"))
    for one in bins:
        x, y, radius = across(one.said), up(one.right), 3 + 7 * (one.n / most) ** 0.5
        told = html.escape(f"said {one.said:.3f}, right {one.right:.3f}, {count(one.n)} answers")
        body.append(f"<g><title>{told}</title>{stroke((x, y), (x, up(one.said)), style='off')}")
        body.append(f'<circle cx="{short(x)}" cy="{short(y)}" r="{short(radius)}" class="dot bubble"/>')
        height = max(strip_height * one.n / most, 1.0)
        place = f'x="{short(x - 5)}" y="{short(floor - height)}"'
        body.append(f'<rect {place} width="10" height="{short(height)}" class="part0"/></g>')
    body.append(stroke((left, floor), (right, floor), style="axis"))
    body.append(written((left, bottom + 20), f"answers; the highest bar is {count(most)}", style="muted"))
    body.append(
        written(((left + right) / 2, floor + 37), "said, probability of the answer", style="muted", anchor="middle")
    )
    return framed("".join(body), height=floor + 44, title=title, desc=desc, key=key)


def forecast_chart(
    measured: Sequence[Sample], *, band: Sequence[Sample], title: str, desc: str, key: str, x_label: str
) -> str:
    """Measured values with their spread, the fitted curve in its band, and the part that nobody has measured shaded.

    Returns "" when nothing was measured.
    """
    if not measured:
        return ""
    band = sorted(band, key=lambda one: one.x)
    known = max(one.x for one in measured)
    everything = [*measured, *band]
    ys = [v for one in everything for v in (one.value, one.low, one.high) if v is not None]
    y_ticks = nice_ticks(max(min(ys), 0.0), min(max(ys), 1.0), most=5)
    y_labels = tick_labels(y_ticks)
    left, right, top, bottom = 10 + 7.3 * max(len(label) for label in y_labels), WIDTH - 14.0, 26.0, 240.0
    x_ticks, x_low, x_high = x_axis([0.0, *(one.x for one in everything)], right - left)

    def across(x: float) -> float:
        return left + (right - left) * share(x, x_low, x_high)

    def up(y: float) -> float:
        return bottom - (bottom - top) * min(max(share(y, y_ticks[0], y_ticks[-1]), 0.0), 1.0)

    body = []
    if across(known) < right - 1:
        size = f'width="{short(right - across(known))}" height="{short(bottom - top)}"'
        body.append(f'<rect x="{short(across(known))}" y="{short(top)}" {size} class="ahead"/>')
    body += axes(
        across,
        up,
        x_ticks=x_ticks,
        y_ticks=dict(zip(y_ticks, y_labels, strict=True)),
        x_label=x_label,
        box=(left, right, bottom),
    )
    body += _curve_in_band(band, across, up)
    body += [_whisker(one, across, up) for one in measured]
    body += _regions(left, across(known), right)
    return framed("".join(body), height=bottom + 44, title=title, desc=desc, key=key)


def _curve_in_band(band: Sequence[Sample], across: Callable[[float], float], up: Callable[[float], float]) -> list[str]:
    upper = [f"{short(across(one.x))},{short(up(one.high))}" for one in band if one.high is not None]
    lower = [f"{short(across(one.x))},{short(up(one.low))}" for one in reversed(band) if one.low is not None]
    curve = " ".join(f"{short(across(one.x))},{short(up(one.value))}" for one in band)
    drawn = [f'<polygon points="{" ".join([*upper, *lower])}" class="band"/>'] if upper and lower else []
    return [*drawn, f'<polyline points="{curve}" class="series solid"/>'] if band else drawn


def _whisker(one: Sample, across: Callable[[float], float], up: Callable[[float], float]) -> str:
    x, drawn = across(one.x), ""
    if one.low is not None and one.high is not None:
        drawn = stroke((x, up(one.low)), (x, up(one.high)), style="span ink")
        drawn += "".join(stroke((x - 4, up(end)), (x + 4, up(end)), style="span ink") for end in (one.low, one.high))
    told = html.escape(f"{count(one.x)} images: {one.value:.3f}")
    dot = f'<circle cx="{short(x)}" cy="{short(up(one.value))}" r="4" class="dot ink"/>'
    return f"<g><title>{told}</title>{drawn}{dot}</g>"


def _regions(left: float, border: float, right: float) -> list[str]:
    """The words above the measured part and above the part ahead, each where it has room."""
    found = []
    if border - left > 70:
        found.append(written(((left + border) / 2, 16), "measured", style="muted", anchor="middle"))
    if right - border > 66:
        found.append(written(((border + right) / 2, 16), "forecast", style="solid", anchor="middle"))
    return found


def strip(values: Sequence[float], *, mean: float | None, title: str, desc: str, key: str) -> str:
    """Single values as dots on one axis, their mean as an upright stroke. Returns "" without values."""
    if not values:
        return ""
    ticks = nice_ticks(min(values), max(values), most=5)
    left, right, step = 24.0, WIDTH - 24.0, 13.0

    def across(value: float) -> float:
        return left + (right - left) * share(value, ticks[0], ticks[-1])

    columns: dict[int, int] = {}  # dots that would hide each other stand on each other's shoulders
    placed = []
    for value in sorted(values):
        column = round(across(value) / 11)
        placed.append((across(value), columns.get(column, 0)))
        columns[column] = placed[-1][1] + 1
    highest = max(columns.values())
    step = min(step, 120.0 / highest)
    floor = 24.0 + step * (highest - 1) + 12
    body = "".join(stroke((across(tick), 4), (across(tick), floor), style="grid") for tick in ticks)
    if mean is not None:
        body += stroke((across(mean), 6), (across(mean), floor), style="tick")
    for x, height in placed:
        body += f'<circle cx="{short(x)}" cy="{short(floor - 12 - step * height)}" r="5" class="dot hollow"/>'
    body += stroke((left, floor), (right, floor), style="axis")
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        body += written((across(tick), floor + 18), label, style="muted", anchor="middle")
    return framed(body, height=floor + 24, title=title, desc=desc, key=key)
