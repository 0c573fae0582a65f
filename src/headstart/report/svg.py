"""Small charts as inline SVG: pure functions from numbers to text, the same text for the same numbers.

Every chart is 400 units wide, so its 13-unit type stays readable on a phone; colours come from the page's style sheet
through classes, and no meaning hangs on colour alone (dashes, fills and direct labels carry it too). Each chart
has a title and a description for screen readers; `key` makes their ids unique within a page.
"""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from headstart.report.words import clean

__all__ = [
    "Bar",
    "Mark",
    "Row",
    "Series",
    "bar_chart",
    "fit",
    "heat_table",
    "interval_plot",
    "line_chart",
    "meter",
    "nice_ticks",
]

WIDTH = 400
_LINE = 15  # height of a line of type


@dataclass(frozen=True, slots=True)
class Series:
    """One line: `points` are (x, y); `style` is "solid", "dashed" or "dotted" (a reference without markers)."""

    label: str
    points: tuple[tuple[float, float], ...]
    style: str = "solid"


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of a bar chart: stacked `parts` and the text at its end."""

    label: str
    parts: tuple[float, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A value with its bounds; `style` is "filled", "hollow" or "plain" (a tick)."""

    value: float
    low: float | None = None
    high: float | None = None
    style: str = "filled"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of an interval plot: a label, the text at the right, and its marks below each other."""

    label: str
    marks: tuple[Mark, ...]
    text: str = ""


def nice_ticks(low: float, high: float, *, most: int = 6, whole: bool = False) -> list[float]:
    """Round numbers that cover [low, high]: at most `most` steps of 1, 2, 2.5 or 5 times a power of ten."""
    if high < low:
        low, high = high, low
    if max(abs(low), abs(high)) > 1e300:  # rounding further out would overflow
        return [low, high]
    if high == low:
        low, high = (low - 1, high + 1) if whole or low == 0 else (low - abs(low) / 2, high + abs(high) / 2)
    span = high - low
    if not math.isfinite(span) or span < 1e-300 or span / max(abs(low), abs(high)) < 1e-9:
        return [low, high]
    power = 10.0 ** math.floor(math.log10(span / most))
    steps = [power * factor for factor in ((1, 2, 5, 10, 20, 50) if whole else (1, 2, 2.5, 5, 10, 20))]
    for step in steps:
        if whole and step < 1:
            continue
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first <= most:
            return [float(f"{index * step:.12g}") for index in range(first, last + 1)]
    return [low, high]


def fit(text: object, width: float, size: float = 13) -> str:
    """The text, cut with an ellipsis where it would be wider than `width` units in type of `size` units."""
    text = clean(text)
    widths = _widths(text, size)
    if sum(widths) <= width:
        return text
    used, kept = size * 0.8, 0
    while kept < len(text) and used + widths[kept] <= width:
        used += widths[kept]
        kept += 1
    return text[:kept].rstrip() + "…"


def _widths(text: str, size: float) -> list[float]:
    """The width that each sign is given, in the units of the type's size."""
    return [size * (1.0 if unicodedata.east_asian_width(sign) in "WF" else 0.58) for sign in text]


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    desc: str,
    key: str,
    x_label: str,
    bounds: tuple[float | None, float | None] = (None, None),
) -> str:
    """Lines over a shared x axis, each named at its right end; `bounds` widen the y axis to hold these values.

    Returns "" when there is nothing to draw.
    """
    series = [line for line in series if line.points]
    if not series:
        return ""
    xs = [x for line in series for x, _ in line.points]
    ys = [y for line in series for _, y in line.points] + [bound for bound in bounds if bound is not None]
    y_ticks = nice_ticks(min(ys), max(ys), most=5)
    y_labels = _tick_labels(y_ticks)
    left = 10 + 7.3 * max(len(label) for label in y_labels)
    right = WIDTH - 10 - max(min(7.2 * len(line.label), 110) for line in series)
    top, bottom = 12.0, 220.0
    x_ticks, x_low, x_high = _x_axis(xs, right - left)

    def across(x: float) -> float:
        return left + (right - left) * _share(x, x_low, x_high)

    def up(y: float) -> float:
        return bottom - (bottom - top) * _share(y, y_ticks[0], y_ticks[-1])

    parts = []
    for value, label in zip(y_ticks, y_labels, strict=True):
        parts.append(_line(left, up(value), right, up(value), "grid"))
        parts.append(_text(left - 6, up(value) + 4.5, label, "muted", "end"))
    for value, label in zip(x_ticks, _tick_labels(x_ticks), strict=True):
        parts.append(_line(across(value), bottom, across(value), bottom + 4, "axis"))
        parts.append(_text(across(value), bottom + 18, label, "muted", "middle"))
    parts.append(_line(left, bottom, right, bottom, "axis"))
    parts.append(_text((left + right) / 2, bottom + 37, fit(x_label, right - left), "muted", "middle"))
    for line in series:
        parts.append(_drawn_line(line, [(across(x), up(y)) for x, y in line.points]))
    ends = _apart([up(line.points[-1][1]) for line in series], gap=_LINE, low=top, high=bottom)
    for line, y in zip(series, ends, strict=True):
        parts.append(_text(right + 8, y + 4.5, fit(line.label, 112), f"label {line.style}", "start"))
    return _figure("".join(parts), height=264, title=title, desc=desc, key=key)


