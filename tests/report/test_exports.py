"""The section of a report about exports: it says what the certificates say, once, and makes every name harmless."""

from __future__ import annotations

from typing import Any

from headstart.report import render
from headstart.report.exports import exports_section
from headstart.report.page import with_section

from .example_runs import HOSTILE, full
from .test_page import page


def _told(**changes: Any) -> dict[str, Any]:
    return {
        "n": 153,
        "data": {"held_out": True},
        "export": {"to": "onnx", "precision": "int8", "files": {"model.onnx": {"sha256": "0", "bytes": 4_300_000}}},
        "network": {"max_probability_difference": 0.2},
        "whole": {"max_probability_difference": 0.31, "flipped": ["a.jpg", "b.jpg"]},
        "accuracy": {"export": 0.948, "change_points": -1.3, "interval_points": [-3.9, 1.3]},
        "latency": {
            "batch_1": {"export_ms": 3.25, "torch_ms": 12.5},
            "batch_32": {"export_ms": 90.0, "torch_ms": 200.0},
        },
        **changes,
    }


def test_the_numbers_of_a_certificate_stand_in_its_row() -> None:
    section = exports_section([_told()])
    for part in (
        "onnx int8",
        "153",
        "2",
        "−1.3 (−3.9 to +1.3)",
        "2e-01, 3e-01",
        "4.3 MB",
        "3.2 of 12.5 ms",
        "90.0 of 200.0 ms",
    ):
        assert part in section, part
    assert "1 export of this model" in section
    assert "never saw" in section
    assert "there is no test set" in exports_section([_told(data={"held_out": False})])


def test_a_certificate_with_missing_parts_is_shown_with_dashes() -> None:
    section = exports_section([{"export": {"to": "onnx", "precision": "fp32"}}])
    assert "onnx fp32" in section
    assert "–" in section


def test_the_section_stands_before_how_it_was_made_and_is_replaced_not_repeated() -> None:
    before = render(full(), pictures={})
    once = with_section(before, "exports", "Exports", exports_section([_told()]))
    twice = with_section(once, "exports", "Exports", exports_section([_told(n=7)]))
    assert once.count('id="exports"') == twice.count('id="exports"') == 1
    assert once.index('id="exports"') < once.index('id="made"')
    assert once.count('href="#exports"') == twice.count('href="#exports"') == 1
    assert with_section(twice, "exports", "Exports", "") == before
    assert page(full()) is not None


def test_hostile_names_are_harmless() -> None:
    section = exports_section([_told(export={"to": HOSTILE[0], "precision": "<b>", "files": {}})])
    assert "<script" not in section
    assert "<b>" not in section
