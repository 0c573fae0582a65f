"""The Model: what it answers, what it writes, and what it refuses to open."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import headstart
from headstart import files
from headstart.errors import DataError, ModelError
from headstart.records import FileOrigin, Item
from headstart.ship.model import Model, Prediction, find_model_folder, load, softmax
from toydata import CLASSES, folder_hash, picture

# What a program does that has never heard of headstart: pictures in, one file of logits for each folder out.
_ELSEWHERE = """
import sys
import numpy as np, timm, torch
images = torch.from_numpy(np.load(sys.argv[1]))
for folder in sys.argv[2:]:
    model = timm.create_model("local-dir:" + folder, pretrained=True).eval()
    with torch.inference_mode():
        np.save(sys.argv[1] + "." + str(sys.argv.index(folder)), model(images).numpy())
assert not any(name.split(".")[0] == "headstart" for name in sys.modules)
"""


def _plain_timm(folder: Path, images: torch.Tensor) -> np.ndarray:
    import timm

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.inference_mode():
        answer: np.ndarray = model(images).numpy()
    return answer


def _images(model: Model, n: int = 4) -> torch.Tensor:
    return torch.randn(n, *model.card.input_size, generator=torch.Generator().manual_seed(1))


def _logits(model: Model, images: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        answer: np.ndarray = model.net(images).numpy()
    return answer


def _fitted(data: Path, **options: Any) -> Model:
    model: Model = headstart.fit(data, None, **{"source": "toy", "strategy": "frozen", **options}).model
    return model


@pytest.fixture(scope="module")
def model(frozen_run: Path) -> Model:
    return load(frozen_run)


@pytest.fixture
def copied(frozen_run: Path, tmp_path: Path) -> Path:
    """A model folder that may be spoilt."""
    return Path(shutil.copytree(frozen_run / "model", tmp_path / "model"))


# --- save and load ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["frozen_run", "tuned_run"])
def test_a_loaded_model_saved_again_is_the_same_file_by_file(
    run: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(run) / "model"
    first = load(folder)
    readme = (folder / "README.md").read_text()
    second = load(first.save(tmp_path / "again", readme=readme))
    images = _images(first)
    assert np.array_equal(_logits(first, images), _logits(second, images))
    assert second.classes == CLASSES
    before, after = folder_hash(folder), folder_hash(tmp_path / "again")
    assert before["model.safetensors"] == after["model.safetensors"]
    assert before["head.safetensors"] == after["head.safetensors"]


def test_the_folder_holds_the_files_that_are_promised(frozen_run: Path) -> None:
    names = {path.name for path in (frozen_run / "model").iterdir()}
    arrays = {"model.safetensors", "head.safetensors", "learned.safetensors"}
    assert names == {"config.json", "headstart.json", "README.md", *arrays}
    config = files.read_json(frozen_run / "model" / "config.json")
    assert config["label_names"] == list(CLASSES)
    assert config["num_classes"] == 3
    assert "num_classes" not in config["model_args"]  # transformers refuses a config that has it there too


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "head.safetensors", "learned.safetensors", "README.md"]
)
def test_one_changed_byte_in_any_file_is_found_and_the_file_named(copied: Path, name: str) -> None:
    data = bytearray((copied / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / name).write_bytes(data)
    with pytest.raises(ModelError, match="not as it was saved") as caught:
        load(copied)
    assert Path(str(caught.value.where)).name == name


@settings(max_examples=25, deadline=None)
@given(where=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_one_flipped_bit_in_our_own_record_is_found(frozen_run: Path, where: int, bit: int) -> None:
    from headstart.ship._record import read_record

    folder = frozen_run / "model"
    data = bytearray((folder / "headstart.json").read_bytes())
    data[where % len(data)] ^= 1 << bit
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "headstart.json").write_bytes(data)
        with pytest.raises(ModelError) as caught:
            read_record(Path(place))
    assert Path(str(caught.value.where)).name == "headstart.json"


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "head.safetensors", "learned.safetensors", "README.md"]
)
def test_a_missing_file_is_named(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(ModelError, match="is missing") as caught:
        load(copied)
    assert Path(str(caught.value.where)).name == name


def _signed(folder: Path, change: Any) -> None:
    """Change the record and make its hashes fit again, as a careful forger or another program would."""
    record = files.read_json(folder / "headstart.json")
    record["files"] = {name: files.hash_file(folder / name) for name in record["files"]}
    change(record)
    record["sha256"] = "0" * 64
    text = files.json_text(record)
    files.write_text(folder / "headstart.json", text.replace("0" * 64, files.hash_bytes(text.encode())))


def test_a_newer_format_is_refused_and_its_version_named(copied: Path) -> None:
    _signed(copied, lambda record: record.update(schema=7, headstart="9.4.2"))
    with pytest.raises(ModelError, match=r"format 7.*9\.4\.2"):
        load(copied)


@pytest.mark.parametrize("key", ["classes", "card", "plan", "head", "golden", "files", "sha256"])
def test_a_record_without_a_key_says_which(copied: Path, key: str) -> None:
    record = files.read_json(copied / "headstart.json")
    del record[key]
    files.write_json(copied / "headstart.json", record)
    with pytest.raises(ModelError, match=f"lacks {key}"):
        load(copied)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema": "new"}', b"{}"])
def test_a_record_that_is_no_record_is_refused(copied: Path, content: bytes) -> None:
    (copied / "headstart.json").write_bytes(content)
    with pytest.raises(ModelError, match="cannot be read"):
        load(copied)


def test_weights_that_answer_otherwise_are_refused_even_with_hashes_that_fit(copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(copied / "model.safetensors")
    state["conv1.weight"] = state["conv1.weight"] * 1.5
    save_file(state, copied / "model.safetensors", metadata={"format": "pt"})
    _signed(copied, lambda record: None)
    with pytest.raises(ModelError, match="answers moved by"):
        load(copied)


def test_weights_that_are_no_numbers_are_refused(copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(copied / "model.safetensors")
    state["conv1.weight"] = state["conv1.weight"] * float("nan")
    save_file(state, copied / "model.safetensors", metadata={"format": "pt"})
    _signed(copied, lambda record: None)
    with pytest.raises(ModelError, match="NaN"):
        load(copied)


def test_an_architecture_that_is_not_there_is_a_model_error(copied: Path) -> None:
    config = files.read_json(copied / "config.json")
    config["architecture"] = "resnet_of_tomorrow"
    files.write_json(copied / "config.json", config)
    _signed(copied, lambda record: None)
    with pytest.raises(ModelError, match="resnet_of_tomorrow"):
        load(copied)


def test_no_pickle_is_read_even_when_one_lies_there(copied: Path) -> None:
    (copied / "pytorch_model.bin").write_bytes(b"\x80\x04\x95 not to be opened")
    assert load(copied).classes == CLASSES


def test_the_model_folder_is_found_in_the_run_folder(frozen_run: Path, tmp_path: Path) -> None:
    assert find_model_folder(frozen_run) == frozen_run / "model" == find_model_folder(frozen_run / "model")
    with pytest.raises(ModelError, match="no such folder"):
        find_model_folder(tmp_path / "nothing")
    with pytest.raises(ModelError, match="no finished headstart model"):
        find_model_folder(tmp_path)
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(ModelError, match="headstart resume"):
        find_model_folder(tmp_path)


# --- other programs and other heads -------------------------------------------------------------------------------


def test_a_program_without_headstart_opens_the_folders_with_the_same_logits(
    frozen_run: Path, tuned_run: Path, tmp_path: Path
) -> None:
    models = [load(frozen_run), load(tuned_run)]
    images = _images(models[0])
    np.save(tmp_path / "images.npy", images.numpy())
    folders = [str(run / "model") for run in (frozen_run, tuned_run)]
    command = [sys.executable, "-c", _ELSEWHERE, str(tmp_path / "images.npy"), *folders]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for number, model in enumerate(models, start=2):
        rows = np.load(tmp_path / f"images.npy.{number}.npy")
        assert np.abs(rows - _logits(model, images)).max() <= 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {"head": "mlp"},
        {"head": "knn"},
        {"head": "svm"},
        {"head": "ridge"},
        {"pooling": "flatten"},
        {"pooling": "avgmax"},
        {"strategy": "partial", "head": "mlp", "epochs": 1},
        {"strategy": "full", "pooling": "flatten", "epochs": 1},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_every_head_and_pooling_comes_back_and_timm_gets_the_body(
    options: dict[str, Any], split_shapes: Path, tmp_path: Path
) -> None:
    model = _fitted(split_shapes, **options)
    images = _images(model)
    again = load(model.save(tmp_path / "model"))
    assert np.allclose(_logits(model, images), _logits(again, images), atol=1e-6)
    rows = _plain_timm(tmp_path / "model", images)
    whole = options.get("head") in ("svm", "ridge")
    wanted = _logits(model, images) if whole else model.net.source(images).detach().numpy()
    assert np.allclose(rows, wanted, atol=1e-5)


@pytest.fixture(scope="module")
def torchvision_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of torchvision's resnet18, as torchvision publishes its own."""
    import torchvision

    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("weights") / "resnet18-00000000.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), place)
    return place


