"""F5 and F7 of the catalogue: exports whose certificates fit, and whose graphs do what no graph of ours does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _hostile import signed_export
from test_hostile_models import DEEP, check_one_byte

import headstart
from headstart import cli
from headstart.errors import ModelError
from headstart.ship._screen import screen_onnx, screen_openvino
from headstart.ship.exported import open_export

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def exported(frozen_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an ONNX export; to read, not to change."""
    run = Path(shutil.copytree(frozen_run, tmp_path_factory.mktemp("runs") / "run"))
    headstart.export(run)
    return run / "exports" / "onnx-fp32"


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """An export that may be spoilt."""
    return Path(shutil.copytree(exported, tmp_path / "export"))


def graph(folder: Path, change: Callable[[Any], object]) -> None:
    """Change the graph and certify it."""
    made = onnx.load(folder / "model.onnx")
    change(made)
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    signed_export(folder)


def _outside(made: Any) -> None:
    largest = max(made.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    largest.ClearField("raw_data")
    largest.data_location = onnx.TensorProto.EXTERNAL
    largest.external_data.add(key="location", value="/etc/hostname")


def _constant_outside(made: Any) -> None:
    node = next(node for node in made.graph.node if node.op_type == "Constant")
    node.attribute[0].t.ClearField("raw_data")
    node.attribute[0].t.data_location = onnx.TensorProto.EXTERNAL
    node.attribute[0].t.external_data.add(key="location", value="../../secret")


def _body() -> Any:
    text = '<opset_import: ["" : 17]> body (int64 i, bool go) => (bool more) { more = Identity (go) }'
    return onnx.parser.parse_model(text.replace("<", "<ir_version: 8, ", 1)).graph


def _loop(made: Any) -> None:
    helper = onnx.helper
    made.graph.node.insert(0, helper.make_node("Constant", [], ["many"], value_int=10**9))
    made.graph.node.insert(1, helper.make_node("Loop", ["many", ""], [], body=_body()))


def _hidden_graph(made: Any) -> None:
    made.graph.node[0].attribute.append(onnx.helper.make_attribute("extra", _body()))


def _function(made: Any) -> None:
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    made.functions.append(onnx.helper.make_function("own", "f", ["x"], ["y"], [node], made.opset_import))


def _sparse_outside(made: Any) -> None:
    values = onnx.helper.make_tensor("s", onnx.TensorProto.FLOAT, [1], [1.0])
    values.data_location = onnx.TensorProto.EXTERNAL
    places = onnx.helper.make_tensor("i", onnx.TensorProto.INT64, [1], [0])
    made.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, places, [3]))


def _node(kind: str, domain: str = "") -> Callable[[Any], object]:
    return lambda made: made.graph.node.append(onnx.helper.make_node(kind, ["images"], [], domain=domain))


GRAPHS: dict[str, tuple[Callable[[Any], object], str]] = {
    "data in another file": (_outside, "takes data from other files"),
    "a constant in another file": (_constant_outside, "takes data from other files"),
    "sparse data in another file": (_sparse_outside, "takes data from other files"),
    "a loop of 10^9": (_loop, "another graph|has a Loop"),
    "an If": (_node("If"), "has a If"),
    "a Scan": (_node("Scan"), "has a Scan"),
    "a graph in an attribute": (_hidden_graph, "another graph"),
    "a function of its own": (_function, "operators of its own"),
    "an operator of another domain": (_node("Run", "com.microsoft"), "an operator 'Run' of 'com.microsoft'"),
    "an unknown operator": (_node("Exfiltrate"), "cannot be computed"),
    "a training graph": (lambda made: made.training_info.add(), "operators of its own"),
    "no graph": (lambda made: made.ClearField("graph"), "no graph"),
    "other outputs": (lambda made: setattr(made.graph.output[0], "name", "answers"), "cannot be computed"),
    "another input": (lambda made: setattr(made.graph.input[0], "name", "pixels"), "cannot be computed"),
}


