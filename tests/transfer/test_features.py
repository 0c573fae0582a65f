"""The store: nothing stale is served, nothing damaged is used, nothing is computed twice."""

from __future__ import annotations

import errno
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from headstart import files
from headstart.data.augment import View
from headstart.errors import SourceError
from headstart.progress import Silent
from headstart.records import Card, FileOrigin, Item, MemoryOrigin
from headstart.sources import open_source
from headstart.sources.base import Source
from headstart.transfer import features
from headstart.transfer.features import FeatureStore, Pass, embed, feature_key


class Noting(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def toy() -> Source:
    return open_source("toy")


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    made = []
    for number in range(11):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 36, 3), dtype=np.uint8)
        path = tmp_path / f"{number}.png"
        Image.fromarray(pixels).save(path)
        made.append(Item(path.name, FileOrigin(path), 0))
    return made


def hashes(items: list[Item]) -> dict[str, str]:
    return {item.name: files.hash_file(item.origin.path) for item in items}  # type: ignore[union-attr]


def forwards(source: Source) -> list[tuple[int, bool]]:
    """Grows by (batch, training mode) with every forward pass of the network."""
    calls: list[tuple[int, bool]] = []
    first = next(m for m in source.network.modules() if isinstance(m, torch.nn.Conv2d))
    first.register_forward_hook(lambda m, inputs, _: calls.append((len(inputs[0]), m.training)))
    return calls


def shards() -> list[Path]:
    return sorted((files.home() / "features").rglob("*.safetensors"))


def test_rows_are_the_sources_own_features_and_a_second_call_runs_no_network(toy: Source, items: list[Item]) -> None:
    known = hashes(items)
    cold = embed(toy, items, hashes=known)
    assert (cold.computed, cold.reused, cold.rows.shape, cold.rows.dtype) == (11, 0, (11, 64), np.float32)
    toy.eval()
    views = torch.stack([features.Views(items, toy.card)(n) for n in range(11)])
    with torch.inference_mode():
        wanted = toy(features.augment.normalise(views, toy.card)).numpy()
    assert np.abs(cold.rows - wanted).max() < 1e-5
    calls = forwards(toy)
    warm = embed(toy, items[::-1], hashes=known)
    assert calls == []
    assert (warm.computed, warm.reused) == (0, 11)
    assert np.array_equal(warm.rows, cold.rows[::-1])


