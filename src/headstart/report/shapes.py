"""What every chart is made of: strokes, type, blocks, axes with round ticks, and the frame with its description."""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from headstart.report.words import clean

__all__ = [
    "WIDTH",
    "axes",
    "block",
    "fit",
    "framed",
    "hatch",
    "nice_ticks",
    "share",
    "short",
    "sign_widths",
    "stroke",
    "tick_labels",
    "written",
    "x_axis",
]

WIDTH = 400


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
    widths = sign_widths(text, size)
    if sum(widths) <= width:
        return text
    used, kept = size * 0.8, 0
    while kept < len(text) and used + widths[kept] <= width:
        used += widths[kept]
        kept += 1
    return text[:kept].rstrip() + "…"


def sign_widths(text: str, size: float) -> list[float]:
    """The width that each sign is given, in the units of the type's size."""
    return [size * (1.0 if unicodedata.east_asian_width(sign) in "WF" else 0.58) for sign in text]


def framed(body: str, *, height: float, title: str, desc: str, key: str) -> str:
    """The whole chart: its body with a title and a description that screen readers say."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {WIDTH} {short(height)}" role="img" '
        f'aria-labelledby="{key}-title {key}-desc"><title id="{key}-title">{html.escape(clean(title))}</title>'
        f'<desc id="{key}-desc">{html.escape(clean(desc))}</desc>{body}</svg>'
    )


def short(value: float) -> str:
    """A coordinate with one decimal at most."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def share(value: float, low: float, high: float) -> float:
    """Where a value lies between two ends: 0 at the low one, 1 at the high one."""
    if high == low:
        return 0.5
    if math.isfinite(high - low):
        return (value - low) / (high - low)
    return (value / 2 - low / 2) / (high / 2 - low / 2)  # halves: the span itself overflows


def written(at: tuple[float, float], text: str, *, style: str = "", anchor: str = "start", tag: str = "") -> str:
    """A piece of type; `anchor` is "start", "middle" or "end"; `tag` follows in the accent's colour."""
    kind = f' class="{style}"' if style else ""
    place = f'x="{short(at[0])}" y="{short(at[1])}"'
    more = f'<tspan class="solid" dx="8">{html.escape(clean(tag))}</tspan>' if tag else ""
    return f'<text {place}{kind} text-anchor="{anchor}">{html.escape(clean(text))}{more}</text>'


def stroke(start: tuple[float, float], end: tuple[float, float], *, style: str) -> str:
    """A straight line."""
    (x1, y1), (x2, y2) = start, end
    return f'<line x1="{short(x1)}" y1="{short(y1)}" x2="{short(x2)}" y2="{short(y2)}" class="{style}"/>'


def block(corner: tuple[float, float], size: tuple[float, float], *, part: int, key: str) -> str:
    """A piece of a bar: full (0), hatched (1) or empty (2)."""
    fill = f' fill="url(#{key}-hatch)"' if part == 1 else ""
    place = f'x="{short(corner[0])}" y="{short(corner[1])}"'
    sides = f'width="{short(max(size[0], 0.6))}" height="{short(size[1])}"'
    return f'<rect {place} {sides} class="part{min(part, 2)}"{fill}/>'


def hatch(key: str) -> str:
    """The pattern of hatched blocks; ids are unique by `key`."""
    return (
        f'<defs><pattern id="{key}-hatch" width="5" height="5" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><rect width="2.2" height="5" class="hatch"/></pattern></defs>'
    )


def x_axis(xs: Sequence[float], width: float) -> tuple[list[float], float, float]:
    """Round ticks within the data, as many as their labels have room for, and the ends of the axis."""
    low, high = min(xs), max(xs)
    whole = all(float(x).is_integer() for x in xs)
    if low == high:
        ticks = nice_ticks(low, high, most=2, whole=whole)
        return [low], ticks[0], ticks[-1]
    inside: list[float] = []
    for most in (8, 5, 3, 2):
        inside = [tick for tick in nice_ticks(low, high, most=most, whole=whole) if low <= tick <= high]
        if sum(7.3 * len(label) + 14 for label in tick_labels(inside)) <= width:
            break
    return inside, low, high


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """The ticks in as few decimals as they need."""
    biggest = max((abs(tick) for tick in ticks), default=0)
    if biggest >= 1e7 or (0 < biggest < 1e-4):
        return [f"{tick:.3g}" for tick in ticks]
    for decimals in range(6):
        labels = [f"{tick:,.{decimals}f}".replace("-", "−") for tick in ticks]
        step = min((abs(a - b) for a, b in pairwise(ticks)), default=1)
        if all(abs(round(tick, decimals) - tick) <= step / 100 for tick in ticks):
            return labels
    return [f"{tick:.3g}" for tick in ticks]


def axes(
    across: Callable[[float], float],
    up: Callable[[float], float],
    *,
    x_ticks: Sequence[float],
    y_ticks: Mapping[float, str],
    x_label: str,
    box: tuple[float, float, float],
) -> list[str]:
    """The grid, the ticks with their labels and the base line of a chart whose box is (left, right, bottom).

    `across` and `up` place values in the drawing; `y_ticks` are values with their labels.
    """
    left, right, bottom = box
    parts = []
    for value, label in y_ticks.items():
        parts.append(stroke((left, up(value)), (right, up(value)), style="grid"))
        parts.append(written((left - 6, up(value) + 4.5), label, style="muted", anchor="end"))
    for value, label in zip(x_ticks, tick_labels(x_ticks), strict=True):
        parts.append(stroke((across(value), bottom), (across(value), bottom + 4), style="axis"))
        parts.append(written((across(value), bottom + 18), label, style="muted", anchor="middle"))
    parts.append(stroke((left, bottom), (right, bottom), style="axis"))
    parts.append(written(((left + right) / 2, bottom + 37), fit(x_label, right - left), style="muted", anchor="middle"))
    return parts
