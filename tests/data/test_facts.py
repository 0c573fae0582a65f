"""The facts of a data set as run.json and `inspect` tell them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import helpers
import numpy as np
import pytest

from headstart.data.audit import audit
from headstart.data.facts import counting, data_facts, load_data, near_facts
from headstart.errors import DataError
from headstart.progress import Silent


def test_facts_count_every_split_and_class_and_are_plain_json(tmp_path: Path) -> None:
    helpers.fill(tmp_path, {"train/cat": 3, "train/dog": 2, "test/cat": 1})
    (tmp_path / "train/dog/bad.jpg").write_bytes(b"")
    dataset, facts = audit(load_data(tmp_path))
    found = data_facts(dataset, facts)
    assert found["splits"]["train"] == {"n": 5, "per_class": {"cat": 3, "dog": 2}}
    assert found["splits"]["test"]["per_class"] == {"cat": 1, "dog": 0}
    assert [entry["file"] for entry in found["skipped"]] == ["train/dog/bad.jpg"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_near_duplicates_and_groups_over_splits_are_plain_json(tmp_path: Path) -> None:
    helpers.fill(tmp_path, {"train/cat/x": 3, "train/dog/y": 2, "test/cat/x": 1})
    dataset, facts = audit(load_data(tmp_path, group="folder"))
    facts = replace(facts, near_duplicates=(("a", "b"), ("c", "d")), near_leaks=(("a", "b"),))
    found = data_facts(dataset, facts)
    near = found["near_duplicates"]
    assert near["groups"] == [["a", "b"], ["c", "d"]]
    assert near["across_splits"] == [["a", "b"]]
    assert near["contradictions"] == []
    assert near["test"] is None
    assert "difference hashes" in near["how"]
    assert found["group_leaks"] == [{"group": "x", "splits": ["train", "test"]}]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert near_facts(facts, test={"with_twin": 1})["test"] == {"with_twin": 1}


def test_a_dataset_has_no_column_to_group_by(tmp_path: Path) -> None:
    dataset = load_data(helpers.fill(tmp_path, {"cat": 2, "dog": 2}))
    with pytest.raises(DataError, match="no column 'patient'"):
        load_data(dataset, group="patient")


def test_unsplit_items_are_called_unsplit(tmp_path: Path) -> None:
    dataset, facts = audit(load_data(helpers.fill(tmp_path, {"cat": 2, "dog": 2})))
    assert list(data_facts(dataset, facts)["splits"]) == ["unsplit"]


def test_data_may_be_a_dataset_a_path_or_pictures_with_labels(tmp_path: Path) -> None:
    dataset = load_data(str(helpers.fill(tmp_path, {"cat": 2, "dog": 2})))
    assert load_data(dataset) is dataset
    pictures = [np.full((20, 20, 3), n, np.uint8) for n in range(4)]
    assert [item.label for item in load_data((pictures, ["b", "a", "b", "a"])).items] == [1, 0, 1, 0]


def test_a_bar_moves_by_differences() -> None:
    moved: list[int] = []
    with Silent().progress("x", 5) as bar:
        bar.advance = lambda n=1: moved.append(n)  # type: ignore[method-assign]
        tell = counting(bar)
        for done in (1, 3, 5):
            tell(done, 5)
    assert moved == [1, 2, 2]
