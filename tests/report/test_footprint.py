"""The estimate of energy and carbon: what it multiplies, and that it names every assumption."""

from __future__ import annotations

from typing import Any

import pytest

from headstart.report.footprint import CARBON, GPU_WATTS, WATTS, footprint, footprint_words


def run_of(seconds: float, **environment: Any) -> dict[str, Any]:
    return {"work": {"processor": {"seconds": seconds, "whole": True}}, "seconds": {"total": 100.0},
            "environment": environment}  # fmt: skip


def test_energy_is_processor_time_by_watts_and_carbon_is_energy_by_the_grid() -> None:
    found = footprint(run_of(3600.0, device="cpu"), watts=10.0, carbon=500.0)
    assert found is not None
    assert found.kwh == pytest.approx(0.010)
    assert found.grams == pytest.approx(5.0)


def test_every_process_and_a_graphics_card_count() -> None:
    one, two = footprint(run_of(3600.0)), footprint(run_of(3600.0, processes=2))
    card = footprint(run_of(0.0, device="cuda:0", processes=2))
    assert one is not None
    assert two is not None
    assert card is not None
    assert two.kwh == pytest.approx(2 * one.kwh)
    assert card.kwh == pytest.approx(2 * 100 * GPU_WATTS / 3.6e6)
    assert f"of a graphics card at {GPU_WATTS:g} W" in footprint_words(card)


def test_the_words_name_their_assumptions_and_what_is_left_out() -> None:
    words = footprint_words(footprint(run_of(360.0)))
    for told in ("estimate and no measurement", "6 min 0 s", f"{WATTS:g} W a core", f"{CARBON:g} g of CO2 a kWh",
                 "Green Algorithms", "IEA 2019", "pretraining of the source are not counted"):  # fmt: skip
        assert told in words
    own = footprint_words(footprint(run_of(360.0), watts=5.0, carbon=60.0))
    assert "Green Algorithms" not in own
    assert "IEA" not in own
    resumed = run_of(360.0)
    resumed["work"]["processor"]["whole"] = False
    assert "before it was resumed is not counted" in footprint_words(footprint(resumed))


def test_a_record_without_processor_time_gets_no_estimate() -> None:
    assert footprint({}) is None
    assert footprint_words(None) == ""
