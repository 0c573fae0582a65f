"""What a report says of the choice: the race in order, the p in words, the advice and whether the race agreed."""

from __future__ import annotations

import random
from typing import Any

import pytest

from headstart.report import choosing

from .example_answers import RESNET, answers, judged, race
from .example_runs import full

SENTENCES = [getattr(choosing, name) for name in choosing.__all__ if name.endswith("_words")]


@pytest.mark.parametrize("words", SENTENCES)
def test_nothing_is_said_of_what_the_record_does_not_hold(words: Any) -> None:
    assert words({}) == ""


def test_a_race_after_compare_is_no_automatic_race() -> None:
    assert choosing.raced(full()) == []
    assert len(choosing.raced(judged())) == 9


def test_the_chosen_comes_first_then_finalists_then_the_rest_whatever_the_order() -> None:
    rows = race()
    random.Random(3).shuffle(rows)
    fates = [(row["chosen"], row["finalist"]) for row in choosing.raced({"race": rows})]
    assert fates == [(True, True), *[(False, True)] * 3, *[(False, False)] * 5]
    scores = [row["score"] for row in choosing.raced({"race": rows})]
    assert scores[1:4] == sorted(scores[1:4], reverse=True)
    assert scores[4:] == sorted(scores[4:], reverse=True)


def test_a_candidate_is_named_by_strategy_cut_head_and_another_network() -> None:
    row = {"strategy": "partial", "cut": "layer4", "head": "svm", "source": "timm:a"}
    assert choosing.way(row) == "partial from layer4 · svm head"
    assert choosing.way(row, source="timm:a") == "partial from layer4 · svm head"
    assert choosing.way(row, source="timm:b") == "partial from layer4 · svm head · a"
    assert choosing.way({"strategy": "frozen", "cut": "head"}) == "frozen"
    assert choosing.way({}) == "unnamed"


def test_the_main_network_is_that_of_the_chosen_and_empty_for_a_single_one() -> None:
    assert choosing.main_source({"race": race()}) == RESNET.removeprefix("timm:")
    assert choosing.main_source({"race": [row for row in race() if row["source"] == RESNET]}) == ""


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"chosen": True}, "chosen"),
        ({"finalist": True}, "finalist"),
        ({"stopped": "too slow"}, "too slow"),
        ({"finalist": True, "stopped": "out of time"}, "out of time"),
        ({"error": "NaN"}, "failed: NaN"),
        ({}, "went no further"),
    ],
)
def test_what_became_of_a_candidate(row: dict[str, Any], said: str) -> None:
    assert choosing.outcome(row) == said


def test_the_race_says_how_many_were_stopped_and_on_what_the_finalists_were_judged() -> None:
    said = choosing.race_words({"race": race()})
    assert said.startswith("9 ways of using a pretrained network were tried; 5 were stopped early")
    assert "same 245 images" in said
    assert said.endswith("The test images took no part.")
    rows = race()
    rows[1]["items"] = 200
    assert "same" not in choosing.race_words({"race": rows})


def test_a_choice_that_is_not_the_best_says_what_the_difference_means() -> None:
    choice = {"best": "a", "chosen": "b", "p": 0.4}
    assert "40.0\u00a0% of such comparisons" in choosing.best_words({"choice": choice})
    assert "hardly luck" in choosing.best_words({"choice": {**choice, "p": 0.01}})
    assert choosing.best_words({"choice": {**choice, "p": 0.0001}}).count("below 0.001") == 1
    assert choosing.best_words({"choice": {**choice, "p": None}}) == "a had the highest figure, b was chosen."
    assert choosing.best_words({"choice": {**choice, "chosen": "a"}}) == ""
    told = choosing.best_words({"choice": {**choice, "sentence": "b wins."}})
    assert told.startswith("Were a and b equally good")


def test_the_measure_of_likeness_is_told_where_no_reason_tells_it() -> None:
    run = answers()
    assert "measured as" not in choosing.advice_words(run)
    run["advice"]["reasons"] = []
    assert "measured as the share of a random network's errors" in choosing.advice_words(run)
    assert (
        choosing.advice_words({"advice": {"strategy": "full"}})
        == "Before any race the rule of thumb for such data is full."
    )


def test_whether_the_race_agreed_with_the_advice() -> None:
    run = answers()
    assert "did not agree: it chose partial" in choosing.agreement_words(run)
    run["advice"]["strategy"] = "partial"
    assert choosing.agreement_words(run) == "The race agreed: it chose partial too."
    assert choosing.agreement_words({"advice": {"strategy": "frozen"}, "plan": {"strategy": "frozen"}}) == ""


def test_the_budget_says_what_was_allowed_used_and_left_out() -> None:
    run = {"budget": {"asked": 600.0, "stopped": []}, "seconds": {"total": 61.0}}
    assert choosing.budget_words(run) == "10 min 0 s were allowed, 1 min 1 s were used; nothing was left out for it."
    run["budget"] = {"asked": None, "stopped": ["x"]}
    assert choosing.budget_words(run).startswith("No limit of time was set, 1 min 1 s were used; for lack")
    assert choosing.budget_words({"budget": {"asked": None, "stopped": []}}) == ""


def test_one_source_alone_is_no_ranking() -> None:
    assert choosing.ranking_words({"ranking": answers()["ranking"][:1]}) == ""
    assert "2 went into the race" in choosing.ranking_words(answers())