def bar_chart(
    bars: Sequence[Bar], *, title: str, desc: str, key: str, parts: Sequence[str] = (), label_width: float = 120
) -> str:
    """Horizontal bars from zero, stacked in up to three parts that are told apart by their fill (full, hatched, empty).

    Returns "" when there are no bars.
    """
    if not bars:
        return ""
    text_width = 7.2 * max(len(bar.text) for bar in bars)
    label_width = min(label_width, max(sum(_widths(clean(bar.label), 13)) for bar in bars))
    left, right = label_width + 8, WIDTH - 8 - min(text_width, 120)
    longest = max(sum(max(value, 0) for value in bar.parts) for bar in bars) or 1
    body, y = [_hatch(key)], 0.0
    if len(parts) > 1:
        x = 0.0
        for index, name in enumerate(parts):
            shown = fit(name, (WIDTH - x) / (len(parts) - index) - 31)
            body.append(_rect(x, y + 4, 12, 11, index, key) + _text(x + 17, y + 14, shown, "muted", "start"))
            x += 17 + 7.6 * len(shown) + 14
        y += 26
    for bar in bars:
        full = html.escape(clean(bar.label))
        label = _text(label_width, y + 15.5, fit(bar.label, label_width), "", "end")
        body.append(f"<g><title>{full}: {html.escape(clean(bar.text))}</title>{label}")
        x = left
        for index, value in enumerate(bar.parts):
            width = (right - left) * max(value, 0) / longest
            if width > 0:
                body.append(_rect(x, y + 4, width, 15, index, key))
            x += width
        body.append(_text(x + 6, y + 15.5, fit(bar.text, 128), "muted figure", "start") + "</g>")
        y += 24
    return _figure("".join(body), height=y + 2, title=title, desc=desc, key=key)


