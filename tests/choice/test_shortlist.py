"""Which sources race, and how many items the time allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_entrants import bench_of

from headstart.choice.shortlist import shortlist
from headstart.errors import SourceError
from headstart.stages import Bench
from headstart.transfer.budget import Clock


@pytest.fixture
def bench(split_shapes: Path) -> Bench:
    return bench_of(split_shapes)


def copy_of_toy(folder: Path) -> str:
    """The toy in a folder of its own: another address, the same network."""
    import shutil

    import headstart.sources as sources

    shutil.copytree(Path(sources.__file__).parent / "toy", folder)
    return str(folder)


def test_one_source_is_raced_without_a_ranking(bench: Bench) -> None:
    found = shortlist(bench, Clock(None))
    assert [own.source.address for own in found.benches] == ["toy"]
    assert (found.ranking, found.stopped) == ([], [])


def test_several_sources_are_ranked_best_first_and_what_was_spent_is_told(split_shapes: Path, tmp_path: Path) -> None:
    bench = bench_of(split_shapes, source=f"random:test_byobnet,{copy_of_toy(tmp_path / 'trained')}", image_size=32)
    found = shortlist(bench, Clock(None))
    assert found.ranking[0]["source"].endswith("trained")
    assert [row["logme"] for row in found.ranking] == sorted((r["logme"] for r in found.ranking), reverse=True)
    assert all(row["raced"] and row["seconds"] >= 0 and row["items"] == 45 for row in found.ranking)
    assert [own.source.address for own in found.benches] == [row["source"] for row in found.ranking]


def test_a_source_that_was_named_and_does_not_open_ends_the_run(split_shapes: Path) -> None:
    with pytest.raises(SourceError, match="nowhere"):
        shortlist(bench_of(split_shapes, source="toy,/nowhere/at/all"), Clock(None))


def test_no_sealed_item_has_a_say_in_the_ranking(
    split_shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_of(split_shapes, source=f"toy,{copy_of_toy(tmp_path / 'again')}")
    seen: set[str] = set()
    warm = Bench.warm

    def noting(self: Bench, items: Any) -> Any:
        seen.update(item.split for item in items)
        return warm(self, items)

    monkeypatch.setattr(Bench, "warm", noting)
    shortlist(bench, Clock(None))
    assert seen == {"train", "val"}


def test_where_the_time_is_too_short_for_all_items_a_part_of_them_is_used_and_told(
    split_shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.choice import shortlist as module

    monkeypatch.setattr(module, "_FEW", 10)
    monkeypatch.setattr(module, "_speed", lambda bench: 2.0)
    bench = bench_of(split_shapes)
    before = bench.dataset.items
    found = shortlist(bench, Clock(40.0, now=lambda: 0.0))  # half of 40 s at two a second: 40 of 69 items
    (own,) = found.benches
    counts = {split: len(own.dataset.split(split)) for split in ("train", "val", "test")}
    assert counts == {"train": 6, "val": 15, "test": 20}
    assert {item.label for item in own.dataset.split("train")} == {0, 1, 2}
    assert len(found.stopped) == 3
    assert all("time" in line or "would take" in line for line in found.stopped)
    assert bench.dataset.items == before