@pytest.mark.parametrize("kind", GRAPHS)
def test_f5_a_graph_that_is_none_of_ours_is_refused_however_right_its_certificate(
    kind: str, folder: Path, split_shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = GRAPHS[kind]
    graph(folder, change)
    picture = next(split_shapes.rglob("*.png"))
    with pytest.raises(ModelError, match=message):
        open_export(folder).predict(picture)
    assert cli.run(["predict", str(folder), str(picture)]) == 2
    err = capsys.readouterr().err.splitlines()
    assert [line for line in err if line.startswith("error: ")] == err[-1:]


def test_f5_a_loop_in_a_run_s_export_is_refused_by_every_engine_that_is_asked_for(
    exported: Path, tmp_path: Path, split_shapes: Path
) -> None:
    run = Path(shutil.copytree(exported.parents[1], tmp_path / "run"))
    graph(run / "exports" / "onnx-fp32", _loop)
    picture = next(split_shapes.rglob("*.png"))
    with pytest.raises(ModelError, match="not opened"):
        headstart.predict(run, picture, engine="onnx")
    assert headstart.predict(run, picture, engine="torch")[0]["label"]


def _silent(value: Any) -> Callable[[Any], object]:
    """A graph whose probabilities are of another kind."""

    def change(made: Any) -> None:
        node = next(node for node in made.graph.node if "probabilities" in node.output)
        node.output[list(node.output).index("probabilities")] = "hidden"
        tensor = onnx.numpy_helper.from_array(np.asarray(value))
        made.graph.node.append(onnx.helper.make_node("Constant", [], ["probabilities"], value=tensor))

    return change


@pytest.mark.parametrize(
    "value",
    [np.zeros((1, 9), np.float32), np.full((1, 3), np.nan, np.float32), np.zeros((2, 3), np.float32), np.float32(1)],
)
def test_f5_what_a_graph_gives_must_be_answers(folder: Path, value: Any, split_shapes: Path) -> None:
    graph(folder, _silent(value))
    with pytest.raises(ModelError):
        open_export(folder).predict(next(split_shapes.rglob("*.png")))


CERTIFICATES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a file outside": lambda told: told["export"]["files"].update({"../run.json": {"sha256": "0" * 64}}),
    "an absolute file": lambda told: told["export"].update(files={"/etc/hostname": {"sha256": "0" * 64}}),
    "no file": lambda told: told["export"].update(files={}),
    "a list of files": lambda told: told["export"].update(files=["model.onnx"]),
    "a hash that is a number": lambda told: told["export"]["files"]["model.onnx"].update(sha256=1),
    "another kind": lambda told: told["export"].update(to="openvino"),
    "an unknown kind": lambda told: told["export"].update(to="tensorrt"),
    "a list for a kind": lambda told: told["export"].update(to=["onnx"]),
    "an unknown precision": lambda told: told["export"].update(precision="fp1"),
    "fewer classes": lambda told: told.update(classes=["a", "b"]),
    "a class twice": lambda told: told.update(classes=["a", "a", "a"]),
    "a class of 10 MB": lambda told: told.update(classes=["a", "b", "c" * 10_000_000]),
    "no classes": lambda told: told.pop("classes"),
    "an unknown card": lambda told: told.update(card={"colour": "red"}),
    "a list for a card": lambda told: told.update(card=[1]),
    "a text for a model": lambda told: told.update(model="x"),
    "a huge schema": lambda told: told.update(schema=10**300),
    "a list for the schema": lambda told: told.update(schema=[1]),
}


@pytest.mark.parametrize("kind", CERTIFICATES)
def test_f6_a_certificate_that_says_what_cannot_be_is_refused(kind: str, folder: Path, split_shapes: Path) -> None:
    signed_export(folder, CERTIFICATES[kind])
    with pytest.raises(ModelError) as caught:
        open_export(folder).predict(next(split_shapes.rglob("*.png")))
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize("data", [DEEP, b'{"schema": ' + DEEP + b"}", b'{"schema": 1e999}', b"\xff", b""])
def test_f6_a_certificate_that_is_none_is_refused(folder: Path, data: bytes) -> None:
    (folder / "certificate.json").write_bytes(data)
    with pytest.raises(ModelError, match="no export with a certificate"):
        open_export(folder)


