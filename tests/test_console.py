"""What the command line prints after a run: short, true to the record, silent on what is missing."""

from __future__ import annotations

from typing import Any

import pytest

from headstart import console
from report.example_answers import NEW_KEYS, answers, crowded, judged, judged_hostile, without_test_set
from report.example_runs import full


def summary(run: dict[str, Any], capsys: Any) -> list[str]:
    console.run_summary(run, "digits/run")
    lines: list[str] = capsys.readouterr().out.splitlines()
    return lines


def test_the_summary_of_a_run_that_chose_for_itself_has_a_line_for_each_answer(capsys: Any) -> None:
    lines = summary(judged(), capsys)
    told = {line[:14].strip(): line[15:] for line in lines if line[:14].strip()}
    assert told["choice"].startswith("partial · linear wins: discriminative")
    assert "the rule of thumb said frozen, the race chose partial" in "\n".join(lines)
    assert told["unknown"] == "said to 4.6% of own test items, 96.8% of textures, 67.5% of other insects"
    assert told["forecast"].startswith("200 more images would bring about +1.1 points")
    assert told["labels"] == "3 look wrong, first: train/ants/92.jpg is labelled ants, looks like bees"
    assert told["twins"] == "3 groups of near-identical items, 1 over splits; accuracy without them 96.4%"
    assert not any("because" in line for line in lines)


def test_the_race_shows_the_finalists_and_counts_the_others(capsys: Any) -> None:
    lines = summary(judged(), capsys)
    assert lines[1].startswith("partial from layer4")
    assert lines[1].endswith("0.774  chosen")
    assert "95.5% (92.1 to 97.5 %)" in lines[1]
    assert lines[4] == "p: against the best; 6 more in the report"
    assert not any("scratch" in line for line in lines[:6])


@pytest.mark.parametrize("make", [judged, without_test_set, crowded])
def test_the_summary_stays_on_one_screen(make: Any, capsys: Any) -> None:
    run = make()
    run["data"]["warnings"] = [f"warning {i}" for i in range(40)]
    lines = summary(run, capsys)
    assert len(lines) <= 30
    assert sum("warning " in line for line in lines) == 3
    assert any("37 more: see the report" in line for line in lines)


def test_a_complete_run_with_one_warning_takes_at_most_25_lines(capsys: Any) -> None:
    assert len(summary(judged(), capsys)) <= 25


def test_an_old_run_has_its_reasons_and_none_of_the_new_lines(capsys: Any) -> None:
    lines = summary(full(), capsys)
    assert any("because Few images a class" in line for line in lines)
    assert not {line[:14].strip() for line in lines} & {"choice", "unknown", "forecast", "labels", "twins"}


def test_without_a_test_set_the_cross_validated_accuracy_is_named_as_such(capsys: Any) -> None:
    lines = summary(without_test_set(), capsys)
    assert any(line.startswith("accuracy       95.5%  (95 % interval") and "no test set" in line for line in lines)
    assert not any(line.startswith("test accuracy") for line in lines)


@pytest.mark.parametrize("key", [*NEW_KEYS, "race"])
@pytest.mark.parametrize("value", [None, [], {}])
def test_each_new_key_may_be_missing_or_empty(key: str, value: Any, capsys: Any) -> None:
    empty = value if value is None or isinstance(value, type(answers()[key])) else None
    assert summary({**judged(), key: empty}, capsys)
    run = judged()
    del run[key]
    assert summary(run, capsys)


def test_hostile_names_steer_nothing(capsys: Any) -> None:
    for line in summary(judged_hostile("a\nb\x1b[31m\u202e"), capsys):
        assert "\x1b" not in line
        assert "\u202e" not in line
