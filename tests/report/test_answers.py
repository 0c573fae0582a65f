"""The sections that answer a reader's questions, on the page and in Markdown: all there, none without its data."""

from __future__ import annotations

import copy
import json
import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from typing import Any

import pytest

from headstart.records import plain
from headstart.report import render, to_markdown

from .example_answers import NEW_KEYS, answers, crowded, judged, judged_hostile, suspects, without_test_set
from .example_runs import HOSTILE, full, pictures
from .test_page import Page, full_pictures, page

ANSWERS = ["choice", "sure", "unknown", "helps", "honest"]
BELONGS = {
    "choice": ("race", "choice", "advice", "ranking", "budget"),
    "sure": ("calibration",),
    "unknown": ("reject",),
    "helps": ("forecast", "label_issues", "hardest_classes", "near_duplicates"),
    "honest": ("test_set", "cross_validation", "repeats", "interpolation"),
}


def judged_page(run: dict[str, Any] | None = None) -> Page:
    run = run or judged()
    return page(run, {**full_pictures(), "label_issues": suspects(run)})


def sections(found: Page) -> list[str]:
    return [str(attrs["id"]) for attrs in found.all("section")]


def test_the_answers_come_after_the_result_and_before_the_evidence() -> None:
    assert sections(judged_page()) == [
        "result",
        *ANSWERS,
        "data",
        "plan",
        "scores",
        "curves",
        "confusion",
        "errors",
        "made",
    ]


def test_an_old_record_has_none_of_the_new_sections_and_keeps_its_race() -> None:
    assert not set(sections(page(full()))) & set(ANSWERS)
    assert "race" in sections(page(full()))
    assert "Which way of transferring" not in to_markdown(full())


@pytest.mark.parametrize("section", ANSWERS)
def test_a_section_without_its_keys_is_left_out_with_its_link(section: str) -> None:
    run = judged()
    for key in BELONGS[section]:
        run[key] = None
    found = judged_page(run) if section != "helps" else page(run)
    assert sections(found)[1 : len(ANSWERS)] == [name for name in ANSWERS if name != section]
    assert f"#{section}" not in [attrs["href"] for attrs in found.all("a")]


def test_a_full_record_answers_every_question() -> None:
    text = judged_page().text
    for words in (
        "Partial · linear wins: discriminative · linear is 0.8 points better on 245 held-out pictures",
        "9 ways of using a pretrained network were tried; 5 were stopped early",
        "behind after 3 of 12 epochs: 0.902 against 0.951",
        "All on resnet18.a1_in1k unless another network is named",
        "0.955 0.921 to 0.975",
        "in 77.4 % of such comparisons (p = 0.774)",
        "The data are small and similar (92 training images a class, likeness 0.780 of 1 to what the network has",
        "The race did not agree: it chose partial.",
        "resnet18.a1_in1k promised most, and 2 went into the race",
        "0.412",
        "10 min 0 s were allowed, 6 min 12 s were used",
        "fine-tuning of efficientnet_b0",
        "lay 4.8 percentage points apart on average before the correction and 2.1 after it",
        "temperature 1.31; 1 changes nothing",
        "fitted on 245 images that were held back from training, never on test images",
        "it refuses 7 of 153 (4.6 %, plausibly 2.2 to 9.1 %)",
        "39 of 120 (32.5 %, plausibly 24.8 to 41.3 %) of “other insects” all the same",
        "its highest probability is below 0.712",
        "200 more images would bring about +1.1 points (-0.5 to +2.4), perhaps nothing.",
        "500 more +1.6 points −0.3 to +3.2",
        "The fitted curve levels off at 0.981",
        "Collect first: ants.",
        "ants 70 0.914 bees (8.6 %)",
        "3 labels are more likely wrong than right",
        "labelled ants looks like bees 0.996 train/ants/92.jpg",
        "label_issues.csv, beside this report",
        "train/bees/81.jpg ≈ test/bees/12.jpg",
        "on the other 139 for 0.964 (0.919 to 0.985)",
        "The test set of 153 images was opened once, for the final score, after the plan was chosen and trained.",
        "trained 5 times with other random seeds: 0.960 on average, from 0.948 to 0.967",
        "60.0 % of the way",
        "To check: reject in run.json.",
    ):
        assert words in text, words


def test_one_candidate_alone_is_marked_as_chosen_in_chart_and_table() -> None:
    source = render(judged(), pictures={})
    assert source.count("✓ chosen") == 1
    assert source.count('<span class="tag">chosen</span>') == 1


def test_the_section_of_a_compared_race_is_not_shown_beside_that_of_an_automatic_one() -> None:
    assert "Strategies compared" not in judged_page().text


def test_the_advice_of_the_diagnosis_stands_in_one_place_only() -> None:
    assert judged_page().text.count("A larger input size may help.") == 1


def test_calibration_is_explained_in_one_place_only() -> None:
    assert "How sure is it, rightly?" not in judged_page().text
    assert "How sure is it, rightly?" in page(full()).text


def test_without_a_test_set_the_page_says_what_stands_in() -> None:
    text = judged_page(without_test_set()).text
    assert "There is no test set." in text
    assert "each judged by models that had not seen it (5 folds, 3 times)" in text
    assert "This model, cross-validated" in text


def test_every_opening_is_listed_when_there_were_several() -> None:
    run = judged()
    run["test_set"]["openings"].append({"for": "a second look", "after": "the first score"})
    text = judged_page(run).text
    assert "opened 2 times" in text
    assert "a second look the first score" in text


