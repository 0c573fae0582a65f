"""Whole runs: what they write, that they repeat, stop, go on, and refuse."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import headstart
from headstart import api, cli, runfolder, running
from headstart.errors import (
    DataError,
    Interrupted,
    ModelError,
    OutputError,
    RunError,
    SettingsError,
    SourceError,
    UserError,
)
from headstart.progress import Silent
from toydata import CLASSES, folder_hash, picture, run_files, write_shapes

TUNED = {"source": "toy", "strategy": "full", "epochs": 2, "batch_size": 16, "lr": 1e-3}
FROZEN = {"source": "toy", "strategy": "frozen"}
RUN_KEYS = {
    "schema", "headstart", "seed", "command", "settings", "data", "source", "plan", "scores", "baselines",
    "gain_over_scratch", "race", "curves", "diagnosis", "features", "frozen", "notes", "environment", "work", "seconds",
}  # fmt: skip
DATA_KEYS = {"path", "classes", "splits", "skipped", "duplicates", "leaks", "warnings"}
SCORE_KEYS = {
    "n", "accuracy", "accuracy_interval", "balanced_accuracy", "macro_f1", "log_loss", "calibration_error", "per_class",
}  # fmt: skip


def stable(run: Mapping[str, Any], *more: str) -> dict[str, Any]:
    """run.json without what may differ when the same command runs again."""
    kept = {name: value for name, value in run.items() if name not in ("seconds", "work", *more)}
    kept["race"] = [{k: v for k, v in row.items() if k != "seconds"} for row in run["race"]]
    return json.loads(json.dumps(kept))


def read_run(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return found


def visible(folder: Path) -> set[str]:
    return {name for name in run_files(folder) if not name.startswith(".")}


# --- what a run writes --------------------------------------------------------------------------------------------


def test_a_frozen_run_writes_exactly_its_files(frozen_run: Path) -> None:
    assert visible(frozen_run) == {"run.json", "report.html", "report.md", "predictions.csv", "model", "settings.json"}


def test_a_fine_tuning_adds_its_log_and_checkpoints(tuned_run: Path) -> None:
    assert visible(tuned_run) == {
        "run.json", "report.html", "report.md", "predictions.csv", "model", "settings.json", "log.jsonl", "checkpoints",
    }  # fmt: skip
    rows = [json.loads(line) for line in (tuned_run / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]


@pytest.mark.parametrize("run", ["frozen_run", "tuned_run"])
def test_run_json_has_the_promised_keys_and_agrees_with_itself(run: str, request: pytest.FixtureRequest) -> None:
    found = read_run(request.getfixturevalue(run))
    assert found.keys() >= RUN_KEYS
    assert found["schema"] == 1
    assert found["data"].keys() >= DATA_KEYS
    assert found["source"].keys() >= {"address", "architecture", "parameters", "sha256"}
    assert found["plan"].keys() >= {"strategy", "start", "cut", "head", "epochs", "rates", "reasons"}
    assert found["scores"]["test"].keys() >= SCORE_KEYS
    assert found["seconds"].keys() >= {"total", "audit", "features", "train", "judge"}
    assert found["seconds"]["total"] >= max(v for k, v in found["seconds"].items() if k != "total") - 0.01
    assert {name: split["n"] for name, split in found["data"]["splits"].items()} == {"train": 30, "val": 15, "test": 24}
    low, high = found["scores"]["test"]["accuracy_interval"]
    assert low <= found["scores"]["test"]["accuracy"] <= high
    assert found["frozen"]["unchanged"] is True


@pytest.mark.parametrize("run", ["frozen_run", "tuned_run"])
def test_predictions_scores_and_the_saved_model_say_the_same(run: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(run)
    found = read_run(folder)
    rows = list(csv.DictReader((folder / "predictions.csv").open(newline="")))
    right = sum(row["label"] == row["predicted"] for row in rows)
    assert right / len(rows) == found["scores"]["test"]["accuracy"]
    table = np.zeros((3, 3), dtype=int)
    for row in rows:
        table[CLASSES.index(row["label"]), CLASSES.index(row["predicted"])] += 1
    assert table.tolist() == found["scores"]["test"]["confusion"]
    root = Path(found["data"]["path"])
    answers = headstart.load(folder).predict([root / row["file"] for row in rows])
    assert [answer.label for answer in answers] == [row["predicted"] for row in rows]
    for answer, row in zip(answers, rows, strict=True):
        for name in CLASSES:
            assert answer.probabilities[name] == pytest.approx(float(row[f"p_{name}"]), abs=2e-4)


def test_evaluating_the_test_split_gives_the_run_s_own_scores(frozen_run: Path, split_shapes: Path) -> None:
    found = api.evaluate(frozen_run, split_shapes)
    wanted = read_run(frozen_run)["scores"]["test"]
    assert found["split"] == "test"
    assert found["accuracy"] == wanted["accuracy"]
    assert found["log_loss"] == pytest.approx(wanted["log_loss"], abs=1e-4)


def test_report_and_model_card_are_made(frozen_run: Path) -> None:
    page = (frozen_run / "report.html").read_text()
    assert page.count("data:image/jpeg") >= 24  # the sample of training pictures is in the page itself
    assert "accuracy" in (frozen_run / "report.md").read_text().lower()
    card = (frozen_run / "model" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: ")
    assert f"{read_run(frozen_run)['scores']['test']['accuracy']:.3f}" in card
    assert "g of CO2" in (frozen_run / "report.md").read_text()
    assert "g of CO2" in page
    assert "g of CO2" not in card  # it is the same when the same command runs again


def test_nothing_is_written_without_out(split_shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = headstart.fit(split_shapes, **TUNED)
    assert list(tmp_path.iterdir()) == []
    assert result.folder is None
    assert result.run["seconds"]["total"] > 0
    assert result.model.predict(picture("disc", 904))[0].label in CLASSES


def test_the_inputs_are_not_changed(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", per_class=12)
    before = folder_hash(data)
    stamps = {p: p.stat().st_mtime_ns for p in data.rglob("*")}
    headstart.fit(data, tmp_path / "run", **FROZEN)
    assert folder_hash(data) == before
    assert {p: p.stat().st_mtime_ns for p in data.rglob("*")} == stamps


def test_lists_of_pictures_are_data_too(tmp_path: Path) -> None:
    pairs = [(picture(kind, n), kind) for kind in CLASSES for n in range(12)]
    result = headstart.fit(([p for p, _ in pairs], [k for _, k in pairs]), tmp_path / "run", **FROZEN)
    assert result.run["data"]["path"] == "memory"
    assert result.run["command"] is None
    shutil.rmtree(tmp_path / "run" / "model")
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(RunError, match="data in memory"):
        api.resume(tmp_path / "run")


# --- the same again -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [FROZEN, TUNED], ids=["frozen", "tuned"])
def test_the_same_command_gives_the_same_bytes(
    options: dict[str, Any], split_shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        monkeypatch.setenv("HEADSTART_HOME", str(tmp_path / f"home-{name}"))
        headstart.fit(split_shapes, tmp_path / name, **options)
    first, second = read_run(tmp_path / "a"), read_run(tmp_path / "b")
    assert stable(first) == stable(second)
    assert list(first) == list(second)
    same = [*(f"model/{n}" for n in ("config.json", "model.safetensors", "head.safetensors", "headstart.json"))]
    for name in (*same, "predictions.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_features_from_the_store_change_nothing(split_shapes: Path) -> None:
    fresh, stored = (headstart.fit(split_shapes, **FROZEN).run for _ in range(2))
    computed = fresh["work"]["features_computed"]
    assert computed >= 69  # each item once a view
    assert (stored["work"]["features_computed"], stored["work"]["features_reused"]) == (0, computed)
    assert stored["work"]["engine"]["identity"] == fresh["work"]["engine"]["identity"]
    assert stable(fresh) == stable(stored)


def test_another_head_other_folds_and_another_strategy_compute_no_feature_anew(split_shapes: Path) -> None:
    headstart.fit(split_shapes, **FROZEN)
    for options in (
        {**FROZEN, "head": "ridge", "folds": 3},
        {**FROZEN, "seed": 1, "views": 0},
        {"source": "toy", "strategy": "discriminative", "epochs": 1},
    ):
        work = headstart.fit(split_shapes, **options).run["work"]
        assert work["features_computed"] == 0, options
        assert work["features_reused"] > 0, options


def test_hash_seed_workers_and_another_process_change_nothing(split_shapes: Path, tmp_path: Path) -> None:
    code = "import sys, headstart, json; headstart.fit(sys.argv[1], sys.argv[2], workers=0, **json.loads(sys.argv[3]))"
    call = [sys.executable, "-c", code, str(split_shapes), str(tmp_path / "other"), json.dumps(TUNED)]
    subprocess.run(call, check=True, env={**os.environ, "PYTHONHASHSEED": "4711"})
    headstart.fit(split_shapes, tmp_path / "here", workers=2, **TUNED)
    unlike = ("settings", "command", "environment")
    assert stable(read_run(tmp_path / "here"), *unlike) == stable(read_run(tmp_path / "other"), *unlike)
    for name in ("model/model.safetensors", "predictions.csv"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_another_seed_splits_otherwise(shapes: Path) -> None:
    first, second = (headstart.fit(shapes, seed=seed, **FROZEN).run for seed in (0, 1))
    assert first["scores"] != second["scores"]


@pytest.mark.parametrize("options", [FROZEN, TUNED], ids=["frozen", "tuned"])
def test_labels_of_test_items_play_no_part_in_any_choice(
    options: dict[str, Any], split_shapes: Path, tmp_path: Path
) -> None:
    from dataclasses import replace

    from headstart.data.facts import load_data

    data = load_data(split_shapes)
    moved = tuple(
        replace(item, label=(int(item.label or 0) + 1) % 3) if item.split == "test" else item for item in data.items
    )
    honest, shuffled = (headstart.fit(d, **options) for d in (data, data.with_items(moved)))
    assert honest.run["plan"] == shuffled.run["plan"]
    assert honest.run["curves"] == shuffled.run["curves"]
    assert honest.run["scores"]["val"] == shuffled.run["scores"]["val"]
    assert honest.run["diagnosis"] == shuffled.run["diagnosis"]
    assert honest.run["scores"]["test"] != shuffled.run["scores"]["test"]
    for a, b in zip(honest.model.net.state_dict().values(), shuffled.model.net.state_dict().values(), strict=True):
        assert a.equal(b)


# --- the user's mistakes ----------------------------------------------------------------------------------------------


def _empty(place: Path) -> Path:
    place.mkdir()
    return place


def _one_class(place: Path) -> Path:
    write_shapes(place, per_class=4)
    for name in CLASSES[1:]:
        shutil.rmtree(place / name)
    return place


def _unreadable(place: Path) -> Path:
    for name in ("a", "b"):
        (place / name).mkdir(parents=True)
        for n in range(3):
            (place / name / f"{n}.jpg").write_bytes(b"no picture")
    return place


BAD_DATA: dict[str, Callable[[Path], Path]] = {
    "empty": _empty,
    "one class": _one_class,
    "nothing readable": _unreadable,
    "missing": lambda place: place / "nowhere",
}


@pytest.mark.parametrize("kind", BAD_DATA)
def test_data_that_cannot_be_used_is_one_line_and_writes_nothing(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = BAD_DATA[kind](tmp_path / "data")
    assert cli.run(["fit", str(data), "--out", str(tmp_path / "run"), "--source", "toy", "--quiet"]) == 2
    told = capsys.readouterr().err.strip()
    assert "\n" not in told
    assert told.startswith("error: ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("data", "words"),
    [(3, "int is no data"), (None, "NoneType is no data"), ("", "empty"), ([], "empty"), (["a.png"], "needs labels")],
)
def test_what_is_no_data_is_a_data_error(data: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        headstart.fit(data, **FROZEN)


def test_a_tilde_means_the_home_folder_everywhere(
    split_shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(split_shapes)
    headstart.fit("~/data", "~/run", **FROZEN)
    assert api.resume("~/run").folder == tmp_path / "run"
    assert headstart.load("~/run").predict("~/data/test/bar/015.png")[0].error is None
    with pytest.raises(OutputError, match="inside the data"):
        headstart.fit("~/data", "~/data/run", **FROZEN)
    assert not (tmp_path / "~").exists()


BAD_OPTIONS: dict[str, tuple[dict[str, Any], type[UserError], str]] = {
    "unknown source": ({"source": "nonsense:x"}, SourceError, "nonsense"),
    "no such folder": ({"source": "./nothing/here"}, SourceError, "nothing/here"),
    "offline": ({"source": "timm:resnet18.a1_in1k"}, SourceError, "resnet18"),
    "unknown option": ({"epoch": 3}, SettingsError, "Did you mean epochs"),
    "unknown cut": ({"strategy": "partial", "cut": "layer9"}, SettingsError, "layer9.*layer"),
    "unknown strategy": ({"strategy": "frozn"}, SettingsError, "frozn"),
    "too many blocks": ({"train_last": 99}, SettingsError, "99"),
    "no such device": ({"device": "quantum"}, SettingsError, "quantum"),
    "weights missing": ({"source": "random:resnet18", "weights": "none.pth"}, SourceError, "none.pth"),
}


@pytest.mark.parametrize("kind", BAD_OPTIONS)
def test_options_that_cannot_be_used_are_one_line_and_write_nothing(
    kind: str, split_shapes: Path, tmp_path: Path
) -> None:
    options, error, words = BAD_OPTIONS[kind]
    with pytest.raises(error, match=words) as caught:
        headstart.fit(split_shapes, tmp_path / "run", **{"source": "toy", **options})
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_training_set_too_small_for_validation_is_told_before_anything_is_written(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", splits={"train": 1, "test": 2})
    with pytest.raises(DataError, match="choose the epoch"):
        headstart.fit(data, tmp_path / "run", **TUNED)
    with pytest.raises(DataError, match="choose the epoch"):
        headstart.fit(data, tmp_path / "run", scratch=True, **FROZEN)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", ["file", "file/run", "/proc/run"])
def test_a_place_that_cannot_be_written_is_told(place: str, split_shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError):
        headstart.fit(split_shapes, tmp_path / place, **FROZEN)
    assert (tmp_path / "file").read_text() == "mine"


def test_the_run_may_not_stand_inside_the_data(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", per_class=4)
    for out in (data, data / "run", data / "disc" / "run"):
        with pytest.raises(OutputError, match="inside the data"):
            headstart.fit(data, out, **FROZEN)
    assert run_files(data) == set(CLASSES)


def test_a_folder_of_something_else_is_left_alone_even_with_overwrite(split_shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "config.json").write_text("{}")
    (tmp_path / "mine" / "settings.json").write_text('{"theme": "dark"}')  # other programs have one too
    before = folder_hash(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="no run of headstart"):
            headstart.fit(split_shapes, tmp_path / "mine", overwrite=overwrite, **FROZEN)
    assert folder_hash(tmp_path) == before


def test_a_run_is_replaced_only_when_asked_and_foreign_files_stay(
    split_shapes: Path, tuned_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(tuned_run, tmp_path / "run"))
    (run / "notes.txt").write_text("mine")
    (run / "model" / "model.onnx").write_text("mine")
    (run / "checkpoints" / "keep.txt").write_text("mine")
    with pytest.raises(OutputError, match="--overwrite"):
        headstart.fit(split_shapes, run, **FROZEN)
    headstart.fit(split_shapes, run, overwrite=True, **FROZEN)
    assert read_run(run)["plan"]["strategy"] == "frozen"
    assert not (run / "log.jsonl").exists()
    assert run_files(run / "checkpoints") == {"keep.txt"}
    assert (run / "notes.txt").read_text() == (run / "model" / "model.onnx").read_text() == "mine"
    assert headstart.load(run).classes == CLASSES


def test_an_unfinished_run_names_both_ways_on(split_shapes: Path, tuned_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tuned_run, tmp_path / "run"))
    (run / "run.json").unlink()
    with pytest.raises(OutputError, match="headstart resume"):
        headstart.fit(split_shapes, run, **TUNED)


def test_an_error_in_training_takes_away_what_was_begun(
    split_shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart import stages

    def fails(*_args: Any, **_options: Any) -> Any:
        raise DataError("the pictures went away")

    monkeypatch.setattr(stages, "train_candidate", fails)
    with pytest.raises(DataError):
        headstart.fit(split_shapes, tmp_path / "run", **FROZEN)
    assert not (tmp_path / "run").exists()


def test_a_rate_that_explodes_is_the_user_s_to_mend(split_shapes: Path, tmp_path: Path) -> None:
    options = {**TUNED, "lr": "1e30", "optimizer": "sgd", "clip": 0, "batch_size": 4, "epochs": 3}
    with pytest.raises(SettingsError, match="not a finite number"):
        headstart.fit(split_shapes, tmp_path / "run", **options)
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_run_that_another_process_made_meanwhile_is_not_overwritten(
    split_shapes: Path, frozen_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart import stages

    prepare = stages.prepare

    def slow(*args: Any, **options: Any) -> Any:
        shutil.copytree(frozen_run, tmp_path / "run")
        return prepare(*args, **options)

    monkeypatch.setattr(stages, "prepare", slow)
    with pytest.raises(OutputError, match="stands there already"):
        headstart.fit(split_shapes, tmp_path / "run", **FROZEN)
    assert read_run(tmp_path / "run") == read_run(frozen_run)


# --- baseline and race ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_every_epoch_is_saved")
def test_the_scratch_baseline_gives_a_gain_with_its_interval(split_shapes: Path, tmp_path: Path) -> None:
    run = headstart.fit(split_shapes, tmp_path / "run", scratch=True, epochs=1, **FROZEN).run
    own, scratch = run["scores"]["test"], run["baselines"]["scratch"]
    assert run["gain_over_scratch"]["points"] == pytest.approx(100 * (own["accuracy"] - scratch["accuracy"]))
    low, high = run["gain_over_scratch"]["interval"]
    assert low <= run["gain_over_scratch"]["points"] <= high
    assert scratch["epochs"] == 1
    assert visible(tmp_path / "run" / "scratch") == {"checkpoints", "log.jsonl"}
    assert run["plan"]["strategy"] == "frozen"


def test_no_baseline_no_gain(frozen_run: Path) -> None:
    run = read_run(frozen_run)
    assert run["gain_over_scratch"] is None
    assert run["baselines"].keys() == {"majority"}
    assert run["baselines"]["majority"]["accuracy"] == pytest.approx(1 / 3)


@pytest.fixture(scope="module")
def raced(split_shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "raced"
    options = {"source": "toy", "epochs": 1, "head": "svm", "backbone_lr": 1e-4, "cache": False}
    api.compare(split_shapes, folder, strategies=["scratch", "frozen", "partial", "frozen"], **options)
    return folder


def test_a_race_has_a_row_a_strategy_with_every_column(raced: Path) -> None:
    rows = read_run(raced)["race"]
    assert [(row["strategy"], row["head"]) for row in rows] == [
        ("scratch", "linear"), ("frozen", "svm"), ("partial", "linear"),
    ]  # fmt: skip
    for row in rows:
        assert row["trained_parameters"] > 0
        assert row["seconds"] >= 0
        for split, n in (("val", 15), ("test", 24)):
            low, high = row[split]["accuracy_interval"]
            assert low <= row[split]["accuracy"] <= high
            assert row[split]["n"] == n
        assert row["score"] == row["val"]["accuracy"]
        assert row["interval"] == row["val"]["accuracy_interval"]
        assert row["gap"] == pytest.approx(row["train_accuracy"] - row["val"]["accuracy"])
        assert row["verdict"] in ("overfits", "underfits", "neither")
        assert (row["p_against_best"] is None) == row["finalist"]
    (best,) = (row for row in rows if row["finalist"])
    assert best["score"] == max(row["score"] for row in rows)
    trained = {row["strategy"]: row["trained_parameters"] for row in rows}
    assert trained["frozen"] < trained["partial"] < trained["scratch"]


def test_the_race_s_scratch_is_the_baseline_and_the_best_is_the_model(raced: Path) -> None:
    run = read_run(raced)
    by_name = {row["strategy"]: row for row in run["race"]}
    (best,) = (row for row in run["race"] if row["finalist"])
    assert run["baselines"]["scratch"]["accuracy"] == by_name["scratch"]["test"]["accuracy"]
    assert run["scores"]["test"]["accuracy"] == best["test"]["accuracy"]
    assert run["plan"]["strategy"] == best["strategy"]
    assert run["gain_over_scratch"]["points"] == pytest.approx(
        100 * (best["test"]["accuracy"] - by_name["scratch"]["test"]["accuracy"])
    )
    assert headstart.load(raced).plan.strategy == best["strategy"]


@pytest.mark.parametrize("run", ["raced", "frozen_run", "tuned_run"])
def test_the_recorded_command_is_one_the_command_line_takes(
    run: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import shlex

    folder = request.getfixturevalue(run)
    found = read_run(folder)
    words = shlex.split(found["command"])
    assert words[0] == "headstart"
    assert words[-1] == "RUN"
    seen: dict[str, Any] = {}

    def record(data: str, out: Path, **options: Any) -> Any:
        seen.update(options, data=data, out=out)
        raise DataError("seen")

    monkeypatch.setattr(api, words[1], record)
    assert cli.run(words[1:]) == 2
    assert (seen["data"], seen["out"]) == (found["data"]["path"], Path("RUN"))
    assert list(seen.get("strategies") or []) == [row["strategy"] for row in found["race"]]
    given = seen["settings"] if words[1] == "fit" else seen["settings"].changed(refit=False)
    assert json.loads(json.dumps({n: getattr(given, n) for n in found["settings"]})) == found["settings"]


def test_the_choice_is_made_on_validation_even_when_the_test_says_otherwise() -> None:
    from types import SimpleNamespace

    labels = {"train": np.array([0, 1]), "val": np.array([0, 1, 0, 1]), "test": np.array([0, 1, 0, 1])}
    bench: Any = SimpleNamespace(
        samples=lambda name: SimpleNamespace(labels=labels[name]),
        dataset=SimpleNamespace(classes=("a", "b")),
        source=SimpleNamespace(address="toy"),
    )

    def candidate(name: str, *, val: int, test: int, parameters: int) -> Any:
        def logits(split: str, wrong: int) -> np.ndarray:
            right = np.eye(2)[labels[split]] * 4.0
            right[:wrong] = right[:wrong, ::-1]
            return right

        return SimpleNamespace(
            plan=SimpleNamespace(strategy=name, head="linear", cut="head"), trained_parameters=parameters, seconds=1.0,
            curves={"axis": "epochs", "points": []},
            logits={"train": logits("train", 0), "val": logits("val", val), "test": logits("test", test)},
        )  # fmt: skip

    runners = [
        candidate("full", val=2, test=0, parameters=9),
        candidate("partial", val=1, test=4, parameters=5),
        candidate("frozen", val=1, test=4, parameters=2),
    ]
    place, rows = running._choose(bench, runners)
    assert runners[place].plan.strategy == "frozen"  # of two equals the one that trains less
    runners[2].logits["val"][3] = np.nan  # an item that it could no longer read counts for none of them
    assert running._choose(bench, runners)[0] == 2
    assert [row["finalist"] for row in rows] == [False, False, True]
    assert rows[1]["p_against_best"] == 1.0


def test_an_unknown_strategy_names_the_near_one(split_shapes: Path) -> None:
    with pytest.raises(SettingsError, match="Did you mean frozen"):
        api.compare(split_shapes, strategies=["frozn"])
    with pytest.raises(SettingsError, match="Did you mean partial"):
        api.compare(split_shapes, strategies="partal")


# --- stop and go on ---------------------------------------------------------------------------------------------------


class StopsAt(Silent):
    """A reporter that gets a signal, or Ctrl-C, at the end of an epoch of one of the trainings."""

    def __init__(self, epoch: int, *, by: int = signal.SIGINT, training: int = 1) -> None:
        self.wanted, self.by, self.left = epoch, by, training

    def epoch(self, row: Mapping[str, Any]) -> None:
        if row["epoch"] == self.wanted:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), self.by)


@pytest.mark.parametrize(("by", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("epoch", [1, 3], ids=["in the middle", "at the last epoch"])
def test_an_interrupted_run_goes_on_to_the_same_end(
    by: int, code: int, epoch: int, split_shapes: Path, tuned_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "my run"
    options = {**TUNED, "epochs": 3, "cache": False}
    with pytest.raises(Interrupted) as caught:
        headstart.fit(split_shapes, run, reporter=StopsAt(epoch, by=by), **options)
    assert caught.value.exit_code == code
    assert caught.value.resume_command == f"headstart resume '{run}'"
    assert not (run / "run.json").exists()
    with pytest.raises(ModelError, match="headstart resume"):
        headstart.load(run)
    resumed = api.resume(run)
    assert stable(resumed.run) == stable(read_run(tuned_run)) == stable(read_run(run))
    for name in ("model/model.safetensors", "model/headstart.json", "predictions.csv"):
        assert (run / name).read_bytes() == (tuned_run / name).read_bytes()
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3]


def test_ctrl_c_stops_a_run_that_writes_nothing(split_shapes: Path) -> None:
    with pytest.raises(Interrupted, match="the same call again"):
        headstart.fit(split_shapes, reporter=StopsAt(1), **TUNED)


@pytest.mark.parametrize(("by", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_the_data_are_read_leaves_nothing(
    by: int, code: int, split_shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart import stages

    monkeypatch.setattr(stages, "open_source", lambda *_a, **_o: os.kill(os.getpid(), by))
    with pytest.raises(Interrupted) as caught:
        headstart.fit(split_shapes, tmp_path / "run", **FROZEN)
    assert caught.value.exit_code == code
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("finished", [True, False])
def test_an_overwrite_that_is_stopped_before_it_began_does_not_say_to_go_on_with_the_old_run(
    finished: bool, split_shapes: Path, tuned_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart import stages

    run = Path(shutil.copytree(tuned_run, tmp_path / "run"))
    if not finished:
        (run / "run.json").unlink()
    before = folder_hash(run)
    monkeypatch.setattr(stages, "open_source", lambda *_a, **_o: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted) as caught:
        headstart.fit(split_shapes, run, overwrite=True, **FROZEN)
    assert caught.value.resume_command == "the same call again"
    assert folder_hash(run) == before


@pytest.mark.usefixtures("_every_epoch_is_saved")
def test_a_race_goes_on_where_it_stopped(split_shapes: Path, raced: Path, tmp_path: Path) -> None:
    options = {"source": "toy", "epochs": 1, "head": "svm", "backbone_lr": 1e-4, "cache": False}
    names = ["scratch", "frozen", "partial"]
    with pytest.raises(Interrupted):
        api.compare(split_shapes, tmp_path / "run", strategies=names, reporter=StopsAt(0, training=2), **options)
    assert (tmp_path / "run" / "strategies" / "scratch" / "checkpoints").is_dir()
    assert stable(api.resume(tmp_path / "run").run) == stable(read_run(raced))


def test_a_relative_run_goes_on_from_another_folder(
    tuned_run: Path, split_shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(split_shapes.parent)
    with pytest.raises(Interrupted):
        headstart.fit(split_shapes.name, tmp_path / "run", reporter=StopsAt(1), **TUNED)
    monkeypatch.chdir(tmp_path)
    assert api.resume("run").run["scores"]["test"]["n"] == 24


def test_resuming_a_finished_run_changes_no_byte(tuned_run: Path) -> None:
    before = folder_hash(tuned_run)
    stamps = {p: p.stat().st_mtime_ns for p in tuned_run.rglob("*")}
    result = api.resume(tuned_run)
    assert result.run == read_run(tuned_run)
    assert result.model.classes == CLASSES
    assert folder_hash(tuned_run) == before
    assert {p: p.stat().st_mtime_ns for p in tuned_run.rglob("*")} == stamps


def test_what_is_no_run_cannot_be_resumed(tmp_path: Path, tuned_run: Path) -> None:
    with pytest.raises(RunError, match="no run was started"):
        api.resume(tmp_path)
    torn = Path(shutil.copytree(tuned_run, tmp_path / "torn"))
    (torn / "run.json").unlink()
    for content in ("", "{", "[]", "{}", '{"schema": 1}'):
        (torn / "settings.json").write_text(content)
        with pytest.raises(RunError, match="not as headstart wrote it"):
            api.resume(torn)
    started = json.loads((tuned_run / "settings.json").read_text())
    (torn / "settings.json").write_text(json.dumps({**started, "schema": 2}))
    with pytest.raises(RunError, match="format 2"):
        api.resume(torn)


def test_data_that_changed_meanwhile_are_not_gone_on_with(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", splits={"train": 6, "val": 3, "test": 3})
    with pytest.raises(Interrupted):
        headstart.fit(data, tmp_path / "run", reporter=StopsAt(1), **TUNED)
    (data / "train" / "disc" / "000.png").unlink()
    with pytest.raises(RunError, match="other data or another source: train/disc has 5 items and had 6 "):
        api.resume(tmp_path / "run")


# --- looking, predicting, evaluating -------------------------------------------------------------------------------


def test_inspect_says_what_is_there(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", per_class=4)
    (data / "disc" / "broken.jpg").write_bytes(b"no picture")
    shutil.copy(data / "bar" / "000.png", data / "bar" / "again.png")
    found = api.inspect(data)
    assert found["classes"] == list(CLASSES)
    assert found["splits"]["unsplit"]["per_class"] == {"bar": 5, "disc": 4, "square": 4}
    assert [entry["file"] for entry in found["skipped"]] == ["disc/broken.jpg"]
    assert found["duplicates"] == [["bar/000.png", "bar/again.png"]] or found["duplicates"] == [
        ["bar/again.png", "bar/000.png"]
    ]


def test_sample_subset_and_sources(shapes: Path, tuned_run: Path, tmp_path: Path) -> None:
    grid = api.sample(shapes, 6)
    assert isinstance(grid, Image.Image)
    made = api.subset(shapes, tmp_path / "small", per_class=3, test=6)
    assert made["classes"] == list(CLASSES)
    assert made["splits"]["train"] == 9
    assert api.inspect(tmp_path / "small")["splits"]["train"]["n"] == 9
    addresses = [row["address"] for row in api.sources([tuned_run / "model"])]
    assert "toy" in addresses
    assert any(str(tuned_run) in address for address in addresses)
    assert all("resnet18" in row["address"] for row in api.sources(pattern="resnet18"))


def test_predict_gives_dicts_with_the_k_likeliest(frozen_run: Path, split_shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    good, bad = api.predict(frozen_run, [split_shapes / "test/bar/015.png", tmp_path / "broken.png"], top_k=2)
    assert good.keys() == {"file", "label", "probability", "probabilities"}
    assert len(good["probabilities"]) == 2
    assert next(iter(good["probabilities"])) == good["label"]
    assert bad.keys() == {"file", "error"}


def test_evaluate_matches_classes_by_name_and_takes_some_of_them(frozen_run: Path, tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", per_class=5)
    shutil.rmtree(data / "bar")  # the numbers of the classes move, their names do not
    (data / "disc" / "broken.jpg").write_bytes(b"no picture")
    found = api.evaluate(frozen_run, data)
    assert (found["split"], found["n"], found["classes"]) == ("all", 10, list(CLASSES))
    assert [entry["file"] for entry in found["skipped"]] == ["disc/broken.jpg"]
    answers = headstart.load(frozen_run).predict(sorted(data.rglob("*.png")))
    right = [Path(a.file).parent.name == a.label for a in answers]
    assert found["accuracy"] == np.mean(right)
    (data / "disc").rename(data / "ring")
    with pytest.raises(DataError, match=r"does not know the class ring.*knows bar, disc, square"):
        api.evaluate(frozen_run, data)


def test_evaluate_takes_held_out_items_before_training_items(frozen_run: Path, tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", splits={"train": 3, "val": 2})
    assert (api.evaluate(frozen_run, data)["split"], api.evaluate(frozen_run, data)["n"]) == ("val", 6)
    assert api.evaluate(frozen_run, data, split="all")["n"] == 15
    assert api.evaluate(frozen_run, data, split="train")["n"] == 9
    with pytest.raises(DataError, match=r"no split 'test'.*train, val, all"):
        api.evaluate(frozen_run, data, split="test")


def test_evaluate_without_a_readable_picture_is_a_data_error(frozen_run: Path, tmp_path: Path) -> None:
    for kind in CLASSES:
        (tmp_path / "data" / kind).mkdir(parents=True)
        (tmp_path / "data" / kind / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match="3 of 3 pictures cannot be read"):
        api.evaluate(frozen_run, tmp_path / "data")


# --- the folder -------------------------------------------------------------------------------------------------------


def test_what_a_killed_writer_left_does_not_make_a_folder_foreign(tmp_path: Path) -> None:
    for name in (".lock", ".lock.holder", ".settings.json.abc.tmp"):
        (tmp_path / name).touch()
    runfolder.check(tmp_path, overwrite=False)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(OutputError):
        runfolder.check(tmp_path, overwrite=True)


def test_a_held_folder_is_refused(split_shapes: Path, tuned_run: Path, tmp_path: Path) -> None:
    from headstart import files

    run = Path(shutil.copytree(tuned_run, tmp_path / "run"))
    (run / "run.json").unlink()
    with files.lock(run), pytest.raises(OutputError, match="another run"):
        api.resume(run)


def test_every_verb_says_what_its_words_mean() -> None:
    import inspect

    for verb in (api.fit, api.compare, api.resume, api.predict, api.evaluate):
        text = inspect.getdoc(verb) or ""
        for name in inspect.signature(verb).parameters:
            assert f"{name}: " in text, (verb.__name__, name)
