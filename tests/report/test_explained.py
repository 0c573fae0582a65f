"""The page of explained pictures: whole, escaped, and nothing claimed that is not there."""

from __future__ import annotations

import re
from typing import Any

import pytest

from headstart.report import Picture
from headstart.report.explained import Explained, render

from .example_runs import HOSTILE, jpeg
from .test_page import Page

PNG = b"\x89PNG\r\n\x1a\n"


def facts(**changes: Any) -> dict[str, Any]:
    return {
        "file": "ants/1.jpg", "label": "ants", "probability": 0.91, "probabilities": {"ants": 0.91, "bees": 0.09},
        "runner_up": "bees", "margin": 0.82, "looked_at": [[0.0, 1.0]],
        "covered": {"part": 0.2, "marked": 0.3, "unmarked": 0.9},
        "flip": {"share": 0.0625, "box": [0, 0, 0.25, 0.25], "label": "bees", "probability": 0.7, "was": 0.3},
        "neighbours": [], **changes,
    }  # fmt: skip


def explained(name: str = "ants/1.jpg", **changes: Any) -> Explained:
    near = Picture("train/ants/7.jpg", jpeg((9, 90, 9)), "ants", note="likeness 0.71")
    return Explained(
        facts(file=name, **changes), Picture(name, jpeg((200, 20, 20)), "", map=PNG), (0.1, 0.2, 0.35, 0.7), (near,)
    )


def test_a_picture_has_its_answer_map_box_words_and_neighbours() -> None:
    text = render([explained()])
    page = Page(text)
    words = " ".join(page.words)
    assert "ants 91.0" in words
    assert "next likely is bees, 82.0 points behind" in words
    assert "under grey, ants gets 30.0" in words
    assert "6.2" in words
    assert "turns the answer into bees (70.0" in words
    assert "likeness 0.71" in words
    assert "top:10.00%;left:20.00%;width:50.00%;height:25.00%" in text
    images = [dict(attributes) for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 3
    assert all(str(image["src"]).startswith("data:") for image in images)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"covered": None, "looked_at": None}, "There is no map"),
        ({"flip": None}, "No grey square"),
        ({"label": "unknown", "best": "ants"}, "unknown, nearest ants"),
    ],
)
def test_what_is_not_there_is_said(changes: dict[str, Any], said: str) -> None:
    assert said in " ".join(Page(render([explained(**changes)])).words)


def test_an_unreadable_picture_has_its_reason_alone() -> None:
    page = Page(render([Explained({"file": "x.jpg", "error": "truncated"})]))
    assert "truncated" in page.words
    assert not [tag for tag, _ in page.tags if tag == "img"]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_can_do_anything(name: str) -> None:
    text = render([explained(name, runner_up=name)])
    page = Page(text)
    assert not [tag for tag, _ in page.tags if tag in ("script", "svg", "iframe")]
    assert not re.search(r'(?:src|href)="(?!data:)', text)
    text.encode("utf-8")
