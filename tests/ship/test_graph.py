"""The graph of an export: its pixels are the loader's to the bit, its answers the model's."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toymodels import pictures_of_many_sizes, session, toy_features, toy_model

from headstart.data.augment import center_view
from headstart.errors import SettingsError
from headstart.records import Card
from headstart.ship._graph import Answering, View, metadata, to_onnx, to_program
from headstart.ship.exported import OUTPUTS
from headstart.ship.model import Model, softmax

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

CARD = Card("x", input_size=(3, 224, 224), crop_pct=0.875)
CARDS = [
    CARD,
    replace(CARD, interpolation="bilinear", input_size=(3, 64, 64), crop_pct=1.0),
    replace(CARD, crop_mode="squash", input_size=(3, 96, 64), crop_pct=0.9),
    replace(CARD, crop_mode="border", mean=(0.1, 0.5, 0.9)),
    replace(CARD, input_size=(3, 48, 96), interpolation="bilinear", crop_pct=0.95),
    replace(CARD, crop_mode="border", input_size=(3, 40, 80), crop_pct=0.8, interpolation="bilinear"),
]


class _Levels(torch.nn.Module):
    def __init__(self, card: Card) -> None:
        super().__init__()
        self.view = View(card)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        levels: torch.Tensor = self.view(images).to(torch.uint8)
        return levels


def _levels_file(card: Card) -> bytes:
    file = io.BytesIO()
    free = {"images": {0: "n", 1: "height", 2: "width"}, "view": {0: "n"}}
    torch.onnx.export(
        _Levels(card).eval(), (torch.zeros(2, 50, 60, 3, dtype=torch.uint8),), file, dynamo=False, opset_version=17,
        input_names=["images"], output_names=["view"], dynamic_axes=free,
    )  # fmt: skip
    return file.getvalue()


def _run(opened: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(OUTPUTS, opened.run(list(OUTPUTS), {"images": images}), strict=True))


def _answers(model: Model, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logits, known = model._forward(center_view(picture, model.card)[None])
    return softmax(logits), known


# --- pixels ---------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("card", CARDS, ids=lambda card: f"{card.crop_mode}-{card.interpolation}-{card.input_size[1]}")
def test_every_pixel_in_onnx_is_the_loaders_for_pictures_of_any_size(card: Card) -> None:
    opened = session(_levels_file(card))
    for picture in pictures_of_many_sizes():
        if card is CARD or max(picture.shape) < 1000:
            found = opened.run(None, {"images": picture[None]})[0][0]
            assert np.array_equal(found, center_view(picture, card).numpy()), picture.shape


@settings(max_examples=30, deadline=None)
@given(
    card=st.sampled_from(CARDS), tall=st.integers(1, 420), wide=st.integers(1, 420), seed=st.integers(0, 99)
)  # fmt: skip
def test_every_pixel_of_the_graph_is_the_loaders(card: Card, tall: int, wide: int, seed: int) -> None:
    picture = np.random.default_rng(seed).integers(0, 256, (tall, wide, 3), dtype=np.uint8)
    with torch.inference_mode():
        found = View(card)(torch.from_numpy(picture[None])).numpy()[0]
    assert np.array_equal(found, center_view(picture, card).numpy())


def test_an_interpolation_that_the_graph_does_not_know_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="'lanczos' cannot be exported"):
        View(replace(CARD, interpolation="lanczos"))


# --- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["linear", "mlp", "knn", "ridge"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_every_head_gives_the_models_probabilities_also_with_a_temperature_beside_it(
    head: str, temperature: float
) -> None:
    model = toy_model(head, temperature=temperature)
    opened = session(to_onnx(Answering(model), metadata(model)))
    for picture in pictures_of_many_sizes():
        if max(picture.shape) < 1000:
            found, (wanted, _) = _run(opened, picture[None]), _answers(model, picture)
            assert np.abs(found["probabilities"] - wanted).max() < 1e-5
            assert found["label"].tolist() == wanted.argmax(1).tolist()
            assert not found["unknown"].any()


@pytest.mark.parametrize("head", ["linear", "knn"])
def test_unknown_is_said_of_the_same_pictures(head: str) -> None:
    model = toy_model(head, error_rate=0.3)
    opened = session(to_onnx(Answering(model), metadata(model)))
    rng, said = np.random.default_rng(0), []
    from toydata import CLASSES, picture

    shown = [np.asarray(picture(kind, 500 + n)) for n in range(6) for kind in CLASSES]
    shown += [rng.integers(0, 256, (40, 40, 3), dtype=np.uint8) for _ in range(4)]
    for one in shown:
        said.append(bool(_run(opened, one[None])["unknown"][0]))
        assert said[-1] == (not _answers(model, one)[1][0])
    assert True in said
    assert False in said


@pytest.mark.parametrize("n", [1, 2, 7, 33])
def test_a_batch_gives_each_picture_the_answer_that_it_gets_alone(n: int) -> None:
    model = toy_model("mlp", error_rate=0.3)
    opened = session(to_onnx(Answering(model), metadata(model)))
    images = np.random.default_rng(n).integers(0, 256, (n, 45, 70, 3), dtype=np.uint8)
    together = _run(opened, images)
    for place in range(n):
        alone = _run(opened, images[place : place + 1])
        assert np.array_equal(alone["view"][0], together["view"][place])
        assert np.abs(alone["probabilities"][0] - together["probabilities"][place]).max() < 1e-6
        assert alone["unknown"][0] == together["unknown"][place]


def test_the_types_are_those_that_are_documented() -> None:
    model = toy_model()
    opened = session(to_onnx(Answering(model), metadata(model)))
    assert [(i.name, i.type) for i in opened.get_inputs()] == [("images", "tensor(uint8)")]
    assert {o.name: o.type for o in opened.get_outputs()} == {
        "probabilities": "tensor(float)", "label": "tensor(int64)", "unknown": "tensor(bool)", "view": "tensor(uint8)",
    }  # fmt: skip
    found = _run(opened, np.zeros((2, 5, 6, 3), np.uint8))
    assert found["probabilities"].shape == (2, 3)
    assert found["view"].shape == (2, *model.card.input_size)


def test_the_file_names_its_classes_and_card_and_needs_nothing_beside_it() -> None:
    import onnx

    model = toy_model()
    made = onnx.load_from_string(to_onnx(Answering(model), metadata(model)))
    facts = {entry.key: entry.value for entry in made.metadata_props}
    assert json.loads(facts["classes"]) == ["bar", "disc", "square"]
    assert json.loads(facts["card"])["architecture"] == model.card.architecture
    assert facts["headstart"]
    assert {node.domain for node in made.graph.node} == {""}  # standard operators alone
    assert all(t.data_location == onnx.TensorProto.DEFAULT for t in made.graph.initializer)


def test_the_same_model_gives_the_same_file() -> None:
    model = toy_model()
    assert to_onnx(Answering(model), metadata(model)) == to_onnx(Answering(model), metadata(model))


def test_a_program_of_torch_gives_the_same() -> None:
    model = toy_model("knn", error_rate=0.3)
    program = torch.export.load(io.BytesIO(to_program(Answering(model), metadata(model)))).module()
    for picture in (np.asarray(toy) for toy in pictures_of_many_sizes() if max(toy.shape) < 1000):
        with torch.inference_mode():
            probabilities, label, unknown, view = program(torch.from_numpy(picture[None]))
        wanted, known = _answers(model, picture)
        assert np.array_equal(view[0].numpy(), center_view(picture, model.card).numpy())
        assert np.abs(probabilities.numpy() - wanted).max() < 1e-5
        assert label.tolist() == wanted.argmax(1).tolist()
        assert unknown.tolist() == (~known).tolist()


def test_the_toys_features_tell_the_shapes_apart() -> None:
    X, y = toy_features()
    assert (toy_model().head.logits(X).argmax(1) == y).mean() > 0.6  # else the tests above would say little


def test_names_that_are_no_utf_8_are_written_as_json_escapes_them() -> None:
    model = toy_model()
    model.classes = ("\udcff", "\ud800b", "c\u202e")
    onnx = pytest.importorskip("onnx")
    made = onnx.load_from_string(to_onnx(Answering(model), metadata(model)))
    facts = {entry.key: entry.value for entry in made.metadata_props}
    assert tuple(json.loads(facts["classes"])) == model.classes
