"""H5 of the catalogue: an fp32 export gives the model's probabilities on the same pixels, alone and 32 at once."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from figures import record

import headstart
from headstart.errors import ExportError
from headstart.judge.calibration import softmax
from headstart.ship import export as making
from headstart.ship._graph import Answering, metadata, to_onnx
from headstart.ship.certify import TOLERANCE
from headstart.ship.export import _openvino
from headstart.ship.exported import ExportedModel, open_payload
from headstart.ship.model import Model, load
from toydata import folder_hash

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

LIMIT = 1e-5


def drawn(n: int, seed: int = 0) -> list[np.ndarray]:
    """Pictures of many sizes: noise, shapes of one colour on another, slopes, greys."""
    rng, found = np.random.default_rng(seed), []
    for number in range(n):
        height, width = (int(side) for side in np.exp(rng.uniform(np.log(8), np.log(400), 2)))
        if number % 4 == 0:
            picture = rng.integers(0, 256, (height, width, 3))
        elif number % 4 == 1:
            picture = np.empty((height, width, 3), int)
            picture[:] = rng.integers(0, 256, 3)
            picture[height // 4 : height // 2 + 1, width // 4 : width // 2 + 1] = rng.integers(0, 256, 3)
        elif number % 4 == 2:
            slope = np.linspace(*rng.uniform(0, 255, 2), width)[None, :, None]
            picture = np.broadcast_to(slope, (height, width, 3)).round()
        else:
            picture = np.repeat(rng.integers(0, 256, (height, width, 1)), 3, axis=2)
        found.append(np.ascontiguousarray(picture, dtype=np.uint8))
    return found


def exports_of(model: Model) -> dict[str, ExportedModel]:
    """The fp32 exports of a model by the engine that computes them."""
    data = to_onnx(Answering(model), metadata(model))
    payloads = {"onnx": {"model.onnx": data}}
    if find_spec("openvino") is not None:
        payloads["openvino"] = _openvino(data, metadata(model), half=False)
    return {
        to: open_payload(payload, model.classes, card=model.card, to=to, precision="fp32")
        for to, payload in payloads.items()
    }


def judged(model: Model, exported: ExportedModel, stacks: Sequence[np.ndarray]) -> tuple[float, int, int]:
    """The largest difference of a probability on the same pixels, how many answers differ, and of how many.

    Classes whose probabilities are closer to each other than the limit are a tie.
    """
    off, other, total = 0.0, 0, 0
    for stack in stacks:
        found = exported.outputs(stack)
        ours = softmax(model._forward(torch.from_numpy(found.view.copy()))[0])
        off = max(off, float(np.abs(ours - found.probabilities).max()))
        said = ours[np.arange(len(ours)), found.label]
        other, total = other + int((said < ours.max(axis=1) - LIMIT).sum()), total + len(stack)
    return off, other, total


def check(model: Model, n: int, *, limit: float = LIMIT) -> dict[str, float]:
    """Both batch sizes; what was measured."""
    told = {}
    alone = [picture[None] for picture in drawn(n)]
    rng = np.random.default_rng(1)
    sizes = [tuple(int(side) for side in rng.integers(20, 300, 2)) for _ in range(max(1, n // 32))]
    together = [rng.integers(0, 256, (32, *size, 3), dtype=np.uint8) for size in sizes]
    for name, exported in exports_of(model).items():
        for batch, stacks in {"1": alone, "32": together}.items():
            off, other, total = judged(model, exported, stacks)
            assert off <= limit, (name, batch, off)
            assert other == 0, (name, batch, other, total)
            told[f"{name}, batch {batch}"] = off
    return told


def test_h5_an_export_gives_the_model_s_probabilities_and_answers(frozen_run: Path, tuned_run: Path) -> None:
    for run in (frozen_run, tuned_run):
        check(load(run), 48)


@pytest.mark.long
@pytest.mark.shared
@pytest.mark.parametrize(
    ("source", "limit"), [("toy", LIMIT), ("mobilenetv2_035.keras_in1k", TOLERANCE)], ids=["toy", "mobilenet"]
)
def test_h5_a_thousand_pictures(source: str, limit: float, shared: Path, split_shapes: Path, tmp_path: Path) -> None:
    address = source if source == "toy" else str(shared / "sources" / source)
    headstart.fit(split_shapes, tmp_path / "run", source=address, strategy="frozen", cache=False)
    told = check(load(tmp_path / "run"), 1_000, limit=limit)
    record("H5: exports beside the model", source=source, pictures=1_000, other_answers=0, **told)


# --- what does not hold leaves nothing --------------------------------------------------------------------------------


def _nudged(data: bytes, by: float) -> bytes:
    """The graph with its largest weight a little off."""
    made = onnx.load_from_string(data)
    wide = [t for t in made.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    largest = max(wide, key=lambda tensor: len(tensor.raw_data))
    values = onnx.numpy_helper.to_array(largest).copy()
    values *= 1 + by
    largest.CopyFrom(onnx.numpy_helper.from_array(values, largest.name))
    return bytes(made.SerializeToString())


@pytest.mark.parametrize("by", [1e-3, 1e-1, float("nan")])
def test_h5_a_sabotaged_graph_is_refused_and_leaves_nothing(
    by: float, frozen_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, usual = Path(shutil.copytree(frozen_run, tmp_path / "run")), making._payload
    before = folder_hash(run)

    def payload(*args: Any, **options: Any) -> dict[str, bytes]:
        return {name: _nudged(data, by) for name, data in usual(*args, **options).items()}

    monkeypatch.setattr(making, "_payload", payload)
    with pytest.raises(headstart.HeadstartError) as caught:
        headstart.export(run)
    assert isinstance(caught.value, ExportError) == (by == by)
    assert folder_hash(run) == before
    assert not (run / "exports").exists()


def test_h5_a_graph_that_errs_only_where_many_are_asked_at_once_is_refused_too(
    frozen_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(frozen_run, tmp_path / "run"))
    headstart.export(run)
    whole = folder_hash(run)
    usual = making.open_payload

    def opened(*args: Any, **options: Any) -> ExportedModel:
        found = usual(*args, **options)
        right = found._compute

        def compute(images: np.ndarray) -> Sequence[np.ndarray]:
            first, *rest = right(images)
            return [first if len(images) == 1 else np.roll(first, 1, axis=0), *rest]

        return ExportedModel(compute, found.classes, card=found.card, engine=found.engine, precision="fp32")

    monkeypatch.setattr(making, "open_payload", opened)
    with pytest.raises(ExportError, match="on the same pixels a probability differs"):
        headstart.export(run)
    assert folder_hash(run) == whole  # the export that stood there stands there still


def test_a_tie_is_no_other_answer(frozen_run: Path) -> None:
    """The test itself: the label of the second of two equal classes counts as the same, another one does not."""
    model = load(frozen_run)
    exported = exports_of(model)["onnx"]
    right = exported._compute

    def other(images: np.ndarray) -> Sequence[np.ndarray]:
        first, label, *rest = right(images)
        return [first, (label + 1) % 3, *rest]

    wrong = ExportedModel(other, model.classes, card=model.card, engine="onnxruntime", precision="fp32")
    stacks = [picture[None] for picture in drawn(8)]
    assert judged(model, wrong, stacks)[1:] == (8, 8)
    assert judged(model, exported, stacks)[1:] == (0, 8)
