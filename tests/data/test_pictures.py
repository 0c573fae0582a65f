"""A picture for training is decoded once, and its pixels do not depend on what the store holds."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from headstart.data import pictures
from headstart.data.pictures import Pictures, shrunk, training_side
from headstart.errors import OutputError, UnreadableImage
from headstart.files import hash_file, home
from headstart.records import Card, FileOrigin, Item, MemoryOrigin
from noting import Noting

CARD = Card("any", input_size=(3, 16, 16), crop_pct=1.0)  # pictures of 21 pixels are trained on


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADSTART_HOME", str(tmp_path / "home"))


def photos(folder: Path, n: int = 5) -> tuple[list[Item], list[str]]:
    """JPEG files of several shapes, and their hashes."""
    folder.mkdir(exist_ok=True)
    items = []
    for number in range(n):
        pixels = np.random.default_rng(number).integers(0, 256, (20 + 7 * number, 48 - 6 * number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path := folder / f"{number}.jpg", quality=90)
        items.append(Item(path.name, FileOrigin(path), 0))
    return items, [hash_file(folder / item.name) for item in items]


def read(made: Pictures, n: int) -> list[np.ndarray]:
    made.refresh()
    found = [made(position) for position in range(n)]
    made.flush()
    return found


@settings(max_examples=25, deadline=None)
@given(tall=st.integers(1, 60), wide=st.integers(1, 60), side=st.integers(1, 40))
def test_shrinking_keeps_the_proportions_and_never_enlarges(tall: int, wide: int, side: int) -> None:
    image = np.full((tall, wide, 3), 77, np.uint8)
    small = shrunk(image, side)
    assert min(small.shape[:2]) == min(side, tall, wide)
    assert abs(small.shape[0] / small.shape[1] * wide / tall - 1) <= 1 / min(small.shape[:2])
    assert small.dtype == np.uint8
    assert (small == 77).all()


def test_what_is_trained_on_is_above_the_size_of_evaluation() -> None:
    assert training_side(CARD) == 21
    assert training_side(Card("any")) == round(1.3 * 256)


def test_pixels_are_the_same_cold_warm_half_filled_and_without_a_store(tmp_path: Path) -> None:
    items, hashes = photos(tmp_path / "photos")
    plain = Pictures(items, CARD, hashes=hashes, use_store=False)
    wanted = read(plain, 5)
    assert not (home() / "decoded").exists()
    some = Pictures(items[:2], CARD, hashes=hashes[:2])
    read(some, 2)
    half = Pictures(items, CARD, hashes=hashes)
    first = read(half, 5)
    warm = Pictures(items, CARD, hashes=hashes)
    second = read(warm, 5)
    assert (plain.decoded, some.decoded, half.decoded, warm.decoded) == (5, 2, 3, 0)
    for one, two, three in zip(wanted, first, second, strict=True):
        assert one.shape == two.shape == three.shape
        assert (one == two).all()
        assert (one == three).all()


def test_another_training_size_has_pictures_of_its_own(tmp_path: Path) -> None:
    items, hashes = photos(tmp_path / "photos", 2)
    read(Pictures(items, CARD, hashes=hashes), 2)
    larger = Pictures(items, Card("any", input_size=(3, 20, 20), crop_pct=1.0), hashes=hashes)
    assert min(read(larger, 2)[1].shape[:2]) == 26
    assert larger.decoded == 2


def test_a_replaced_file_is_unreadable_and_not_kept(tmp_path: Path) -> None:
    items, hashes = photos(tmp_path / "photos", 2)
    Image.new("RGB", (30, 30)).save(tmp_path / "photos" / "1.jpg")
    made = Pictures(items, CARD, hashes=hashes)
    made.refresh()
    made(0)
    with pytest.raises(UnreadableImage, match="changed"):
        made(1)
    made.flush()
    made.refresh()
    with pytest.raises(UnreadableImage, match="changed"):
        made(1)


def test_rows_are_written_whenever_the_buffer_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items, hashes = photos(tmp_path / "photos")
    monkeypatch.setattr(pictures, "_BUFFER", 1)
    made = Pictures(items, CARD, hashes=hashes)
    made.refresh()
    for position in range(4):
        made(position)
    assert len(list((home() / "decoded").rglob("*.safetensors"))) == 4


@pytest.mark.parametrize("which", ["reserve", "put"])
def test_a_store_without_room_is_said_once_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    items, hashes = photos(tmp_path / "photos")

    def full(*_: Any) -> None:
        raise OutputError("no room", where=tmp_path)

    monkeypatch.setattr(f"headstart.data.store.ArrayStore.{which}", full)
    monkeypatch.setattr(pictures, "_BUFFER", 1)
    told = Noting()
    made = Pictures(items, CARD, hashes=hashes, reporter=told)
    read(made, 5)
    assert len(read(made, 5)) == 5
    assert made.decoded == 10
    assert len(told.notes) == 1
    assert "no room" in told.notes[0]


def test_the_first_batch_of_rows_asks_for_room_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items, hashes = photos(tmp_path / "photos")
    asked: list[int] = []
    monkeypatch.setattr("headstart.data.store.ArrayStore.reserve", lambda _, nbytes: asked.append(nbytes))
    made = Pictures(items, CARD, hashes=hashes)
    made.refresh()
    held = made(0).nbytes + made(1).nbytes
    made.flush()
    made(2)
    made.flush()
    assert asked == [held * 5 // 2]


def test_arrays_in_memory_are_shrunk_and_not_kept_and_bytes_are(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(array).save(buffer := io.BytesIO(), "PNG")
    items = [Item("array", MemoryOrigin(array), 0), Item("bytes", MemoryOrigin(buffer.getvalue()), 0)]
    hashes = ["1" * 64, "2" * 64]
    one, two = read(made := Pictures(items, CARD, hashes=hashes), 2)
    assert one.shape == (21, 32, 3)
    assert (one == two).all()
    made.refresh()
    assert made._found is not None
    assert made._found.there.tolist() == [False, True]


def test_a_damaged_row_is_decoded_again_and_said(tmp_path: Path) -> None:
    items, hashes = photos(tmp_path / "photos", 2)
    wanted = read(Pictures(items, CARD, hashes=hashes), 2)
    (shard,) = (home() / "decoded").rglob("*.safetensors")
    data = bytearray(shard.read_bytes())
    place = bytes(data).index(wanted[0].tobytes())
    data[place] ^= 255
    shard.write_bytes(bytes(data))
    told = Noting()
    again = Pictures(items, CARD, hashes=hashes, reporter=told)
    assert all((one == two).all() for one, two in zip(wanted, read(again, 2), strict=True))
    assert again.decoded == 1
    assert "1 damaged" in told.notes[0]
