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
from headstart.data import cache, decode
from headstart.data.augment import Augmentation, View, normalise
from headstart.data.loader import Views
from headstart.errors import OutputError, SourceError
from headstart.records import Card, FileOrigin, Item, MemoryOrigin
from headstart.sources import open_source
from headstart.sources.base import Source, evaluating
from headstart.sources.cutting import cut_source
from headstart.transfer import _shelf, _writer, features
from headstart.transfer.features import Pass, Runners, embed, harmless, row_key, source_key
from headstart.transfer.runner import Runner
from noting import Noting


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


class Work:
    """What was done: rows asked of an engine, engines chosen and reopened, passes of a network, decoded files."""

    def __init__(self) -> None:
        self.rows = self.picked = self.reopened = self.passes = self.decoded = 0

    def nothing(self) -> bool:
        """Whether nothing was done at all; starts counting anew."""
        still = not any(vars(self).values())
        self.__init__()  # type: ignore[misc]
        return still


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    done = Work()

    def counted(owner: Any, method: str, name: str, size: Any = lambda *_, **__: 1) -> None:
        plain = getattr(owner, method)

        def counting(*args: Any, **more: Any) -> Any:
            setattr(done, name, getattr(done, name) + size(*args, **more))
            return plain(*args, **more)

        monkeypatch.setattr(owner, method, counting)

    counted(Runner, "__call__", "rows", lambda runner, images: len(images))
    counted(_shelf, "pick_runner", "picked")
    counted(_shelf, "reopen_runner", "reopened")
    counted(Source, "feature_map", "passes")
    counted(decode, "decode", "decoded")
    return done


def shards() -> list[Path]:
    return sorted((files.home() / "features").rglob("*.safetensors"))


def test_rows_are_the_sources_own_features_and_a_second_call_runs_no_network(toy: Source, items: list[Item]) -> None:
    known = hashes(items)
    cold = embed(toy, items, hashes=known)
    assert (cold.computed, cold.reused, cold.array.shape) == (11, 0, (11, 64))
    assert cold.array.dtype == np.float32
    toy.eval()
    views = torch.stack([Views(items, toy.card)(n) for n in range(11)])
    with torch.inference_mode():
        wanted = toy(normalise(views, toy.card)).numpy()
    assert np.abs(cold.array - wanted).max() < 1e-5
    calls = forwards(toy)
    warm = embed(toy, items[::-1], hashes=known)
    assert calls == []
    assert (warm.computed, warm.reused) == (0, 11)
    assert np.array_equal(warm.array, cold.array[::-1])


