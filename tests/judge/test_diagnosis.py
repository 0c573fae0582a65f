"""Overfitting, underfitting and neither are told apart, and noise is not called overfitting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headstart.judge.diagnosis import diagnose
from headstart.judge.scoring import score
from headstart.records import Scores


def scores(right: int, n: int) -> Scores:
    """Scores of a two-class model with `right` of `n` items right."""
    guess = np.zeros(n, dtype=int)
    guess[right:] = 1
    return score(np.zeros(n, dtype=int), np.eye(2)[guess], classes=["a", "b"])


def curve(*rows: tuple[float, float, float]) -> list[dict[str, Any]]:
    """Points of (x, validation accuracy, validation loss)."""
    return [{"x": x, "train_accuracy": 0.95, "val_accuracy": a, "train_loss": 0.1, "val_loss": v} for x, a, v in rows]


def test_a_certain_gap_is_overfitting_and_the_sentence_has_the_figures() -> None:
    found = diagnose([], train=scores(240, 244), val=scores(120, 150), majority=0.5)
    assert found["verdict"] == "overfits"
    for figure in ("98.4 %", "244", "80.0 %", "150", "18.4 points", "interval"):
        assert figure in found["sentence"]
    assert found["gap"] == pytest.approx(240 / 244 - 0.8)
    low, high = found["gap_interval"]
    assert 0 < low < found["gap"] < high
    assert any("labelled items" in line for line in found["advice"])
    assert any("Augment" in line for line in found["advice"])


def test_the_same_gap_on_few_items_is_chance() -> None:
    found = diagnose([], train=scores(19, 20), val=scores(8, 10), majority=0.3)
    assert found["verdict"] == "neither"
    assert found["gap"] == pytest.approx(0.15)
    assert found["gap_interval"][0] < 0
    assert "chance" in found["sentence"]


def test_a_certain_gap_that_is_small_is_let_be() -> None:
    found = diagnose([], train=scores(9900, 10_000), val=scores(9700, 10_000), majority=0.5)
    assert found["verdict"] == "neither"
    assert found["gap_interval"][0] > 0
    assert "too small" in found["sentence"]


def test_a_model_that_cannot_even_fit_its_training_items_underfits() -> None:
    found = diagnose([], train=scores(65, 100), val=scores(62, 100), majority=0.5)
    assert found["verdict"] == "underfits"
    assert "50.0 %" in found["sentence"]
    assert any("larger source" in line for line in found["advice"])


def test_a_model_no_better_than_the_commonest_class_underfits() -> None:
    found = diagnose([], train=scores(80, 100), val=scores(15, 21), majority=0.55)
    assert found["verdict"] == "underfits"
    assert "commonest class" in found["sentence"]


def test_a_good_fit_gets_no_needless_advice() -> None:
    found = diagnose([], train=scores(97, 100), val=scores(95, 100), majority=0.5)
    assert (found["verdict"], found["advice"]) == ("neither", [])


def test_the_turn_of_the_validation_loss_is_named() -> None:
    points = curve((1, 0.7, 0.6), (2, 0.8, 0.5), (3, 0.8, 0.6), (4, 0.8, 0.7))
    found = diagnose(points, train=scores(98, 100), val=scores(80, 100), majority=0.5)
    assert found["verdict"] == "overfits"
    assert "0.500 at epoch 2 to 0.700" in found["sentence"]
    assert found["advice"][0].startswith("Stop earlier")


def test_a_falling_validation_loss_asks_for_more_epochs() -> None:
    points = curve((1, 0.7, 0.6), (2, 0.8, 0.5), (3, 0.85, 0.4))
    found = diagnose(points, train=scores(95, 100), val=scores(92, 100), majority=0.5)
    assert found["advice"] == ["Train for more epochs: the validation loss was still falling at the last one."]
    flat = curve((1, 0.7, 0.401), (2, 0.8, 0.4005), (3, 0.85, 0.4))
    assert diagnose(flat, train=scores(95, 100), val=scores(92, 100), majority=0.5)["advice"] == []


def test_a_rising_learning_curve_asks_for_more_items() -> None:
    points = curve((50, 0.7, 0.6), (100, 0.8, 0.5), (200, 0.85, 0.4))
    found = diagnose(points, train=scores(95, 100), val=scores(92, 100), majority=0.5, axis="training items")
    assert "from 100 to 200 training items won 5.0 points" in found["advice"][0]
    points = curve((50, 0.7, 0.6), (100, 0.85, 0.5), (200, 0.85, 0.4))
    assert diagnose(points, train=scores(95, 100), val=scores(92, 100), axis="training items")["advice"] == []


def test_the_curve_stands_in_for_missing_scores_without_an_interval() -> None:
    points = curve((1, 0.7, 0.6), (2, 0.7, 0.6), (3, 0.75, 0.6))
    found = diagnose(points, train=None, val=None, majority=0.1, axis="epochs")
    assert found["verdict"] == "overfits"
    assert found["gap"] == pytest.approx(0.2)
    assert found["gap_interval"] is None
    near = diagnose(curve((1, 0.93, 0.1)), train=None, val=None, majority=0.1)
    assert near["verdict"] == "neither"
    low = [{"x": 1, "train_accuracy": 0.3, "val_accuracy": 0.3}]
    assert diagnose(low, majority=0.1)["verdict"] == "underfits"


def test_nothing_known_is_said_to_be_unknown() -> None:
    found = diagnose([], train=None, val=None, majority=0.5, axis="epochs")
    assert (found["verdict"], found["gap"], found["gap_interval"], found["advice"]) == ("neither", None, None, [])


def test_sentences_are_one_sentence() -> None:
    for right in (60, 80, 99):
        sentence = diagnose([], train=scores(right, 100), val=scores(right // 2, 80), majority=0.2)["sentence"]
        assert sentence.endswith(".")
        assert "\n" not in sentence


def test_freezing_more_is_not_advised_where_only_the_head_is_trained() -> None:
    both = [diagnose([], train=scores(240, 244), val=scores(120, 150), frozen=frozen) for frozen in (False, True)]
    assert [any("Freeze more" in line for line in found["advice"]) for found in both] == [True, False]
    assert both[1]["advice"] == both[0]["advice"][:-1]
