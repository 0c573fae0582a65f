"""The section of a report that tells of exports: what certificate.json holds, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headstart.report.page import environment
from headstart.report.reading import entries, interval, number, part, table, text
from headstart.report.words import count, percent, plural, signed

__all__ = ["exports_section"]


def exports_section(certificates: Sequence[Mapping[str, Any]]) -> str:
    """The section as HTML; "" without certificates."""
    if not certificates:
        return ""
    held = all(part(told, "data", "held_out") is True for told in certificates)
    words = f"{plural(len(certificates), 'export')} of this model. Each was judged before it was written, on pictures "
    words += "that training never saw." if held else "of the training set, for there is no test set."
    judged, costs = [_judged(told) for told in certificates], [_cost(told) for told in certificates]
    section: str = environment().get_template("exports.html.j2").render(words=words, judged=judged, costs=costs)
    return section


def _name(told: Mapping[str, Any]) -> str:
    return f"{text(told, 'export', 'to')} {text(told, 'export', 'precision')}"


def _judged(told: Mapping[str, Any]) -> list[str]:
    change = signed(number(told, "accuracy", "change_points"))
    if bounds := interval(told, "accuracy", "interval_points"):
        change += f" ({signed(bounds[0])} to {signed(bounds[1])})"
    return [
        _name(told),
        count(number(told, "n")),
        count(len(entries(told, "whole", "flipped"))),
        percent(number(told, "accuracy", "export")),
        change,
        f"{_small(told, 'network')}, {_small(told, 'whole')}",
    ]


def _cost(told: Mapping[str, Any]) -> list[str]:
    return [_name(told), _size(told), _times(told, "batch_1"), _times(told, "batch_32")]


def _small(told: Mapping[str, Any], way: str) -> str:
    found = number(told, way, "max_probability_difference")
    return "–" if found is None else f"{found:.0e}"


def _size(told: Mapping[str, Any]) -> str:
    files = table(told, "export", "files")
    return f"{sum(number(entry, 'bytes') or 0 for entry in files.values()) / 1e6:.1f} MB"


def _times(told: Mapping[str, Any], batch: str) -> str:
    ours, theirs = (number(told, "latency", batch, f"{name}_ms") for name in ("export", "torch"))
    return "–" if ours is None or theirs is None else f"{ours:.1f} of {theirs:.1f} ms"
