"""An opened export answers like the model, and is refused when it is not what was certified."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import headstart
from headstart import files
from headstart.errors import DataError, ModelError
from headstart.ship.exported import CERTIFICATE, find_export, open_export, read_certificate
from headstart.ship.model import load

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def exported_run(frozen_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with an ONNX fp32 export; to read, not to change."""
    run = Path(shutil.copytree(frozen_run, tmp_path_factory.mktemp("runs") / "run"))
    headstart.export(run)
    return run


@pytest.fixture
def folder(exported_run: Path, tmp_path: Path) -> Path:
    """The folder of an export that may be spoilt."""
    return Path(shutil.copytree(exported_run / "exports" / "onnx-fp32", tmp_path / "export"))


def test_it_answers_like_the_model_for_everything_that_may_be_given(exported_run: Path, split_shapes: Path) -> None:
    model, exported = load(exported_run), open_export(exported_run / "exports" / "onnx-fp32")
    assert exported.classes == model.classes
    assert exported.card == model.card
    given = [split_shapes / "test", np.zeros((5, 9), np.uint8), np.full((40, 30, 3), 200, np.uint8)]
    ours, theirs = model.predict(given), exported.predict(given)
    assert len(theirs) == 26
    for one, other in zip(ours, theirs, strict=True):
        assert (one.file, one.label, one.best) == (other.file, other.label, other.best)
        assert one.probability == pytest.approx(other.probability, abs=1e-5)
    assert np.allclose(model.predict_proba(given), exported.predict_proba(given), atol=1e-5)


def test_an_unreadable_picture_gets_its_error_in_its_place(
    exported_run: Path, split_shapes: Path, tmp_path: Path
) -> None:
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\nhalf")
    exported = open_export(exported_run / "exports" / "onnx-fp32")
    good = split_shapes / "test" / "bar" / "015.png"
    answers = exported.predict([good, tmp_path / "torn.png", good])
    assert [answer.error is None for answer in answers] == [True, False, True]
    assert answers[0] == answers[2]
    assert answers[1].error == load(exported_run).predict(tmp_path / "torn.png")[0].error
    with pytest.raises(DataError):
        exported.predict(tmp_path / "nowhere.png")


@pytest.mark.parametrize("name", ["model.onnx"])
def test_a_changed_or_missing_file_is_named(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ModelError, match="not the one that was certified") as caught:
        open_export(folder)
    assert Path(str(caught.value.where)).name == name
    (folder / name).unlink()
    with pytest.raises(ModelError, match="is missing"):
        open_export(folder)


def test_without_a_certificate_or_with_a_torn_or_newer_one_nothing_is_opened(folder: Path) -> None:
    told = read_certificate(folder)
    files.write_json(folder / CERTIFICATE, {**told, "schema": 99})
    with pytest.raises(ModelError, match="format 99"):
        open_export(folder)
    for text in ("{", "[]", '{"schema": 1}'):
        (folder / CERTIFICATE).write_text(text)
        with pytest.raises(ModelError, match="no export with a certificate"):
            open_export(folder)
    (folder / CERTIFICATE).unlink()
    with pytest.raises(ModelError, match="no export with a certificate"):
        open_export(folder)


def _retold(run: Path, **latency: float) -> None:
    place = run / "exports" / "onnx-fp32"
    told = read_certificate(place)
    told["latency"]["batch_1"].update(latency)
    files.write_json(place / CERTIFICATE, told)


def test_the_export_is_taken_unasked_only_where_it_is_faster(exported_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(exported_run, tmp_path / "run"))
    _retold(run, export_ms=1.0, torch_ms=2.0)
    assert find_export(run) == run / "exports" / "onnx-fp32"
    assert find_export(run / "model") == run / "exports" / "onnx-fp32"
    _retold(run, export_ms=2.0, torch_ms=1.0)
    assert find_export(run) is None
    assert find_export(run, "onnx") == run / "exports" / "onnx-fp32"
    assert find_export(run, "openvino") is None
    assert find_export(run / "exports" / "onnx-fp32") == run / "exports" / "onnx-fp32"


def test_the_export_of_another_model_is_never_taken(exported_run: Path, tuned_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(exported_run, tmp_path / "run"))
    _retold(run, export_ms=1.0, torch_ms=2.0)
    shutil.rmtree(run / "model")
    shutil.copytree(tuned_run / "model", run / "model")
    assert find_export(run) is None
    assert find_export(run, "onnx") is None
    assert find_export(tmp_path / "nowhere") is None


def test_answering_by_an_export_loads_no_torch(exported_run: Path, split_shapes: Path) -> None:
    code = (
        "import sys\n"
        "from headstart.ship.exported import open_export\n"
        f"model = open_export({str(exported_run / 'exports' / 'onnx-fp32')!r})\n"
        f"found = model.predict({str(split_shapes / 'test')!r})\n"
        "assert len(found) == 24\n"
        "assert not {'torch', 'timm', 'onnx'} & {*sys.modules}, sorted(sys.modules)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert told.returncode == 0, told.stderr[-500:]
