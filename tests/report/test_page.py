"""The page as text: every section, nothing missing breaks it, nothing hostile gets through."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest

from headstart.records import plain
from headstart.report import Picture, render, to_markdown
from headstart.report.picture import data_uri

from .example_runs import HOSTILE, full, hostile, jpeg, many, pictures

VOID = {"meta", "img", "br", "input", "link"}


class Page(HTMLParser):
    """The tags, texts and ids of a page; complains about tags that do not close in order."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def page(run: dict[str, Any], shown: dict[str, list[Picture]] | None = None) -> Page:
    return Page(render(run, pictures=shown or {}))


def full_pictures() -> dict[str, list[Picture]]:
    return pictures(["ants/1.jpg", "bees/2.jpg"], ["ants", "bees"])


def test_the_headline_says_how_many_were_right_the_interval_and_the_majority() -> None:
    run = full()
    run["scores"]["test"].update(accuracy=0.9673, accuracy_interval=[0.9254, 0.9861])
    text = page(run).text
    assert "0.967 of 153 sealed test images right (95 % interval 0.925 to 0.986), majority 0.542." in text
    assert "gives the right answer for 148 of 153 images that it had never seen" in text


def test_a_full_record_fills_every_section() -> None:
    found = page(full(), full_pictures())
    sections = [attrs["id"] for attrs in found.all("section")]
    assert sections == ["result", "data", "plan", "scores", "curves", "confusion", "errors", "race", "made"]
    for words in (
        "imageNotFound.gif",
        "a placeholder, not a picture",
        "train/ants/a.jpg",
        "val/bees/d.jpg",
        "one colour",
        "Class bees has 12 pictures",
        "became the sealed test set",
        "Few images a class",
        "8,394,754",
        "Chosen strength",
        "layer4",
        "0.0003",
        "ab12ab12ab12…",
        "stayed frozen",
        "153 computed, 245 reused",
        "27.7 more",
        "the loss became NaN",
        "it neither overfits nor underfits",
        "More images of bees would help most.",
        "calibration error 0.021",
        "headstart fit 'ants and bees' --out run",
        "apache-2.0",
        "3b1f" * 16,
        "2.15.0",
        "6 min 12 s",
        "chosen",
        "headstart 0.1.0",
    ):
        assert words in found.text, words


def test_an_empty_record_still_makes_a_page_that_says_so() -> None:
    found = page({})
    assert [attrs["id"] for attrs in found.all("section")] == ["result", "data", "made"]
    assert "holds no scores yet" in found.text
    assert "The record says nothing about the data." in found.text


def test_every_link_of_the_navigation_leads_to_a_section() -> None:
    for run in ({}, full(), many()):
        found = page(run, full_pictures() if run else None)
        ids = [attrs["id"] for _, attrs in found.tags if attrs.get("id")]
        assert len(ids) == len(set(ids))
        assert {str(a["href"])[1:] for a in found.all("a")} == {str(s["id"]) for s in found.all("section")}