def test_the_source_is_in_evaluation_mode_while_embedding_and_then_as_it_was(toy: Source, items: list[Item]) -> None:
    toy.train()
    still = next(m for m in toy.network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    still.eval()
    modes, state = [m.training for m in toy.modules()], toy.sha256()
    calls = forwards(toy)
    embed(toy, items, hashes=hashes(items), how=Pass(workers=0, engine="torch"))
    assert calls
    assert not any(training for _, training in calls)
    assert [m.training for m in toy.modules()] == modes
    assert toy.sha256() == state


def test_a_half_filled_store_and_other_batches_give_the_same_bits(toy: Source, items: list[Item]) -> None:
    known = hashes(items)
    whole = embed(toy, items, hashes=known, use_store=False).array
    assert not shards()
    embed(toy, [items[n] for n in (9, 2, 5, 7)], hashes=known)
    found = embed(toy, items, hashes=known)
    assert (found.computed, found.reused) == (7, 4)
    assert np.array_equal(found.array, whole)


def test_duplicates_are_computed_once(toy: Source, items: list[Item], work: Work) -> None:
    twins = [*items, replace(items[3], name="twin"), replace(items[3], name="triplet")]
    known = hashes(twins)
    found = embed(toy, twins, hashes=known, how=Pass(batch_size=4))
    assert (found.computed, work.rows, work.decoded) == (11, 11, 11)
    assert np.array_equal(found.array[3], found.array[11])
    assert np.array_equal(found.array[3], found.array[12])


def test_the_key_changes_with_weights_preprocessing_pooling_cut_and_device_and_with_nothing_else(toy: Source) -> None:
    base = files.hash_json(source_key(toy, Pass()))

    def key(**options: Any) -> str:
        return files.hash_json(source_key(toy, Pass(**options)))

    assert key() == base
    others = [key(pooling="avgmax"), key(device="cuda:1"), key(cut="layer3"), key(cut="layer4"), key(precision="bf16")]
    assert key(device="cuda") == key(device="cuda:1")
    assert key(cut="layer3", pooling="avgmax") == key(cut="layer3")
    for same in ({"view": View("flipped")}, {"batch_size": 4}, {"workers": 0}, {"engine": "torch"}, {"expected": 9}):
        assert key(**same) == base
    card = toy.card
    for change in (
        {"input_size": (3, 48, 48)}, {"mean": (0.0, 0.0, 0.0)}, {"std": (1.0, 1.0, 1.0)}, {"interpolation": "nearest"},
        {"crop_pct": 0.9}, {"crop_mode": "squash"},
    ):  # fmt: skip
        toy.card = replace(card, **change)
        others.append(key())
    toy.card = replace(card, licence="other", origin="elsewhere", classes=("a",))
    assert key() == base
    buffer = next(b for b in toy.network.buffers() if b.is_floating_point())
    buffer.view(-1)[0] += 1e-3
    others.append(key())
    assert len({base, *others}) == len(others) + 1


def test_engine_view_and_dtype_have_rows_of_their_own() -> None:
    def key(engine: str = "torch-2.9/fp32", view: View | None = None, dtype: str = "float32") -> str:
        return files.hash_json(row_key({"weights": "x"}, engine=engine, view=view or View(), dtype=dtype))

    keys = {
        key(), key(engine="torch-2.8/fp32"), key(view=View("flipped")), key(view=View("augmented", 1)),
        key(view=View("augmented", 2)), key(dtype="float16"),
    }  # fmt: skip
    assert len(keys) == 6


def test_other_weights_under_the_same_address_get_no_old_rows(toy: Source, items: list[Item]) -> None:
    known = hashes(items)
    embed(toy, items, hashes=known)
    other = toy.fresh(1)
    found = embed(other, items, hashes=known)
    assert (found.computed, found.reused) == (11, 0)


def damaged_store(toy: Source, items: list[Item], damage: Any) -> tuple[np.ndarray, features.Features, Noting]:
    known = hashes(items)
    before = embed(toy, items, hashes=known).array
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
    assert np.array_equal(before, after.array)
    assert after.computed == 11
    assert "damaged" in reporter.notes[0]
    assert len(shards()) == 1  # the damaged one is gone
    again = embed(toy, items, hashes=hashes(items), reporter=reporter)
    assert (again.computed, len(reporter.notes)) == (0, 1)


@pytest.mark.parametrize("back", [4, 500, 2000])
def test_a_flipped_bit_costs_one_row_and_never_reaches_a_result(toy: Source, items: list[Item], back: int) -> None:
    before, after, reporter = damaged_store(toy, items, lambda data: flipped(data, len(data) - back))
    assert np.array_equal(before, after.array)
    assert after.computed == 1
    assert "1 damaged row" in reporter.notes[0]
    assert embed(toy, items, hashes=hashes(items)).computed == 0


def test_a_store_that_cannot_be_written_is_told_and_the_run_goes_on(
    toy: Source, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    monkeypatch.setattr(_writer, "_SHARD_ROWS", 4)
    monkeypatch.setattr(_writer, "_SECONDS", 0.0)
    reporter = Noting()
    found = embed(toy, items, hashes=hashes(items), reporter=reporter, how=Pass(batch_size=4))
    assert found.computed == 11
    assert len(reporter.notes) == 1
    assert "Read-only" in reporter.notes[0]


def test_damage_in_a_store_that_cannot_be_written_is_passed_over(
    toy: Source, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = hashes(items)
    before = embed(toy, items, hashes=known).array
    (shard,) = shards()
    shard.write_bytes(flipped(bytearray(shard.read_bytes()), -4))

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    assert np.array_equal(embed(toy, items, hashes=known).array, before)
    assert shards() == [shard]


def test_what_was_finished_before_a_crash_is_kept(
    toy: Source, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_writer, "_SHARD_ROWS", 4)
    monkeypatch.setattr(_writer, "_SECONDS", 0.0)
    known = hashes(items)
    plain, calls = Runner.__call__, list[int]()

    def failing(runner: Runner, images: torch.Tensor) -> np.ndarray:
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(runner, images)

    with monkeypatch.context() as patch:
        patch.setattr(Runner, "__call__", failing)
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
    assert np.flatnonzero(np.isnan(found.array).all(1)).tolist() == [2, 6]
    assert (found.computed, found.reused) == (9, 0)
    items[6].origin.path.write_bytes(b"")  # type: ignore[union-attr]
    again = embed(toy, items[6:7], hashes=known)
    assert (again.reused, np.isnan(again.array).all()) == (0, True)


def test_the_twin_of_a_vanished_file_is_used_for_itself(toy: Source, items: list[Item], tmp_path: Path) -> None:
    twin = tmp_path / "twin.png"
    twin.write_bytes(items[2].origin.path.read_bytes())  # type: ignore[union-attr]
    both = [*items, Item("twin.png", FileOrigin(twin), 0)]
    known = hashes(both)
    items[2].origin.path.unlink()  # type: ignore[union-attr]
    found = embed(toy, both, hashes=known)
    assert [s.file for s in found.skipped] == ["2.png"]
    assert np.isfinite(found.array[11]).all()


def test_pictures_in_memory_and_no_pictures_at_all(toy: Source) -> None:
    item = Item("m", MemoryOrigin(np.zeros((20, 20, 3), np.uint8)), 0)
    assert embed(toy, [item], hashes={"m": "00" * 32}).computed == 1
    assert embed(toy, [], hashes={}).array.shape == (0, 64)


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
    fresh = embed(toy, items, hashes=hashes(items), use_store=False).array
    assert np.allclose(found.array, fresh, atol=1e-5)
    assert not list(files.home().rglob("*.tmp"))


def test_cards_of_other_sizes_give_other_stores(toy: Source, items: list[Item]) -> None:
    known = hashes(items)
    embed(toy, items[:1], hashes=known)
    larger = open_source("toy", image_size=48)
    assert isinstance(larger.card, Card)
    assert embed(larger, items[:1], hashes=known).reused == 0


# --- what is computed again, and what is not ------------------------------------------------------------------------


def test_a_warm_store_needs_no_pass_no_trial_and_no_decoding_whatever_the_view(
    toy: Source, items: list[Item], work: Work
) -> None:
    known = hashes(items)
    views = (View(), View("flipped"), View("augmented", 1, Augmentation()))
    cold = [embed(toy, items, hashes=known, how=Pass(view=view)).array for view in views]
    assert (work.rows, work.picked, work.decoded) == (33, 1, 33)
    assert not work.nothing()
    warm = [embed(toy, items, hashes=known, how=Pass(view=view)) for view in views]
    assert work.nothing()
    for a, b in zip(cold, warm, strict=True):
        assert (b.computed, b.reused) == (0, 11)
        assert np.array_equal(a, b.array)


def test_a_half_warm_store_computes_and_decodes_what_is_new_by_the_same_engine(
    toy: Source, items: list[Item], work: Work
) -> None:
    known = hashes(items)
    embed(toy, items[:7], hashes=known)
    assert not work.nothing()
    found = embed(toy, items, hashes=known)
    assert (work.rows, work.picked, work.reopened, work.decoded) == (4, 0, 1, 4)
    assert (found.computed, found.reused) == (4, 7)
    assert np.array_equal(found.array, embed(toy, items, hashes=known, use_store=False).array)


def test_a_few_rows_that_came_without_a_trial_do_not_decide_on_many(
    toy: Source, items: list[Item], work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = hashes(items)
    embed(toy, items[:1], hashes=known)
    monkeypatch.setattr(features, "_MANY", 10)
    assert not work.nothing()
    found = embed(toy, items, hashes=known, how=Pass(expected=1))
    assert (work.picked, work.reopened) == (1, 0)
    assert (found.computed, found.reused) == (10, 1)  # torch again, so that even the few are used
    embed(toy, items, hashes=known)
    assert (work.picked, work.reopened) == (1, 0)


def test_one_choice_of_engine_serves_all_views_of_a_run(toy: Source, items: list[Item], work: Work) -> None:
    known, runners = hashes(items), Runners()
    for use_store in (False, True):
        for number in range(3):
            view = View("augmented", number + 1, Augmentation())
            embed(toy, items, hashes=known, how=Pass(view=view, runners=runners), use_store=use_store)
    assert (work.picked, work.reopened, work.rows) == (1, 0, 66)


def test_the_weights_are_hashed_once_a_run_and_again_for_another_source(
    toy: Source, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, hashed = Source.hash_below, list[Source]()

    def counting(source: Source, cut: str) -> str:
        hashed.append(source)
        return plain(source, cut)

    monkeypatch.setattr(Source, "hash_below", counting)
    other, runners = toy.fresh(1), Runners()
    for source in (toy, toy, other):
        embed(source, items[:2], hashes=hashes(items), how=Pass(runners=runners))
    assert hashed == [toy, other]


def test_the_engine_of_kept_rows_computes_the_other_views_too(toy: Source, items: list[Item], work: Work) -> None:
    known = hashes(items)
    embed(toy, items, hashes=known)
    found = embed(toy, items, hashes=known, how=Pass(view=View("flipped")))
    assert (work.picked, work.reopened) == (1, 1)
    assert found.engine["identity"] == embed(toy, items, hashes=known).engine["identity"]


def test_rows_of_an_engine_that_cannot_be_had_are_not_mixed_with_others(
    toy: Source, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = hashes(items)
    with monkeypatch.context() as patch:
        patch.setattr(_shelf, "pick_runner", other_engine)
        old = embed(toy, items[:7], hashes=known)
    assert old.engine["identity"] == "other-1/fp32"
    assert (old.array == 7).all()
    assert embed(toy, items[:7], hashes=known).reused == 7
    found = embed(toy, items, hashes=known)
    assert (found.computed, found.reused) == (11, 0)
    assert found.engine["identity"] != "other-1/fp32"
    assert not (found.array == 7).any()
    assert embed(toy, items, hashes=known).reused == 11


class OtherEngine:
    """An engine that this installation does not have."""

    identity, batch_size, facts = "other-1/fp32", 4, {"note": ""}

    def __call__(self, images: torch.Tensor) -> np.ndarray:
        return np.full((len(images), 64), 7, np.float32)


def other_engine(*_: Any, **__: Any) -> OtherEngine:
    return OtherEngine()


def test_an_engine_that_was_asked_for_leaves_the_rows_of_others_alone(
    toy: Source, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = hashes(items)
    with monkeypatch.context() as patch:
        patch.setattr(_shelf, "pick_runner", other_engine)
        embed(toy, items, hashes=known)
    assert embed(toy, items, hashes=known, how=Pass(engine="torch")).computed == 11
    assert embed(toy, items, hashes=known, how=Pass(engine="torch")).reused == 11


def test_rows_of_the_engine_that_stands_in_for_the_one_asked_for_are_used(
    toy: Source, items: list[Item], work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, pick = hashes(items), _shelf.pick_runner
    how = Pass(engine="torch", batch_size=4)
    embed(toy, items[:9], hashes=known, how=how)

    def stand_in(*args: Any, **more: Any) -> Runner:
        return pick(*args, **{**more, "how": replace(more["how"], engine="torch")})

    monkeypatch.setattr(_shelf, "pick_runner", stand_in)
    work.nothing()
    found = embed(toy, items, hashes=known, how=replace(how, engine="onnxruntime", runners=Runners()))
    assert (found.computed, found.reused, work.rows) == (2, 9, 2)


def test_a_head_without_any_readable_item_has_rows_of_nan(toy: Source, items: list[Item]) -> None:
    known = hashes(items)
    for item in items[:2]:
        item.origin.path.unlink()  # type: ignore[union-attr]
    found = embed(toy, items[:2], hashes=known)
    assert (found.array.shape, np.isnan(found.array).all(), len(found.skipped)) == ((2, 64), True, 2)


def test_other_pixels_under_the_same_path_and_size_are_never_served(toy: Source, tmp_path: Path) -> None:
    path, rows = tmp_path / "a.bmp", []
    item = Item(path.name, FileOrigin(path), 0)
    for number in (0, 1):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
        os.utime(path, (1e9, 1e9))
        found = embed(toy, [item], hashes=hashes([item]))
        assert found.computed == 1
        rows.append(found.array)
    assert not np.array_equal(rows[0], rows[1])


# --- other cuts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_store", [True, False])
def test_rows_at_a_cut_are_the_activations_that_enter_the_block(
    toy: Source, items: list[Item], use_store: bool, work: Work
) -> None:
    known = hashes(items)
    how = Pass(cut="layer3", batch_size=4)
    found = embed(toy, items, hashes=known, how=how, use_store=use_store)
    cutting = cut_source(toy, 3)
    assert cutting is not None
    views = torch.stack([Views(items, toy.card)(n) for n in range(11)])
    with evaluating(toy), torch.inference_mode():
        wanted = cutting.below(normalise(views, toy.card)).numpy()
    rows = found.rows[[3, 1, 10]]
    assert (rows.shape, len(found.rows), found.rows.shape) == ((3, wanted.shape[1]), 11, wanted.shape)
    assert np.abs(rows - wanted[[3, 1, 10]]).max() < 1e-4
    work.nothing()
    again = embed(toy, items, hashes=known, how=how, use_store=use_store)
    assert work.rows == (0 if use_store else 11)
    assert np.array_equal(again.array, found.array)


def test_rows_that_are_not_kept_leave_the_disk_with_their_features(toy: Source, items: list[Item]) -> None:
    found = embed(toy, items, hashes=hashes(items), how=Pass(cut="layer4"), use_store=False)
    assert not shards()
    assert list(files.home().rglob("*.safetensors"))
    del found
    assert not list(files.home().rglob("*.safetensors"))


def test_an_unreadable_item_has_a_row_of_nan_at_a_cut_too(toy: Source, items: list[Item]) -> None:
    known = hashes(items)
    items[2].origin.path.unlink()  # type: ignore[union-attr]
    found = embed(toy, items, hashes=known, how=Pass(cut="layer4"))
    assert [entry.file for entry in found.skipped] == ["2.png"]
    assert np.isnan(found.array).all(1).tolist() == [n == 2 for n in range(11)]


def test_activations_that_have_no_room_are_refused_before_they_are_computed(
    toy: Source, items: list[Item], work: Work
) -> None:
    with pytest.raises(OutputError, match="more than may be kept"):
        embed(toy, items, hashes=hashes(items), how=Pass(cut="layer3", bound=10_000, batch_size=4))
    assert work.rows == 4
    assert not shards()


@pytest.mark.parametrize("use_store", [True, False])
def test_activations_that_cannot_be_written_are_refused(
    toy: Source, items: list[Item], use_store: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.mkstemp" if use_store else "tempfile.mkdtemp", refuse)
    with pytest.raises(OutputError, match="Read-only"):
        embed(toy, items, hashes=hashes(items), how=Pass(cut="layer4"), use_store=use_store)


# --- float16 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", ["head", "layer4"])
def test_float16_rows_are_the_same_from_cold_and_warm_stores(toy: Source, items: list[Item], cut: str) -> None:
    known, how = hashes(items), Pass(cut=cut, dtype="float16")
    exact = embed(toy, items, hashes=known, how=replace(how, dtype="float32"), use_store=False).array
    cold = embed(toy, items, hashes=known, how=how)
    assert cold.engine["dtype"] == "float16"
    assert 0 < cold.engine["rounding"] < 1e-3
    rows = cold.array
    assert np.array_equal(rows, exact.astype(np.float16))
    warm = embed(toy, items, hashes=known, how=how)
    assert (warm.computed, warm.engine["dtype"]) == (0, "float16")
    assert np.array_equal(warm.array, rows)


@pytest.mark.parametrize("factor", [1e6, 1e-9])
def test_rows_that_float16_would_harm_are_kept_as_float32(toy: Source, items: list[Item], factor: float) -> None:
    scaled(toy, factor)
    found = embed(toy, items, hashes=hashes(items), how=Pass(dtype="float16"))
    assert (found.engine["dtype"], found.engine["rounding"] > 1e-3) == ("float32", True)
    assert embed(toy, items, hashes=hashes(items), how=Pass(dtype="float16")).computed == 0


def scaled(source: Source, factor: float) -> None:
    plain = source.pooled
    source.pooled = lambda *args: factor * plain(*args)  # type: ignore[method-assign]


def test_a_later_row_that_overflows_float16_starts_again_in_float32(
    toy: Source, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_shelf, "harmless", lambda rows: 0.0)
    scaled(toy, 1e6)
    reporter = Noting()
    found = embed(toy, items, hashes=hashes(items), how=Pass(dtype="float16"), reporter=reporter)
    assert np.isfinite(found.array).all()
    assert "float16" in reporter.notes[0]
    assert embed(toy, items, hashes=hashes(items), how=Pass(dtype="float16")).computed == 0


def test_the_rounding_error_of_float16_is_measured() -> None:
    assert harmless(np.array([[1.0, 0.5], [0.0, 0.0]], np.float32)) == 0
    assert harmless(np.array([[70000.0]], np.float32)) == float("inf")
    assert harmless(np.array([[1e-9]], np.float32)) == 1.0
    assert harmless(np.random.default_rng(0).normal(size=(9, 99)).astype(np.float32)) < 5e-4
    assert harmless(np.empty((0, 3), np.float32)) == 0


# --- the bound ------------------------------------------------------------------------------------------------------


def test_a_bound_of_nothing_keeps_nothing_and_a_small_one_is_told(toy: Source, items: list[Item]) -> None:
    known, reporter = hashes(items), Noting()
    assert embed(toy, items, hashes=known, how=Pass(bound=0), reporter=reporter).computed == 11
    assert not shards()
    assert not reporter.notes
    assert embed(toy, items, hashes=known, how=Pass(bound="1kB"), reporter=reporter).computed == 11
    assert not shards()
    assert "--cache-size" in reporter.notes[0]


def test_what_is_kept_can_be_told_by_source_and_cut(toy: Source, items: list[Item]) -> None:
    known = hashes(items)
    embed(toy, items, hashes=known)
    embed(toy, items[:3], hashes=known, how=Pass(cut="layer4", view=View("flipped"), dtype="float16"))
    head, cut = cache.entries()
    assert (head.about["source"], head.key["cut"], head.rows, head.key["dtype"]) == ("toy", "head", 11, "float32")
    assert (cut.key["cut"], cut.key["view"]["kind"], cut.rows, cut.key["dtype"]) == ("layer4", "flipped", 3, "float16")
