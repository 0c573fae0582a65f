"""Explained pictures as one HTML page that needs no network and no script. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headstart.report.page import environment, style
from headstart.report.picture import Picture, data_uri
from headstart.report.reading import number, table, text
from headstart.report.words import percent

__all__ = ["Explained", "render"]


@dataclass(frozen=True, slots=True)
class Explained:
    """One picture explained: the facts as JSON knows them, and what to draw.

    `flip` is the box (top, left, bottom, right, shares of the picture) whose covering changes the answer.
    """

    facts: dict[str, Any]
    picture: Picture | None = None
    flip: tuple[float, float, float, float] | None = None
    neighbours: tuple[Picture, ...] = field(default=())


def render(found: Sequence[Explained]) -> str:
    """Write explained pictures as one self-contained page."""
    return environment().get_template("explained.html.j2").render(style=style(), shown=[_shown(one) for one in found])


def _shown(one: Explained) -> dict[str, Any]:
    facts, picture = one.facts, one.picture
    return {
        "name": text(facts, "file") or "picture",
        "error": text(facts, "error"),
        "answer": _answer(facts),
        "words": _words(facts) if not text(facts, "error") else [],
        "src": data_uri(picture.data) if picture is not None else "",
        "map": data_uri(picture.map) if picture is not None else "",
        "alt": f"The picture {text(facts, 'file')}",
        "box": None if one.flip is None else _percents(one.flip),
        "neighbours": [
            {"src": data_uri(near.data), "label": near.label, "name": near.name, "note": near.note, "alt": near.name}
            for near in one.neighbours
        ],
    }


def _percents(box: tuple[float, float, float, float]) -> dict[str, str]:
    top, left, bottom, right = (100 * edge for edge in box)
    shares = {"top": top, "left": left, "width": right - left, "height": bottom - top}
    return {name: f"{value:.2f}" for name, value in shares.items()}


def _answer(facts: Mapping[str, Any]) -> str:
    best = text(facts, "best")
    said = f"{text(facts, 'label')}, nearest {best}" if best else text(facts, "label")
    return f"{said} {percent(number(facts, 'probability'))}"


def _words(facts: Mapping[str, Any]) -> list[str]:
    """What is to be said below a picture."""
    found, best = [], text(facts, "best") or text(facts, "label")
    if text(facts, "runner_up"):
        margin = number(facts, "margin") or 0.0
        found.append(f"The next likely is {text(facts, 'runner_up')}, {100 * margin:.1f} points behind.")
    marked = table(facts, "covered")
    if marked:
        found.append(
            f"With the brightest fifth of what it saw under grey, {best} gets {percent(number(marked, 'marked'))};"
            f" with the darkest fifth, {percent(number(marked, 'unmarked'))}."
        )
    else:
        found.append("There is no map: nothing in the picture alone speaks for this answer.")
    flipped = table(facts, "flip")
    if flipped:
        found.append(
            f"A grey square over {percent(number(flipped, 'share'))} of what it saw (outlined) turns the answer into"
            f" {text(flipped, 'label')} ({percent(number(flipped, 'probability'))})."
        )
    else:
        found.append("No grey square up to half as wide and half as high as what it saw changes the answer.")
    return found