def test_the_source_is_in_evaluation_mode_while_embedding_and_then_as_it_was(toy: Source, items: list[Item]) -> None:
    toy.train()
    still = next(m for m in toy.network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    still.eval()
    modes, state = [m.training for m in toy.modules()], toy.sha256()
    calls = forwards(toy)
    embed(toy, items, hashes=hashes(items), how=Pass(workers=0))
    assert calls
    assert not any(training for _, training in calls)
    assert [m.training for m in toy.modules()] == modes
    assert toy.sha256() == state


def test_a_half_filled_store_and_other_batches_give_the_same_bits(toy: Source, items: list[Item]) -> None:
    known = hashes(items)
    whole = embed(toy, items, hashes=known, use_store=False).rows
    assert not shards()
    embed(toy, [items[n] for n in (9, 2, 5, 7)], hashes=known)
    found = embed(toy, items, hashes=known)
    assert (found.computed, found.reused) == (7, 4)
    assert np.array_equal(found.rows, whole)


def test_duplicates_are_computed_once(toy: Source, items: list[Item]) -> None:
    twins = [*items, replace(items[3], name="twin"), replace(items[3], name="triplet")]
    known = hashes(twins)
    calls = forwards(toy)
    found = embed(toy, twins, hashes=known, how=Pass(batch_size=4))
    assert (found.computed, [n for n, _ in calls]) == (11, [4, 4, 4])
    assert np.array_equal(found.rows[3], found.rows[11])
    assert np.array_equal(found.rows[3], found.rows[12])


def test_the_key_changes_with_weights_preprocessing_pooling_view_and_device_and_with_nothing_else(toy: Source) -> None:
    base = files.hash_json(feature_key(toy, Pass()))

    def key(**options: Any) -> str:
        return files.hash_json(feature_key(toy, Pass(**options)))

    assert key() == base
    others = [
        key(pooling="avgmax"),
        key(view=View("flipped")),
        key(view=View("augmented", 1)),
        key(view=View("augmented", 2)),
        key(device="cuda:1"),
    ]
    assert key(device="cuda") == key(device="cuda:1")
    card = toy.card
    for change in (
        {"input_size": (3, 48, 48)}, {"mean": (0.0, 0.0, 0.0)}, {"std": (1.0, 1.0, 1.0)}, {"interpolation": "nearest"},
        {"crop_pct": 0.9}, {"crop_mode": "squash"},
    ):  # fmt: skip
        toy.card = replace(card, **change)  # type: ignore[arg-type]
        others.append(key())
    toy.card = replace(card, licence="other", origin="elsewhere", classes=("a",))
    assert key() == base
    buffer = next(b for b in toy.network.buffers() if b.is_floating_point())
    buffer.view(-1)[0] += 1e-3
    others.append(key())
    assert len({base, *others}) == len(others) + 1


def test_other_weights_under_the_same_address_get_no_old_rows(toy: Source, items: list[Item]) -> None:
    known = hashes(items)
    embed(toy, items, hashes=known)
    other = toy.fresh(1)
    found = embed(other, items, hashes=known)
    assert (found.computed, found.reused) == (11, 0)


def damaged_store(toy: Source, items: list[Item], damage: Any) -> tuple[np.ndarray, features.Features, Noting]:
    known = hashes(items)
    before = embed(toy, items, hashes=known).rows
    (shard,) = shards()
    data = bytearray(shard.read_bytes())
    shard.write_bytes(damage(data))
    reporter = Noting()
    return before, embed(toy, items, hashes=known, reporter=reporter), reporter


def flipped(data: bytearray, position: int) -> bytes:
    data[position] ^= 16
    return bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: bytes(data[: len(data) // 2]),
        lambda data: bytes(data[:-1]),
        lambda data: b"\xff" * 8 + bytes(data[8:]),
        lambda data: bytes(data).replace(b'"hashes"', b'"hushes"'),
        lambda data: bytes(data).replace(b"[11,32]", b"[16,22]"),
        lambda data: bytes(data).replace(b'"F32"', b'"I32"'),
    ],
    ids=["empty", "half", "cut", "header", "names", "shape", "dtype"],
)
def test_a_torn_or_foreign_shard_is_dropped_said_and_computed_again(
    toy: Source, items: list[Item], damage: Any
) -> None:
    before, after, reporter = damaged_store(toy, items, damage)
    assert np.array_equal(before, after.rows)
    assert after.computed == 11
    assert "damaged" in reporter.notes[0]
    assert len(shards()) == 1  # the damaged one is gone
    again = embed(toy, items, hashes=hashes(items), reporter=reporter)
    assert (again.computed, len(reporter.notes)) == (0, 1)


@pytest.mark.parametrize("back", [4, 500, 2000])
def test_a_flipped_bit_costs_one_row_and_never_reaches_a_result(toy: Source, items: list[Item], back: int) -> None:
    before, after, reporter = damaged_store(toy, items, lambda data: flipped(data, len(data) - back))
    assert np.array_equal(before, after.rows)
    assert after.computed == 1
    assert "1 damaged row" in reporter.notes[0]
    assert embed(toy, items, hashes=hashes(items)).computed == 0


def test_a_store_that_cannot_be_written_is_told_and_the_run_goes_on(
    toy: Source, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    monkeypatch.setattr(features, "_SHARD_ROWS", 4)
    reporter = Noting()
    found = embed(toy, items, hashes=hashes(items), reporter=reporter, how=Pass(batch_size=4))
    assert found.computed == 11
    assert len(reporter.notes) == 1
    assert "Read-only" in reporter.notes[0]


def test_damage_in_a_store_that_cannot_be_written_is_passed_over(
    toy: Source, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = hashes(items)
    before = embed(toy, items, hashes=known).rows
    (shard,) = shards()
    shard.write_bytes(flipped(bytearray(shard.read_bytes()), -4))

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    assert np.array_equal(embed(toy, items, hashes=known).rows, before)
    assert shards() == [shard]


def test_what_was_finished_before_a_crash_is_kept(
    toy: Source, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "_SHARD_ROWS", 4)
    known = hashes(items)
    forward, calls = features._forward, []

    def failing(*args: Any, **more: Any) -> np.ndarray:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forward(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(features, "_forward", failing)
        with pytest.raises(KeyboardInterrupt):
            embed(toy, items, hashes=known, how=Pass(batch_size=4))
    assert embed(toy, items, hashes=known, how=Pass(batch_size=4)).reused == 8


def test_a_file_that_vanished_or_changed_since_the_audit_is_named_and_gets_no_row(
    toy: Source, items: list[Item]
) -> None:
    known = hashes(items)
    items[2].origin.path.unlink()  # type: ignore[union-attr]
    items[6].origin.path.write_bytes(items[7].origin.path.read_bytes())  # type: ignore[union-attr]
    found = embed(toy, items, hashes=known)
    assert {s.file for s in found.skipped} == {"2.png", "6.png"}
    assert np.flatnonzero(np.isnan(found.rows).all(1)).tolist() == [2, 6]
    assert (found.computed, found.reused) == (9, 0)
    store = FeatureStore(feature_key(toy, Pass()))
    assert store.get([known["6.png"]]) == {}


def test_the_twin_of_a_vanished_file_is_used_for_itself(toy: Source, items: list[Item], tmp_path: Path) -> None:
    twin = tmp_path / "twin.png"
    twin.write_bytes(items[2].origin.path.read_bytes())  # type: ignore[union-attr]
    both = [*items, Item("twin.png", FileOrigin(twin), 0)]
    known = hashes(both)
    items[2].origin.path.unlink()  # type: ignore[union-attr]
    found = embed(toy, both, hashes=known)
    assert [s.file for s in found.skipped] == ["2.png"]
    assert np.isfinite(found.rows[11]).all()


def test_pictures_in_memory_and_no_pictures_at_all(toy: Source) -> None:
    item = Item("m", MemoryOrigin(np.zeros((20, 20, 3), np.uint8)), 0)
    assert embed(toy, [item], hashes={"m": "00" * 32}).computed == 1
    assert embed(toy, [], hashes={}).rows.shape == (0, 64)


def test_a_source_with_broken_weights_is_refused(toy: Source, items: list[Item]) -> None:
    next(toy.network.parameters()).data.fill_(float("nan"))
    with pytest.raises(SourceError, match="not finite"):
        embed(toy, items, hashes=hashes(items))
    assert not shards()


def fill(home: str, folder: str, names: list[str]) -> None:
    os.environ["HEADSTART_HOME"] = home
    torch.set_num_threads(1)
    items = [Item(name, FileOrigin(Path(folder) / name), 0) for name in names]
    for _ in range(3):
        embed(open_source("toy"), items, hashes=hashes(items), how=Pass(workers=1, batch_size=4))


def test_two_processes_may_fill_one_store(toy: Source, items: list[Item], tmp_path: Path) -> None:
    spawned = multiprocessing.get_context("spawn")
    names = [item.name for item in items]
    parts = (names[:8], names[4:][::-1])
    workers = [spawned.Process(target=fill, args=(str(files.home()), str(tmp_path), part)) for part in parts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    found = embed(toy, items, hashes=hashes(items))
    assert (found.computed, found.reused) == (0, 11)
    fresh = embed(toy, items, hashes=hashes(items), use_store=False).rows
    assert np.allclose(found.rows, fresh, atol=1e-5)
    assert not list(files.home().rglob("*.tmp"))


def test_cards_of_other_sizes_give_other_stores(toy: Source, items: list[Item]) -> None:
    known = hashes(items)
    embed(toy, items[:1], hashes=known)
    larger = open_source("toy", image_size=48)
    assert isinstance(larger.card, Card)
    assert embed(larger, items[:1], hashes=known).reused == 0
