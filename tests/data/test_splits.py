"""The laws of splits and folds: one place for each, ties kept, classes shared out, order without effect."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import helpers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.data.splits import folds, keepable, seal, tied
from headstart.errors import DataError
from headstart.records import Dataset

OPTIONS = {"val_fraction": 0.2, "test_fraction": 0.2, "seed": 0}


def sealed(dataset: Dataset, hashes: dict[str, str] | None = None, **options: object) -> Dataset:
    return seal(dataset, hashes or {}, **{**OPTIONS, **options})  # type: ignore[arg-type]


def table(dataset: Dataset) -> dict[str, Counter[int | None]]:
    return {split: Counter(item.label for item in dataset.split(split)) for split in ("train", "val", "test")}


# --- the given splits -------------------------------------------------------------------------------------


def test_three_given_splits_stand_as_they_are() -> None:
    dataset = helpers.made([0, 1] * 6, splits=["train"] * 6 + ["val"] * 2 + ["test"] * 4)
    assert sealed(dataset) == dataset


def test_val_without_test_becomes_the_sealed_test_set() -> None:
    dataset = helpers.made([0, 1] * 20, splits=["train"] * 30 + ["val"] * 10)
    done = sealed(dataset)
    assert {item.name for item in done.split("test")} == {item.name for item in dataset.split("val")}
    assert table(done) == {"train": {0: 12, 1: 12}, "val": {0: 3, 1: 3}, "test": {0: 5, 1: 5}}
    assert any("val was sealed as the test set" in note for note in done.notes)


def test_with_train_and_test_val_comes_from_train() -> None:
    dataset = helpers.made([0, 1] * 20, splits=["train"] * 30 + ["test"] * 10)
    done = sealed(dataset)
    assert table(done) == {"train": {0: 12, 1: 12}, "val": {0: 3, 1: 3}, "test": {0: 5, 1: 5}}
    assert {item.name for item in done.split("test")} == {item.name for item in dataset.split("test")}


@pytest.mark.parametrize("split", ["", "train"])
def test_data_without_a_test_set_is_divided_by_class(split: str) -> None:
    done = sealed(helpers.made([0] * 50 + [1] * 100, splits=[split] * 150))
    assert table(done) == {"train": {0: 32, 1: 64}, "val": {0: 8, 1: 16}, "test": {0: 10, 1: 20}}
    assert len(done.notes) == 2


def test_items_without_a_split_join_train_when_others_have_one() -> None:
    done = sealed(helpers.made([0, 1] * 10, splits=[""] * 4 + ["train"] * 8 + ["test"] * 8))
    assert table(done)["test"] == {0: 4, 1: 4}
    assert any("4 items without a split were put into train" in note for note in done.notes)
    only_test = sealed(helpers.made([0, 1] * 10, splits=[""] * 12 + ["test"] * 8))
    assert table(only_test)["test"] == {0: 4, 1: 4}


@pytest.mark.parametrize("splits", [["test"] * 4, ["val"] * 4, ["val", "val", "test", "test"]])
def test_nothing_to_train_on_is_an_error(splits: list[str]) -> None:
    with pytest.raises(DataError, match="nothing to train on"):
        sealed(helpers.made([0, 1, 0, 1], splits=splits))


def test_no_items_is_an_error() -> None:
    with pytest.raises(DataError, match="no items"):
        sealed(Dataset("made", ("a", "b"), ()))


# --- rare classes -----------------------------------------------------------------------------------------


def test_a_class_with_one_item_stays_in_train_and_is_noted() -> None:
    done = sealed(helpers.made([0] * 20 + [1]))
    assert table(done)["train"][1] == 1
    assert any("test has no item of 'class1'" in note for note in done.notes)


def test_nothing_that_can_be_tested_is_an_error_naming_the_class() -> None:
    with pytest.raises(DataError, match=r"class 'class0' has 1.*merge rare classes"):
        sealed(helpers.made([0, 1, 2]))
    with pytest.raises(DataError, match="cannot be divided"):
        sealed(helpers.made([0] * 5 + [1] * 5, groups=["g"] * 5 + ["h"] * 5))


def test_two_items_a_class_give_train_and_test_and_a_note_about_val() -> None:
    done = sealed(helpers.made([0, 0, 1, 1]))
    assert table(done) == {"train": {0: 1, 1: 1}, "val": {}, "test": {0: 1, 1: 1}}
    assert "train is too small to hold a val split back" in done.notes


def test_a_class_in_few_large_groups_is_tested_all_the_same() -> None:
    groups = [f"g{i // 6}" for i in range(12)] + [None] * 12
    done = sealed(helpers.made([0] * 12 + [1] * 12, groups=groups))
    assert table(done)["test"][0] == 6
    assert table(done)["train"][0] == 6


def test_near_duplicates_stay_on_one_side() -> None:
    dataset = helpers.made([0] * 40 + [1] * 40)
    names = [item.name for item in dataset.items]
    near = [names[n : n + 4] for n in range(0, 40, 4)]
    for seed in range(5):
        done = sealed(dataset, seed=seed, near=near)
        place = {item.name: item.split for item in done.items}
        assert all(len({place[name] for name in group}) == 1 for group in near)
        assert table(done)["test"] == {0: 8, 1: 8}


def test_near_duplicates_tie_with_groups_and_copies() -> None:
    dataset = helpers.made([0] * 5, groups=["g", "g", None, None, None])
    names = [item.name for item in dataset.items]
    keys = tied(dataset.items, {names[2]: "h", names[3]: "h"}, near=[(names[1], names[2]), ("gone", names[4])])
    assert len(set(keys[:4])) == 1
    assert keys[4] != keys[0]


def test_a_look_that_fills_a_class_is_not_kept_together_and_is_told() -> None:
    dataset = helpers.made([0] * 40 + [1] * 40)
    names = [item.name for item in dataset.items]
    near = [names[:30], names[40:44]]
    assert keepable(near, dataset.items) == [names[40:44]]
    done = sealed(dataset, near=near)
    assert table(done)["test"] == {0: 8, 1: 8}
    assert any("30 pictures that look nearly the same" in note for note in done.notes)
    given = helpers.made([0] * 40 + [1] * 40, splits=(["train"] * 20 + ["val"] * 10 + ["test"] * 10) * 2)
    assert sealed(given, near=near) == given


# --- properties -------------------------------------------------------------------------------------------

LABELS = st.lists(st.integers(0, 3), min_size=8, max_size=60)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(0, 5), st.floats(0.05, 0.6), st.floats(0.05, 0.6))
def test_sealing_is_a_partition_that_keeps_ties_and_classes(
    data: st.DataObject, seed: int, val_fraction: float, test_fraction: float
) -> None:
    labels = data.draw(LABELS)
    groups = data.draw(st.lists(st.sampled_from([None, "a", "b", "c"]), min_size=len(labels), max_size=len(labels)))
    copies = data.draw(st.lists(st.integers(0, 2 * len(labels)), min_size=len(labels), max_size=len(labels)))
    dataset = helpers.made(labels, groups=groups)
    hashes = {item.name: str(copy) for item, copy in zip(dataset.items, copies, strict=True)}
    options = {"val_fraction": val_fraction, "test_fraction": test_fraction, "seed": seed}
    try:
        done = seal(dataset, hashes, **options)  # type: ignore[arg-type]
    except DataError:
        return  # everything hangs together
    assert [replace(item, split="") for item in done.items] == list(dataset.items)
    assert {item.split for item in done.items} <= {"train", "val", "test"}
    for tie in (lambda item: item.group, lambda item: hashes[item.name]):
        sides: dict[str, set[str]] = {}
        for item in done.items:
            if tie(item) is not None:
                sides.setdefault(tie(item), set()).add(item.split)
        assert all(len(side) == 1 for side in sides.values())
    assert set(table(done)["train"]) == set(labels)
    shuffled = data.draw(st.permutations(list(dataset.items)))
    again = seal(dataset.with_items(tuple(shuffled)), hashes, **options)  # type: ignore[arg-type]
    assert {item.name: item.split for item in again.items} == {item.name: item.split for item in done.items}
    assert again.notes == done.notes


@settings(max_examples=60, deadline=None)
@given(LABELS, st.integers(0, 5), st.floats(0.05, 0.6), st.floats(0.05, 0.6))
def test_every_class_is_shared_out_by_the_fractions(
    labels: list[int], seed: int, val_fraction: float, test_fraction: float
) -> None:
    sizes = Counter(labels)
    if max(sizes.values()) < 2:
        return
    done = seal(helpers.made(labels), {}, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    parts = table(done)
    for label, n in sizes.items():
        left = n - parts["test"][label]
        assert parts["train"][label] >= 1
        assert abs(parts["test"][label] - test_fraction * n) <= 1
        assert abs(parts["val"][label] - val_fraction * left) <= 1


def test_other_seeds_give_other_splits_and_equal_seeds_equal_ones() -> None:
    dataset = helpers.made([0, 1] * 40)
    assert sealed(dataset, seed=1) == sealed(dataset, seed=1)
    assert sealed(dataset, seed=1) != sealed(dataset, seed=2)


def test_splits_and_folds_do_not_change_between_versions() -> None:
    done = sealed(helpers.made([0, 1] * 5, names=[f"n{i}" for i in range(9)] + ["broken-\udcff"]))
    train = [item.name for item in done.split("train")]
    assert train == ["n0", "n1", "n4", "n7", "n8", "broken-\udcff"]
    assert [item.name for item in done.split("test")] == ["n3", "n6"]
    held = [part.tolist() for _, part in folds(np.array([0, 1] * 5), k=3, seed=0)]
    assert held == [[0, 2, 3, 5], [1, 6, 8], [4, 7, 9]]


# --- folds ------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(LABELS, st.integers(2, 7), st.integers(0, 4))
def test_folds_are_a_stratified_partition(labels: list[int], k: int, seed: int) -> None:
    values = np.array(labels)
    pairs = folds(values, k=k, seed=seed)
    smallest = min(Counter(labels).values())
    assert len(pairs) == max(2, min(k, smallest))
    assert sorted(np.concatenate([held for _, held in pairs]).tolist()) == list(range(len(labels)))
    for train, held in pairs:
        assert sorted([*train, *held]) == list(range(len(labels)))
        for label, n in Counter(labels).items():
            assert abs((values[held] == label).sum() - n / len(pairs)) < 1
            if smallest > 1:
                assert (values[train] == label).any()
    sizes = [len(held) for _, held in pairs]
    assert max(sizes) - min(sizes) <= 1
    again = folds(values, k=k, seed=seed)
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(pairs, again, strict=True))


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(2, 5))
def test_no_group_is_on_both_sides_of_a_fold(data: st.DataObject, k: int) -> None:
    labels = data.draw(LABELS)
    groups = data.draw(st.lists(st.sampled_from("abcdefgh"), min_size=len(labels), max_size=len(labels)))
    if len(set(groups)) < 2:
        with pytest.raises(DataError, match="too few"):
            folds(np.array(labels), k=k, seed=0, groups=groups)
        return
    pairs = folds(np.array(labels), k=k, seed=0, groups=groups)
    assert 2 <= len(pairs) <= max(2, min(k, len(set(groups))))
    assert sorted(np.concatenate([held for _, held in pairs]).tolist()) == list(range(len(labels)))
    for train, held in pairs:
        assert len(held) > 0
        assert not {groups[i] for i in train} & {groups[i] for i in held}


def test_folds_differ_with_the_seed_and_refuse_what_cannot_be() -> None:
    labels = np.array([0, 1] * 20)
    assert not np.array_equal(folds(labels, k=4, seed=0)[0][1], folds(labels, k=4, seed=1)[0][1])
    with pytest.raises(DataError, match="too few items"):
        folds(np.array([0]), k=5, seed=0)
    with pytest.raises(ValueError, match="2 labels but 1 groups"):
        folds(np.array([0, 1]), k=2, seed=0, groups=["a"])
