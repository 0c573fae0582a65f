"""The examples run as they are written, in small; and so does every snippet of the page on Python."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from headstart.sources import open_source
from toydata import CLASSES, picture, write_shapes

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_shapes(tmp_path / "data", splits={"train": 20, "test": 8})


def run(name: str, *words: object, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run an example as the command line would."""
    script = ROOT / "examples" / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, words)])
    return runpy.run_path(str(script), run_name="__main__")


def intervals(text: str) -> list[tuple[float, float, float]]:
    """Every `0.9000 (0.800 to 0.950)` of a text."""
    found = re.findall(r"(\d\.\d+) \((\d\.\d+) to (\d\.\d+)\)", text)
    return [(float(a), float(b), float(c)) for a, b, c in found]


def test_the_quickstart_ends_with_a_judged_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("quickstart", tmp_path / "q", monkeypatch=monkeypatch)
    said = capsys.readouterr().out
    accuracy, low, high = re.findall(r"\d\.\d{3}", said)[:3]
    assert float(low) < float(accuracy) < float(high)
    assert float(low) > 0.4, "five classes: chance is 0.2"
    assert (tmp_path / "q" / "run" / "report.html").is_file()


def test_the_choice_names_a_reason_and_a_judged_score(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    import headstart.sources as sources

    shutil.copytree(Path(sources.__file__).parent / "toy", tmp_path / "again")
    words = ["--data", data, "--sources", "toy", tmp_path / "again", "--out", tmp_path / "run", "--quick"]
    run("choose", *words, monkeypatch=monkeypatch)
    said = capsys.readouterr().out
    assert said.count("LogME") == 2
    assert "the rule of thumb says" in said
    assert "frozen ridge on" in said
    ((accuracy, low, high),) = intervals(said)
    assert low < accuracy < high
    assert "sealed test pictures right" in said


def test_cifar10_gives_three_ways_and_scratch_with_intervals(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("cifar10_three_ways", "--data", data, "--source", "toy", "--quick", monkeypatch=monkeypatch)
    said = capsys.readouterr().out
    rows = [line for line in said.splitlines() if line.startswith("| ")][1:]
    assert [row.split(" | ")[0] for row in rows[1:]] == [
        "| head alone", "| everything, one rate", "| everything, two rates", "| from scratch",
    ]  # fmt: skip
    found = intervals(said)
    assert len(found) == 4
    assert all(low <= accuracy <= high for accuracy, low, high in found)
    assert said.count("points against scratch, 95 % interval") == 3
    trained = [int(row.split(" | ")[1].replace(",", "")) for row in rows[1:]]
    assert trained[0] < trained[1] == trained[2] == trained[3], "the head alone is the smallest"


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file as torchvision publishes it, with random weights."""
    import torchvision

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet18-random.pth"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    return path


def test_hot_dog_or_not_starts_from_a_local_weights_file(
    data: Path,
    resnet_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("--data", data, "--source", "torchvision:resnet18", "--weights", resnet_file, "--out", tmp_path / "run")
    run("hotdog", *words, "--quick", monkeypatch=monkeypatch)
    said = capsys.readouterr().out
    assert len(intervals(said)) == 3, "pretrained, random weights, majority"
    assert re.search(r"Pretraining was worth [+-]\d", said)
    record = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    assert record["plan"]["rates"]["head"] == pytest.approx(10 * record["plan"]["rates"]["layer1"])
    assert record["plan"]["schedule"]["weight_decay"] == 0.001
    assert record["baselines"]["scratch"]["accuracy"] is not None


def test_what_is_deployed_is_judged_made_smaller_and_taught_a_new_class(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch_pruning")
    pytest.importorskip("onnxruntime")
    run("deploy", "--data", data, "--source", "toy", "--out", tmp_path / "out", "--quick", monkeypatch=monkeypatch)
    said, name = capsys.readouterr().out, max(CLASSES)
    assert f"Fitted without '{name}'" in said
    rows = [line for line in said.splitlines() if line.startswith("| ")][2:]
    assert [row.split(" | ")[0] for row in rows] == [
        "| ONNX fp32", "| ONNX int8", "| pruned, ONNX fp32", "| pruned, ONNX int8",
    ]  # fmt: skip
    assert " 0 of " in rows[0], "fp32 answers as the model does"
    assert all(low <= accuracy <= high for accuracy, low, high in intervals(said))
    assert f"Learned {name} from 12 pictures" in said
    known = re.search(rf"calls (\d+) of 12 pictures of the new class '{name}'", said)
    assert known
    assert int(known[1]) > 6
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"run", "more", "new", "data"}


def test_three_classifiers_are_told_apart_by_their_curves(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--data", data, "--source", "toy", "--size", 32, "--quick", "--out", tmp_path / "runs")
    run("three_classifiers", *words, monkeypatch=monkeypatch)
    said = capsys.readouterr().out
    assert len(re.findall(r", over (?:epochs|training items):$", said, re.MULTILINE)) == 3
    assert len(re.findall(r"^[\w ]+: It .*(?:overfit|underfit)", said, re.MULTILINE)) == 3, (
        "a diagnosis of each in words"
    )
    heads = {}
    for name in ("fully-connected", "global-average-pooling", "linear-SVM"):
        record = json.loads((tmp_path / "runs" / name / "run.json").read_text("utf-8"))
        heads[name] = (record["plan"]["head"], record["settings"]["folds"], record["plan"]["trained_parameters"])
        assert (tmp_path / "runs" / name / "report.html").is_file()
    assert [heads[name][0] for name in heads] == ["mlp", "linear", "svm"]
    assert heads["linear-SVM"][1] == 10
    assert heads["fully-connected"][2] > 50 * heads["linear-SVM"][2]


@pytest.fixture(scope="module")
def thin_vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VGG11 with a sixty-fourth of the first fully connected layer, as a source folder."""
    import timm

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vgg11")
    network = timm.create_model("vgg11", mlp_ratio=1 / 64, num_classes=0)
    save_file(network.state_dict(), folder / "model.safetensors")
    facts = {"input_size": [3, 224, 224], "crop_pct": 0.875, "interpolation": "bilinear"}
    config = {"architecture": "vgg11", "model_args": {"mlp_ratio": 1 / 64}, "num_classes": 0, "pretrained_cfg": facts}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return folder


def test_vgg_keeps_what_lies_below_the_cut(
    data: Path,
    thin_vgg: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("--data", data, "--network", "vgg11", "--source", thin_vgg, "--cut", 11, "--quick")
    run("vgg16_partial", *words, monkeypatch=monkeypatch)
    said = capsys.readouterr().out
    rows = [line.strip("| ").split(" | ") for line in said.splitlines() if line.startswith("| ")][2:]
    assert rows[0][0] == "trained from features.16 on"
    assert rows[0][1] == f"{2 * (512 * 512 * 9 + 512) + 512 * len(CLASSES) + len(CLASSES):,}", (
        "two convolutions, a head"
    )
    assert rows[0][2] == "8, yes", "six convolutions, and the two fully connected layers that are set aside"
    assert rows[1][1] == f"{4096 * len(CLASSES) + len(CLASSES):,}", "only the new classifier[6] is trained"
    assert rows[1][2] == "10, yes"


@pytest.mark.parametrize("network", ["vgg11", "vgg13", "vgg16", "vgg19"])
def test_keras_layers_are_found_in_torchvision_networks(network: str) -> None:
    import torchvision

    example = runpy.run_path(str(ROOT / "examples" / "vgg16_partial.py"))
    with torch.device("meta"):
        features = torchvision.models.get_model(network).features
    counted = ["input", *(f"features.{n}" for n, layer in enumerate(features) if not isinstance(layer, torch.nn.ReLU))]
    for layer, name in enumerate(counted):
        found = example["module_of"](layer, example["CONVOLUTIONS"][network])
        if isinstance(features[int(name.split(".")[1])] if layer else None, torch.nn.Conv2d):
            assert found == name
        elif layer < len(counted) - 1:
            assert found == counted[layer + 1], "the input and a pooling have no weights: the next convolution"
        if layer == len(counted) - 2:
            break
    if network == "vgg16":
        assert example["module_of"](15, example["CONVOLUTIONS"][network]) == "features.24"


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_short_and_listed(script: Path) -> None:
    assert script.read_text("utf-8").count("\n") < 120
    assert f"({script.name})" in (ROOT / "examples" / "README.md").read_text("utf-8")
    assert f"python examples/{script.name}" in (ROOT / "docs" / "examples.md").read_text("utf-8")


def test_the_snippets_of_the_page_on_python_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks run one after the other, as a reader would; every source is the toy."""
    page = (ROOT / "docs" / "python.md").read_text("utf-8")
    snippets = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("headstart.stages.open_source", lambda address, **options: open_source("toy"))
    write_shapes(Path("DATA"), splits={"train": 10, "test": 4})
    write_shapes(Path("OTHER_DATA"), splits={"test": 4})
    Path("NEW_DATA/blur").mkdir(parents=True)
    for n in range(3):
        picture(CLASSES[0], 700 + n).resize((8, 8)).resize((32, 32)).save(f"NEW_DATA/blur/{n}.png")
    Path("new").mkdir()
    for n, name in enumerate(("a", "b")):
        picture(CLASSES[n], 900 + n).save(f"new/{name}.jpg")
    pictures = [np.asarray(picture(kind, n)) for n in range(12) for kind in CLASSES]
    labels = [kind for _ in range(12) for kind in CLASSES]
    known: dict[str, Any] = {
        "pictures": pictures[:24], "labels": labels[:24], "other_pictures": pictures[24:], "other_labels": labels[24:],
    }  # fmt: skip
    for snippet in snippets:
        exec(compile(snippet, "docs/python.md", "exec"), known)
    assert len(snippets) >= 5
    assert (Path("RUN2") / "run.json").is_file(), "no snippet ended in its except branch"
    assert len(known["answers"]) == 2
    assert known["race"].run["race"]
