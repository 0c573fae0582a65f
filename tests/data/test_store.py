"""The store of arrays: what was put comes back bit for bit, nothing damaged is served, processes do not disturb."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file

from headstart import files
from headstart.data import _shard, store
from headstart.data.store import ArrayStore, Found
from headstart.errors import OutputError

KEY = {"dtype": "float32", "anything": 1}


def names(count: int, start: int = 0) -> list[str]:
    return [files.hash_bytes(str(n).encode()) for n in range(start, start + count)]


def rows_of(count: int, start: int = 0) -> np.ndarray:
    return np.stack([np.random.default_rng(n).random(7, dtype=np.float32) for n in range(start, start + count)])


def filled(count: int = 11) -> ArrayStore:
    made = ArrayStore(KEY, kind="features")
    made.put(names(count), rows_of(count))
    return made


def shards(made: ArrayStore) -> list[Path]:
    return sorted(made.folder.glob("*.safetensors"))


def test_rows_come_back_in_the_order_asked_for_and_twins_get_the_same() -> None:
    found = filled().find([*names(11)[::-1], names(1)[0], "ab" * 32])
    assert found.there.tolist() == [True] * 12 + [False]
    assert np.array_equal(found.rows(range(11)), rows_of(11)[::-1])
    assert np.array_equal(found[11], rows_of(1)[0])
    with pytest.raises(KeyError):
        found[12]
    with pytest.raises(KeyError):
        found.rows([0, 12])


def test_a_row_is_a_read_only_view_of_the_file() -> None:
    row = filled().find(names(1))[0]
    assert not row.flags.writeable
    assert not row.flags.owndata


def test_rows_fill_an_array_that_is_given() -> None:
    out = np.zeros((3, 7), np.float32)
    assert filled().find(names(11)).rows([2, 4, 6], out=out) is out
    assert np.array_equal(out, rows_of(11)[[2, 4, 6]])


def test_nothing_asked_nothing_kept_and_nothing_put() -> None:
    empty = ArrayStore(KEY, kind="features")
    assert empty.find([]).rows().shape == (0, 0)
    assert not empty.find(names(3)).there.any()
    empty.put([], [])
    assert not empty.folder.exists()
    assert len(filled().find([])) == 0


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["float32", "float16", "uint8"]).flatmap(
        lambda dtype: st.lists(
            hnp.arrays(np.dtype(dtype), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)), max_size=6
        ).map(lambda arrays: (dtype, arrays))
    )
)
def test_arrays_of_any_shape_come_back_bit_for_bit(made: tuple[str, list[np.ndarray]]) -> None:
    dtype, arrays = made
    kept = ArrayStore({"dtype": dtype}, kind="decoded", folder=Path(tempfile.mkdtemp(dir=files.home())))
    kept.put(names(len(arrays)), arrays)
    found = kept.find(names(len(arrays)))
    assert found.there.all()
    for number, array in enumerate(arrays):
        assert (found[number].shape, found[number].dtype) == (array.shape, array.dtype)
        assert found[number].tobytes() == array.tobytes()


def test_rows_of_several_shapes_cannot_be_stacked() -> None:
    kept = ArrayStore(KEY, kind="features")
    kept.put(names(2), [np.zeros(3, np.float32), np.zeros(4, np.float32)])
    with pytest.raises(ValueError, match="shapes"):
        kept.find(names(2)).rows()
    kept.put(names(1, 5), np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match="shapes"):
        kept.find([names(2)[1], names(1, 5)[0]]).rows()


def test_a_row_of_another_kind_is_refused() -> None:
    with pytest.raises(TypeError):
        ArrayStore({"dtype": "uint8"}, kind="decoded").put(names(1), np.ones((1, 2), np.float32))
    with pytest.raises(ValueError, match="hashes for"):
        filled().put(names(2), rows_of(1))
    with pytest.raises(ValueError, match="holds"):
        ArrayStore({"dtype": "float64"}, kind="features")


def test_any_safetensors_reader_opens_a_shard() -> None:
    (path,) = shards(filled())
    table = load_file(path)
    assert np.array_equal(table["data"].reshape(11, 7), rows_of(11))
    assert table["hashes"].tobytes().hex() == "".join(names(11))


def test_shards_are_bounded_in_bytes_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_SHARD_BYTES", 100)  # three rows of 28 bytes
    kept = filled()
    assert len(shards(kept)) == 4
    kept.put(names(7, 20), list(rows_of(7, 20)))
    assert len(shards(kept)) == 7
    monkeypatch.setattr(store, "_SHARD_ROWS", 2)
    kept.put(names(3, 40), list(rows_of(3, 40)))
    assert len(shards(kept)) == 9
    wanted = [*names(11), *names(7, 20), *names(3, 40)]
    assert np.array_equal(kept.find(wanted).rows(), np.concatenate([rows_of(11), rows_of(7, 20), rows_of(3, 40)]))


def test_other_keys_share_nothing() -> None:
    filled()
    assert not ArrayStore({**KEY, "anything": 2}, kind="features").find(names(11)).there.any()
    assert not ArrayStore(KEY, kind="decoded").find(names(11)).there.any()


@pytest.mark.parametrize("position", [-1, -28, -150, -300, -301])
def test_a_flipped_bit_in_a_row_costs_that_row_alone(position: int) -> None:
    kept = filled()
    (path,) = shards(kept)
    kept.find(names(11))
    data = bytearray(path.read_bytes())
    data[position] ^= 16
    path.write_bytes(data)
    found = kept.find(names(11))
    assert (int(found.there.sum()), kept.damaged) == (10, 1)
    (mended,) = shards(kept)
    assert mended != path
    again = ArrayStore(KEY, kind="features")
    good = np.flatnonzero(again.find(names(11)).there)
    assert again.damaged == 0
    assert np.array_equal(again.find(names(11)).rows(good), rows_of(11)[good])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_flipped_byte_anywhere_ever_serves_a_wrong_row(data: st.DataObject) -> None:
    kept = ArrayStore(KEY, kind="features", folder=Path(tempfile.mkdtemp(dir=files.home())))
    arrays = [*rows_of(3), np.zeros((2, 2), np.float32)]
    kept.put(names(4), arrays)
    (path,) = shards(kept)
    raw = bytearray(path.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    found = kept.find(names(4))
    for number in np.flatnonzero(found.there).tolist():
        assert found[number].tobytes() == arrays[number].tobytes()
        assert found[number].shape == arrays[number].shape


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:5],
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data.replace(b'"hashes"', b'"hushes"'),
        lambda data: data.replace(b"[11,32]", b"[16,22]"),
        lambda data: data.replace(b'"F32"', b'"U32"'),
        lambda data: (2).to_bytes(8, "little") + b"[]",
        lambda data: (60).to_bytes(8, "little") + b"[" * 60,
    ],
)
def test_a_torn_or_foreign_shard_is_dropped_and_counted(damage: Callable[[bytes], bytes]) -> None:
    kept = filled()
    (path,) = shards(kept)
    path.write_bytes(damage(path.read_bytes()))
    assert not kept.find(names(11)).there.any()
    assert (kept.damaged, shards(kept)) == (1, [])


def test_a_shard_that_was_removed_stays_readable_where_it_is_mapped() -> None:
    kept = filled()
    found = kept.find(names(11))
    for path in shards(kept):
        path.unlink()
    assert np.array_equal(found.rows(), rows_of(11))
    assert not kept.find(names(11)).there.any()


def test_a_checksum_is_computed_once_a_process_and_only_for_rows_that_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    filled()
    checked: list[int] = []
    plain = _shard._checksums

    def counting(hashes: np.ndarray, *rest: object) -> np.ndarray:
        checked.append(len(hashes))
        return plain(hashes, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(_shard, "_checksums", counting)
    for _ in range(3):
        ArrayStore(KEY, kind="features").find(names(4))
    assert sum(checked) == 4
    ArrayStore(KEY, kind="features").find(names(11))
    assert sum(checked) == 11


def test_pages_that_were_read_can_be_given_back_and_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_MAPPED", 10)
    found = filled().find(names(11))
    view = found[3]
    for _ in range(2):
        assert np.array_equal(found.rows(), rows_of(11))
    assert np.array_equal(view, rows_of(11)[3])


def test_a_store_that_cannot_be_written_says_so_and_serves_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = filled()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(OutputError, match="Read-only"):
        kept.put(names(1, 50), rows_of(1, 50))
    assert kept.find(names(11)).there.all()


def _fill(home: str, start: int) -> None:
    os.environ["HEADSTART_HOME"] = home
    kept = ArrayStore(KEY, kind="features")
    for number in range(start, start + 30, 3):
        kept.put(names(3, number), rows_of(3, number))
        there: Found = kept.find(names(3, number))
        assert np.array_equal(there.rows(), rows_of(3, number))


def test_two_processes_may_fill_one_store_at_once() -> None:
    spawned = multiprocessing.get_context("spawn")
    workers = [spawned.Process(target=_fill, args=(str(files.home()), start)) for start in (0, 15)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    kept = ArrayStore(KEY, kind="features")
    assert np.array_equal(kept.find(names(45)).rows(), rows_of(45))
    assert kept.damaged == 0
    assert not list(files.home().rglob("*.tmp"))


def test_a_folder_that_another_process_prunes_between_two_puts_is_made_whole_again() -> None:
    kept = filled(2)
    found = kept.find(names(2))
    for path in kept.folder.iterdir():
        path.unlink()
    kept.folder.rmdir()
    kept.put(names(2, 5), rows_of(2, 5))
    assert files.read_json(kept.folder / "key.json")["key"] == KEY
    again = kept.find([*names(2), *names(2, 5)])
    assert again.there.tolist() == [False, False, True, True]
    assert np.array_equal(found.rows(), rows_of(2))


def test_rows_fill_their_own_positions_and_leave_the_others() -> None:
    found = filled(3).find([names(1, 2)[0], "ab" * 32, names(1)[0]])
    out = np.full((3, 7), -1, np.float32)
    found.fill(out)
    assert np.array_equal(out, [rows_of(1, 2)[0], np.full(7, -1), rows_of(1)[0]])
    with pytest.raises(ValueError, match="shapes"):
        found.fill(np.zeros((3, 8), np.float32))


def test_a_damaged_row_is_served_from_its_copy_in_another_shard() -> None:
    kept = filled(4)
    kept.put(names(4), rows_of(4))
    path = shards(kept)[0]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    found = kept.find(names(4))
    assert kept.damaged == 1
    assert np.array_equal(found.rows(), rows_of(4))


def test_threads_may_put_and_find_at_once() -> None:
    kept = ArrayStore(KEY, kind="features")

    def work(number: int) -> bool:
        kept.put(names(3, 10 * number), rows_of(3, 10 * number))
        return bool(np.array_equal(kept.find(names(3, 10 * number)).rows(), rows_of(3, 10 * number)))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(12)))
