"""Temperature and reject option together, and what run.json says of them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from headstart.judge.calibration import softmax
from headstart.judge.intervals import wilson
from headstart.judge.trust import fit_trust, measure_reject, refusals
from headstart.records import plain


def drawn(n: int, *, seed: int, factor: float = 3.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of four classes that overlap, logits that are too sure by `factor`, and the classes."""
    centres = np.random.default_rng(1).normal(size=(4, 20)) + 3
    generator = np.random.default_rng(seed)
    y = generator.integers(0, 4, n)
    X = centres[y] + generator.normal(size=(n, 20))
    odds = -np.square(X[:, None] - centres).sum(2) / 2
    return X, factor * odds, y


def test_both_are_fitted_and_work_on_other_items() -> None:
    X, logits, y = drawn(600, seed=0)
    temperature, reject = fit_trust(logits, y, features=X, error_rate=0.01)
    assert temperature == pytest.approx(3, rel=0.25)
    assert reject is not None
    new, answers, truth = drawn(2000, seed=1)
    far = new + 4 * np.linspace(-1, 1, 20)
    found = measure_reject(
        reject, softmax(answers / temperature), y=truth, features=new,
        foreign={"far": (softmax(answers / temperature), far), "same": (softmax(answers / temperature), new)},
    )  # fmt: skip
    held = found["held_out"]
    before = (answers.argmax(1) == truth).mean()
    assert before < 0.98 < held["accuracy_kept"]
    assert held["rejected"] > 0.03
    assert held["wrong_caught"] > 0.5 > held["rejected"]
    assert found["foreign"][0]["accepted"] < 0.05
    assert found["foreign"][1]["accepted"] == pytest.approx(1 - held["rejected"])
    assert json.loads(json.dumps(plain(found)))["error_rate"] == 0.01


def test_without_an_error_rate_or_features_there_is_no_reject_option() -> None:
    X, logits, y = drawn(200, seed=0)
    assert fit_trust(logits, y, features=X)[1] is None
    assert fit_trust(logits, y, error_rate=0.1)[1] is None


def test_refusals_are_counted_as_shares_with_their_intervals() -> None:
    kept = np.array([True, True, True, False, False])
    right = np.array([True, True, False, False, True])
    assert refusals(kept, right) == {
        "n": 5, "rejected": 0.4, "rejected_interval": wilson(2, 5), "accuracy_kept": 2 / 3,
        "accuracy_kept_interval": wilson(2, 3), "wrong_caught": 0.5,
    }  # fmt: skip
    nothing = refusals(np.zeros(0, dtype=bool), np.zeros(0, dtype=bool))
    assert (nothing["n"], nothing["rejected"], nothing["accuracy_kept"], nothing["wrong_caught"]) == (
        0,
        0.0,
        None,
        None,
    )
