"""The certificate: what is measured, what is refused, and that an export which errs cannot pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from toymodels import toy_model

from headstart.errors import DataError
from headstart.progress import Silent
from headstart.records import Item, MemoryOrigin
from headstart.ship._graph import Answering, metadata, to_onnx
from headstart.ship.certify import TOLERANCE, certify, latency, machine, reasons
from headstart.ship.exported import ExportedModel, Outputs, open_payload
from headstart.ship.model import Model, softmax
from toydata import CLASSES, picture

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def _items(n: int = 4) -> tuple[list[Item], np.ndarray]:
    shown = [(kind, 300 + i) for i in range(n) for kind in CLASSES]
    items = [Item(f"{kind}-{i}.png", MemoryOrigin(np.asarray(picture(kind, i)))) for kind, i in shown]
    return items, np.array([CLASSES.index(kind) for kind, _ in shown])


@pytest.fixture(scope="module")
def model() -> Model:
    return toy_model(error_rate=0.3)


@pytest.fixture(scope="module")
def exported(model: Model) -> ExportedModel:
    payload = {"model.onnx": to_onnx(Answering(model), metadata(model))}
    return open_payload(payload, model.classes, card=model.card, to="onnx", precision="fp32")


class _Wrong(ExportedModel):
    """An export that errs as it is told."""

    def __init__(self, right: ExportedModel, **wrong: Any) -> None:
        super().__init__(right._compute, right.classes, card=right.card, engine="onnxruntime", precision="fp32")
        self.wrong = wrong

    def outputs(self, images: np.ndarray) -> Outputs:
        found = super().outputs(images)
        parts = {name: getattr(found, name) for name in ("probabilities", "label", "unknown", "view")}
        return Outputs(**{**parts, **{name: change(parts[name]) for name, change in self.wrong.items()}})


def _found(model: Model, exported: ExportedModel) -> dict[str, Any]:
    items, labels = _items()
    return certify(model, exported, items, labels=labels, reporter=Silent())


def test_an_exact_export_differs_nowhere_and_passes_every_precision(model: Model, exported: ExportedModel) -> None:
    found = _found(model, exported)
    assert found["n"] == 12
    assert found["network"]["max_probability_difference"] < 1e-5
    assert found["whole"]["max_probability_difference"] < 1e-5
    assert found["whole"]["flipped"] == []
    assert found["pixels"] == {"pictures_that_differ": 0, "max_levels": 0, "share_of_values": 0.0}
    assert found["accuracy"]["change_points"] == 0.0
    assert [reasons(found, precision=name, max_drop=None) for name in ("fp32", "fp16", "int8")] == [[], [], []]


def test_the_accuracy_is_that_of_the_answers(model: Model, exported: ExportedModel) -> None:
    items, labels = _items()
    found = certify(model, exported, items, labels=labels, reporter=Silent())
    assert found["accuracy"]["model"] == pytest.approx((softmax(model.logits(items)[0]).argmax(1) == labels).mean())
    swapped = certify(model, exported, items, labels=(labels + 1) % 3, reporter=Silent())
    assert swapped["accuracy"]["model"] < found["accuracy"]["model"]


def test_a_probability_that_is_off_by_more_than_the_tolerance_is_refused(model: Model, exported: ExportedModel) -> None:
    found = _found(model, _Wrong(exported, probabilities=lambda p: p + np.float32(3 * TOLERANCE)))
    (reason,) = reasons(found, precision="fp32", max_drop=None)
    assert "a probability differs by 0.0003" in reason
    assert reasons(found, precision="fp32", max_drop=50.0) == [reason]  # no loss of accuracy makes up for it
    assert reasons(found, precision="int8", max_drop=None) == []


def test_another_answer_is_refused_and_its_file_named(model: Model, exported: ExportedModel) -> None:
    turned = _Wrong(exported, probabilities=lambda p: np.roll(p, 1, axis=1))
    found = _found(model, turned)
    assert len(found["whole"]["flipped"]) == 12
    assert any(
        "12 of 12 pictures get another answer: bar-300.png" in r
        for r in reasons(found, precision="fp32", max_drop=None)
    )
    assert any("points of accuracy are lost" in r for r in reasons(found, precision="int8", max_drop=None))
    assert reasons(found, precision="int8", max_drop=100.0) == []


def test_unknown_said_of_another_picture_is_another_answer(model: Model, exported: ExportedModel) -> None:
    found = _found(model, _Wrong(exported, unknown=lambda flag: ~flag))
    assert len(found["whole"]["flipped"]) == 12
    assert found["accuracy"]["change_points"] == 0.0


def test_other_pixels_are_told_apart_from_another_network(model: Model, exported: ExportedModel) -> None:
    def shifted(view: np.ndarray) -> np.ndarray:
        moved = view.copy()
        moved[..., :3] ^= 1
        return moved

    found = _found(model, _Wrong(exported, view=shifted))
    side = model.card.input_size[1]
    assert found["pixels"]["pictures_that_differ"] == 12
    assert found["pixels"]["max_levels"] == 1
    assert found["pixels"]["share_of_values"] == pytest.approx(3 / side)
    assert found["whole"]["max_probability_difference"] < 1e-5  # the answers are still those of the loader's pixels
    assert found["network"]["max_probability_difference"] > 1e-6


def test_a_large_photo_is_drafted_by_the_loader_and_decoded_whole_by_the_export(tmp_path: Any) -> None:
    from headstart.records import FileOrigin

    model = toy_model()
    payload = {"model.onnx": to_onnx(Answering(model), metadata(model))}
    exported = open_payload(payload, model.classes, card=model.card, to="onnx", precision="fp32")
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    file = tmp_path / "photo.jpg"
    Image.fromarray(noise).resize((1600, 1200), Image.Resampling.BICUBIC).save(file, quality=90)
    items = [Item("photo.jpg", FileOrigin(file))]
    found = certify(model, exported, items, labels=np.zeros(1, dtype=int), reporter=Silent())
    assert found["pixels"]["pictures_that_differ"] == 1
    assert found["network"]["max_probability_difference"] < 1e-5


def test_pictures_that_the_run_did_not_judge_are_noticed(model: Model, exported: ExportedModel) -> None:
    items, labels = _items()
    said = softmax(model.logits(items)[0])
    assert certify(model, exported, items, labels=labels, said=said, reporter=Silent())["n"] == 12
    said[3] = np.roll(said[3], 1)
    with pytest.raises(DataError, match=r"1 of 12 pictures are not those that the run was judged on: bar-301\.png"):
        certify(model, exported, items, labels=labels, said=said, reporter=Silent())


def test_unreadable_pictures_are_counted_and_none_left_is_an_error(model: Model, exported: ExportedModel) -> None:
    items, labels = _items()
    torn = [Item("torn.png", MemoryOrigin(b"\x89PNG\r\n\x1a\nhalf")), *items]
    found = certify(model, exported, torn, labels=np.append(0, labels), reporter=Silent())
    assert (found["n"], found["skipped"]) == (12, 1)
    with pytest.raises(DataError, match="no picture can be read"):
        certify(model, exported, torn[:1], labels=np.zeros(1, dtype=int), reporter=Silent())


def test_times_are_told_for_one_picture_and_for_32(model: Model, exported: ExportedModel) -> None:
    found = latency(model, exported, _items(1)[0][0])
    for name in ("batch_1", "batch_32"):
        for who in ("torch", "export"):
            low, high = found[name][f"{who}_range"]
            assert 0 < low <= found[name][f"{who}_ms"] <= high
    assert found["picture"] == [32, 32]
    assert machine()["versions"]["torch"]
