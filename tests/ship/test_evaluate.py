"""Scores on labelled data, and the pictures that a model has seen before."""

from __future__ import annotations

from pathlib import Path

import pytest

from headstart import api, console
from headstart.data.read import read
from headstart.ship.evaluate import evaluate_model
from headstart.ship.model import load


def test_sealed_pictures_count_as_unseen_and_training_pictures_as_seen(frozen_run: Path, split_shapes: Path) -> None:
    model, data = load(frozen_run), read(split_shapes)
    assert evaluate_model(model, data, split="test")["seen"] == 0
    assert "unseen" not in evaluate_model(model, data, split="test")
    train = evaluate_model(model, data, split="train")
    assert train["seen"] == train["n"]
    assert train["unseen"] is None


def test_a_mixture_is_scored_again_on_the_unseen_pictures_alone(frozen_run: Path, split_shapes: Path) -> None:
    model, data = load(frozen_run), read(split_shapes)
    everything, test = evaluate_model(model, data, split="all"), evaluate_model(model, data, split="test")
    assert everything["n"] - everything["seen"] == everything["unseen"]["n"] == test["n"]
    assert everything["unseen"]["accuracy"] == test["accuracy"]
    assert everything["unseen"]["confusion"] == test["confusion"]


def test_a_copied_picture_is_known_again_under_any_name(frozen_run: Path, split_shapes: Path, tmp_path: Path) -> None:
    for folder in sorted((split_shapes / "train").iterdir()):
        (tmp_path / folder.name).mkdir()
        for number, path in enumerate(sorted(folder.iterdir())[:2]):
            (tmp_path / folder.name / f"renamed-{number}{path.suffix}").write_bytes(path.read_bytes())
    found = api.evaluate(frozen_run, tmp_path)
    assert found["seen"] == found["n"] > 0


def test_a_model_can_be_judged_on_pictures_of_one_class(frozen_run: Path, split_shapes: Path, tmp_path: Path) -> None:
    folder = sorted((split_shapes / "test").iterdir())[0]
    (tmp_path / folder.name).mkdir()
    for path in sorted(folder.iterdir()):
        (tmp_path / folder.name / path.name).write_bytes(path.read_bytes())
    found = api.evaluate(frozen_run, tmp_path)
    assert found["n"] == len(list(folder.iterdir()))
    assert found["accuracy"] == found["per_class"][folder.name]["recall"]


def test_the_command_says_that_scores_on_seen_pictures_are_too_good(
    frozen_run: Path, split_shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console.scores(api.evaluate(frozen_run, split_shapes, split="all"))
    told = capsys.readouterr().out
    assert "these scores are too good" in told
    assert "on the other" in told
