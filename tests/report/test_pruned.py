"""The section of a report about pruned models: the numbers of curve.json, once, and every name harmless."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

from headstart.report import render
from headstart.report.page import with_section
from headstart.report.pruned import pruned_chart, pruned_section

from .example_runs import HOSTILE, full


def _told(**changes: Any) -> dict[str, Any]:
    return {
        "chosen": 1,
        "validation": {"n": 49},
        "points": [
            {
                "macs": 58_000_000, "parameters": 400_000, "speedup": 1.0, "accuracy": 0.94, "change_points": 0.0,
                "accuracy_interval": [0.83, 0.98], "latency": {"ms": 9.5, "images_per_second": 140.0},
            },
            {
                "macs": 29_000_000, "parameters": 150_000, "speedup": 2.0, "accuracy": 0.92, "change_points": -2.0,
                "accuracy_interval": [0.81, 0.97], "change_interval": [-8.2, 4.1],
                "latency": {"ms": 6.25, "images_per_second": 210.0},
            },
        ],
        "test": {
            "n": 153, "whole": {"accuracy": 0.908}, "scores": {"accuracy": 0.902}, "change_points": -0.65,
            "change_interval": [-3.9, 2.6],
        },
        **changes,
    }  # fmt: skip


def test_the_numbers_of_a_curve_stand_in_its_table_and_sentence() -> None:
    section = pruned_section([("speedup-2", _told())])
    for part in (
        "speedup-2", "58.0 M", "29.0 M", "0.150 M", "49", "−2.0 (−8.2 to +4.1)", "6.2 ms", "210", "chosen",
        "2.00 times", "153 test images",
    ):  # fmt: skip
        assert part in section, part


def test_a_smaller_picture_is_told_and_an_old_curve_says_nothing_of_it() -> None:
    told = _told()
    assert "It takes pictures" not in pruned_section([("speedup-2", told)])
    for point, side in zip(told["points"], (224, 192), strict=True):
        point["image_size"] = [side, side]
    section = pruned_section([("speedup-2", told)])
    assert "It takes pictures of 192 x 192 pixels, the whole network 224 x 224." in section


def test_the_chart_draws_every_network_with_its_interval() -> None:
    drawn = ET.fromstring(pruned_chart(_told(), key="x"))
    dots = [e for e in drawn.iter() if e.tag.endswith("circle")]
    spans = [e for e in drawn.iter() if e.get("class") == "span"]
    assert len(dots) == 2
    assert len(spans) == 6
    assert float(dots[0].get("cx", "0")) < float(dots[1].get("cx", "0"))
    assert "29.0 million" in "".join(drawn.itertext())


def test_missing_parts_leave_dashes_and_no_chart() -> None:
    assert pruned_section([]) == ""
    assert pruned_chart({"points": [{}]}, key="x") == ""
    assert "–" in pruned_section([("a", {"points": [{"macs": 1.0}]})])
    assert pruned_section([("a", {"chosen": 7})])


def test_the_section_is_replaced_not_repeated_and_names_are_harmless() -> None:
    page = render(full(), pictures={})
    once = with_section(page, "pruned", "Pruned models", pruned_section([("speedup-2", _told())]))
    twice = with_section(once, "pruned", "Pruned models", pruned_section([(HOSTILE[0], _told())]))
    assert once.count('id="pruned"') == twice.count('id="pruned"') == 1
    assert HOSTILE[0] not in twice or "<" not in HOSTILE[0]
    assert with_section(twice, "pruned", "Pruned models", "") == page