@pytest.mark.parametrize(
    "options",
    [{}, {"head": "knn"}, {"pooling": "avgmax"}],
    ids=["linear", "knn", "avgmax"],
)
def test_a_torchvision_source_becomes_a_model_that_opens_again(
    options: dict[str, Any], torchvision_file: Path, split_shapes: Path, tmp_path: Path
) -> None:
    from headstart.sources import open_source

    source = f"torchvision:{torchvision_file}"
    model = _fitted(split_shapes, source=source, image_size=32, **options)
    folder = model.save(tmp_path / "model")
    images = _images(model)
    again = load(folder)
    assert np.allclose(_logits(model, images), _logits(again, images), atol=1e-5)
    assert again.card.preprocessing == model.card.preprocessing
    opened = open_source(str(folder))
    assert np.allclose(opened(images).detach(), model.net.source(images).detach(), atol=1e-5)
    assert all(not p.is_inference() for p in model.net.parameters())  # such a model could not be trained further
    if not options.get("pooling") and options.get("head") != "knn":
        assert np.allclose(_plain_timm(folder, images), _logits(model, images), atol=1e-5)


def test_a_torchvision_network_that_timm_lacks_still_opens_here(split_shapes: Path, tmp_path: Path) -> None:
    import torchvision

    torch.manual_seed(0)
    torch.save(torchvision.models.shufflenet_v2_x0_5(weights=None).state_dict(), tmp_path / "shufflenet_v2_x0_5.pth")
    source = f"torchvision:{tmp_path / 'shufflenet_v2_x0_5.pth'}"
    model = _fitted(split_shapes, source=source, image_size=32)
    images = _images(model)
    assert np.allclose(_logits(model, images), _logits(load(model.save(tmp_path / "model")), images), atol=1e-5)


