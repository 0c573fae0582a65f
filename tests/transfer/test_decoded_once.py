"""No epoch decodes a JPEG twice, and training does not see whether its pictures come from files or from the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rigs import make_rig

from headstart.data import decode
from headstart.files import hash_file
from headstart.records import FileOrigin, Item
from headstart.transfer import feeds
from headstart.transfer.steps import Samples


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADSTART_HOME", str(tmp_path / "home"))


def jpegs(folder: Path, n: int, *, first: int = 0) -> Samples:
    """Files that are larger than the pictures that are trained on."""
    folder.mkdir(exist_ok=True)
    items = []
    for number in range(first, first + n):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path := folder / f"{number}.jpg")
        items.append(Item(path.name, FileOrigin(path), number % 3))
    return Samples.of(items, {item.name: hash_file(folder / item.name) for item in items})


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the pictures that were decoded, in turn."""
    names: list[str] = []
    before = decode.examine

    def counting(data: bytes, name: str, **how: Any) -> decode.Decoded:
        names.append(name)
        return before(data, name, **how)

    monkeypatch.setattr(decode, "examine", counting)
    return names


def test_no_epoch_decodes_a_picture_twice_and_a_second_run_none_for_training(
    tmp_path: Path, decoded: list[str]
) -> None:
    train, val = jpegs(tmp_path / "data", 6), jpegs(tmp_path / "data", 3, first=6)
    first = make_rig(train=train, val=val, epochs=3, folder=tmp_path / "one")
    first.fit()
    assert sorted(decoded) == sorted(item.name for item in (*train.items, *val.items))
    decoded.clear()
    second = make_rig(train=train, val=val, epochs=3, folder=tmp_path / "two")
    second.fit()
    assert sorted(decoded) == sorted(item.name for item in val.items)
    decoded.clear()
    third = make_rig(train=train, val=val, epochs=3, cache=False)
    third.fit()
    assert len(decoded) == 3 * 6 + 3
    assert first.trainer.result.history[-1]["val_loss"] == second.trainer.result.history[-1]["val_loss"]
    for name, value in first.state().items():
        assert value.equal(second.state()[name])
        assert value.equal(third.state()[name])


def test_only_as_many_centre_views_are_remembered_as_fit(
    tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    val = jpegs(tmp_path / "data", 3)
    made = make_rig(val=val, epochs=2)
    monkeypatch.setattr(feeds, "_REMEMBERED", 2 * np.prod(made.net.source.card.input_size))
    made.fit()
    assert len(decoded) == 2 + 3 * 1


def test_the_last_answers_for_training_items_come_from_their_files(tmp_path: Path, decoded: list[str]) -> None:
    train = jpegs(tmp_path / "data", 4)
    made = make_rig(train=train, epochs=1)
    made.fit()
    decoded.clear()
    made.trainer.predict(train.items)
    assert len(decoded) == 4
