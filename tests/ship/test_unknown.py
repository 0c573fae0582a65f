"""A model that may say "unknown": calibrated, kept in its folder, the same in other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import headstart
from headstart import console, files
from headstart.data.read import find_images, read
from headstart.errors import ModelError
from headstart.judge.reject import NEVER, Reject
from headstart.judge.trust import fit_trust
from headstart.ship.evaluate import evaluate_model
from headstart.ship.model import UNKNOWN, Model, load, softmax
from headstart.transfer.net import TransferNet
from toydata import CLASSES, folder_hash


def _features(model: Model, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Features and classes of FOLDER/CLASS/file, as the network of the model sees them."""
    seen: list[np.ndarray] = []
    hook = model.net.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy().copy()))
    items = find_images([folder])
    model.logits(items)
    hook.remove()
    names = [Path(item.name).parent.name for item in items]
    return np.concatenate(seen), np.array([CLASSES.index(name) for name in names])


def _trusted(run: Path, data: Path, *, temperature: float = 1.0, rate: float = 0.4) -> Model:
    """The model of a run with a reject option from the training pictures."""
    plain = load(run)
    X, y = _features(plain, data / "train")
    logits = plain.logits(find_images([data / "train"]))[0]
    _, reject = fit_trust(logits, y, features=X, error_rate=rate)
    return Model(
        plain.net, plain.classes, head=plain.head, plan=plain.plan, facts=plain.facts, reject=reject,
        temperature=temperature,
    )  # fmt: skip


