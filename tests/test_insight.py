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


def test_a_run_says_what_would_help_and_how_far_its_probabilities_go(split_shapes: Path, tmp_path: Path) -> None:
    options = {"strategy": "frozen", "error_rate": 0.3, "foreign": str(split_shapes / "val" / "bar"), "cache": False}
    run = headstart.fit(split_shapes, tmp_path / "run", source="toy", **options).run
    assert run["forecast"]["sentence"]
    assert len({point["n"] for point in run["forecast"]["points"]}) >= 6
    assert {point["seeds"] for point in run["forecast"]["points"]} == {5}
    assert run["calibration"]["items"] == 45
    assert run["calibration"]["after"]["log_loss"] == pytest.approx(run["scores"]["test"]["log_loss"])
    assert run["reject"]["error_rate"] == 0.3
    assert run["reject"]["foreign"][0]["n"] == 5
    assert run["hardest_classes"][0]["recall"] < 1
    assert run["near_duplicates"]["test"] is None
    answers = headstart.predict(tmp_path / "run", split_shapes / "test" / "disc")
    refused = [answer for answer in answers if answer["label"] == "unknown"]
    assert all(answer["best"] in answer["probabilities"] for answer in refused)


def test_the_saved_model_gives_the_calibrated_probabilities(split_shapes: Path, tmp_path: Path) -> None:
    import csv

    options = {"strategy": "full", "epochs": 3, "lr": "5e-3", "precision": "fp32", "cache": False}
    run = headstart.fit(split_shapes, tmp_path / "run", source="toy", **options).run
    assert run["calibration"]["temperature"] != 1.0
    with (tmp_path / "run" / "predictions.csv").open(newline="") as stream:
        rows = {Path(row["file"]).parts[-2:]: row for row in csv.DictReader(stream)}
    answers = headstart.predict(tmp_path / "run", split_shapes / "test")
    for answer in answers:
        row = rows[Path(answer["file"]).parts[-2:]]
        for name, chance in answer["probabilities"].items():
            assert float(row[f"p_{name}"]) == pytest.approx(chance, abs=2e-4)


def test_wrong_labels_are_named_in_a_list_that_can_be_opened(tmp_path: Path) -> None:
    import csv
    import shutil

    from toydata import write_shapes

    data = write_shapes(tmp_path / "data", splits={"train": 60, "test": 5})
    for number in range(6):
        shutil.move(data / "train" / "disc" / f"{number:03d}.png", data / "train" / "bar" / f"wrong-{number}.png")
    run = headstart.fit(data, tmp_path / "run", source="toy", strategy="frozen", cache=False).run
    named = [issue["file"] for issue in run["label_issues"]]
    assert named
    assert sum("wrong" in name for name in named[:10]) >= 5
    with (tmp_path / "run" / "label_issues.csv").open(newline="") as stream:
        assert [row["file"] for row in csv.DictReader(stream)] == named