def test_a_vision_transformer_at_another_size_opens_in_timm_and_as_a_source(split_shapes: Path, tmp_path: Path) -> None:
    from headstart.sources import open_source

    model = _fitted(split_shapes, source="random:vit_tiny_patch16_224", image_size=32)
    folder = model.save(tmp_path / "model")
    images = _images(model)
    assert images.shape[-1] == 32
    assert np.allclose(_plain_timm(folder, images), _logits(model, images), atol=1e-5)
    assert np.allclose(_logits(load(folder), images), _logits(model, images), atol=1e-6)
    larger = open_source(str(folder), image_size=48)
    assert larger(torch.zeros(1, 3, 48, 48)).shape == (1, larger.width("native"))


@pytest.mark.parametrize("inner", ["", "model"])
def test_a_model_is_the_source_of_the_next_transfer(tuned_run: Path, shapes: Path, inner: str) -> None:
    result = headstart.fit(shapes, None, source=str(tuned_run / inner), strategy="frozen")
    assert result.run["source"]["address"] == str(tuned_run / inner)
    body = load(tuned_run).net.source
    assert result.model.net.source.hash_below("head") == body.hash_below("head")


# --- answers ------------------------------------------------------------------------------------------------------


def test_the_answers_are_the_same_for_a_file_its_bytes_its_picture_and_its_array(
    model: Model, split_shapes: Path
) -> None:
    file = split_shapes / "test" / "disc" / "015.png"
    image = Image.open(file)
    ways = [str(file), file, file.read_bytes(), image, np.asarray(image)]
    together = model.predict_proba(ways)
    for way, row in zip(ways, together, strict=True):
        assert np.allclose(model.predict_proba(way), row, atol=1e-6)
        assert np.allclose(together[0], row, atol=1e-6)
    assert np.allclose(together.sum(axis=1), 1)


def test_an_array_of_pictures_is_many_pictures(model: Model) -> None:
    batch = np.stack([np.asarray(picture(kind, 900)) for kind in CLASSES])
    assert model.predict_proba(batch).shape == (3, 3)
    assert model.predict_proba(batch[0]).shape == (1, 3)
    assert model.predict_proba(batch[..., 0]).shape == (3, 3)  # three grey pictures
    assert model.predict_proba(batch[0, ..., 0]).shape == (1, 3)


