"""prune: a smaller model beside the run's own, which stays as it is; judged once, and usable as any model."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import headstart
from headstart import _console_shipping, cli, files, pruning, selecting
from headstart.errors import DataError, MissingExtraError, OutputError, RunError, SettingsError
from headstart.pruning import CURVE
from headstart.ship.prune import costs, find_groups
from headstart.shrinking import STEP, Aim
from headstart.sources import open_source
from toydata import folder_hash, write_shapes

pytest.importorskip("torch_pruning")


@pytest.fixture(scope="module")
def pruned(frozen_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, str]]:
    """A run that was pruned to half of its multiply-adds, what that told, and the run's files before."""
    run = Path(shutil.copytree(frozen_run, tmp_path_factory.mktemp("pruned") / "run"))
    before = folder_hash(run)
    return run, headstart.prune(run, speedup=2, epochs=2), before


@pytest.fixture
def run(frozen_run: Path, tmp_path: Path) -> Path:
    """A finished run that may be written to."""
    return Path(shutil.copytree(frozen_run, tmp_path / "run"))


def test_the_network_is_really_smaller_and_the_curve_says_what_it_costs(
    pruned: tuple[Path, dict[str, Any], dict[str, str]],
) -> None:
    run, told, _ = pruned
    place = run / "pruned" / "speedup-2"
    assert told["folder"] == str(place)
    assert files.read_json(place / CURVE) == {name: part for name, part in told.items() if name != "folder"}
    points, model, whole = told["points"], headstart.load(place), headstart.load(run)
    assert told["chosen"] == len(points) - 1
    assert [point["macs"] for point in points] == sorted((p["macs"] for p in points), reverse=True)
    assert points[-1]["speedup"] >= 2
    assert points[-1]["parameters"] == sum(p.numel() for p in model.net.parameters())
    assert points[0]["parameters"] == sum(p.numel() for p in whole.net.parameters())
    assert (place / "model.safetensors").stat().st_size < 0.7 * (run / "model" / "model.safetensors").stat().st_size
    assert set(points[-1]["tried"]) == {"taylor", "magnitude"}
    assert points[-1]["importance"] == min(points[-1]["tried"], key=points[-1]["tried"].get)
    for point in points:
        low, high = point["accuracy_interval"]
        assert low <= point["accuracy"] <= high
        assert point["latency"]["ms"] > 0


def test_nothing_of_the_run_changes_but_the_report(pruned: tuple[Path, dict[str, Any], dict[str, str]]) -> None:
    run, _, before = pruned
    after = folder_hash(run)
    changed = {name for name, digest in after.items() if before.get(name) != digest}
    assert {name for name in changed if not name.startswith("pruned/")} == {"report.html"}
    assert not {*before} - {*after}
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count('id="pruned"') == 1
    assert "speedup-2" in page


def test_the_test_set_is_judged_with_the_model_that_was_saved(
    pruned: tuple[Path, dict[str, Any], dict[str, str]], split_shapes: Path
) -> None:
    run, told, _ = pruned
    scores = headstart.evaluate(told["folder"], split_shapes)
    assert told["test"]["n"] == scores["n"] == 24
    assert told["test"]["scores"]["accuracy"] == pytest.approx(scores["accuracy"])
    own = files.read_json(run / "run.json")["scores"]["test"]["accuracy"]
    assert told["test"]["whole"]["accuracy"] == pytest.approx(own)
    assert told["test"]["change_points"] == pytest.approx(100 * (scores["accuracy"] - own))
    assert scores["seen"] == 0


