"""Rows of old pictures: kept ones without the pictures, others from pictures found by their bytes, none made up."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from headstart import files
from headstart.data.augment import Augmentation, View
from headstart.data.facts import load_data
from headstart.progress import Silent
from headstart.ship.learned import Known
from headstart.ship.recall import Album, recall
from headstart.sources import open_source
from headstart.transfer.features import Pass
from toydata import write_shapes

HOW = Pass(engine="torch")
VIEWS = (View(), View("augmented", 1, Augmentation(), 0))


def _known(folder: Path) -> Known:
    return Known.of([files.hash_file(path) for path in sorted(folder.rglob("*.png"))], [0] * 6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_shapes(tmp_path / "data", per_class=2)


def test_kept_rows_need_no_picture_and_are_the_same(folder: Path) -> None:
    source, known = open_source("toy"), _known(folder)
    album = Album(load_data(folder))
    first = recall(source, known, album, how=HOW, views=VIEWS, reporter=Silent())
    assert (first.computed, bool(first.there.all())) == (6, True)
    shutil.rmtree(folder)
    again = recall(source, known, Album(None), how=HOW, views=VIEWS, reporter=Silent())
    assert (again.computed, bool(again.there.all())) == (0, True)
    for a, b in zip(first.rows, again.rows, strict=True):
        assert np.array_equal(a, b)
    assert not np.array_equal(*first.rows)


def test_pictures_are_found_by_their_bytes_wherever_they_stand(folder: Path) -> None:
    source, known = open_source("toy"), _known(folder)
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        path.rename(path.with_name(f"moved-{number}.png"))
    found = recall(source, known, Album(load_data(folder)), how=HOW, views=VIEWS[:1], reporter=Silent())
    assert found.there.all()


def test_what_is_nowhere_has_no_row(folder: Path) -> None:
    source, known = open_source("toy"), _known(folder)
    gone = sorted(folder.rglob("*.png"))[2]
    gone.write_bytes(sorted(folder.rglob("*.png"))[3].read_bytes())
    found = recall(source, known, Album(load_data(folder)), how=HOW, views=VIEWS[:1], reporter=Silent())
    assert found.there.tolist() == [True, True, False, True, True, True]
    assert np.isnan(found.rows[0][2]).all()
    none = recall(source, Known.of(), Album(None), how=HOW, views=VIEWS[:1], reporter=Silent())
    assert len(none.there) == 0


def test_an_album_tells_seen_pictures_by_the_first_digits_and_their_class(folder: Path) -> None:
    album = Album(load_data(folder))
    some = sorted(album.items)[:3]
    found = album.seen(frozenset(key[:16] for key in some), ("square", "disc", "bar"))
    assert list(found.hashes) == some
    names = {key: item.name.partition("/")[0] for key, item in album.items.items()}
    assert [("square", "disc", "bar")[label] for label in found.labels] == [names[key] for key in some]
    assert len(Album(None).seen(frozenset(), ("a",))) == 0
