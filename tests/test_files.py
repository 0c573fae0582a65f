"""The one writer: old whole file or new whole file, nothing in between; locks; hashes."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart import files
from headstart.errors import OutputError


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


@pytest.mark.parametrize("place", ["os.fsync", "pathlib.Path.replace", "tempfile.mkstemp", "pathlib.Path.chmod"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
def test_a_failing_disk_keeps_the_old_file_and_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, code: int
) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(place, refuse)
        with pytest.raises(OutputError, match=r"cannot write: .*a\.txt") as caught:
            files.write_text(path, "new")
    assert os.strerror(code) in str(caught.value)
    assert path.read_text() == "old"
    assert names(tmp_path) == {"a.txt"}


def write_half(path: Path, error: BaseException) -> None:
    with files.write_stream(path) as stream:
        stream.write(b"half")
        raise error


def test_a_disk_that_fills_up_in_mid_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    files.write_bytes(path, b"old")
    with pytest.raises(OutputError, match="No space"):
        write_half(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"a.bin"}


CONTENTS = {"a": b"new a", "b": b"new b", "c": b"new c"}


def old_files(folder: Path) -> None:
    for name in CONTENTS:
        files.write_bytes(folder / name, b"old")


@pytest.mark.parametrize("place", ["os.fsync", "tempfile.mkstemp", "pathlib.Path.chmod", "pathlib.Path.replace"])
def test_files_written_together_are_all_old_where_the_disk_fails_before_the_first_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    old_files(tmp_path)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(place, refuse)
        with pytest.raises(OutputError, match=r"cannot write: .*/a"):
            files.write_together(tmp_path, CONTENTS)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == dict.fromkeys(CONTENTS, b"old")


@pytest.mark.parametrize("renamed", [1, 2])
def test_files_written_together_can_be_finished_by_a_reader_once_the_first_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: int
) -> None:
    old_files(tmp_path)
    real, left = Path.replace, [renamed]

    def some(self: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt  # the process ends here
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", some)
        with pytest.raises(KeyboardInterrupt):
            files.write_together(tmp_path, CONTENTS)
    for name, data in CONTENTS.items():
        if (tmp_path / name).read_bytes() != data:
            assert not files.finish(tmp_path / name, files.hash_bytes(b"something else"))
            assert files.finish(tmp_path / name, files.hash_bytes(data))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == CONTENTS


def test_files_written_together_may_be_finished_by_a_reader_before_their_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.replace

    def quicker(self: Path, target: Path) -> Path:
        real(self, target)  # a reader's
        return real(self, target)

    monkeypatch.setattr(Path, "replace", quicker)
    files.write_together(tmp_path, CONTENTS)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == CONTENTS


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_writer_that_is_stopped_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.bin"
    files.write_bytes(path, b"old")
    with pytest.raises(error):
        write_half(path, error())
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"a.bin"}


def test_a_temporary_file_that_cannot_be_removed_does_not_hide_the_first_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("os.fsync", refuse)
    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    with pytest.raises(OutputError, match="cannot write"):
        files.write_text(tmp_path / "a", "x")


def test_written_files_have_the_customary_mode_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    files.write_text(path, "ü\n")
    assert path.read_bytes() == "ü\n".encode()
    plainly = tmp_path / "b"
    plainly.write_text("")
    assert path.stat().st_mode == plainly.stat().st_mode


def test_a_folder_that_cannot_be_synced_does_not_fail_the_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> int:
        raise PermissionError

    monkeypatch.setattr("os.open", refuse)
    files.sync_folder(tmp_path)


@pytest.mark.parametrize("name", ["é" * 120 + ".txt", "漢" * 80, "a" * 250, "-x", "a b"])
def test_long_and_odd_names_can_be_written(tmp_path: Path, name: str) -> None:
    files.write_text(tmp_path / name, "x")
    assert names(tmp_path) == {name}


def test_text_that_is_no_utf8_is_escaped_and_json_stays_readable(tmp_path: Path) -> None:
    value = {"file": "bad\udcff.jpg", "score": float("nan"), "ü": 1}
    files.write_json(tmp_path / "a.json", value)
    assert files.read_json(tmp_path / "a.json") == {"file": "bad\udcff.jpg", "score": None, "ü": 1}


def test_equal_values_give_equal_bytes_and_equal_hashes_in_any_order_of_keys(tmp_path: Path) -> None:
    assert files.hash_json({"a": 1, "b": (2, 3)}) == files.hash_json({"b": [2, 3], "a": 1})
    assert files.hash_json({"a": 1}) != files.hash_json({"a": 2})
    (tmp_path / "x").write_bytes(b"x" * 3_000_000)
    assert files.hash_file(tmp_path / "x") == files.hash_bytes(b"x" * 3_000_000)


def test_what_killed_writers_left_is_known_by_the_name_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "é" * 120 + ".txt"
    made: list[Path] = []
    for name in ("a.json", long):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pathlib.Path.unlink", lambda *_, **__: None)  # as a kill leaves it
            with pytest.raises(KeyboardInterrupt):
                write_half(tmp_path / name, KeyboardInterrupt())
        made = list(tmp_path.iterdir())
    others = [tmp_path / name for name in (".a.json.tmp", "a.json.abcdefgh.tmp", ".b.json.abcdefgh.tmp", ".a.json")]
    for path in others:
        path.write_text("mine")
    assert len(made) == 2
    assert sorted(files.abandoned(tmp_path, ["a.json", long])) == sorted(made)
    assert files.abandoned(tmp_path / "none", ["a.json"]) == []


def test_folders_are_made_with_their_parents_and_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    assert files.make_folder(tmp_path / "a" / "b" / "c").is_dir()
    assert files.make_folder(tmp_path / "a" / "b" / "c").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file/d"):
        files.make_folder(tmp_path / "file" / "d")


def test_lines_are_appended_whole_also_after_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    files.append_line(path, {"epoch": 0})
    with path.open("ab") as stream:
        stream.write(b'{"epo')
    files.append_line(path, {"epoch": 1, "text": "a\nb"})
    files.append_line(path, {"epoch": 2})
    lines = path.read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in (lines[0], *lines[2:])] == [0, 1, 2]
    assert lines[1] == '{"epo'


def test_a_line_that_cannot_be_appended_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"none/log\.jsonl"):
        files.append_line(tmp_path / "none" / "log.jsonl", {})


def test_checking_a_folder_leaves_nothing_behind(tmp_path: Path) -> None:
    files.check_writable(tmp_path / "not" / "there", need_bytes=10)
    assert names(tmp_path) == set()


def test_a_folder_that_cannot_be_used_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="not a folder"):
        files.check_writable(tmp_path / "file" / "run")
    with pytest.raises(OutputError, match=r"needs .* MB, and .* MB are free"):
        files.check_writable(tmp_path, need_bytes=10**18)
    with pytest.raises(OutputError, match="too long"):
        files.check_writable(tmp_path / ("n" * 300))

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(OutputError, match="Permission denied"):
        files.check_writable(tmp_path)


HOLD = """
import sys, time
from headstart import files
with files.lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_told_who_holds_the_folder(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(OutputError, match=f"process {holder.pid} on "), files.lock(tmp_path):
        pass
    holder.kill()  # the lock dies with its process
    holder.wait()
    with files.lock(tmp_path, wait=5):
        assert str(os.getpid()) in (tmp_path / ".lock.holder").read_text()
    assert not (tmp_path / ".lock.holder").exists()


def test_a_lock_is_free_again_after_an_error_and_holds_within_one_process(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), files.lock(tmp_path):
        raise RuntimeError
    with files.lock(tmp_path), pytest.raises(OutputError, match="is working here"), files.lock(tmp_path):
        pass


def test_a_folder_that_is_not_there_cannot_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import filelock

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.raises(OutputError, match="Read-only"), files.lock(tmp_path):
        pass


def test_our_own_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_HOME", str(tmp_path))
    assert files.home() == tmp_path
    monkeypatch.delenv("HEADSTART_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert files.home() == tmp_path / "x" / "headstart"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    assert files.home() == Path.home() / ".cache" / "headstart"


@given(
    st.lists(st.lists(st.text(st.sampled_from("a,;\"'\r\n\t =\u2028"), min_size=1), min_size=2, max_size=3), min_size=1)
)
def test_every_cell_of_a_csv_text_is_one_cell_again(rows: list[list[str]]) -> None:
    text = files.csv_text(rows)
    assert list(csv.reader(io.StringIO(text, newline=""))) == rows
    assert text.endswith("\n")
    assert not text.endswith("\r\n")