def interval_plot(rows: Sequence[Row], *, title: str, desc: str, key: str) -> str:
    """Values with their intervals on one axis, one row each.

    Returns "" when there are no rows.
    """
    rows = [row for row in rows if row.marks]
    if not rows:
        return ""
    values = [v for row in rows for m in row.marks for v in (m.value, m.low, m.high) if v is not None]
    ticks = nice_ticks(min(values), max(values), most=6)
    left, right = 12.0, WIDTH - 16.0

    def across(value: float) -> float:
        return left + (right - left) * _share(value, ticks[0], ticks[-1])

    y, body = 0.0, []
    for row in rows:
        used = 7.2 * len(row.text)
        label = _text(0, y + 14, fit(row.label, WIDTH - used - 12), "strong", "start")
        body.append(f"<g><title>{html.escape(clean(row.label))}: {html.escape(clean(row.text))}</title>{label}")
        body.append(_text(WIDTH, y + 14, row.text, "muted figure", "end"))
        y += 20
        for mark in row.marks:
            body.append(_drawn_mark(mark, across, y + 8))
            y += 16
        body.append("</g>")
        y += 8
    grid = "".join(_line(across(tick), 20, across(tick), y, "grid") for tick in ticks)
    axis = _line(left, y, right, y, "axis")
    for tick, label in zip(ticks, _tick_labels(ticks), strict=True):
        axis += _text(across(tick), y + 18, label, "muted", "middle")
    return _figure(grid + "".join(body) + axis, height=y + 24, title=title, desc=desc, key=key)


def heat_table(matrix: Sequence[Sequence[float]], *, labels: Sequence[str], title: str, desc: str, key: str) -> str:
    """A square table of counts as shades, rows true and columns predicted, for more classes than numbers have room for.

    A shade is the count's share of its row; the classes are numbered from 1 along the axes. Returns "" without rows.
    """
    n = len(matrix)
    if not n:
        return ""
    edge = 34.0
    cell = (WIDTH - edge - 2) / n
    body = [_text(edge + (WIDTH - edge) / 2, 12, "predicted class", "muted", "middle")]
    body.append(
        f'<text x="11" y="{_n(edge + (WIDTH - edge) / 2)}" class="muted" text-anchor="middle" '
        f'transform="rotate(-90 11 {_n(edge + (WIDTH - edge) / 2)})">true class</text>'
    )
    body.append(f'<rect x="{_n(edge)}" y="{_n(edge)}" width="{_n(cell * n)}" height="{_n(cell * n)}" class="frame"/>')
    every = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, n) if n / step <= 12)
    for index in range(every - 1, n, every):
        middle = edge + (index + 0.5) * cell
        body.append(_text(middle, edge - 4, str(index + 1), "muted small", "middle"))
        body.append(_text(edge - 3, middle + 4, str(index + 1), "muted small", "end"))
    names = [clean(label) for label in labels] + ["?"] * (n - len(labels))
    for i, row in enumerate(matrix):
        total = sum(max(value, 0) for value in row)
        for j, value in enumerate(row[:n]):
            if value <= 0:
                continue
            said = html.escape(f"true {names[i]}, predicted {names[j]}: {value:g}")
            body.append(
                f'<rect x="{_n(edge + j * cell)}" y="{_n(edge + i * cell)}" width="{_n(cell)}" height="{_n(cell)}" '
                f'class="{"right" if i == j else "wrong"}" fill-opacity="{0.2 + 0.8 * value / total:.2f}">'
                f"<title>{said}</title></rect>"
            )
    return _figure("".join(body), height=WIDTH, title=title, desc=desc, key=key)


def meter(value: float | None) -> str:
    """A tiny bar for a share between 0 and 1, for use beside its number (hidden from screen readers)."""
    width = 48 * min(max(value or 0.0, 0.0), 1.0)
    return (
        '<svg class="meter" viewBox="0 0 48 8" aria-hidden="true" focusable="false">'
        f'<rect width="48" height="8" class="track"/><rect width="{_n(width)}" height="8" class="part0"/></svg>'
    )


# --- pieces ------------------------------------------------------------------------------------------------


def _figure(body: str, *, height: float, title: str, desc: str, key: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {WIDTH} {_n(height)}" role="img" '
        f'aria-labelledby="{key}-title {key}-desc"><title id="{key}-title">{html.escape(clean(title))}</title>'
        f'<desc id="{key}-desc">{html.escape(clean(desc))}</desc>{body}</svg>'
    )


