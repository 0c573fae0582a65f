"""What is kept on disk: it is counted, bounded, and removed without touching anything else."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from headstart import api, files
from headstart.data import cache
from headstart.data.store import ArrayStore
from headstart.errors import OutputError, SettingsError
from headstart.settings import Settings, bytes_of

MB = 1_000_000


def keep(name: str, *, used: float, kind: str = "features", rows: int = 2, bound: object = None) -> Path:
    """A folder with `rows` rows of 1,000 float32, last used at `used`."""
    store = ArrayStore({"dtype": "float32", "name": name}, kind=kind, about={"source": name}, bound=bound)  # type: ignore[arg-type]
    store.put([files.hash_bytes(f"{name}{n}".encode()) for n in range(rows)], np.zeros((rows, 1000), np.float32))
    os.utime(store.folder / "key.json", (used, used))
    return store.folder


def engine(used: float) -> Path:
    path = files.home() / "engines" / f"{'a' * 32}-{'b' * 32}.onnx"
    files.write_bytes(path, b"x" * 5000)
    os.utime(path, (used, used))
    return path


def names() -> list[str]:
    return [entry.about.get("source", entry.kind) for entry in cache.entries()]


def test_entries_tell_kind_rows_bytes_and_use_the_oldest_first() -> None:
    keep("b", used=200)
    keep("a", used=100, kind="decoded", rows=5)
    engine(300)
    assert names() == ["a", "b", "engines"]
    assert [(e.kind, e.rows, e.used) for e in cache.entries()] == [
        ("decoded", 5, 100), ("features", 2, 200), ("engines", 0, 300)
    ]  # fmt: skip
    assert cache.entries()[0].bytes == sum(p.stat().st_size for p in cache.entries()[0].place.iterdir())
    assert [e.about["source"] for e in cache.entries("features")] == ["b"]


def test_using_rows_makes_them_the_last_to_go() -> None:
    keep("a", used=100)
    keep("b", used=200)
    assert names() == ["a", "b"]
    ArrayStore({"dtype": "float32", "name": "a"}, kind="features").find(["00" * 32])
    assert names() == ["b", "a"]


def test_pruning_removes_the_least_recently_used_down_to_a_size() -> None:
    old, new, exported = keep("old", used=100), keep("new", used=300), engine(200)
    assert cache.prune(to=10**9) == []
    gone = cache.prune(to=9000)
    assert [entry.place for entry in gone] == [old, exported]
    assert names() == ["new"]
    assert not old.parent.exists()
    assert not exported.exists()
    assert new.exists()


def test_what_this_process_is_using_is_not_pruned() -> None:
    keep("a", used=100)
    keep("b", used=200)
    store = ArrayStore({"dtype": "float32", "name": "a"}, kind="features")
    found = store.find([files.hash_bytes(b"a0")])
    del store
    os.utime(cache.entries()[-1].place / "key.json", (50, 50))
    assert names() == ["a", "b"]
    assert [entry.about["source"] for entry in cache.prune(to=0)] == ["b"]
    assert found[0].shape == (1000,)
    del found
    assert [entry.about["source"] for entry in cache.prune(to=0)] == ["a"]


def test_a_put_beyond_the_bound_makes_room_first() -> None:
    for number, name in enumerate("abc"):
        keep(name, used=100 + number, bound="30kB")
    keep("d", used=200, bound="30kB")
    assert names() == ["b", "c", "d"]


def test_rows_that_do_not_fit_the_bound_are_refused() -> None:
    with pytest.raises(OutputError, match="--cache-size"):
        keep("a", used=1, rows=20, bound="30kB")
    with pytest.raises(OutputError, match="may be kept"):
        keep("a", used=1, bound=0)
    assert cache.entries() == []
    store = ArrayStore({"dtype": "float32"}, kind="features", bound="30kB")
    store.put([files.hash_bytes(b"1")], np.zeros((1, 5000), np.float32))
    with pytest.raises(OutputError, match="in use"):
        store.put([files.hash_bytes(b"2")], np.zeros((1, 5000), np.float32))


def test_a_disk_that_is_nearly_full_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"total": 100 * MB, "free": 5 * MB})())
    with pytest.raises(OutputError, match="nearly full"):
        keep("a", used=1)
    assert cache.limit_of(None) == 5 * MB // 4


def test_the_default_bound_does_not_shrink_with_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"total": 10**12, "free": 10**11})())
    assert cache.limit_of(None) == 10_000_000_000
    assert cache.limit_of("2GB") == 2_000_000_000


def test_nothing_that_is_not_ours_is_counted_or_removed() -> None:
    folder = keep("a", used=100)
    mine = [folder / "notes.txt", files.home() / "features" / "aa" / "other" / "key.json", files.home() / "x.onnx",
            files.home() / "engines" / "mine.onnx", files.home() / "data" / "aa" / "bb" / "key.json"]  # fmt: skip
    for path in mine:
        files.write_text(path, "[1, 2]")
    assert names() == ["a"]
    assert len(cache.clear()) == 1
    assert all(path.exists() for path in mine)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_clearing_takes_one_kind_or_all() -> None:
    keep("a", used=100)
    keep("b", used=100, kind="decoded")
    engine(1)
    assert [entry.kind for entry in cache.clear("decoded")] == ["decoded"]
    assert names() == ["engines", "a"]
    assert len(cache.clear()) == 2
    assert cache.entries() == []


def test_a_folder_stays_known_until_all_of_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    folder, unlink = keep("a", used=100), Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".safetensors":
            raise PermissionError
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.unlink", refuse)
        assert cache.clear() == []
    assert [entry.place for entry in cache.entries()] == [folder]
    assert [entry.place for entry in cache.clear()] == [folder]
    assert not folder.exists()


def test_folders_of_the_first_format_are_seen_and_removed() -> None:
    folder = files.home() / "features" / "ab" / ("ab" * 32)
    files.write_json(folder / "key.json", {"format": 1, "weights": "x", "views": 1, "pooling": "native", "dtype": "f"})
    files.write_bytes(folder / f"{'0' * 32}.safetensors", b"torn")
    (entry,) = cache.entries()
    assert (entry.rows, entry.key["format"]) == (0, 1)
    cache.clear()
    assert not folder.exists()


def test_what_dead_writers_left_is_swept_and_what_is_being_written_is_not() -> None:
    folder = keep("a", used=100)
    old, new = (folder / f".{'0' * 32}.safetensors.{n}.tmp" for n in "xy")
    passing = files.home() / cache.PASSING / "rows-x" / "rows" / "key.json"
    for path in (old, new, passing):
        files.write_text(path, "half")
    for path in (old, passing, passing.parent, passing.parent.parent):
        os.utime(path, (1, 1))
    cache.prune(to=10**9)
    assert (old.exists(), new.exists(), passing.exists()) == (False, True, False)


def test_only_what_is_gone_is_told_as_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    keep("a", used=100)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.unlink", refuse)
        assert cache.prune(to=0) == cache.clear() == []
    assert [entry.about["source"] for entry in cache.clear()] == ["a"]


def test_the_first_writing_of_a_process_sweeps_what_dead_writers_left() -> None:
    old = keep("a", used=100) / f".{'0' * 32}.safetensors.abcdefgh.tmp"
    files.write_text(old, "half")
    os.utime(old, (1, 1))
    cache._swept.discard(files.home())
    keep("b", used=200)
    assert not old.exists()


# --- the verb -------------------------------------------------------------------------------------------------------


def test_the_verb_tells_prunes_and_clears() -> None:
    keep("a", used=100)
    keep("b", used=200)
    told = api.cache()
    assert [row["source"] for row in told["entries"]] == ["b", "a"]
    assert told["total"] == sum(row["bytes"] for row in told["entries"])
    assert (told["removed"], told["folder"]) == ([], str(files.home()))
    assert [row["source"] for row in api.cache(prune=True, to="9kB")["removed"]] == ["a"]
    assert api.cache(prune=True)["removed"] == []
    told = api.cache(clear=True, kind="features")
    assert ([row["source"] for row in told["removed"]], told["entries"]) == (["b"], [])


@pytest.mark.parametrize(
    "options",
    [{"prune": True, "clear": True}, {"to": "1GB"}, {"kind": "pictures"}, {"prune": True, "to": "much"},
     {"prune": True, "kind": "features"}],
)  # fmt: skip
def test_options_that_cannot_stand_together_are_refused(options: dict[str, object]) -> None:
    keep("a", used=100)
    with pytest.raises(SettingsError):
        api.cache(**options)  # type: ignore[arg-type]
    assert names() == ["a"]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        (5, 5),
        ("20GB", 20 * 10**9),
        ("1.5 mb", 1_500_000),
        ("2GiB", 2 << 30),
        ("7k", 7000),
        ("3TB", 3 * 10**12),
    ],
)
def test_sizes_are_read(text: str | int, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "1e9", "ten", "1 PB", "1,5GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="20GB"):
        Settings.of(cache_size=text)
