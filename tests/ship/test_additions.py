"""New pictures sorted out: what is new, what is held back, and that equal bytes stay on one side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart import files
from headstart.errors import DataError
from headstart.progress import Silent
from headstart.records import Item, MemoryOrigin
from headstart.ship.additions import ENOUGH, Additions, held_back, read_additions
from headstart.ship.learned import Known
from toydata import CLASSES, picture


def additions(counts: list[int], *, twins: int = 1) -> Additions:
    """So many pictures of each class, in groups of `twins`."""
    labels = [number for number, count in enumerate(counts) for _ in range(count)]
    hashes = [files.hash_bytes(str(n).encode()) for n in range(len(labels))]
    items = tuple(Item(str(n), MemoryOrigin(b""), label) for n, label in enumerate(labels))
    groups = tuple(f"{label}-{n // twins}" for n, label in enumerate(labels))
    names = tuple(str(number) for number in range(len(counts)))
    return Additions("memory", names, (), items, Known.of(hashes, labels), groups, (), Known.of())


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any), st.integers(1, 3), st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_a_fifth_is_held_back_of_classes_with_enough_and_groups_stay_together(
    counts: list[int], twins: int, seed: int
) -> None:
    found = additions(counts, twins=twins)
    held = held_back(found, seed=seed)
    assert np.array_equal(held, held_back(found, seed=seed))
    labels, groups = found.known.labels, np.array(found.tied)
    assert not set(groups[held]) & set(groups[~held])
    for number, count in enumerate(counts):
        mine = int(held[labels == number].sum())
        if count < ENOUGH:
            assert mine == 0
        else:
            assert mine < count
            if twins == 1:
                assert count // 5 <= mine <= -(-count // 5)


def test_another_seed_holds_others_back() -> None:
    found = additions([40, 40])
    assert not np.array_equal(held_back(found, seed=0), held_back(found, seed=1))


def _folder(place: Path, kinds: dict[str, range]) -> Path:
    for name, numbers in kinds.items():
        (place / name).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            picture(name.rpartition("/")[2], number).save(place / name / f"{number:03d}.png")
    return place


def test_old_classes_keep_their_places_and_new_ones_follow(tmp_path: Path) -> None:
    data = _folder(tmp_path, {"bar": range(2), "disc": range(2), "square": range(3)})
    found = read_additions(data, ("square", "other"), seen=(), reporter=Silent())
    assert found.classes == ("square", "other", "bar", "disc")
    assert found.added == ("bar", "disc")
    named = [found.classes[label] for label in found.known.labels]
    assert named == [item.name.partition("/")[0] for item in found.learn]


@pytest.mark.parametrize("splits", [("train", "val"), ("train", "test"), ("train", "val", "test")])
def test_what_is_kept_to_judge_with_is_what_fit_would_seal(splits: tuple[str, ...], tmp_path: Path) -> None:
    kinds = {f"{split}/{kind}": range(10 * n, 10 * n + 2) for n, split in enumerate(splits) for kind in CLASSES}
    found = read_additions(_folder(tmp_path, kinds), CLASSES, seen=(), reporter=Silent())
    assert {item.split for item in found.judge} == {splits[-1]}
    assert {item.split for item in found.learn} == set(splits[:-1])
    assert len(found.judge) == 6
    assert not set(found.known.hashes) & set(found.judge_known.hashes)


def test_a_twin_of_a_learned_picture_is_not_for_judging(tmp_path: Path) -> None:
    data = _folder(tmp_path, {"train/bar": range(4), "test/bar": range(3, 6)})
    found = read_additions(data, CLASSES, seen=(), reporter=Silent())
    assert found.repeated == ("test/bar/003.png",)
    assert (len(found.learn), len(found.judge)) == (4, 2)


def test_pictures_with_two_labels_are_learned_as_neither(tmp_path: Path) -> None:
    data = _folder(tmp_path, {"bar": range(3), "disc": range(3)})
    (data / "disc" / "also.png").write_bytes((data / "bar" / "001.png").read_bytes())
    found = read_additions(data, CLASSES, seen=(), reporter=Silent())
    assert sorted(found.contradictory) == ["bar/001.png", "disc/also.png"]
    assert len(found.learn) == 5


def test_what_was_seen_is_not_new_and_alone_is_nothing(tmp_path: Path) -> None:
    data = _folder(tmp_path, {"bar": range(3)})
    seen = {files.hash_file(data / "bar" / f"{n:03d}.png")[:16] for n in range(2)}
    found = read_additions(data, CLASSES, seen=seen, reporter=Silent())
    assert (found.seen, len(found.learn)) == (("bar/000.png", "bar/001.png"), 1)
    with pytest.raises(DataError, match="none of the 1 pictures is new: 1 were seen"):
        read_additions(_folder(tmp_path / "b", {"bar": range(1)}), CLASSES, seen=seen, reporter=Silent())


def test_a_class_of_which_nothing_can_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bar").mkdir()
    (tmp_path / "bar" / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="cannot be read"):
        read_additions(tmp_path, CLASSES, seen=(), reporter=Silent())
