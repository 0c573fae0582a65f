"""Names, numbers and times as a report writes them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.report import words
from headstart.report.reading import entries, interval, number, part, records, table, text, texts


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(), max_size=40))  # every code point, surrogates too
def test_a_clean_name_can_be_written_as_utf8_and_stands_in_one_line(name: str) -> None:
    cleaned = words.clean(name)
    assert cleaned.encode("utf-8").decode("utf-8") == cleaned
    assert len(cleaned.splitlines()) <= 1
    assert words.clean(cleaned) == cleaned


def test_clean_keeps_ordinary_names_of_every_script() -> None:
    for name in ("ants/12.jpg", "naïve café", "שלום", "漢字", "🐜 ant"):
        assert words.clean(name) == name


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("a\nb", "a\u240ab"),
        ("a\x7fb", "a\u2421b"),
        ("a\x85b", "a\\x85b"),
        ("a\udcffb", "a\\xffb"),
        ("a\ud800b", "a\ufffdb"),
        ("\u202egpj.exe", "[U+202E]gpj.exe"),
        ("a\u2028b", "a[U+2028]b"),
    ],
)
def test_clean_makes_what_is_invisible_visible(name: str, seen: str) -> None:
    assert words.clean(name) == seen


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "–"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (42, "42 s"),
        (59.4, "59 s"),
        (119.7, "2 min 0 s"),
        (7260, "2 h 1 min"),
    ],
)
def test_durations_come_in_a_person_s_unit(seconds: float | None, said: str) -> None:
    assert words.duration(seconds) == said


def test_numbers_are_written_plainly() -> None:
    assert (words.score(0.9666), words.score(None)) == ("0.967", "–")
    assert (words.signed(-0.5), words.signed(2, 0), words.signed(None)) == ("−0.5", "+2", "–")
    assert (words.count(11_689_512), words.count(None)) == ("11,689,512", "–")
    assert (words.plural(1, "image"), words.plural(0, "image"), words.plural(2, "class", "classes")) == (
        "1 image",
        "0 images",
        "2 classes",
    )
    assert (words.rate(0.0003), words.rate(None)) == ("0.0003", "–")
    assert words.short_hash("ab" * 32) == "abababababab…"
    assert words.short_hash("short") == "short"


def test_lists_read_as_sentences_do() -> None:
    assert [words.listed(list("abcdefgh")[:n]) for n in (0, 1, 2, 3)] == ["", "a", "a and b", "a, b and c"]
    assert words.listed(list("abcdefgh")) == "a, b, c, d, e and 3 more"


def test_any_plain_value_can_be_shown() -> None:
    value = {
        "on": True,
        "off": False,
        "n": 3,
        "big": 123456,
        "lr": 1e-3,
        "none": None,
        "shape": [3, 224],
        "empty": {},
        "l": [],
    }
    assert words.shown(value) == "on yes; off no; n 3; big 123,456; lr 0.001; none –; shape 3, 224; empty –; l –"


def test_reading_a_missing_or_wrong_part_gives_an_empty_value() -> None:
    run = {"a": {"b": [1, "x"], "c": "text", "n": float("nan"), "i": [0.1, None], "t": True, "huge": 10**400}}
    assert part(run, "a", "c", "d") is None
    assert (table(run, "a", "b"), entries(run, "a", "c"), records(run, "a", "b")) == ({}, [], [])
    assert [number(run, "a", key) for key in ("n", "c", "t", "huge", "missing")] == [None] * 5
    assert interval(run, "a", "i") is None
    assert interval([0.25, 1]) == (0.25, 1.0)
    assert (text(run, "a"), text(run, "a", "c"), text(run, "x")) == ("", "text", "")
    assert (texts(run, "a", "b"), texts(run, "a", "c"), texts(""), texts(None)) == (["1", "x"], ["text"], [], [])


def test_a_number_of_hundreds_of_digits_is_written_out() -> None:
    assert words.count(10**400).startswith("10,0")
    assert words.shown(-(10**400)).startswith("-10,0")
