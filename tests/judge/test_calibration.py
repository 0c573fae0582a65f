"""The temperature: what it finds, what it never spoils; and reliability against the scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.judge.calibration import (
    before_after,
    fit_temperature,
    log_softmax,
    reliability,
    softmax,
    temperature,
)
from headstart.judge.scoring import score


def drawn(n: int, k: int, *, factor: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are log odds times `factor`, and classes drawn by these odds."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(n, k)) * 2
    return logits * factor, (logits + generator.gumbel(size=logits.shape)).argmax(1)


def test_temperature_finds_the_factor_that_was_hidden() -> None:
    for factor in (1e-3, 1.0, 400.0):
        logits, y = drawn(4000, 3, factor=factor)
        assert temperature(logits, y) == pytest.approx(factor, rel=0.1)
    assert temperature(np.zeros((5, 3)), np.zeros(5, dtype=int)) == 1.0


@pytest.mark.parametrize("n", [5, 500])
def test_items_that_are_all_right_do_not_make_answers_endlessly_sure(n: int) -> None:
    y = np.arange(n) % 3
    logits = np.eye(3)[y]
    sureness = np.exp(log_softmax(logits / temperature(logits, y)))[np.arange(n), y]
    assert np.allclose(sureness, (n + 1) / (n + 2), atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 80), st.integers(2, 6), st.floats(0.05, 20), st.integers(0, 1000))
def test_the_fit_items_never_lose_and_no_label_changes(n: int, k: int, factor: float, seed: int) -> None:
    logits, y = drawn(n, k, factor=factor, seed=seed)
    found = fit_temperature(logits, y)
    assert found > 0
    assert log_softmax(logits / found)[np.arange(n), y].mean() >= log_softmax(logits)[np.arange(n), y].mean()
    assert np.array_equal((logits / found).argmax(1), logits.argmax(1))


def test_too_sure_logits_are_cooled_and_right_ones_left_nearly_alone() -> None:
    logits, y = drawn(4000, 4)
    assert fit_temperature(3 * logits, y) == pytest.approx(3, rel=0.1)
    assert fit_temperature(logits, y) == pytest.approx(1, rel=0.1)
    assert fit_temperature(50 * np.eye(3)[np.arange(9) % 3], np.arange(9) % 3) == 1.0  # could only lose
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, dtype=int)) == 1.0


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 200), st.integers(2, 7), st.integers(0, 1000))
def test_reliability_is_what_the_scores_say_and_its_bins_add_up(n: int, k: int, seed: int) -> None:
    logits, y = drawn(n, k, seed=seed)
    chances = softmax(logits)
    found, scores = reliability(chances, y), score(y, chances, classes=[str(i) for i in range(k)])
    assert found["calibration_error"] == pytest.approx(scores.calibration_error)
    assert found["log_loss"] == pytest.approx(scores.log_loss)
    assert sum(row["n"] for row in found["bins"]) == n
    assert sum(row["n"] * row["accuracy"] for row in found["bins"]) == pytest.approx(n * scores.accuracy)
    gaps = sum(row["n"] * abs(row["accuracy"] - row["confidence"]) for row in found["bins"])
    assert gaps / n == pytest.approx(found["calibration_error"])
    assert [row["confidence"] for row in found["bins"]] == sorted(row["confidence"] for row in found["bins"])


def test_before_and_after_show_the_gain_on_other_items() -> None:
    logits, y = drawn(4000, 4, factor=3)
    found = before_after(logits[2000:], y[2000:], temperature=fit_temperature(logits[:2000], y[:2000]), items=2000)
    assert found["temperature"] == pytest.approx(3, rel=0.1)
    assert found["items"] == 2000
    assert found["after"]["calibration_error"] < 0.04 < 0.1 < found["before"]["calibration_error"]
    assert found["after"]["log_loss"] < found["before"]["log_loss"]


def test_no_items_give_zeros() -> None:
    assert reliability(np.zeros((0, 3)), np.zeros(0, dtype=int)) == {
        "calibration_error": 0.0, "log_loss": 0.0, "bins": [],
    }  # fmt: skip