def _n(value: float) -> str:
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def _share(value: float, low: float, high: float) -> float:
    return 0.5 if high == low else (value / 2 - low / 2) / (high / 2 - low / 2)  # halves: the span may overflow


def _text(x: float, y: float, text: str, style: str, anchor: str) -> str:
    kind = f' class="{style}"' if style else ""
    return f'<text x="{_n(x)}" y="{_n(y)}"{kind} text-anchor="{anchor}">{html.escape(clean(text))}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}" class="{style}"/>'


def _rect(x: float, y: float, width: float, height: float, index: int, key: str) -> str:
    fill = f' fill="url(#{key}-hatch)"' if index == 1 else ""
    size = f'width="{_n(max(width, 0.6))}" height="{_n(height)}"'
    return f'<rect x="{_n(x)}" y="{_n(y)}" {size} class="part{min(index, 2)}"{fill}/>'


def _hatch(key: str) -> str:
    return (
        f'<defs><pattern id="{key}-hatch" width="5" height="5" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><rect width="2.2" height="5" class="hatch"/></pattern></defs>'
    )


def _x_axis(xs: Sequence[float], width: float) -> tuple[list[float], float, float]:
    """Round ticks within the data, as many as their labels have room for, and the ends of the axis."""
    low, high = min(xs), max(xs)
    whole = all(float(x).is_integer() for x in xs)
    if low == high:
        ticks = nice_ticks(low, high, most=2, whole=whole)
        return [low], ticks[0], ticks[-1]
    inside: list[float] = []
    for most in (8, 5, 3, 2):
        inside = [tick for tick in nice_ticks(low, high, most=most, whole=whole) if low <= tick <= high]
        if sum(7.3 * len(label) + 14 for label in _tick_labels(inside)) <= width:
            break
    return inside, low, high


def _tick_labels(ticks: Sequence[float]) -> list[str]:
    biggest = max((abs(tick) for tick in ticks), default=0)
    if biggest >= 1e7 or (0 < biggest < 1e-4):
        return [f"{tick:.3g}" for tick in ticks]
    for decimals in range(6):
        labels = [f"{tick:,.{decimals}f}".replace("-", "−") for tick in ticks]
        step = min((abs(a - b) for a, b in pairwise(ticks)), default=1)
        if all(abs(round(tick, decimals) - tick) <= step / 100 for tick in ticks):
            return labels
    return [f"{tick:.3g}" for tick in ticks]


def _drawn_line(line: Series, points: Sequence[tuple[float, float]]) -> str:
    path = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
    drawn = f'<polyline points="{path}" class="series {line.style}"/>'
    if line.style != "dotted" and len(points) <= 30:
        drawn += "".join(
            f'<circle cx="{_n(x)}" cy="{_n(y)}" r="3" class="dot {line.style}"/>' for x, y in points
        )  # fmt: skip
    return drawn


def _drawn_mark(mark: Mark, across: Callable[[float], float], y: float) -> str:
    drawn = ""
    if mark.low is not None and mark.high is not None:
        low, high = across(mark.low), across(mark.high)
        drawn += _line(low, y, high, y, f"span {mark.style}")
        drawn += "".join(_line(end, y - 4, end, y + 4, f"span {mark.style}") for end in (low, high))
    x = across(mark.value)
    if mark.style == "plain":
        return drawn + _line(x, y - 6, x, y + 6, "tick")
    return drawn + f'<circle cx="{_n(x)}" cy="{_n(y)}" r="5" class="dot {mark.style}"/>'


def _apart(wanted: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """The wanted heights, moved so that neighbours stand at least `gap` apart."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed = [min(max(y, low), high) for y in wanted]
    for before, after in pairwise(order):
        placed[after] = max(placed[after], placed[before] + gap)
    for after, before in pairwise(reversed(order)):
        if placed[after] > high:
            placed[after] = high
        placed[before] = min(placed[before], placed[after] - gap)
    return placed