def test_a_pruned_model_predicts_and_is_exported_as_any(
    pruned: tuple[Path, dict[str, Any], dict[str, str]], split_shapes: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    _, told, _ = pruned
    answers = headstart.predict(told["folder"], [split_shapes / "test"])
    assert len(answers) == 24
    for precision in ("fp32", "int8"):
        made = headstart.export(told["folder"], precision=precision, out=tmp_path / precision, max_drop=50)
        assert made["n"] == 24
    assert made["accuracy"]["model"] == pytest.approx(told["test"]["scores"]["accuracy"])


def test_the_same_command_writes_the_same_model(pruned: tuple[Path, dict[str, Any], dict[str, str]], run: Path) -> None:
    _, told, _ = pruned
    again = headstart.prune(run, speedup=2, epochs=2)
    assert again["model"]["sha256"] == told["model"]["sha256"]


def test_a_fine_tuned_network_is_pruned_with_its_head(tuned_run: Path, tmp_path: Path) -> None:
    told = headstart.prune(tuned_run, parameters=0.6, epochs=1, out=tmp_path / "small")
    whole, small = told["points"][0]["parameters"], told["points"][-1]["parameters"]
    assert 0.5 < small / whole <= 0.61
    assert len(headstart.load(tmp_path / "small").classes) == 3
    assert not (tuned_run / "pruned").exists()


def test_a_model_that_may_say_unknown_may_still(split_shapes: Path, tmp_path: Path) -> None:
    headstart.fit(split_shapes, tmp_path / "run", source="toy", strategy="frozen", cache=False, error_rate=0.2)
    told = headstart.prune(tmp_path / "run", speedup=1.4, epochs=1)
    assert told["reject"]["error_rate"] == 0.2
    assert headstart.load(told["folder"]).reject is not None


def test_another_head_is_fitted_anew_on_what_is_left(split_shapes: Path, tmp_path: Path) -> None:
    headstart.fit(split_shapes, tmp_path / "run", source="toy", strategy="frozen", head="knn", cache=False)
    told = headstart.prune(tmp_path / "run", speedup=1.5, epochs=1)
    model = headstart.load(told["folder"])
    assert model.head.kind == "knn"
    assert model.card.num_features == told["points"][-1]["features"]


def test_smaller_pictures_are_part_of_the_model_and_of_what_it_saves(
    run: Path, split_shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = headstart.prune(run, speedup=2, epochs=2, image_size=24)
    model, whole = headstart.load(told["folder"]), headstart.load(run)
    assert model.card.input_size == (3, 24, 24)
    assert [point["image_size"] for point in told["points"]] == [[32, 32], [24, 24], [24, 24]]
    point = told["points"][-1]
    assert 2 <= point["speedup"] < 2.3
    assert point["parameters"] > 0.6 * told["points"][0]["parameters"]  # most of it came from the pixels
    assert point["macs"] == round(costs(model.net.source, "native").total("macs"))
    assert whole.card.input_size == (3, 32, 32)
    assert len(headstart.predict(told["folder"], [split_shapes / "test"])) == 24
    assert "24 x 24 pixels, not 32 x 32" in (Path(told["folder"]) / "README.md").read_text()
    assert "pictures of 24 x 24 pixels, the whole network 32 x 32" in (run / "report.html").read_text(encoding="utf-8")
    _console_shipping.pruned(told)
    assert "24 x 24" in capsys.readouterr().out
    pytest.importorskip("onnxruntime")
    assert headstart.export(told["folder"], out=tmp_path / "onnx", max_drop=50)["n"] == 24


def test_the_size_of_pictures_is_what_loses_least_and_saves_multiply_adds_alone(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headstart.shrinking._SIDE", 4)
    monkeypatch.setattr("headstart.shrinking._LEAST", 8)
    told = headstart.prune(run, speedup=2, epochs=1)
    for before, point in pairwise(told["points"]):
        tried = point["tried_sizes"]
        assert point["image_size"] == [int(min(tried, key=tried.get))] * 2
        assert max(map(int, tried)) <= before["image_size"][0]
    assert len(told["points"][-1]["tried_sizes"]) > 1
    whole, least = told["points"][0]["image_size"][0], min(map(int, told["points"][-1]["tried_sizes"]))
    assert (whole / least) ** 2 <= 2 ** (2 / 3)
    told = headstart.prune(run, parameters=0.5, epochs=1)
    assert all(point["image_size"] == [32, 32] for point in told["points"])


def test_a_rate_that_leads_away_is_taken_back_and_not_tried_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def distil(net: Any, *_: Any, how: tuple[Any, Any], **__: Any) -> None:
        if how[0].rates["head"] > 2e-4:
            with torch.no_grad():
                for parameter in net.source.parameters():
                    parameter.mul_(3)

    monkeypatch.setattr("headstart.shrinking.distil", distil)
    first, second = (point["features_off"] for point in headstart.prune(run, speedup=2, epochs=1)["points"][1:])
    assert [*first["trained"]] == ["0.0003", "0.0001"]
    assert first["trained"]["0.0003"] > first["cut"] == first["trained"]["0.0001"], "the network is as it was"
    assert second["trained"] == {"0.0001": second["cut"]}


def test_fewer_features_are_those_that_were_there_and_the_network_is_narrower(run: Path) -> None:
    told = headstart.prune(run, features=0.25)
    whole, small = headstart.load(run), headstart.load(told["folder"])
    assert told["points"][-1]["features"] == small.card.num_features == 16
    assert [point["features"] for point in told["points"]][:3] == [64, 48, 32]
    assert told["points"][-1]["macs"] < told["points"][0]["macs"]
    assert set(told["points"][-1]["ranking_loss"]) == {"weights", "l1"}
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        before, after = (model.net.source(images).numpy() for model in (whole, small))
    nearest = np.abs(after.T[:, None] - before.T[None]).max(axis=2).min(axis=1)
    assert nearest.max() < 1e-5


def test_features_that_the_network_reads_itself_are_left_alone() -> None:
    source = open_source("random:resnet18", image_size=32)
    with pytest.raises(SettingsError, match="read within the network too"):
        selecting._last(find_groups(source, "native"), SimpleNamespace(source=source))


def test_features_of_a_network_that_was_fine_tuned_are_not_chosen_among(tuned_run: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="features of a frozen network"):
        headstart.prune(tuned_run, features=0.5, out=tmp_path / "small")


def test_max_drop_keeps_the_smallest_that_loses_no_more_on_validation(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headstart.shrinking._LARGEST", 3.0)
    told = headstart.prune(run, max_drop=10, epochs=1)
    points = told["points"]
    fine = [n for n, point in enumerate(points) if -point["change_points"] <= 10]
    assert told["chosen"] == max(fine)
    assert all(-point["change_points"] <= 10 for point in points[:-1])


def test_without_a_test_set_nothing_is_said_of_one(shapes: Path, tmp_path: Path) -> None:
    headstart.fit(shapes, tmp_path / "run", source="toy", strategy="frozen", cache=False, test_fraction=0.0)
    told = headstart.prune(tmp_path / "run", speedup=1.4, epochs=1)
    assert told["test"] is None
    assert told["validation"]["n"] > 0


def test_the_aims_steps_are_small_and_end_at_the_aim() -> None:
    assert Aim("speedup", 1.2).shares() == [pytest.approx(1 / 1.2)]
    for aim, last in ((Aim("speedup", 4), 0.25), (Aim("parameters", 0.3), 0.3)):
        shares = [1.0, *aim.shares()]
        assert shares[-1] == pytest.approx(last)
        assert all(before / after <= STEP + 1e-9 for before, after in pairwise(shares))
    assert Aim("max_drop", 1).name == "max-drop-1"


def test_a_run_that_is_replaced_takes_its_pruned_models_with_it(run: Path, split_shapes: Path) -> None:
    headstart.prune(run, speedup=1.3, epochs=1)
    (run / "pruned" / "mine").mkdir()
    (run / "pruned" / "mine" / "note.txt").write_text("mine")
    headstart.fit(split_shapes, run, source="toy", strategy="frozen", cache=False, overwrite=True)
    assert [path.name for path in (run / "pruned").rglob("*")] == ["mine", "note.txt"]


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("aims", "words"),
    [
        ({}, "give one of --speedup"),
        ({"speedup": 2, "parameters": 0.5}, "give one of"),
        ({"speedup": 1}, "must be above 1"),
        ({"speedup": float("nan")}, "must be above 1"),
        ({"parameters": 1.0}, "above 0 and below 1"),
        ({"max_drop": -1}, "0 to 100 points"),
        ({"smaller": 2}, "unknown aim"),
        ({"speedup": "fast"}, "must be above 1"),
    ],
)
def test_an_aim_that_is_none_is_refused_before_anything_is_read(aims: dict[str, float], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        headstart.prune("nowhere", **aims)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"speedup": 2, "image_size": 48}, "--image-size 48 makes no picture smaller: the network's are of 32"),
        ({"features": 0.5, "image_size": 24}, "--features leaves"),
        ({"speedup": 2, "image_size": 0}, "at least 1 pixel"),
    ],
)
def test_a_size_that_is_none_for_the_network_is_refused(run: Path, options: dict[str, float], words: str) -> None:
    before = folder_hash(run)
    with pytest.raises(SettingsError, match=words):
        headstart.prune(run, epochs=1, **options)
    assert folder_hash(run) == before


