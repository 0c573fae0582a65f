"""The demo: data that the toy source has never seen, and a gain over scratch that anybody can see again."""

from __future__ import annotations

from pathlib import Path

import pytest

from headstart import api
from headstart.demo import write_digits
from headstart.errors import OutputError
from headstart.sources import open_source
from toydata import folder_hash


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "shown"
    api.demo(folder)
    return folder


@pytest.fixture(scope="module")
def digits(shown: Path) -> Path:
    return shown / "data"


def test_no_class_of_the_demo_is_one_that_the_toy_source_was_trained_on(digits: Path) -> None:
    known = set(open_source("toy").card.classes)
    assert known == {"0", "1", "2", "3", "4"}
    written = {folder.name for split in ("train", "test") for folder in (digits / split).iterdir()}
    assert written == {"5", "6", "7", "8", "9"}


def test_few_pictures_to_learn_from_and_all_others_to_judge_on(digits: Path) -> None:
    found = api.inspect(digits)
    train, test = found["splits"]["train"], found["splits"]["test"]
    assert set(train["per_class"].values()) == {5}
    assert test["n"] > 800
    assert found["skipped"] == found["leaks"] == []
    assert found["sizes"]["width"] == {"min": 32, "median": 32, "max": 32}


def test_the_data_are_the_same_each_time_and_otherwise_with_another_seed(digits: Path, tmp_path: Path) -> None:
    again = folder_hash(write_digits(tmp_path / "again", classes=(5,)))
    assert again.items() == {k: v for k, v in folder_hash(digits).items() if k.split("/")[1] == "5"}.items()
    other = folder_hash(write_digits(tmp_path / "other", classes=(5,), seed=1))
    assert len(other) == len(again)
    assert not set(other.values()) & set(again.values())


def test_transfer_beats_scratch_by_more_than_chance(shown: Path) -> None:
    from headstart import files

    run = files.read_json(shown / "run" / "run.json")
    low, high = run["gain_over_scratch"]["interval"]
    assert 0 < low < run["gain_over_scratch"]["points"] < high
    assert (shown / "run" / "report.html").is_file()


def test_the_demo_takes_no_place_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="no demo"):
        api.demo(tmp_path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError):
        api.demo(tmp_path / "file")
    assert (tmp_path / "data" / "mine.txt").read_text() == "mine"
    assert not (tmp_path / "run").exists()
