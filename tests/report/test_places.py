"""Paths of the user's machine are taken out of what is shown to others; everything else stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.report.places import places_of, without_places

RUN = {
    "data": {"path": "my data/of mine/insects"},
    "source": {"address": "/nets/with a space/net", "origin": "net"},
    "settings": {"source": "/nets/with a space/net,timm:resnet18", "weights": "w/x.pth", "foreign": None},
    "race": [{"source": "C:\\nets\\other"}, {"source": "timm:hf-hub:org/name"}],
}


def test_the_paths_of_a_record_are_found_and_addresses_are_none() -> None:
    found = places_of(RUN)
    assert set(found) == {"my data/of mine/insects", "/nets/with a space/net", "w/x.pth", "C:\\nets\\other"}
    assert sorted(found, key=len, reverse=True) == found


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("source /nets/with a space/net: as asked", "source net: as asked"),
        ("C:\\nets\\other is slower", "other is slower"),
        ("see ~/mine/a.txt, then", "see a.txt, then"),
        ("'/a/b/c'", "'c'"),
        ("D:\\x\\y.png", "y.png"),
    ],
)
def test_of_a_path_the_last_name_stays(text: str, wanted: str) -> None:
    assert without_places(text, places_of(RUN)) == wanted


@pytest.mark.parametrize(
    "text", ["timm:hf-hub:org/name", "https://a.b/c/d", "images/s", "3 / 4", "and/or", "a 1/2", "/predict", ""]
)
def test_what_is_no_path_stays(text: str) -> None:
    assert without_places(text) == text


def test_names_of_classes_stay_as_they_are_also_where_they_look_like_paths() -> None:
    value = {"classes": ["/a/b/c"], "per_class": {"/a/b/c": 1}, "other": ["/a/b/c", 1, None, {"x": "/a/b/c"}]}
    assert without_places(value) == {**value, "other": ["c", 1, None, {"x": "c"}]}


@given(st.lists(st.text("abcdefgh .-_äß", min_size=1, max_size=8), min_size=2, max_size=5))
def test_no_folder_of_a_named_path_is_left(parts: list[str]) -> None:
    path = "/" + "/".join(parts)
    folder = path.rpartition("/")[0]
    assert folder not in without_places(f"look at {path} now", places_of({"data": {"path": path}}))
