"""Small charts as inline SVG: pure functions from numbers to text, the same text for the same numbers.

Every chart is 400 units wide, so its 13-unit type stays readable on a phone; colours come from the page's style sheet
through classes, and no meaning hangs on colour alone (dashes, fills and direct labels carry it too). Each chart
has a title and a description for screen readers; `key` makes their ids unique within a page.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from headstart.report.shapes import (
    WIDTH,
    axes,
    block,
    fit,
    framed,
    hatch,
    nice_ticks,
    share,
    short,
    sign_widths,
    stroke,
    tick_labels,
    written,
    x_axis,
)
from headstart.report.words import clean

__all__ = [
    "WIDTH",
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
    y_labels = tick_labels(y_ticks)
    left = 10 + 7.3 * max(len(label) for label in y_labels)
    right = WIDTH - 10 - max(min(7.2 * len(line.label), 110) for line in series)
    top, bottom = 12.0, 220.0
    x_ticks, x_low, x_high = x_axis(xs, right - left)

    def across(x: float) -> float:
        return left + (right - left) * share(x, x_low, x_high)

    def up(y: float) -> float:
        return bottom - (bottom - top) * share(y, y_ticks[0], y_ticks[-1])

    parts = axes(
        across,
        up,
        x_ticks=x_ticks,
        y_ticks=dict(zip(y_ticks, y_labels, strict=True)),
        x_label=x_label,
        box=(left, right, bottom),
    )
    for line in series:
        parts.append(_drawn_line(line, [(across(x), up(y)) for x, y in line.points]))
    ends = _apart([up(line.points[-1][1]) for line in series], gap=_LINE, low=top, high=bottom)
    for line, y in zip(series, ends, strict=True):
        parts.append(written((right + 8, y + 4.5), fit(line.label, 112), style=f"label {line.style}"))
    return framed("".join(parts), height=264, title=title, desc=desc, key=key)


def bar_chart(
    bars: Sequence[Bar], *, title: str, desc: str, key: str, parts: Sequence[str] = (), label_width: float = 120
) -> str:
    """Horizontal bars from zero, stacked in up to three parts that are told apart by their fill (full, hatched, empty).

    Returns "" when there are no bars.
    """
    if not bars:
        return ""
    text_width = 7.2 * max(len(bar.text) for bar in bars)
    label_width = min(label_width, max(sum(sign_widths(clean(bar.label), 13)) for bar in bars))
    left, right = label_width + 8, WIDTH - 8 - min(text_width, 120)
    longest = max(sum(max(value, 0) for value in bar.parts) for bar in bars) or 1
    body, y = [hatch(key)], 0.0
    if len(parts) > 1:
        x = 0.0
        for index, name in enumerate(parts):
            shown = fit(name, (WIDTH - x) / (len(parts) - index) - 31)
            body.append(
                block((x, y + 4), (12, 11), part=index, key=key) + written((x + 17, y + 14), shown, style="muted")
            )
            x += 17 + 7.6 * len(shown) + 14
        y += 26
    for bar in bars:
        full = html.escape(clean(bar.label))
        label = written((label_width, y + 15.5), fit(bar.label, label_width), anchor="end")
        body.append(f"<g><title>{full}: {html.escape(clean(bar.text))}</title>{label}")
        x = left
        for index, value in enumerate(bar.parts):
            width = (right - left) * max(value, 0) / longest
            if width > 0:
                body.append(block((x, y + 4), (width, 15), part=index, key=key))
            x += width
        body.append(written((x + 6, y + 15.5), fit(bar.text, 128), style="muted figure") + "</g>")
        y += 24
    return framed("".join(body), height=y + 2, title=title, desc=desc, key=key)


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
        return left + (right - left) * share(value, ticks[0], ticks[-1])

    y, body = 0.0, []
    for row in rows:
        used = 7.2 * len(row.text)
        label = written((0, y + 14), fit(row.label, WIDTH - used - 12), style="strong")
        body.append(f"<g><title>{html.escape(clean(row.label))}: {html.escape(clean(row.text))}</title>{label}")
        body.append(written((WIDTH, y + 14), row.text, style="muted figure", anchor="end"))
        y += 20
        for mark in row.marks:
            body.append(_drawn_mark(mark, across, y + 8))
            y += 16
        body.append("</g>")
        y += 8
    grid = "".join(stroke((across(tick), 20), (across(tick), y), style="grid") for tick in ticks)
    axis = stroke((left, y), (right, y), style="axis")
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        axis += written((across(tick), y + 18), label, style="muted", anchor="middle")
    return framed(grid + "".join(body) + axis, height=y + 24, title=title, desc=desc, key=key)


def heat_table(matrix: Sequence[Sequence[float]], *, labels: Sequence[str], title: str, desc: str, key: str) -> str:
    """A square table of counts as shades, rows true and columns predicted, for more classes than numbers have room for.

    A shade is the count's share of its row; the classes are numbered from 1 along the axes. Returns "" without rows.
    """
    n = len(matrix)
    if not n:
        return ""
    edge = 34.0
    cell = (WIDTH - edge - 2) / n
    body = [written((edge + (WIDTH - edge) / 2, 12), "predicted class", style="muted", anchor="middle")]
    body.append(
        f'<text x="11" y="{short(edge + (WIDTH - edge) / 2)}" class="muted" text-anchor="middle" '
        f'transform="rotate(-90 11 {short(edge + (WIDTH - edge) / 2)})">true class</text>'
    )
    body.append(
        f'<rect x="{short(edge)}" y="{short(edge)}" width="{short(cell * n)}" height="{short(cell * n)}" '
        'class="frame"/>'
    )
    every = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, n) if n / step <= 12)
    for index in range(every - 1, n, every):
        middle = edge + (index + 0.5) * cell
        body.append(written((middle, edge - 4), str(index + 1), style="muted small", anchor="middle"))
        body.append(written((edge - 3, middle + 4), str(index + 1), style="muted small", anchor="end"))
    names = [clean(label) for label in labels] + ["?"] * (n - len(labels))
    for i, row in enumerate(matrix):
        total = sum(max(value, 0) for value in row)
        for j, value in enumerate(row[:n]):
            if value <= 0:
                continue
            said = html.escape(f"true {names[i]}, predicted {names[j]}: {value:g}")
            body.append(
                f'<rect x="{short(edge + j * cell)}" y="{short(edge + i * cell)}" '
                f'width="{short(cell)}" height="{short(cell)}" '
                f'class="{"right" if i == j else "wrong"}" fill-opacity="{0.2 + 0.8 * value / total:.2f}">'
                f"<title>{said}</title></rect>"
            )
    return framed("".join(body), height=WIDTH, title=title, desc=desc, key=key)


def meter(value: float | None) -> str:
    """A tiny bar for a share between 0 and 1, for use beside its number (hidden from screen readers)."""
    width = 48 * min(max(value or 0.0, 0.0), 1.0)
    return (
        '<svg class="meter" viewBox="0 0 48 8" aria-hidden="true" focusable="false">'
        f'<rect width="48" height="8" class="track"/><rect width="{short(width)}" height="8" class="part0"/></svg>'
    )


# --- pieces ------------------------------------------------------------------------------------------------


def _drawn_line(line: Series, points: Sequence[tuple[float, float]]) -> str:
    path = " ".join(f"{short(x)},{short(y)}" for x, y in points)
    drawn = f'<polyline points="{path}" class="series {line.style}"/>'
    if line.style != "dotted" and len(points) <= 30:
        drawn += "".join(
            f'<circle cx="{short(x)}" cy="{short(y)}" r="3" class="dot {line.style}"/>' for x, y in points
        )  # fmt: skip
    return drawn


def _drawn_mark(mark: Mark, across: Callable[[float], float], y: float) -> str:
    drawn = ""
    if mark.low is not None and mark.high is not None:
        low, high = across(mark.low), across(mark.high)
        drawn += stroke((low, y), (high, y), style=f"span {mark.style}")
        drawn += "".join(stroke((end, y - 4), (end, y + 4), style=f"span {mark.style}") for end in (low, high))
    x = across(mark.value)
    if mark.style == "plain":
        return drawn + stroke((x, y - 6), (x, y + 6), style="tick")
    return drawn + f'<circle cx="{short(x)}" cy="{short(y)}" r="5" class="dot {mark.style}"/>'


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
