"""What is automatic, within which time, and that an interrupted race goes on with what it had decided."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_entrants import bench_of

import headstart
from headstart.choice import automatic
from headstart.choice.automatic import baseline_plan, clock_for, decide, is_automatic, scratch_share
from headstart.errors import Interrupted, RunError, SettingsError
from headstart.progress import Silent
from headstart.settings import Settings
from headstart.transfer.budget import Clock

QUICK: dict[str, Any] = {"epochs": 1, "precision": "fp32", "views": 1, "cache": False}


@pytest.mark.parametrize(
    ("options", "verb", "alone", "races"),
    [
        ({}, "fit", True, True),
        ({"head": "ridge"}, "fit", True, True),
        ({"strategy": "frozen"}, "fit", True, False),
        ({"strategy": "frozen", "source": "a,b"}, "fit", True, True),
        ({"source": "a,b"}, "fit", True, True),
        ({"cut": "layer3"}, "fit", True, False),
        ({}, "compare", True, False),
        ({}, "fit", False, False),
    ],
)
def test_a_run_races_where_the_strategy_is_left_open(
    options: dict[str, Any], verb: str, alone: bool, races: bool
) -> None:
    assert is_automatic(Settings.of(**options), verb=verb, alone=alone) is races


@pytest.mark.parametrize(
    ("options", "verb", "alone"),
    [({"strategy": "full"}, "fit", True), ({}, "compare", True), ({}, "fit", False), ({"train_last": 1}, "fit", True)],
)
def test_several_sources_need_a_race(options: dict[str, Any], verb: str, alone: bool) -> None:
    with pytest.raises(SettingsError, match="several sources"):
        is_automatic(Settings.of(source="a,b", **options), verb=verb, alone=alone)


def test_an_automatic_run_has_ten_minutes_and_any_other_all_the_time() -> None:
    assert clock_for(Settings(), automatic=True).seconds == 600
    assert clock_for(Settings(), automatic=False).seconds is None
    assert clock_for(Settings.of(budget="90s"), automatic=False).seconds == 90


def test_a_small_budget_gives_the_baseline_a_smaller_share_and_none_where_it_is_not_wanted() -> None:
    assert scratch_share(Settings(), Clock(600.0)) == 120
    assert scratch_share(Settings(), Clock(60.0)) == 6
    assert scratch_share(Settings.of(scratch=False), Clock(600.0)) == 0
    assert scratch_share(Settings(), Clock(None)) == 0


def test_a_baseline_without_time_for_enough_epochs_is_left_out_and_told(split_shapes: Path) -> None:
    bench = bench_of(split_shapes, cache=False)
    outcome = automatic.Outcome(
        bench, bench.settings, {"budget": {"stopped": []}}, epoch_seconds=10.0, for_scratch=100.0
    )
    assert baseline_plan(bench, outcome, Clock(30.0, now=lambda: 0.0)) is None
    assert "from scratch" in outcome.told["budget"]["stopped"][0]
    found = baseline_plan(bench, outcome, Clock(100.0, now=lambda: 0.0))
    assert found is not None
    assert (found[0].strategy, found[0].epochs) == ("scratch", 8)


def test_the_baseline_gets_the_time_that_the_transfer_took_and_its_share_at_least(split_shapes: Path) -> None:
    bench = bench_of(split_shapes, cache=False)
    outcome = automatic.Outcome(bench, bench.settings, {"budget": {"stopped": []}}, epoch_seconds=1.0, for_scratch=10.0)
    quick, slow = (baseline_plan(bench, outcome, Clock(600.0, used=used, now=lambda: 0.0)) for used in (2.0, 40.0))
    assert quick is not None
    assert slow is not None
    assert (quick[0].epochs, slow[0].epochs) == (8, 34)


def test_the_baseline_that_is_not_wanted_is_not_trained(split_shapes: Path) -> None:
    bench = bench_of(split_shapes, cache=False, scratch=False)
    outcome = automatic.Outcome(bench, bench.settings, {"budget": {"stopped": []}}, epoch_seconds=0.1)
    assert baseline_plan(bench, outcome, Clock(None)) is None


def test_what_was_decided_is_found_again_and_nothing_races_twice(
    split_shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = decide(bench_of(split_shapes, **QUICK), Clock(None), folder=tmp_path)
    monkeypatch.setattr(automatic, "race", lambda *_, **__: pytest.fail("it raced again"))
    again = decide(bench_of(split_shapes, **QUICK), Clock(None), folder=tmp_path)
    assert (again.settings, again.bench.source.address) == (first.settings, first.bench.source.address)
    assert again.told == json.loads((tmp_path / "race.json").read_text())["told"]
    assert again.plan() == first.plan()


def test_other_data_than_those_that_raced_are_refused(split_shapes: Path, shapes: Path, tmp_path: Path) -> None:
    decide(bench_of(split_shapes, **QUICK), Clock(None), folder=tmp_path)
    with pytest.raises(RunError, match="not those that the race was run on"):
        decide(bench_of(shapes, **QUICK), Clock(None), folder=tmp_path)


def test_a_whole_automatic_run_tells_how_it_was_chosen(split_shapes: Path, tmp_path: Path) -> None:
    run = headstart.fit(split_shapes, tmp_path / "run", source="toy", budget="2m", scratch=False, **QUICK).run
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == run
    assert run["choice"]["sentence"] in run["plan"]["reasons"][0]
    assert run["budget"]["asked"] == 120
    assert run["test_set"]["openings"] == [{"for": "final score", "after": "the plan was chosen and trained"}]
    assert {row["strategy"] for row in run["race"]} >= {"frozen"}
    assert run["advice"]["quadrant"].startswith("small and ")
    assert (tmp_path / "run" / "report.html").read_text()


class Interrupting(Silent):
    """A reporter through which somebody presses Ctrl-C when a line begins so."""

    def __init__(self, beginning: str) -> None:
        self.beginning = beginning

    def say(self, text: str) -> None:
        if text.startswith(self.beginning):
            raise KeyboardInterrupt


@pytest.mark.parametrize(("beginning", "decided"), [("Probing: svm", False), ("Training: frozen", True)])
def test_an_interrupted_automatic_run_goes_on_where_it_was(
    split_shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beginning: str, decided: bool
) -> None:
    options = {"source": "toy", "scratch": False, "head": "svm", "folds": 3, "budget": "5m"}
    with pytest.raises(Interrupted, match="headstart resume"):
        headstart.fit(split_shapes, tmp_path / "run", reporter=Interrupting(beginning), **options)
    assert (tmp_path / "run" / "race.json").is_file() is decided
    if decided:
        monkeypatch.setattr(automatic, "race", lambda *_, **__: pytest.fail("it raced again"))
    run = headstart.resume(tmp_path / "run").run
    assert run["plan"]["head"] == "svm"
    assert run["choice"]["sentence"] in run["plan"]["reasons"][0]
    whole = headstart.fit(split_shapes, tmp_path / "whole", **options).run if not decided else run
    assert whole["scores"] == run["scores"]
