"""Batches are the same however many threads make them, and an unreadable picture is left out, named, never replaced."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from headstart.data.augment import Augmentation, View, center_view, flipped_view
from headstart.data.cores import default_workers
from headstart.data.decode import decode
from headstart.data.loader import Views, batches
from headstart.errors import UnreadableImage
from headstart.files import hash_bytes
from headstart.records import Card, FileOrigin, Item, MemoryOrigin

CARD = Card("toy", input_size=(3, 16, 16), crop_pct=1.0)


def numbered(n: int) -> list[Item]:
    """Item i is one colour: every value is i."""
    return [Item(f"p{i}", MemoryOrigin(np.full((20, 18, 3), i, np.uint8)), 0) for i in range(n)]


def orders(n: int, size: int) -> list[np.ndarray]:
    return np.array_split(np.random.default_rng(0).permutation(n), -(-n // size))


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("augmented", [False, True])
def test_batches_do_not_depend_on_the_number_of_threads(workers: int, augmented: bool) -> None:
    rng = np.random.default_rng(3)
    items = [Item(f"p{i}", MemoryOrigin(rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)), 0) for i in range(23)]
    views = Views(items, CARD, augmentation=Augmentation() if augmented else None, seed=5)
    alone = list(batches(views, orders(23, 4), workers=0))
    found = list(batches(views, orders(23, 4), workers=workers))
    assert len(alone) == len(found) == 6
    for a, b in zip(alone, found, strict=True):
        assert torch.equal(a.images, b.images)
        assert np.array_equal(a.index, b.index)


@pytest.mark.parametrize("workers", [0, 3])
def test_an_unreadable_picture_is_left_out_and_named_and_nothing_replaces_it(workers: int) -> None:
    items = numbered(9)
    items[4] = Item("bad", MemoryOrigin(b"not a picture"), 0)
    found = list(batches(Views(items, CARD), [np.arange(3), np.arange(3, 6), np.arange(6, 9)], workers=workers))
    assert [batch.index.tolist() for batch in found] == [[0, 1, 2], [3, 5], [6, 7, 8]]
    assert [batch.images[:, 0, 0, 0].tolist() for batch in found] == [[0, 1, 2], [3, 5], [6, 7, 8]]
    assert [s.file for batch in found for s in batch.skipped] == ["bad"]
    assert "not a picture" in found[1].skipped[0].reason


def test_a_batch_of_unreadable_pictures_is_empty() -> None:
    (batch,) = batches(Views([Item("bad", MemoryOrigin(b""), 0)], CARD), [np.array([0])], workers=2)
    assert len(batch.index) == len(batch.images) == 0
    assert batch.skipped[0].reason == "file is empty"


@pytest.mark.parametrize("workers", [0, 2])
def test_any_other_error_comes_out(workers: int) -> None:
    def view(position: int) -> Tensor:
        raise RuntimeError(f"our own bug at {position}")

    with pytest.raises(RuntimeError, match="our own bug at 0"):
        list(batches(view, [np.arange(2)], workers=workers))
    assert not decoding()


def decoding() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("decode")]


def test_a_generator_closed_early_leaves_no_threads_and_little_work() -> None:
    seen: list[int] = []

    def view(position: int) -> Tensor:
        seen.append(position)
        return torch.zeros(3, 4, 4, dtype=torch.uint8)

    made = batches(view, [np.arange(i, i + 5) for i in range(0, 500, 5)], workers=2)
    assert isinstance(made, Iterator)
    next(made)
    assert decoding()
    made.close()  # type: ignore[attr-defined]
    assert not decoding()
    assert len(seen) <= 20  # no more than was decoded ahead


def test_work_is_decoded_ahead_but_not_without_bound() -> None:
    asked: list[int] = []

    def order() -> Iterator[np.ndarray]:
        for number in range(50):
            asked.append(number)
            yield np.array([number])

    made = batches(lambda p: torch.zeros(3, 2, 2, dtype=torch.uint8), order(), workers=1)
    for _ in range(5):
        next(made)
    assert 5 < len(asked) <= 8
    made.close()  # type: ignore[attr-defined]


def test_no_items_give_no_batches() -> None:
    assert list(batches(Views([], CARD), [], workers=2)) == []


def test_an_empty_array_of_positions_gives_an_empty_batch() -> None:
    (batch,) = batches(Views(numbered(1), CARD), [np.array([], dtype=np.int64)], workers=0)
    assert len(batch.index) == 0
    assert batch.skipped == ()


def test_the_kind_of_view_decides_the_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    items = [Item("a", MemoryOrigin(image), 0)]
    assert torch.equal(Views(items, CARD)(0), center_view(image, CARD))
    assert torch.equal(Views(items, CARD, view=View("flipped"))(0), flipped_view(image, CARD))


def test_a_file_that_was_replaced_since_the_audit_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    import odd_files

    path = tmp_path / "a.png"
    path.write_bytes(odd_files.encoded(odd_files.photo(24, 16, 1), "PNG"))
    known = hash_bytes(path.read_bytes())
    views = Views([Item("a.png", FileOrigin(path), 0)], CARD, hashes=[known])
    assert torch.equal(views(0), center_view(decode(path.read_bytes(), "a"), CARD))
    path.write_bytes(odd_files.encoded(odd_files.photo(24, 16, 2), "PNG"))
    with pytest.raises(UnreadableImage, match=r"a\.png: the file has changed"):
        views(0)


def test_there_is_at_least_one_thread_and_at_most_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= default_workers() <= 8
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert default_workers() == 1
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    assert default_workers() == 8