def test_tables_have_captions_pictures_alternatives_and_headings_an_order() -> None:
    found = judged_page()
    tags = [tag for tag, _ in found.tags]
    assert tags.count("caption") == tags.count("table") > 12
    assert all(attrs.get("alt") for attrs in found.all("img"))
    ids = [attrs["id"] for _, attrs in found.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))
    levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert {str(a["href"])[1:] for a in found.all("a")} == set(sections(found))


def test_every_chart_is_valid_xml_with_words_for_those_who_cannot_see_it() -> None:
    charts = re.findall(r'<svg [^>]*class="chart".*?</svg>', render(judged(), pictures={}), flags=re.DOTALL)
    found = {}
    for chart in charts:
        root = ET.fromstring(chart)
        found[root[0].get("id", "")] = root[1].text or ""
    for key in (
        "forest",
        "advice",
        "reliability-before",
        "reliability-after",
        "unknown",
        "forecast",
        "twins",
        "repeats",
    ):
        assert len(found[f"{key}-title"]) > 10, key
    assert "partial from layer4 · linear head 0.955 (chosen)" in found["forest-title"]
    assert "said 0.550" in found["reliability-before-title"]
    assert "own test images 4.6\u00a0%" in found["unknown-title"]
    assert "Forecast for 560 images" in found["forecast-title"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_add_no_tag_no_attribute_and_no_line(name: str) -> None:
    run = judged_hostile(name)
    source = render(run, pictures={**pictures(list(HOSTILE), list(HOSTILE)), "label_issues": suspects(run)})
    source.encode("utf-8")
    found = Page(source)
    assert "script" not in {tag for tag, _ in found.tags}
    assert not [key for _, attrs in found.tags for key in attrs if key.startswith("on")]
    said = to_markdown(run)
    said.encode("utf-8")
    assert "<script" not in said.replace("\\<", "")
    for block in said.split("\n\n"):
        if block.startswith("|"):
            assert len({line.replace("\\|", "").count("|") for line in block.splitlines()}) == 1


@pytest.mark.parametrize(
    "value", [None, "", "words", 3, -1.5, 1e300, float("nan"), True, [], {}, [None], {"x": None}, [[]], [3]]
)
def test_whatever_stands_in_the_place_of_any_part_of_an_answer_the_page_is_made(value: Any) -> None:
    from headstart.report.view import view

    run = judged()
    for place in _places({key: run[key] for key in (*NEW_KEYS, "race")})[:: 1 if value is None else 3]:
        broken = copy.deepcopy(run)
        target: Any = broken
        for key in place[:-1]:
            target = target[key]
        target[place[-1]] = value
        assert view(broken, {})["head"].title.startswith("A classifier of")
        assert to_markdown(broken).startswith("# A classifier of")


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    return [
        place
        for key, entry in inner
        for place in [(*path, key), *(_places(entry, (*path, key)) if len(path) < 4 else [])]
    ]


@pytest.mark.parametrize("key", [*NEW_KEYS, "race"])
@pytest.mark.parametrize("value", [None, [], {}, "words"])
def test_each_new_key_may_be_missing(key: str, value: Any) -> None:
    assert "Can I trust this?" in page({**judged(), key: value}).text
    run = judged()
    del run[key]
    assert "Can I trust this?" in page(run).text


@pytest.mark.parametrize("key", NEW_KEYS)
def test_each_new_key_alone_makes_a_page(key: str) -> None:
    assert "A classifier of images" in page({key: answers()[key]}).text
    assert to_markdown({key: answers()[key]}).startswith("# A classifier of images")


def test_very_many_of_everything_are_cut_and_say_so() -> None:
    run = crowded()
    source = render(run, pictures={"label_issues": suspects(run)})
    assert len(source) < 3_000_000
    text = Page(source).text
    assert "Not drawn: 276 more." in text
    assert "900 labels are more likely wrong" in text
    assert "All groups of near-identical pictures: 800" in text
    assert text.count("run.json lists them all") >= 5
    assert len(to_markdown(run)) < 200_000


def test_a_record_read_back_from_json_gives_the_same_page() -> None:
    assert render(json.loads(json.dumps(plain(judged()))), pictures={}) == render(judged(), pictures={})


def test_a_picture_of_a_suspect_label_shows_both_labels_and_its_alternative_names_them() -> None:
    found = judged_page()
    said = [str(attrs["alt"]) for attrs in found.all("img")]
    assert "train/ants/92.jpg, labelled ants, predicted bees" in said


def test_markdown_says_the_same_as_the_page() -> None:
    said = to_markdown(judged())
    titles = [line.removeprefix("## ") for line in said.splitlines() if line.startswith("## ")]
    assert titles[:6] == [
        "Can I trust this?",
        "Which way of transferring, and why",
        "Can the probabilities be believed?",
        "When does it say “unknown”?",
        "What would help?",
        "How honest is this?",
    ]
    for words in (
        "| partial from layer4 · linear head | 0.955 (0.921 to 0.975) | 245 |",
        "| 200 | +1.1 | −0.5 to +2.4 |",
        "| train/ants/92.jpg | ants | bees | 0.991 |",
        "was opened once",
    ):
        assert words in said, words
    assert "## Strategies" not in said


def test_the_bars_of_unknown_are_not_drawn_where_it_is_not_known_how_many_are_right() -> None:
    run = judged()
    run["reject"]["held_out"]["accuracy_kept"] = None
    assert "own test images" not in render(run, pictures={})