def test_a_network_for_one_size_of_pictures_keeps_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.sources._timm.TimmLibrary.one_size", property(lambda _: True, lambda *_: None))
    with pytest.raises(SettingsError, match="takes no pictures of 24 pixels"):
        headstart.prune(run, speedup=2, epochs=1, image_size=24)


def test_more_than_the_network_can_give_is_refused_with_what_it_can(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.ship.prune._FLOOR", 0.8)
    with pytest.raises(SettingsError, match=r"can be cut to .*Ask for --speedup"):
        headstart.prune(run, speedup=2, epochs=1)
    assert not (run / "pruned").exists()


def test_without_torch_pruning_the_extra_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.ship.prune.importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"headstart\[compress\]"):
        headstart.prune(run, speedup=2)


def test_something_else_in_the_folder_is_never_touched(run: Path) -> None:
    target = run / "pruned" / "speedup-2"
    target.mkdir(parents=True)
    (target / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"mine\.txt"):
        headstart.prune(run, speedup=2)


def test_the_model_that_is_pruned_is_never_its_own_target(run: Path) -> None:
    before = folder_hash(run)
    with pytest.raises(OutputError, match="the model itself"):
        headstart.prune(run, speedup=2, out=run / "model")
    assert folder_hash(run) == before


def test_a_run_without_its_data_is_refused_with_a_way_out(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", splits={"train": 6, "val": 3, "test": 3})
    headstart.fit(data, tmp_path / "run", source="toy", strategy="frozen", cache=False)
    data.rename(tmp_path / "moved")
    with pytest.raises(RunError, match="--data"):
        headstart.prune(tmp_path / "run", speedup=2)
    told = headstart.prune(tmp_path / "run", speedup=1.3, epochs=1, data=tmp_path / "moved")
    assert told["validation"]["n"] == 9


def test_a_training_set_too_small_to_judge_on_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "_split", lambda split, judged: "test" if judged else "train" if split else split)
    with pytest.raises(DataError, match="nothing to judge"):
        headstart.prune(run, speedup=2)


def test_the_command_prints_the_curve_and_writes_json(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.run(["prune", str(run), "--speedup", "1.4", "--epochs", "1"]) == 0
    out = capsys.readouterr().out
    assert "chosen" in out
    assert str(run / "pruned" / "speedup-1.4") in out
    assert cli.run(["prune", str(run), "--speedup", "1.4", "--epochs", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["aim"] == {"speedup": 1.4}
    assert cli.run(["prune", str(run)]) == 2
    assert "give one of" in capsys.readouterr().err