def _foreign(n: int = 6) -> list[Image.Image]:
    """Broad stripes, which are no shape on noise."""
    bars = [np.indices((32, 32))[i % 2] // (4 + i // 2) % 2 * 255 for i in range(n)]
    return [Image.fromarray(np.repeat(bar[..., None], 3, axis=2).astype(np.uint8)) for bar in bars]


# --- temperature --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["frozen_run", "tuned_run"])
def test_a_linear_head_takes_the_temperature_so_that_timm_gives_the_calibrated_logits(
    run: str, request: pytest.FixtureRequest, split_shapes: Path, tmp_path: Path
) -> None:
    import timm

    folder = request.getfixturevalue(run)
    before, calm = load(folder), _trusted(folder, split_shapes, temperature=2.5)
    items = find_images([split_shapes / "test"])
    assert np.allclose(calm.logits(items)[0], before.logits(items)[0] / 2.5, atol=1e-5)
    again = load(calm.save(tmp_path / "model"))
    assert np.array_equal(again.logits(items)[0], calm.logits(items)[0])
    assert files.read_json(tmp_path / "model" / "headstart.json")["calibration"] == {
        "temperature": 2.5, "folded": True,
    }  # fmt: skip
    images = torch.randn(4, *before.card.input_size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        there = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()(images)
        here = before.net(images) / 2.5
    assert torch.allclose(there, here, atol=1e-5)


@pytest.mark.parametrize("head", ["mlp", "knn"])
def test_another_head_keeps_the_temperature_apart(head: str, split_shapes: Path, tmp_path: Path) -> None:
    before = headstart.fit(split_shapes, None, source="toy", strategy="frozen", head=head).model
    assert before is not None
    calm = Model(before.net, before.classes, head=before.head, plan=before.plan, facts=before.facts, temperature=3.0)
    items = find_images([split_shapes / "test"])
    assert np.allclose(calm.logits(items)[0], before.logits(items)[0] / 3, atol=1e-5)
    again = load(calm.save(tmp_path / "one"))
    assert np.allclose(again.logits(items)[0], calm.logits(items)[0], atol=1e-5)
    twice = load(again.save(tmp_path / "two"))  # and it is not applied twice
    assert np.array_equal(twice.logits(items)[0], again.logits(items)[0])


def test_the_temperature_changes_no_label_and_not_the_network_that_was_given(
    frozen_run: Path, split_shapes: Path
) -> None:
    plain = load(frozen_run)
    weight = plain.net.head.weight.detach().clone()
    calm = Model(plain.net, plain.classes, head=plain.head, plan=plain.plan, facts=plain.facts, temperature=4.0)
    assert torch.equal(plain.net.head.weight, weight)
    labels = [answer.label for answer in plain.predict(split_shapes / "test")]
    assert [answer.label for answer in calm.predict(split_shapes / "test")] == labels


# --- unknown ------------------------------------------------------------------------------------------------------


def test_foreign_pictures_are_unknown_and_own_ones_mostly_answered(frozen_run: Path, split_shapes: Path) -> None:
    model = _trusted(frozen_run, split_shapes)
    strange = model.predict(_foreign())
    assert [answer.label for answer in strange] == [UNKNOWN] * 6
    for answer in strange:
        assert answer.best in CLASSES
        assert answer.probability == max(answer.probabilities.values()) == answer.probabilities[answer.best or ""]
    own = [answer.label for answer in model.predict(split_shapes / "test")]
    assert sum(label == UNKNOWN for label in own) <= len(own) / 2


def test_what_json_says_of_an_unknown_picture(frozen_run: Path, split_shapes: Path) -> None:
    model = _trusted(frozen_run, split_shapes)
    (strange,) = model.predict(_foreign(1))
    told = strange.as_dict(1)
    assert list(told) == ["file", "label", "best", "probability", "probabilities"]
    assert told["label"] == "unknown"
    known = next(a for a in model.predict(split_shapes / "train") if a.label != UNKNOWN)
    assert list(known.as_dict()) == ["file", "label", "probability", "probabilities"]
    assert json.loads(json.dumps(told)) == told


def test_the_folder_holds_the_reject_option_under_its_hash_and_gives_the_same_answers(
    frozen_run: Path, split_shapes: Path, tmp_path: Path
) -> None:
    model = _trusted(frozen_run, split_shapes, temperature=1.5)
    folder = model.save(tmp_path / "model")
    record = files.read_json(folder / "headstart.json")
    assert record["files"]["reject.safetensors"] == folder_hash(folder)["reject.safetensors"]
    assert model.reject is not None
    assert record["reject"] == model.reject.facts()
    given: list[Any] = [*sorted((split_shapes / "test").rglob("*.png")), *_foreign()]
    again = load(folder)
    assert [a.label for a in again.predict(given)] == [a.label for a in model.predict(given)]
    assert folder_hash(again.save(tmp_path / "again")) == {
        **folder_hash(folder), "headstart.json": folder_hash(tmp_path / "again")["headstart.json"],
    }  # fmt: skip
    data = bytearray((folder / "reject.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "reject.safetensors").write_bytes(data)
    with pytest.raises(ModelError, match="not as it was saved"):
        load(folder)


def test_a_folder_without_one_answers_as_before(frozen_run: Path, split_shapes: Path) -> None:
    model = load(frozen_run)
    assert model.reject is None
    assert model.temperature == 1.0
    assert not (frozen_run / "model" / "reject.safetensors").exists()
    assert all(a.label in CLASSES and a.best is None for a in model.predict(_foreign()))


def test_features_and_logits_come_from_one_pass(frozen_run: Path, split_shapes: Path) -> None:
    model = _trusted(frozen_run, split_shapes)
    calls: list[int] = []
    whole = model.net.source.feature_map
    model.net.source.feature_map = lambda images: (calls.append(len(images)), whole(images))[1]  # type: ignore[method-assign]
    model.predict(_foreign(3))
    assert calls == [1, 1, 1]
    images = torch.randn(2, *model.card.input_size)
    with torch.inference_mode():
        logits, features = model.net.both(images)
    assert torch.equal(logits, model.net(images))
    assert features.shape == (2, model.net.source.width(model.plan.pooling))
    assert isinstance(model.net, TransferNet)


def test_evaluate_counts_unknown_apart_and_scores_all_pictures(frozen_run: Path, split_shapes: Path) -> None:
    data, plain, model = read(split_shapes), load(frozen_run), _trusted(frozen_run, split_shapes)
    found, bare = evaluate_model(model, data), evaluate_model(plain, data)
    assert "unknown" not in bare
    assert found["accuracy"] == bare["accuracy"]
    answers = model.predict(split_shapes / "test")
    refused = sum(answer.label == UNKNOWN for answer in answers)
    assert found["unknown"]["rejected"] == pytest.approx(refused / 24)
    right = [a.label == Path(a.file).parent.name for a in answers if a.label != UNKNOWN]
    assert found["unknown"]["accuracy_kept"] == pytest.approx(np.mean(right))


def test_a_rate_out_of_reach_makes_every_picture_unknown(
    frozen_run: Path, split_shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = _trusted(frozen_run, split_shapes, rate=0.001)
    assert model.reject is not None
    assert model.reject.threshold == NEVER
    assert {answer.label for answer in model.predict(split_shapes / "train")} == {UNKNOWN}
    found = evaluate_model(model, read(split_shapes))
    assert found["unknown"]["accuracy_kept"] is None
    console.scores(found)
    assert "24 of 24 pictures get no answer\n" in capsys.readouterr().out


def test_the_command_line_says_unknown_plainly(
    frozen_run: Path, split_shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = _trusted(frozen_run, split_shapes)
    console.predictions([answer.as_dict() for answer in model.predict(_foreign(1))])
    told = capsys.readouterr().out
    assert "item-000000  unknown  no answer: the likeliest would be" in told
    console.predictions_csv([answer.as_dict() for answer in model.predict(_foreign(1))])
    assert ",unknown," in capsys.readouterr().out
    console.scores(evaluate_model(model, read(split_shapes)))
    assert "pictures get no answer; of the" in capsys.readouterr().out


def test_probabilities_and_borders_agree_between_model_and_reject(frozen_run: Path, split_shapes: Path) -> None:
    model = _trusted(frozen_run, split_shapes, temperature=2.0)
    X, _ = _features(model, split_shapes / "test")
    items = find_images([split_shapes / "test"])
    found = model.answers(items)
    assert isinstance(model.reject, Reject)
    assert np.array_equal(found.known, model.reject.accepts(softmax(found.logits), X))