def test_headings_descend_one_step_at_a_time_and_there_is_one_h1() -> None:
    for run in ({}, full(), many(), hostile()):
        levels = [int(tag[1]) for tag, _ in page(run, full_pictures()).tags if re.fullmatch(r"h[1-6]", tag)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(b <= a + 1 for a, b in pairwise(levels))


def test_tables_have_captions_and_scopes_and_pictures_have_alternatives() -> None:
    found = page(full(), full_pictures())
    tags = [tag for tag, _ in found.tags]
    assert tags.count("caption") == tags.count("table") > 5
    assert all(attrs.get("scope") in ("col", "row") for attrs in found.all("th"))
    assert all(attrs.get("alt") or attrs.get("class") == "map" for attrs in found.all("img"))
    for landmark in ("main", "nav", "header", "footer"):
        assert tags.count(landmark) == 1


def test_the_page_holds_no_script_and_no_address_that_would_be_fetched() -> None:
    found = page(full(), full_pictures())
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in found.tags}
    assert all(
        str(attrs["src"]).startswith(("data:image/jpeg;base64,", "data:image/png;base64,"))
        for attrs in found.all("img")
    )
    policy = next(attrs for attrs in found.all("meta") if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_every_chart_of_a_page_is_valid_xml() -> None:
    for run in (full(), many(), hostile()):
        charts = re.findall(r"<svg .*?</svg>", render(run, pictures={}), flags=re.DOTALL)
        assert len(charts) >= 4
        assert [ET.fromstring(chart) for chart in charts]


def test_hostile_names_add_no_tag_and_no_attribute_and_can_be_written() -> None:
    source = render(hostile(), pictures=pictures(list(HOSTILE), list(HOSTILE)))
    source.encode("utf-8")
    found = Page(source)
    assert "script" not in {tag for tag, _ in found.tags}
    assert not [key for _, attrs in found.tags for key in attrs if key.startswith("on")]
    assert "<script>document.title='run'</script>" in found.text
    assert "{{ 7 * 7 }}" in found.text
    assert not re.search("[\u202e\u2069\x00\ud800-\udfff]", source)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, entry in inner:
        yield (*path, key)
        if len(path) < 3:
            yield from _places(entry, (*path, key))


@pytest.mark.parametrize("value", [None, "", "words", 3, -1.5, float("nan"), True, [], {}, [None], {"x": None}, [[]]])
def test_whatever_stands_in_the_place_of_any_part_the_page_is_made(value: Any) -> None:
    from headstart.report.view import view

    run = full()
    places = [place for place in _places(run) if place[0] not in ("race", "confusion") or len(place) < 4]
    for place in places[:: 1 if value is None else 3]:
        broken = copy.deepcopy(run)
        target = broken
        for key in place[:-1]:
            target = target[key]
        target[place[-1]] = value
        assert view(broken, {})["head"].title.startswith("A classifier of")
        assert to_markdown(broken).startswith("# A classifier of")


@pytest.mark.parametrize("key", list(full()))
@pytest.mark.parametrize("value", [None, [], {}, "words"])
def test_each_part_of_a_record_may_be_missing(key: str, value: Any) -> None:
    assert "Can I trust this?" in page({**full(), key: value}).text


def test_a_record_read_back_from_json_gives_the_same_page() -> None:
    run = plain(full())
    assert render(json.loads(json.dumps(run)), pictures={}) == render(full(), pictures={})


def test_many_classes_show_the_hardest_the_most_confused_and_a_drawn_matrix() -> None:
    found = page(many())
    for words in ("The ten hardest classes", "All 47 classes", "The most confused pairs", "23 in between are left out"):
        assert words in found.text
    assert not [attrs for attrs in found.all("table") if "confusion" in str(attrs.get("class"))]
    assert "confusion-title" in render(many(), pictures={})


def test_a_matrix_too_fine_to_draw_is_left_out_with_a_word() -> None:
    run = many(160)
    assert "With 160 classes the matrix is too fine to draw" in page(run).text


def test_a_confusion_matrix_shows_its_numbers_for_few_classes() -> None:
    run = full()
    run["scores"]["test"]["confusion"] = [[61, 9], [7, 76]]
    found = page(run)
    assert "16 mistakes in 153 images. The most frequent: ants taken for bees (9 times)." in found.text
    assert re.search(r"ants 61 9 bees 7 76", found.text)


def test_impossible_counts_in_a_confusion_matrix_are_taken_as_none() -> None:
    run = full()
    run["scores"]["test"]["confusion"] = [[-3, 0], [7, 76]]
    assert "7 mistakes in 83 images" in page(run).text
    run["scores"]["test"]["confusion"] = [[0, 0], [0, 0]]
    assert "0 mistakes in 0 images." in page(run).text


def test_a_broken_freeze_is_shouted() -> None:
    run = full()
    run["frozen"].update(sha256_after="cd34" * 16, unchanged=False)
    assert "do not use this model" in page(run).text
    run["frozen"].update(unchanged=None, sha256_before={"stem": "ab" * 32}, sha256_after={"stem": "ab" * 32})
    found = page(run)
    assert "stayed frozen" in found.text
    assert "stem abababababab…" in found.text


def test_a_long_list_of_skipped_files_is_cut_and_says_so() -> None:
    run = full()
    run["data"]["skipped"] = [{"file": f"{i}.jpg", "reason": "empty file"} for i in range(60)]
    run["data"]["duplicates"] = [[f"{i}.jpg", f"{i}b.jpg"] for i in range(51)]
    text = page(run).text
    assert "60 files were not used" in text
    assert "and 10 more" in text
    assert "and 1 more" in text


def test_a_strategy_that_got_nothing_right_is_not_shown_with_its_validation_score() -> None:
    run = full()
    run["race"] = [{"strategy": "full", "test": {"accuracy": 0.0}, "val": {"accuracy": 0.25}}]
    assert "full: 0.000" in render(run, pictures={})


def test_a_race_over_several_networks_names_them() -> None:
    run = full()
    assert "Network Head" not in page(run).text
    run["race"][1]["source"] = "toy"
    assert re.search(r"Network Head", page(run).text)


def test_a_picture_without_bytes_is_a_box_with_its_name() -> None:
    found = page(full(), {"sample": [Picture("gone.jpg", b"", "ants")]})
    assert found.all("img") == []
    assert [a["aria-label"] for a in found.all("div") if a.get("class") == "missing"] == ["gone.jpg, labelled ants"]


def test_a_picture_s_address_names_its_kind() -> None:
    assert data_uri(jpeg((1, 2, 3))).startswith("data:image/jpeg;")
    assert data_uri(b"\x89PNG\r\n").startswith("data:image/png;")
    assert data_uri(b"") == ""


def test_the_page_does_not_grow_without_reason() -> None:
    assert len(render(full(), pictures={})) < 120_000
    assert len(render(many(150), pictures={})) < 600_000


def test_the_report_imports_no_torch() -> None:
    code = (
        "import sys; from headstart.report import render, to_markdown; render({}, pictures={}); to_markdown({}); "
        "sys.exit(bool({'torch', 'numpy', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_page_names_the_engine_of_the_features_and_how_far_off_it_is() -> None:
    run = full()
    run["features"] = {"items": 397}
    run["work"] = {"features_computed": 300, "features_reused": 97, "engine": {"identity": "openvino-2026.4/fp32"}}
    assert "397 items were needed: 300 computed, 97 reused. They come from openvino-2026.4/fp32." in render(
        run, pictures={}
    )
    run["work"]["engine"]["max_relative_difference"] = 2.9204e-06
    assert "openvino-2026.4/fp32, whose numbers are within 3e-06 of the largest value" in render(run, pictures={})
    del run["work"]["engine"]
    assert "They come from" not in render(run, pictures={})


def test_errors_have_maps_that_a_switch_shows_and_none_where_there_are_none() -> None:
    shown = pictures(["ants/1.jpg", "bees/2.jpg"], ["ants", "bees"])
    page = Page(render(full(), pictures=shown))
    maps = [attributes for tag, attributes in page.tags if tag == "img" and attributes.get("class") == "map"]
    assert [attributes["alt"] for attributes in maps] == ["Map of where the model looked"] * 2
    assert [attributes["type"] for tag, attributes in page.tags if tag == "input"] == ["checkbox"]
    bare = {**shown, "errors": [Picture(one.name, one.data, one.label) for one in shown["errors"]]}
    page = Page(render(full(), pictures=bare))
    assert not [tag for tag, _ in page.tags if tag == "input"]
