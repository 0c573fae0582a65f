"""What a report says of certainty, unknown, more images and honesty: true sentences, silence where nothing is known."""

from __future__ import annotations

from typing import Any

import pytest

from headstart.report import claims, sentences

from .example_answers import answers, judged, without_test_set

SENTENCES = [getattr(claims, name) for name in claims.__all__ if name not in ("portion", "share_of", "mixed_words")]


@pytest.mark.parametrize("words", SENTENCES)
def test_nothing_is_said_of_what_the_record_does_not_hold(words: Any) -> None:
    assert words({}) == ""


@pytest.mark.parametrize("words", SENTENCES)
def test_every_sentence_ends_in_a_full_stop_and_holds_no_empty_value(words: Any) -> None:
    run = without_test_set() if "cross" in words.__name__ else judged()
    said = words(run)
    assert said.endswith(".")
    assert "None" not in said
    assert "nan" not in said
    assert "  " not in said


@pytest.mark.parametrize(
    ("before", "after", "word"),
    [
        (0.05, 0.02, "can be read as a chance ("),
        (0.12, 0.07, "rough guide"),
        (0.3, 0.2, "no chance to rely on"),
        (0.02, 0.03, "slightly worse"),
        (0.02, 0.02, "before and after"),
    ],
)
def test_calibration_is_put_in_words_for_better_and_for_worse(before: float, after: float, word: str) -> None:
    run = {"calibration": {"before": {"calibration_error": before}, "after": {"calibration_error": after}}}
    assert word in claims.certainty_words(run)


def test_one_calibration_error_alone_is_said_without_a_comparison() -> None:
    said = claims.certainty_words({"calibration": {"after": {"calibration_error": 0.02}}})
    assert "before" not in said
    assert "2.0 percentage points" in said


@pytest.mark.parametrize(("value", "word"), [(1.3, "too sure"), (0.7, "too modest"), (1.0, "nearly as it was")])
def test_a_temperature_is_explained(value: float, word: str) -> None:
    assert word in claims.temperature_words({"calibration": {"temperature": value}})


def test_a_part_is_a_share_or_a_number_and_both_read_the_same() -> None:
    share = {"n": 200, "accepted": 0.03, "accepted_interval": [0.01, 0.06]}
    assert claims.portion(share, "accepted") == claims.portion({**share, "accepted": 6}, "accepted")
    assert claims.portion(share, "accepted") == "6 of 200 (3.0\u00a0%, plausibly 1.0 to 6.0\u00a0%)"
    assert claims.portion({"n": 200, "accepted": 1.0}, "accepted") == "200 of 200 (100.0\u00a0%)"
    assert claims.portion({"accepted": 0.5}, "accepted") == "50.0\u00a0%"
    assert claims.portion({"accepted": 7}, "accepted") == ""


def test_the_rule_of_unknown_tells_a_threshold_out_of_reach_from_none() -> None:
    never = claims.reject_words({"reject": {"threshold": 2.0, "error_rate": 0.05, "distance": 3.0}})
    assert (
        never == "No threshold reaches the wanted error rate of 5.0\u00a0%, so it answers “unknown” to every picture."
    )
    open_ = claims.reject_words({"reject": {"threshold": 0.0, "distance": 3.0}})
    assert "probability" not in open_
    assert "further than 3" in open_


def test_foreign_pictures_that_were_not_tried_are_said_to_be_untried() -> None:
    assert "not tried" in claims.foreign_words({"reject": {"threshold": 0.5, "foreign": []}})


def test_the_record_s_own_sentence_goes_before_ours() -> None:
    run = answers()
    assert claims.forecast_words(run) == run["forecast"]["sentence"] + "."
    run["forecast"]["sentence"] = ""
    assert claims.forecast_words(run) == "100 more images would bring about +0.7 percentage points (−0.6 to +1.8)."


def test_the_openings_of_the_test_set_are_counted() -> None:
    once = answers()["test_set"]
    assert claims.openings_words({"test_set": once}).startswith(
        "The test set of 153 images was opened once, for the final"
    )
    twice = {"n": 153, "openings": once["openings"] * 2}
    assert "opened 2 times" in claims.openings_words({"test_set": twice})
    assert "never opened" in claims.openings_words({"test_set": {"n": 153, "openings": []}})
    assert claims.openings_words({"test_set": {"n": 0, "openings": []}}) == "There is no test set."


def test_a_second_opening_and_near_twins_over_splits_are_doubts() -> None:
    run = judged()
    run["data"].update(leaks=[], contradictions=[])
    run["test_set"]["openings"] *= 2
    answer, reasons = sentences.trust(run)
    assert answer.startswith("With care")
    assert any("opened 2 times" in reason for reason in reasons)
    assert any(
        "near-identical pictures stands in more than one split; without them the score is 0.964" in r for r in reasons
    )
    run["test_set"]["openings"], run["near_duplicates"] = run["test_set"]["openings"][:1], None
    assert sentences.trust(run)[0] == "Yes, for pictures like these."


def test_without_a_test_set_cross_validation_stands_in_and_is_not_passed_off_as_a_test() -> None:
    run = without_test_set()
    head = sentences.headline(run)
    assert not head.judged
    assert head.figures.startswith("0.955 of 245 cross-validated images right (95 % interval")
    assert "left out of training in turn" in head.plain
    assert "no sealed test set" in sentences.trust(run)[0]
    assert not any("were sealed" in reason for reason in sentences.trust(run)[1])


def test_cross_validation_never_replaces_a_test_score() -> None:
    run = {**judged(), "cross_validation": without_test_set()["cross_validation"]}
    assert sentences.headline(run).judged


@pytest.mark.parametrize(
    ("alpha", "word"), [(0.0, "from before"), (1.0, "fully fine-tuned"), (0.25, "25.0\u00a0% of the way")]
)
def test_where_between_two_weights_the_shipped_ones_lie(alpha: float, word: str) -> None:
    assert word in claims.interpolation_words({"interpolation": {"alpha": alpha}})


def test_one_label_and_one_group_are_spoken_of_in_the_singular() -> None:
    assert claims.issues_words({"label_issues": [{"file": "a"}]}).startswith("1 label is more likely wrong than right")
    assert (
        claims.twins_words({"near_duplicates": {"groups": [["a", "b"]]}})
        == "1 group of near-identical pictures was found."
    )


def test_a_hard_class_that_is_mixed_up_with_nothing_has_a_dash() -> None:
    assert claims.mixed_words({"confused_with": None, "share": 0.0}) == "–"
    assert claims.mixed_words({"confused_with": "bees", "share": 0.086}) == "bees (8.6\u00a0%)"


def test_a_fine_tuned_networks_temperature_is_said_to_come_from_images_held_back() -> None:
    told = {"calibration": {"temperature": 1.3, "items": 40}}
    assert "left out of training in turn" in claims.temperature_words({**told, "plan": {"strategy": "frozen"}})
    assert "held back from training" in claims.temperature_words({**told, "plan": {"strategy": "full"}})
