"""What a run tells beyond its scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import headstart


def test_repeats_tell_how_far_the_score_spreads_and_the_first_is_the_runs_own(split_shapes: Path) -> None:
    run = headstart.fit(split_shapes, source="toy", strategy="frozen", head="mlp", repeats=3, cache=False).run
    found = run["repeats"]
    values = [row["accuracy"] for row in found["seeds"]]
    assert [row["seed"] for row in found["seeds"]] == [0, 1, 2]
    assert values[0] == run["scores"]["test"]["accuracy"]
    assert found["accuracy"]["mean"] == pytest.approx(np.mean(values))
    assert found["accuracy"]["sd"] == pytest.approx(np.std(values, ddof=1))
    assert [opening["for"] for opening in run["test_set"]["openings"]] == ["final score", "spread over seeds"]


def test_without_repeats_the_test_set_is_opened_once(frozen_run: Path) -> None:
    from headstart.files import read_json

    found = read_json(frozen_run / "run.json")["test_set"]
    assert found["n"] == 24
    assert len(found["openings"]) == 1
