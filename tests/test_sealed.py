"""The pictures of a finished run found again: which were judged, which trained, and when that cannot be said."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from headstart import files
from headstart.errors import DataError, RunError
from headstart.sealed import read_sealed, run_of, training_items
from headstart.ship.model import load
from toydata import CLASSES


def test_the_judged_pictures_are_those_of_the_predictions_in_their_order(frozen_run: Path) -> None:
    found = read_sealed(frozen_run)
    rows = list(csv.DictReader((frozen_run / "predictions.csv").open(newline="")))
    assert [item.name for item in found.items] == [row["file"] for row in rows]
    assert [CLASSES[label] for label in found.labels] == [row["label"] for row in rows]
    assert found.held_out
    assert np.allclose(found.probabilities.sum(axis=1), 1.0, atol=1e-4)
    root = Path(found.dataset.path)
    now = load(frozen_run).predict_proba([root / item.name for item in found.items])
    assert np.allclose(found.probabilities, now, atol=1e-4)


def test_training_pictures_are_those_that_the_model_has_seen(frozen_run: Path) -> None:
    found, seen = read_sealed(frozen_run), load(frozen_run).facts["seen"]
    items = training_items(found, seen, most=100)
    assert len(items) == 45
    assert {item.split for item in items} == {"train", "val"}
    assert training_items(found, seen, most=7) == items[:7]
    assert training_items(found, seen, most=7, seed=1) != items[:7]
    assert training_items(found, ["0" * 16], most=7) == []


def test_a_run_is_found_from_its_own_folder_and_from_models_in_it(frozen_run: Path, tmp_path: Path) -> None:
    for place in (frozen_run, frozen_run / "model", frozen_run / "pruned" / "half"):
        assert run_of(place).resolve() == frozen_run.resolve()
    with pytest.raises(RunError, match="no finished run here"):
        run_of(tmp_path / "a" / "b" / "c")


def test_a_picture_with_another_label_is_named(frozen_run: Path, split_shapes: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(frozen_run, tmp_path / "run"))
    text = (run / "predictions.csv").read_text()
    (run / "predictions.csv").write_text(text.replace("test/bar/015.png,bar", "test/bar/015.png,disc"))
    with pytest.raises(DataError, match=r"1 pictures have other labels now: test/bar/015\.png"):
        read_sealed(run)


def test_data_in_memory_must_be_given(frozen_run: Path, split_shapes: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(frozen_run, tmp_path / "run"))
    record = files.read_json(run / "run.json")
    record["data"]["path"] = "memory"
    files.write_json(run / "run.json", record)
    with pytest.raises(RunError, match=r"in memory.*--data"):
        read_sealed(run)
    assert len(read_sealed(run, split_shapes).items) == 24
