"""What a model keeps of what it was fitted on: it comes back as it was, and is no part of an earlier model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toymodels import toy_features, toy_model

from headstart import files
from headstart.data.augment import Augmentation, View
from headstart.errors import ModelError
from headstart.ship.learned import LEARNED, STATISTICS, Known, Learned, read_learned
from headstart.ship.model import load
from headstart.transfer.statistics import Statistics

HASHES = [files.hash_bytes(bytes([n])) for n in range(6)]


def kept(*, statistics: bool = True) -> Learned:
    X, y = toy_features(4)
    views = (View("augmented", 1, Augmentation(0.5, True, True), 7), View("flipped"))
    measured = Statistics.of(X, y, n_classes=3) if statistics else None
    return Learned(Known.of(HASHES[:4], [0, 1, 2, 0]), Known.of(HASHES[4:], [2, 1]), views, 3, "bf16", "cuda", measured)


def same(a: Learned, b: Learned) -> bool:
    parts = [(a.training, b.training), (a.judged, b.judged)]
    known = all(x.hashes == y.hashes and np.array_equal(x.labels, y.labels) for x, y in parts)
    return known and (a.views, a.seed, a.precision, a.device) == (b.views, b.seed, b.precision, b.device)


@pytest.mark.parametrize("statistics", [True, False])
def test_it_comes_back_with_the_model(statistics: bool, tmp_path: Path) -> None:
    model = toy_model("ridge")
    model.learned = kept(statistics=statistics)
    place = model.save(tmp_path / "model")
    load(place)  # whose hashes cover the new files
    found = read_learned(place)
    assert found is not None
    assert same(found, model.learned)
    assert (found.statistics is None) == (not statistics)
    if statistics:
        assert found.statistics is not None
        assert model.learned.statistics is not None
        assert np.array_equal(found.statistics.means, model.learned.statistics.means)
    told = files.read_json(place / "headstart.json")["files"]
    assert (STATISTICS in told) == statistics
    assert told[LEARNED] == files.hash_file(place / LEARNED)


def test_without_pictures_there_is_still_a_list(tmp_path: Path) -> None:
    model = toy_model()
    model.learned = Learned(Known.of(), Known.of())
    found = read_learned(model.save(tmp_path / "model"))
    assert found is not None
    assert len(found.training) == len(found.judged) == 0


def test_a_model_that_keeps_nothing_takes_the_place_of_one_that_does(tmp_path: Path) -> None:
    model = toy_model("ridge")
    model.learned = kept()
    place = model.save(tmp_path / "model")
    toy_model("ridge").save(place)
    assert read_learned(place) is None
    assert not (place / STATISTICS).exists()
    (place / LEARNED).write_bytes(b"left by a process that was killed")
    load(place)
    assert read_learned(place) is None


def test_a_damaged_file_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy_model("ridge")
    model.learned = kept()
    place = model.save(tmp_path / "model")
    data = (place / STATISTICS).read_bytes()
    (place / STATISTICS).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ModelError, match=r"not as it was saved.*statistics\.safetensors"):
        load(place)
    monkeypatch.setattr(Learned, "contents", lambda self: {LEARNED: b"nonsense"})
    other = model.save(tmp_path / "other")
    with pytest.raises(ModelError, match=r"cannot be read.*learned\.safetensors"):
        read_learned(other)


@pytest.mark.parametrize("part", ["labels", "hashes", "statistics", "strength", "views"])
def test_arrays_of_unknown_hands_are_refused(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, own = toy_model("ridge"), kept()
    if part == "labels":
        own = replace(own, training=Known(own.training.hashes, np.array([0, 1, 2, 3])))
    if part == "statistics":
        assert own.statistics is not None
        own = replace(own, statistics=replace(own.statistics, means=own.statistics.means[:, 1:]))
    if part == "strength":
        model.head.chosen.pop("alpha")
    model.learned = own
    if part in ("hashes", "views"):
        from safetensors.numpy import save

        arrays = {f"{n}.sha256": np.zeros((2, 32), np.uint8) for n in ("training", "judged")}
        arrays |= {f"{n}.label": np.zeros(3 if part == "hashes" else 2, np.int64) for n in ("training", "judged")}
        told = '{"views": [{"kind": 1}], "seed": 0, "precision": "", "device": ""}'
        monkeypatch.setattr(Learned, "contents", lambda self: {LEARNED: save(arrays, metadata={"headstart": told})})
    place = model.save(tmp_path / "model")
    load(place)
    with pytest.raises(ModelError, match="the file cannot be read"):
        read_learned(place)


def test_known_pictures_add_up_and_are_picked() -> None:
    a = Known.of(HASHES[:3], [0, 1, 2]) + Known.of(HASHES[3:5], [1, 1])
    assert len(a) == 5
    some = a.only(a.labels == 1)
    assert some.hashes == (HASHES[1], HASHES[3], HASHES[4])
    assert a.among(some).tolist() == [False, True, False, True, True]
    assert a.without(some).hashes == (HASHES[0], HASHES[2])
    assert replace(kept(), judged=some).judged.labels.tolist() == [1, 1, 1]
