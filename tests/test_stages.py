"""What belongs together stays on one side, from the data to the folds of the head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.advising import _folding
from headstart.errors import DataError
from headstart.progress import Silent
from headstart.records import Skipped
from headstart.settings import Settings
from headstart.stages import Bench, _search, aligned, answered, make_plan, prepare, train_candidate
from headstart.transfer.interrupt import Stop


def photo(seed: int) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((128, 96), Image.Resampling.BICUBIC)


def written(folder: Path) -> Path:
    """Two classes of ten photos, each with a smaller, mirrored twin, and a table that gives every two photos a day."""
    rows = ["file_name,label,day"]
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for n in range(10):
            image = photo(100 * ord(label) + n)
            twin = image.resize((96, 72)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            for kind, one in (("photo", image), ("twin", twin)):
                one.save(folder / label / f"{n}-{kind}.jpg", quality=85)
                rows.append(f"{label}/{n}-{kind}.jpg,{label},{label}{n // 2}")
    (folder / "table.csv").write_text("\n".join(rows))
    return folder


def benched(data: Path, **options: object) -> Bench:
    settings = Settings.of(source="toy", **options)
    return prepare(data, settings=settings, reporter=Silent(), stop=Stop())


def apart(bench: Bench, key: dict[str, str]) -> int:
    """How many of the keys stand in several splits."""
    sides: dict[str, set[str]] = {}
    for item in bench.dataset.items:
        sides.setdefault(key[item.name], set()).add(item.split)
    return sum(len(splits) > 1 for splits in sides.values())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_twins_stand_on_one_side_of_splits_and_folds(tmp_path: Path, seed: int) -> None:
    bench = benched(written(tmp_path), seed=seed)
    names = [item.name for item in bench.dataset.items]
    assert len(bench.facts.near_duplicates) == 20
    assert {item.split for item in bench.dataset.items} == {"train", "val", "test"}
    assert apart(bench, {name: name.partition("-")[0] for name in names}) == 0
    groups = _search(bench, "train", "val")["groups"]
    learnt = [item.name.partition("-")[0] for item in bench.dataset.items if item.split != "test"]
    assert len(set(groups)) == len(set(learnt)) == len(set(zip(groups, learnt, strict=True)))
    some = bench.samples("train").items
    assert _folding(bench, some)["groups"] == _search(bench, "train")["groups"]


def test_the_named_column_stands_on_one_side_with_its_twins(tmp_path: Path) -> None:
    bench = benched(written(tmp_path) / "table.csv", group="day")
    assert len({item.group for item in bench.dataset.items}) == 10
    assert apart(bench, {item.name: str(item.group) for item in bench.dataset.items}) == 0
    with pytest.raises(DataError, match="Did you mean day"):
        benched(tmp_path / "table.csv", group="days")


def test_answers_follow_the_items_that_are_left(tmp_path: Path) -> None:
    bench = benched(written(tmp_path), strategy="frozen")
    whole = train_candidate(bench, make_plan(bench, bench.settings), settings=bench.settings, folder=None)
    assert aligned(bench, whole) is whole
    assert answered(bench, whole) is whole
    learned = [item.name for item in bench.dataset.items if item.split != "test"]
    gone = {bench.samples(split).items[1].name for split in ("train", "val", "test")}
    bench.leave_out([Skipped(name, "no such file") for name in sorted(gone)])
    left = aligned(bench, whole)
    for split, rows in left.logits.items():
        assert len(rows) == len(bench.samples(split).items) == len(whole.logits[split]) - 1
        assert np.array_equal(rows, np.delete(whole.logits[split], 1, axis=0))
    assert left.head.oof is not None
    assert whole.head.oof is not None
    rows = whole.head.oof[: len(learned)]
    assert np.array_equal(left.head.oof, rows[[name not in gone for name in learned]])
    assert len(bench.notes) == 3


def test_items_without_an_answer_leave_the_data_with_the_reason(tmp_path: Path) -> None:
    bench = benched(written(tmp_path), strategy="frozen")
    found = train_candidate(bench, make_plan(bench, bench.settings), settings=bench.settings, folder=None)
    lost, back = bench.samples("test").items[:2]
    (tmp_path / lost.name).unlink()
    found.logits["test"][:2] = np.nan
    left = answered(bench, found)
    assert bench.notes == [
        f"became unreadable during the run: {lost.name}: no such file",
        f"became unreadable during the run: {back.name}: it could not be read for a while",
    ]
    assert np.array_equal(left.logits["test"], found.logits["test"][2:])
    assert len(bench.samples("test").items) == len(left.logits["test"])
