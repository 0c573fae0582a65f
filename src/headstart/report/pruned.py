"""The section of a report that tells of pruned models: what curve.json holds, as a chart and a table for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headstart.report.page import environment
from headstart.report.reading import interval, number, records
from headstart.report.shapes import WIDTH, axes, framed, nice_ticks, share, short, stroke, tick_labels
from headstart.report.words import count, percent, plural, signed

__all__ = ["pruned_chart", "pruned_section"]


def pruned_section(curves: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """The section as HTML; "" without curves. Each is the name of its folder and what its curve.json holds."""
    from markupsafe import Markup

    if not curves:
        return ""
    models = [
        {
            "name": name,
            "words": _words(told),
            "chart": Markup(pruned_chart(told, key=f"pruned-{place}")),
            "rows": _rows(told),
            "n": count(number(told, "validation", "n")),
        }
        for place, (name, told) in enumerate(curves)
    ]
    lead = f"{plural(len(curves), 'smaller model')} made of this one by cutting channels out of its network."
    section: str = environment().get_template("pruned.html.j2").render(lead=lead, models=models)
    return section


def _words(told: Mapping[str, Any]) -> str:
    """What was chosen, and how it answers on the test items."""
    points, place = records(told, "points"), int(number(told, "chosen") or 0)
    if not 0 <= place < len(points):
        return ""
    chosen, whole = points[place], points[0]
    found = (
        f"{number(chosen, 'speedup') or 0:.2f} times fewer multiply-adds, "
        f"{percent((number(chosen, 'parameters') or 0) / (number(whole, 'parameters') or 1))} of the parameters."
    )
    if (size := _pixels(chosen)) != _pixels(whole):
        found += f" It takes pictures of {size} pixels, the whole network {_pixels(whole)}."
    before, after = number(told, "test", "whole", "accuracy"), number(told, "test", "scores", "accuracy")
    if before is not None and after is not None:
        change = signed(number(told, "test", "change_points"))
        if bounds := interval(told, "test", "change_interval"):
            change += f", {signed(bounds[0])} to {signed(bounds[1])}"
        found += (
            f" On {plural(int(number(told, 'test', 'n') or 0), 'test image')} {percent(after)} are right, "
            f"{percent(before)} with the whole network (change in points {change})."
        )
    return found


def _rows(told: Mapping[str, Any]) -> list[list[str]]:
    """A row a network, the whole one first."""
    place, rows = number(told, "chosen"), []
    for at, point in enumerate(records(told, "points")):
        bounds = interval(point, "accuracy_interval")
        change = signed(number(point, "change_points")) if at else "–"
        if at and (paired := interval(point, "change_interval")):
            change += f" ({signed(paired[0])} to {signed(paired[1])})"
        right = percent(number(point, "accuracy"))
        right += f" ({100 * bounds[0]:.1f} to {100 * bounds[1]:.1f})" if bounds else ""
        time, rate = number(point, "latency", "ms"), number(point, "latency", "images_per_second")
        rows.append([
            "chosen" if at == place else "whole" if not at else "on the way",
            f"{(number(point, 'macs') or 0) / 1e6:,.1f} M", f"{(number(point, 'parameters') or 0) / 1e6:,.3f} M",
            _pixels(point), right, change,
            "–" if time is None else f"{time:.1f} ms", "–" if rate is None else count(round(rate)),
        ])  # fmt: skip
    return rows


def _pixels(point: Mapping[str, Any]) -> str:
    """The size of the pictures that a network takes; a dash where curve.json does not say it."""
    size = point.get("image_size")
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) for side in size)):
        return "–"
    return f"{size[0]} x {size[1]}"


def pruned_chart(told: Mapping[str, Any], *, key: str) -> str:
    """Accuracy with its interval against multiply-adds; "" where fewer than two networks have both."""
    found = []
    for point in records(told, "points"):
        macs, accuracy = number(point, "macs"), number(point, "accuracy")
        if macs is not None and accuracy is not None:
            low, high = interval(point, "accuracy_interval") or (accuracy, accuracy)
            found.append((macs / 1e6, 100 * accuracy, 100 * low, 100 * high))
    if len(found) < 2:
        return ""
    found.sort()
    y_ticks = nice_ticks(min(low for *_, low, _ in found), max(high for *_, high in found), most=5)
    y_labels = [f"{label} %" for label in tick_labels(y_ticks)]
    left, right, top, bottom = 14 + 7.3 * max(map(len, y_labels)), WIDTH - 14.0, 12.0, 220.0
    xs = [x for x, *_ in found]
    x_ticks = nice_ticks(0.0, max(xs), most=5)

    def across(x: float) -> float:
        return left + (right - left) * share(x, x_ticks[0], x_ticks[-1])

    def up(y: float) -> float:
        return bottom - (bottom - top) * share(y, y_ticks[0], y_ticks[-1])

    parts = axes(
        across,
        up,
        x_ticks=x_ticks,
        y_ticks=dict(zip(y_ticks, y_labels, strict=True)),
        x_label="million multiply-adds an image",
        box=(left, right, bottom),
    )
    path = " ".join(f"{short(across(x))},{short(up(y))}" for x, y, *_ in found)
    parts.append(f'<polyline points="{path}" class="series"/>')
    for x, y, low, high in found:
        parts.append(stroke((across(x), up(low)), (across(x), up(high)), style="span"))
        parts += [stroke((across(x) - 4, up(end)), (across(x) + 4, up(end)), style="span") for end in (low, high)]
        parts.append(f'<circle cx="{short(across(x))}" cy="{short(up(y))}" r="4.5" class="dot filled"/>')
    desc = "; ".join(f"{x:.1f} million: {y:.1f} % ({low:.1f} to {high:.1f})" for x, y, low, high in reversed(found))
    title = "Accuracy on validation items with 95 % intervals"
    return framed("".join(parts), height=264, title=title, desc=desc, key=key)