def test_f6_times_that_are_none_choose_no_engine(exported: Path, tmp_path: Path) -> None:
    from headstart.ship.exported import find_export

    run = Path(shutil.copytree(exported.parents[1], tmp_path / "run"))
    file = run / "exports" / "onnx-fp32" / "certificate.json"
    told = json.loads(file.read_bytes())
    for batch in (
        {},
        {"export_ms": "1", "torch_ms": "2"},
        {"export_ms": None, "torch_ms": 1},
        {"export_ms": [1]},
        None,
    ):
        file.write_text(json.dumps({**told, "latency": {"batch_1": batch}}))
        assert find_export(run) is None


def test_f7_one_byte_of_any_file_of_an_export_changed_is_an_error_that_names_it(folder: Path) -> None:
    (folder / "certificate.json").rename(folder.parent / "kept.json")  # it holds measurements that nobody signs

    def opened(place: Path) -> object:
        shutil.copy(folder.parent / "kept.json", place / "certificate.json")
        try:
            return open_export(place)
        finally:
            (place / "certificate.json").unlink()

    assert check_one_byte(folder, opened, count=30) > 30


# --- the program of torch and OpenVINO --------------------------------------------------------------------------------


def test_f7_a_program_of_torch_is_never_opened_whoever_certified_it(folder: Path, split_shapes: Path) -> None:
    (folder / "model.onnx").rename(folder / "model.pt2")
    told = json.loads((folder / "certificate.json").read_bytes())
    told["export"].update(to="torch", files={"model.pt2": {"sha256": ""}})
    (folder / "certificate.json").write_text(json.dumps(told))
    signed_export(folder)
    with pytest.raises(ModelError, match=r"torch runs what a program's file says.*Answer with the model"):
        open_export(folder)
    with pytest.raises(ModelError, match="torch runs"):
        headstart.predict(folder, next(split_shapes.rglob("*.png")))


def _net(*layers: str) -> bytes:
    return ('<?xml version="1.0"?><net name="n" version="11"><layers>' + "".join(layers) + "</layers></net>").encode()


XML: dict[str, tuple[bytes, str]] = {
    "a loop": (_net('<layer id="0" type="Loop" version="opset5"/>'), "has a Loop"),
    "an iterator": (_net('<layer id="0" type="TensorIterator" version="opset1"/>'), "has a TensorIterator"),
    "an If": (_net('<layer id="0" type="If" version="opset8"/>'), "has a If"),
    "an extension": (_net('<layer id="0" type="Add" version="extension"/>'), "operator of 'extension'"),
    "weights outside": (_net('<layer type="Const" version="opset1"><data offset="90" size="20"/></layer>'), "outside"),
    "weights before": (_net('<layer type="Const" version="opset1"><data offset="-9" size="5"/></layer>'), "outside"),
    "entities": (b'<!DOCTYPE net [<!ENTITY a "b">]><net>&a;</net>', "defines entities"),
    "an external entity": (b'<!DOCTYPE net SYSTEM "file:///etc/hostname"><net/>', "defines entities"),
    "depth": (b"<net>" + b"<a>" * 50_000 + b"</a>" * 50_000 + b"</net>", "nested too deeply"),
    "another format": (b"\x08\x07\x12\x04onnx", "no XML"),
    "another document": (b"<html/>", "no network"),
    "nothing": (b"", "no XML"),
}


@pytest.mark.parametrize("kind", XML)
def test_f5_a_network_of_openvino_that_is_none_of_ours_is_refused(kind: str) -> None:
    data, message = XML[kind]
    with pytest.raises(ValueError, match=message):
        screen_openvino(data, 100)


def test_f5_our_own_exports_pass_in_every_precision(exported: Path) -> None:
    from headstart.ship._int8 import halved, quantised
    from headstart.ship.export import _openvino

    data = (exported / "model.onnx").read_bytes()
    for made in (data, halved(data), quantised(data, [np.zeros((40, 50, 3), np.uint8)])):
        screen_onnx(made)
    pytest.importorskip("openvino")
    files = _openvino(data, {}, half=False)
    screen_openvino(files["model.xml"], len(files["model.bin"]))
    with pytest.raises(ValueError, match="outside of its weights"):
        screen_openvino(files["model.xml"], len(files["model.bin"]) - 1)