def test_order_and_number_of_the_inputs_are_kept_also_when_one_repeats_or_cannot_be_read(
    model: Model, split_shapes: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    good = sorted((split_shapes / "test" / "bar").iterdir())[:2]
    given_ = [good[1], broken, good[0], good[1], picture("disc", 901), broken]
    answers = model.predict(given_)
    assert [Path(a.file).name for a in answers] == [
        good[1].name, "broken.jpg", good[0].name, good[1].name, "item-000004", "broken.jpg",
    ]  # fmt: skip
    assert [a.error is None for a in answers] == [True, False, True, True, True, False]
    assert answers[0].probabilities == pytest.approx(answers[3].probabilities, abs=1e-5)
    assert answers[1].as_dict().keys() == {"file", "error"}
    chances = model.predict_proba(given_)
    assert np.isnan(chances).all(axis=1).tolist() == [False, True, False, False, False, True]


def test_a_folder_gives_all_its_pictures(model: Model, split_shapes: Path) -> None:
    answers = model.predict(split_shapes / "test")
    assert len(answers) == 24
    assert all(abs(sum(a.probabilities.values()) - 1) < 1e-9 for a in answers)
    assert all(a.probability == max(a.probabilities.values()) == a.probabilities[a.label or ""] for a in answers)


@settings(max_examples=8, deadline=None)
@given(order=st.permutations(range(10)), size=st.integers(1, 7))
def test_the_company_in_a_batch_changes_no_label(model: Model, split_shapes: Path, order: list[int], size: int) -> None:
    paths = sorted((split_shapes / "test").rglob("*.png"))[:10]
    items = [Item(str(p), FileOrigin(p)) for p in paths]
    alone, _ = model.logits(items, batch_size=1)
    mixed, _ = model.logits([items[i] for i in order], batch_size=size)
    assert np.allclose(alone[order], mixed, atol=1e-5)
    assert (alone[order].argmax(1) == mixed.argmax(1)).all()


@pytest.mark.parametrize("nothing", [[], (), np.empty((0, 8, 8, 3), np.uint8)], ids=["list", "tuple", "array"])
def test_nothing_to_predict_is_a_data_error(model: Model, nothing: Any) -> None:
    with pytest.raises(DataError, match="no pictures"):
        model.predict(nothing)


def test_what_is_no_picture_is_a_data_error_or_an_error_entry(model: Model, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        model.predict(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match="int is no picture"):
        model.predict(3)
    (answer,) = model.predict([3])
    assert answer.error


def test_top_k_keeps_the_likeliest_in_falling_order() -> None:
    answer = Prediction("a.png", "y", 0.5, {"x": 0.2, "y": 0.5, "z": 0.3})
    assert list(answer.as_dict(2)["probabilities"].items()) == [("y", 0.5), ("z", 0.3)]
    assert list(answer.as_dict()["probabilities"]) == ["x", "y", "z"]
    assert json.loads(json.dumps(answer.as_dict(1))) == {
        "file": "a.png", "label": "y", "probability": 0.5, "probabilities": {"y": 0.5},
    }  # fmt: skip


def test_a_16_bit_picture_and_one_with_alpha_are_answered(model: Model) -> None:
    deep = np.asarray(picture("square", 902).convert("L")).astype(np.uint16) * 257
    clear = picture("square", 902).convert("RGBA")
    encoded = io.BytesIO()
    clear.save(encoded, "PNG")
    answers = model.predict([deep, clear, encoded.getvalue()])
    assert all(a.error is None for a in answers)
    assert answers[1].probabilities == pytest.approx(answers[2].probabilities, abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3), min_size=1, max_size=4))
def test_softmax_gives_probabilities_whatever_the_logits(rows: list[list[float]]) -> None:
    logits = np.array(rows, dtype=np.float32)
    chances = softmax(logits)
    assert np.isfinite(chances).all()
    assert np.allclose(chances.sum(axis=1), 1)
    assert np.allclose(chances, softmax(logits + 7), atol=1e-3)


def test_moving_to_a_device_keeps_the_answers(model: Model) -> None:
    before = model.predict_proba(picture("bar", 903))
    assert model.to("cpu") is model
    assert np.array_equal(model.predict_proba(picture("bar", 903)), before)


def test_an_answer_does_not_depend_on_the_pictures_that_are_predicted_with_it(frozen_run: Path) -> None:
    model = load(frozen_run)
    photos = [picture(("bar", "disc", "square")[n % 3], 600 + n).resize((30 + n, 90 - n)) for n in range(40)]
    together = model.predict(photos)
    assert len({answer.probability for answer in together}) > 30
    for one, answer in zip(photos, together, strict=True):
        assert model.predict([one])[0].probabilities == answer.probabilities
    assert model.predict(photos[::-1])[0].probabilities == together[-1].probabilities
