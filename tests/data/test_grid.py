"""The sample grid shows the classes evenly, the same for the same seed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import helpers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.data.grid import sample, sample_grid
from headstart.data.read import read
from headstart.errors import DataError
from headstart.records import Dataset, FileOrigin, Item, MemoryOrigin


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=30), st.integers(0, 40), st.integers(0, 3), st.randoms())
def test_a_sample_is_even_over_the_classes_and_blind_to_order(
    labels: list[int], n: int, seed: int, random: object
) -> None:
    items = list(helpers.made(labels).items)
    chosen = sample(items, n, seed=seed)
    assert len(chosen) == len({item.name for item in chosen}) == min(n, len(items))
    taken, there = Counter(item.label for item in chosen), Counter(labels)
    most = max(taken.values(), default=0)
    assert all(taken[label] >= min(most - 1, size) for label, size in there.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    assert sample(items, n, seed=seed) == chosen
    assert sorted(sample(items, n, seed=seed, by_turns=True), key=lambda i: i.name) == sorted(
        chosen, key=lambda i: i.name
    )


def test_the_grid_has_the_size_asked_for_and_shows_the_pictures(tmp_path: Path) -> None:
    dataset = read(helpers.fill(tmp_path, {"a": 5, "b": 5}))
    image = sample_grid(dataset, 6, side=80, columns=3)
    gap, strip = 4, 16
    assert image.size == (gap + 3 * (80 + gap), gap + 2 * (80 + strip + gap))
    cell = np.asarray(image)[gap : gap + 80, gap : gap + 80]
    assert len(np.unique(cell[0], axis=0)) == 1  # a 3:2 picture leaves paper above and below
    assert len(np.unique(cell[40], axis=0)) > 20
    assert sample_grid(dataset, 100, side=80, columns=50).size[0] == gap + 10 * (80 + gap)


def test_the_grid_follows_the_seed(tmp_path: Path) -> None:
    dataset = read(helpers.fill(tmp_path, {"a": 9, "b": 9}))
    first = np.asarray(sample_grid(dataset, 4, side=40, seed=1))
    assert np.array_equal(first, np.asarray(sample_grid(dataset, 4, side=40, seed=1)))
    assert not np.array_equal(first, np.asarray(sample_grid(dataset, 4, side=40, seed=2)))


def test_class_colours_may_be_given(tmp_path: Path) -> None:
    dataset = read(helpers.fill(tmp_path, {"a": 1, "b": 1}))
    image = sample_grid(dataset, 2, side=80, columns=2, colours={"a": (1, 200, 3)})
    assert image.getpixel((6, 4 + 80 + 2)) == (1, 200, 3)
    assert image.getpixel((6 + 84, 4 + 80 + 2)) != (1, 200, 3)


def test_broken_pictures_and_long_or_odd_names_are_drawn(tmp_path: Path) -> None:
    classes = ("a name that is much too long to fit below a picture", "\n\udcff")
    good = Item("good", MemoryOrigin(np.zeros((2, 300), np.uint8)), 0)
    items = (good, Item("bad", FileOrigin(tmp_path / "none.jpg"), 1), Item("free", good.origin, None))
    image = sample_grid(Dataset("made", classes, items), 3, side=40)
    assert image.size[0] > 100


def test_nothing_to_show_is_an_error() -> None:
    with pytest.raises(DataError, match="no items to show"):
        sample_grid(Dataset("made", ("a", "b"), ()), 3)
