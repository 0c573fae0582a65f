"""The verbs that make something of a finished run: what they write, what they leave alone, what they refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart
from headstart import cli, files, shipping
from headstart.errors import DataError, ExportError, MissingExtraError, ModelError, OutputError, RunError, SettingsError
from headstart.ship.exported import CERTIFICATE, open_export
from toydata import folder_hash

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

KINDS = [
    ("onnx", "fp32"),
    ("onnx", "fp16"),
    ("onnx", "int8"),
    ("openvino", "fp32"),
    ("openvino", "fp16"),
    ("torch", "fp32"),
]


@pytest.fixture
def run(frozen_run: Path, tmp_path: Path) -> Path:
    """A finished run that may be written to."""
    return Path(shutil.copytree(frozen_run, tmp_path / "run"))


@pytest.mark.parametrize(("to", "precision"), KINDS)
def test_every_kind_is_written_with_its_certificate_and_opens_again(
    run: Path, split_shapes: Path, to: str, precision: str
) -> None:
    if to == "openvino":
        pytest.importorskip("openvino")
    told = headstart.export(run, to=to, precision=precision, max_drop=5.0 if precision != "fp32" else None)
    folder = run / "exports" / f"{to}-{precision}"
    assert told["folder"] == str(folder)
    assert files.read_json(folder / CERTIFICATE) == {name: part for name, part in told.items() if name != "folder"}
    assert {entry.name for entry in folder.iterdir()} == {CERTIFICATE, *told["export"]["files"]}
    assert told["n"] == 24
    assert told["data"]["held_out"] is True
    assert told["accuracy"]["model"] == pytest.approx(files.read_json(run / "run.json")["scores"]["test"]["accuracy"])
    assert told["network"]["max_probability_difference"] < (1e-4 if precision == "fp32" else 0.2)
    if to == "torch":  # whose file could be anyone's program
        with pytest.raises(ModelError, match="torch runs what a program's file says"):
            open_export(folder)
        return
    opened = open_export(folder)
    assert opened.precision == precision
    assert len(opened.predict(split_shapes / "test")) == 24


def test_a_fine_tuned_network_is_exported_too(tuned_run: Path, tmp_path: Path) -> None:
    told = headstart.export(tuned_run, out=tmp_path / "export")
    assert told["network"]["max_probability_difference"] < 1e-4
    assert told["whole"]["flipped"] == []
    assert not (tuned_run / "exports").exists()


def test_smaller_formats_are_smaller(run: Path) -> None:
    sizes = {}
    for precision in ("fp32", "fp16", "int8"):
        told = headstart.export(run, precision=precision, max_drop=10.0)
        sizes[precision] = sum(entry["bytes"] for entry in told["export"]["files"].values())
    assert sizes["fp16"] < 0.6 * sizes["fp32"]
    assert sizes["int8"] < 0.5 * sizes["fp32"]


def test_nothing_of_the_run_changes_but_the_report(run: Path) -> None:
    before = folder_hash(run)
    headstart.export(run)
    after = folder_hash(run)
    changed = {name for name in after if before.get(name) != after[name]}
    assert changed == {"report.html", "exports/onnx-fp32/certificate.json", "exports/onnx-fp32/model.onnx"}
    assert not {*before} - {*after}


def test_the_report_tells_of_every_export_once(run: Path) -> None:
    headstart.export(run)
    headstart.export(run, precision="fp16", max_drop=10.0)
    headstart.export(run)
    page = (run / "report.html").read_text("utf-8")
    assert page.count('<section id="exports"') == 1
    assert page.count('<a href="#exports">Exports</a>') == 1
    assert "onnx fp16" in page
    assert page.count('<section id="made"') == 1


def test_a_refused_export_writes_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headstart.ship import export as making

    monkeypatch.setattr(making, "reasons", lambda *a, **k: ["2 of 24 pictures get another answer: a.png, b.png"])
    before = folder_hash(run)
    with pytest.raises(ExportError, match=r"does not answer as the model does: 2 of 24 .*: a\.png, b\.png.*--max-drop"):
        headstart.export(run)
    assert folder_hash(run) == before


def test_the_same_export_twice_is_the_same_file(run: Path, tmp_path: Path) -> None:
    for place in ("a", "b"):
        headstart.export(run, precision="int8", max_drop=20.0, out=tmp_path / place)
    assert (tmp_path / "a" / "model.onnx").read_bytes() == (tmp_path / "b" / "model.onnx").read_bytes()


def test_data_that_have_moved_are_given(split_shapes: Path, run: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(split_shapes, tmp_path / "moved"))
    record = files.read_json(run / "run.json")
    record["data"]["path"] = str(tmp_path / "gone")
    files.write_json(run / "run.json", record)
    with pytest.raises(RunError, match="no longer at"):
        headstart.export(run)
    assert headstart.export(run, data=moved)["data"]["path"] == str(moved)
    shutil.copy(moved / "test/bar/015.png", moved / "test/disc/015.png")
    with pytest.raises(DataError, match=r"not those that the run was judged on: test/disc/015\.png"):
        headstart.export(run, data=moved)
    (moved / "test/disc/015.png").unlink()
    with pytest.raises(DataError, match=r"1 of the 24 pictures .* are not there: test/disc/015\.png"):
        headstart.export(run, data=moved)


def test_mistakes_are_told_before_any_work(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="no kind of export"):
        headstart.export(run, to="onx")
    with pytest.raises(SettingsError, match="--to torch has no precision 'int8'"):
        headstart.export(run, to="torch", precision="int8")
    with pytest.raises(ModelError, match="no such folder"):
        headstart.export(tmp_path / "nowhere")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"something else stands there: mine\.txt"):
        headstart.export(run, out=tmp_path / "taken")
    assert (tmp_path / "taken" / "mine.txt").read_text() == "mine"
    bare = Path(shutil.copytree(run / "model", tmp_path / "bare" / "deep" / "er" / "model"))
    with pytest.raises(RunError, match="no finished run here"):
        headstart.export(bare)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"headstart\[onnx\]"):
        headstart.export(run)


def test_a_run_without_a_test_set_is_judged_on_its_training_pictures(shapes: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"source": "toy", "strategy": "frozen", "test_fraction": 0.0, "cache": False}
    headstart.fit(shapes, tmp_path / "run", **options)
    told = headstart.export(tmp_path / "run")
    assert told["data"]["held_out"] is False
    assert told["n"] == 60
    assert "of the training set, for there is no test set" in (tmp_path / "run" / "report.html").read_text("utf-8")


# --- predict --------------------------------------------------------------------------------------------------------


def _engine(run: Path, engine: str = "auto") -> str:
    return str(getattr(shipping.answering(run, engine), "engine", "torch itself"))


def test_predict_takes_the_engine_that_is_asked_for(run: Path, split_shapes: Path) -> None:
    from headstart import api

    assert _engine(run) == "torch itself"
    with pytest.raises(ModelError, match="no onnx export of this model"):
        api.predict(run, split_shapes / "test", engine="onnx")
    with pytest.raises(SettingsError, match="unknown engine"):
        api.predict(run, split_shapes / "test", engine="onx")
    headstart.export(run)
    told = files.read_json(run / "exports/onnx-fp32" / CERTIFICATE)
    for export_ms, wanted in ((1.0, "onnxruntime"), (3.0, "torch itself")):
        told["latency"]["batch_1"].update(export_ms=export_ms, torch_ms=2.0)
        files.write_json(run / "exports/onnx-fp32" / CERTIFICATE, told)
        assert _engine(run) == wanted
    assert _engine(run, "onnx") == "onnxruntime"
    assert _engine(run, "torch") == "torch itself"
    assert _engine(run / "exports/onnx-fp32") == "onnxruntime"
    ours, theirs = (api.predict(run, split_shapes / "test", engine=name) for name in ("torch", "onnx"))
    assert [one["label"] for one in ours] == [other["label"] for other in theirs]
    assert np.allclose([a["probability"] for a in ours], [a["probability"] for a in theirs], atol=1e-5)


def test_the_command_line_exports_and_says_once_who_answers(run: Path, split_shapes: Path, capsys: Any) -> None:
    assert cli.run(["export", str(run), "--json", "--quiet"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["export"]["to"] == "onnx"
    assert cli.run(["export", str(run), "--precision", "fp16", "--max-drop", "5"]) == 0
    shown = capsys.readouterr().out
    assert "onnx fp16" in shown
    assert "24 held-out pictures" in shown
    assert "(change +0.0, 0.0 to 0.0 points)" in shown
    assert cli.run(["predict", str(run), str(split_shapes / "test"), "--engine", "onnx", "--json"]) == 0
    shown = capsys.readouterr()
    assert len(json.loads(shown.out)) == 24
    assert shown.err.count("answered by onnxruntime in fp32") == 1
    assert cli.run(["export", str(run), "--to", "torch", "--precision", "int8"]) == 2
    assert capsys.readouterr().err.startswith("error: --to torch has no precision 'int8'")


def test_a_run_that_is_replaced_takes_its_exports_with_it(run: Path, split_shapes: Path) -> None:
    headstart.export(run)
    (run / "exports" / "onnx-fp32" / "mine.txt").write_text("mine")
    headstart.export(run, precision="fp16", max_drop=10.0)
    headstart.fit(split_shapes, run, source="toy", strategy="frozen", cache=False, overwrite=True)
    assert [path.name for path in (run / "exports").rglob("*") if path.is_file()] == ["mine.txt"]
    assert 'id="exports"' not in (run / "report.html").read_text("utf-8")
