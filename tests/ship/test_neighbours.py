"""The nearest training pictures are the model's own, found by content wherever they lie now."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from headstart.data import read
from headstart.data.facts import load_data
from headstart.errors import DataError
from headstart.files import hash_file
from headstart.records import Item, MemoryOrigin
from headstart.sealed import read_data
from headstart.ship.evaluate import SEEN_DIGITS
from headstart.ship.explain import look
from headstart.ship.explaining import features_of
from headstart.ship.model import Model, load
from headstart.ship.neighbours import Neighbours, find_neighbours
from toydata import picture


@pytest.fixture(scope="module")
def model(frozen_run: Path) -> Model:
    return load(frozen_run)


def features(model: Model, path: Path) -> np.ndarray:
    return features_of(model, look(model, read.find_images([path])[0], 0).view)


def test_only_pictures_that_the_model_was_made_with_are_neighbours(
    model: Model, frozen_run: Path, split_shapes: Path
) -> None:
    found = find_neighbours(model, read_data(frozen_run))
    names = {item.name for item in found.items}
    assert len(found) == 45  # ten and five of three classes
    assert {name.split("/")[0] for name in names} == {"train", "val"}
    assert all(sha256[:SEEN_DIGITS] in model.facts["seen"] for sha256 in found.hashes)


def test_a_training_picture_is_nearest_to_itself_and_known_again(
    model: Model, frozen_run: Path, split_shapes: Path
) -> None:
    found = find_neighbours(model, read_data(frozen_run))
    path = sorted((split_shapes / "train" / "disc").iterdir())[0]
    first, second = found.nearest(features(model, path), sha256=hash_file(path), k=2)
    assert first.item.name == f"train/disc/{path.name}"
    assert first.same
    assert first.label == "disc"
    assert first.similarity == pytest.approx(1.0, abs=1e-4)
    assert not second.same
    assert second.similarity < first.similarity


def test_the_order_is_that_of_the_cosines_about_the_mean() -> None:
    rows = np.array([[2.0, 0.0], [0.0, 2.0], [-2.0, -2.0]], dtype=np.float32)
    items = [Item(name, MemoryOrigin(picture("disc", n))) for n, name in enumerate("abc")]
    found = Neighbours(items, ["1", "2", "3"], ["x", "y", "z"], rows)
    nearest = found.nearest(np.array([1.0, 0.1], dtype=np.float32), k=3)
    assert [one.item.name for one in nearest] == ["a", "b", "c"]
    assert nearest[0].similarity == pytest.approx(1 / 1.01**0.5)


def test_data_that_moved_are_named_and_found(
    model: Model, frozen_run: Path, split_shapes: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(split_shapes, tmp_path / "elsewhere")
    assert len(find_neighbours(model, load_data(moved))) == 45


def test_pictures_that_are_gone_are_told_and_not_replaced(
    model: Model, frozen_run: Path, split_shapes: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other" / "disc"
    other.mkdir(parents=True)
    picture("disc", 900).save(other / "x.png")
    with pytest.raises(DataError, match="none of these pictures"):
        find_neighbours(model, load_data(other.parent, fewest=1))
    moved = shutil.copytree(split_shapes, tmp_path / "elsewhere")
    gone = sorted((moved / "train" / "disc").iterdir())[:3]
    for path in gone:
        path.unlink()
    assert len(find_neighbours(model, load_data(moved))) == 42
