"""The record: what run.json, predictions.csv and the report say is what the candidate did."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart import record
from headstart.judge import scoring
from headstart.progress import Silent
from headstart.settings import Settings
from headstart.ship.model import softmax
from headstart.stages import Bench, Candidate, make_plan, prepare, train_candidate
from headstart.transfer.interrupt import Stop
from toydata import CLASSES, write_shapes


def _bench(data: Any, **options: Any) -> Bench:
    settings = Settings.of(**{"source": "toy", "strategy": "frozen", "augment": False, **options})
    return prepare(data, settings=settings, reporter=Silent(), stop=Stop())


def _candidate(bench: Bench) -> Candidate:
    return train_candidate(bench, make_plan(bench, bench.settings), settings=bench.settings, folder=None)


@pytest.fixture(scope="module")
def bench(split_shapes: Path) -> Bench:
    return _bench(split_shapes, cache=False)


@pytest.fixture(scope="module")
def candidate(bench: Bench) -> Candidate:
    return _candidate(bench)


def test_every_split_is_scored_on_its_own_items(bench: Bench, candidate: Candidate) -> None:
    scores = record.score_splits(bench, candidate)
    assert {name: found.n for name, found in scores.items()} == {"train": 30, "val": 15, "test": 24}
    labels = bench.samples("test").labels
    assert scores["test"].accuracy == np.mean(candidate.logits["test"].argmax(1) == labels)


def test_the_record_is_plain_json_and_counts_parameters(bench: Bench, candidate: Candidate) -> None:
    found = record.run_record(bench, candidate, command="headstart fit X")
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["command"] == "headstart fit X"
    assert found["source"]["parameters"] == sum(p.numel() for p in bench.source.network.parameters())
    assert found["plan"]["trained_parameters"] == 64 * 3 + 3
    assert found["environment"]["device"] == bench.device
    assert found["environment"]["torch"]


def test_the_gain_compares_the_two_on_the_same_test_items(bench: Bench, candidate: Candidate) -> None:
    labels = bench.samples("test").labels
    wrong = {**candidate.logits, "test": np.eye(3)[(labels + 1) % 3].astype(np.float32)}
    right = {**candidate.logits, "test": np.eye(3)[labels].astype(np.float32)}
    best, worst = (replace(candidate, logits=logits) for logits in (right, wrong))
    found = record.run_record(bench, best, baseline=worst)
    assert found["gain_over_scratch"] == {"points": 100.0, "interval": [100.0, 100.0]}
    assert record.run_record(bench, worst, baseline=best)["gain_over_scratch"]["points"] == -100.0
    assert record.run_record(bench, best, baseline=best)["gain_over_scratch"]["points"] == 0.0
    assert found["baselines"]["scratch"]["accuracy"] == 0.0


def test_predictions_hold_every_test_item_with_all_probabilities(bench: Bench, candidate: Candidate) -> None:
    rows = list(csv.DictReader(io.StringIO(record.predictions_csv(bench, candidate))))
    assert [row["file"] for row in rows] == [item.name for item in bench.samples("test").items]
    assert list(rows[0]) == ["file", "label", "predicted", *(f"p_{name}" for name in CLASSES)]
    for row, chances in zip(rows, softmax(candidate.logits["test"]), strict=True):
        assert [float(row[f"p_{name}"]) for name in CLASSES] == pytest.approx(chances.tolist(), abs=1e-6)
        assert row["label"] == Path(row["file"]).parent.name
        assert row["predicted"] == CLASSES[int(chances.argmax())]


def test_names_with_commas_quotes_and_line_ends_survive_the_table(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", splits={"train": 3, "test": 1})
    odd = 'one, "two"\nthree.png'
    (data / "test" / "disc" / "003.png").rename(data / "test" / "disc" / odd)
    own = _bench(data)
    rows = list(csv.DictReader(io.StringIO(record.predictions_csv(own, _candidate(own)))))
    assert f"test/disc/{odd}" in [row["file"] for row in rows]


def test_the_sample_takes_the_classes_in_turn_and_training_items_only(bench: Bench) -> None:
    pictures = record._sample(bench)
    assert [p.label for p in pictures[:6]] == [*CLASSES, *CLASSES]
    assert all(p.name.startswith("train/") for p in pictures)
    assert all(p.data.startswith(b"\xff\xd8") for p in pictures)
    assert len({p.name for p in pictures}) == len(pictures) == 24


def test_the_surest_errors_come_first(bench: Bench, candidate: Candidate) -> None:
    labels = bench.samples("test").labels
    logits = np.eye(3)[labels].astype(np.float32) * 5
    for place, sure in ((3, 2.0), (7, 9.0), (11, 4.0)):
        logits[place] = np.eye(3)[(labels[place] + 1) % 3] * sure
    model = record.bare_model(bench, candidate)
    pictures = record._errors(bench, replace(candidate, logits={**candidate.logits, "test": logits}), model)
    names = [item.name for item in bench.samples("test").items]
    assert [p.name for p in pictures] == [names[7], names[11], names[3]]
    assert all(p.predicted != p.label for p in pictures)
    assert pictures[0].probability == pytest.approx(softmax(logits)[7].max())
    assert all(p.map == b"" or p.map.startswith(b"\x89PNG") for p in pictures)
    assert any(p.map for p in pictures)


def test_a_picture_that_vanished_before_the_report_does_not_end_the_run(tmp_path: Path) -> None:
    own = _bench(write_shapes(tmp_path / "data", splits={"train": 3, "test": 2}))
    found = _candidate(own)
    gone = own.samples("train").items[0]
    (tmp_path / "data" / gone.name).unlink()
    record.write_run(tmp_path / "run", own, found, record.run_record(own, found))
    assert (tmp_path / "run" / "run.json").is_file()
    assert gone.name not in [p.name for p in record._sample(own)]


def test_without_a_validation_part_a_row_says_so(tmp_path: Path) -> None:
    own = _bench(write_shapes(tmp_path / "data", splits={"train": 1, "test": 2}))
    found = _candidate(own)
    (row,) = record.race_rows(own, [found], found)
    assert row["val"] is row["score"] is row["interval"] is row["gap"] is row["p_against_best"] is None
    assert row["test"]["n"] == 6
    assert row["finalist"] is True


def test_the_diagnosis_does_not_look_at_the_test_labels(
    bench: Bench, candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    majority = scoring.majority

    def watched(train: Any, held: Any, classes: Any) -> Any:
        seen.append(np.asarray(held).tolist())
        return majority(train, held, classes)

    monkeypatch.setattr(scoring, "majority", watched)
    record._diagnosis(bench, candidate, record.score_splits(bench, candidate))
    assert seen == [bench.samples("val").labels.tolist()]


def test_the_command_quotes_what_a_shell_would_split(tmp_path: Path) -> None:
    import shlex

    data = write_shapes(tmp_path / "my data; rm", splits={"train": 2, "test": 1})
    own = _bench(data, crop_scale=0.5)
    words = shlex.split(record.command("fit", own) or "")
    assert words[:3] == ["headstart", "fit", str(data)]
    assert words[-2:] == ["--out", "RUN"]
    assert words[words.index("--crop-scale") + 1] == "0.5"
    assert "--no-augment" in words
    raced = shlex.split(record.command("compare", own, ("full", "frozen")) or "")
    assert raced[raced.index("--strategies") + 1] == "full,frozen"
    assert not {"--strategy", "--no-refit", "--refit"} & set(raced)
    own.dataset = replace(own.dataset, path="memory")
    assert record.command("fit", own) is None


def test_a_package_that_is_not_there_is_said_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    version = metadata.version

    def without(name: str) -> str:
        if name == "accelerate":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without)
    assert record.environment(bench)["accelerate"] == "not installed"


def test_an_unjudged_model_still_says_what_it_was_made_with(bench: Bench, candidate: Candidate) -> None:
    model = record.bare_model(bench, candidate)
    assert model.facts["versions"]["torch"] == record.environment(bench)["torch"]
    assert model.facts["headstart"]
    assert model.classes == CLASSES
