"""Errors are one line, say what, where and what to do, and can be sent between processes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from headstart import errors
from headstart.errors import (
    DataError,
    HeadstartError,
    Interrupted,
    MissingExtraError,
    UnreadableImage,
    UserError,
    did_you_mean,
)

EXAMPLES: list[HeadstartError] = [
    UserError("broken", where=Path("a/b"), remedy="Mend it."),
    DataError("no class"),
    MissingExtraError("onnx", "onnx", "export"),
    UnreadableImage("cat.jpg", "truncated"),
    Interrupted(143, "headstart resume RUN"),
]


def test_a_user_error_says_what_where_and_what_to_do() -> None:
    error = UserError("broken", where=Path("a/b"), remedy="Mend it.")
    assert str(error) == "broken [a/b]. Mend it."
    assert (error.what, error.where, error.remedy) == ("broken", Path("a/b"), "Mend it.")
    assert str(UserError("broken")) == "broken"


@pytest.mark.parametrize("kind", [UserError, DataError])
def test_a_message_is_one_line_whatever_it_is_made_of(kind: type[UserError]) -> None:
    error = kind("library said:\n  line 2\r\n", where="folder/a\nb", remedy="Do\nthis.")
    assert str(error) == "library said: line 2 [folder/a\\nb]. Do this."


def test_an_unreadable_picture_with_a_line_break_in_its_name_is_told_in_one_line() -> None:
    error = UnreadableImage("a\nb.jpg", "bad\nthing")
    assert str(error) == "a\\nb.jpg: bad thing"
    assert error.name == "a\nb.jpg"


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda e: type(e).__name__)
def test_an_error_survives_the_way_between_processes(error: HeadstartError) -> None:
    back = copy.copy(error)  # by __reduce__, as between processes
    assert type(back) is type(error)
    assert str(back) == str(error)
    names = {"exit_code", "resume_command", "name", "reason"} & vars(error).keys()
    assert {n: getattr(back, n) for n in names} == {n: getattr(error, n) for n in names}


def test_a_missing_extra_names_the_package_and_the_command() -> None:
    text = str(MissingExtraError("pyarrow", "data", "reading Parquet"))
    assert "pyarrow" in text
    assert "pip install 'headstart[data]'" in text


def test_the_drawn_tree_holds_every_error_under_its_parent() -> None:
    tree = str(errors.__doc__)
    for name in errors.__all__:
        found = getattr(errors, name)
        if isinstance(found, type):
            assert issubclass(found, HeadstartError)
            assert name in tree
    for line in tree.splitlines():
        if line.startswith("│   "):
            assert issubclass(getattr(errors, line[8:].split()[0]), UserError)


def test_near_names_are_offered_and_else_a_few_known_ones() -> None:
    assert did_you_mean("linaer", ["linear", "mlp", "knn"]) == "Did you mean linear?"
    assert did_you_mean("zzz", ["linear", "mlp"]) == "Known: linear, mlp"
    assert did_you_mean("zzz", [f"name{n}" for n in range(50)]).endswith("name11, …")
    assert did_you_mean("zzz", []) == "None are known"


def test_a_message_fills_no_page_however_long_a_name_in_it() -> None:
    error = errors.DataError(f"there is no class {'x' * 10_000_000}", remedy="y" * 10_000_000)
    assert len(str(error)) < 5_000
    assert str(error).startswith("there is no class xxx")
