"""The one writer, locks and content hashes. Nothing else in headstart opens a file for writing.

A file is written under a temporary name in the same folder, synced, renamed over the old one, and the folder is
synced: whoever reads sees the old whole file or the new whole file, whatever happens in between. What a writer left
that was killed is called .NAME.RANDOM.tmp; `abandoned` finds it.
"""

from __future__ import annotations

import csv
import errno
import glob
import hashlib
import io
import json
import os
import re
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from headstart.errors import OutputError
from headstart.records import plain

__all__ = [
    "ROOM",
    "abandoned",
    "append_line",
    "check_writable",
    "csv_text",
    "finish",
    "hash_bytes",
    "hash_file",
    "hash_json",
    "home",
    "json_text",
    "listed",
    "lock",
    "make_folder",
    "parse_json",
    "read_json",
    "sync_folder",
    "take_place",
    "text_bytes",
    "write_bytes",
    "write_json",
    "write_stream",
    "write_text",
    "write_together",
]

_CHUNK = 1 << 20
ROOM = "Check free space and permissions, or choose another folder."
"""What to do where a disk refuses."""
_TEMPORARY = re.compile(r"\.(.+)\.[a-z0-9_]{8}\.tmp")
_NAMED = 50  # looks for the name of a lock's holder, a fiftieth of a second apart


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


_UMASK = _umask()  # asked once, at import: asking means setting it, for all threads


def home() -> Path:
    """Our own cache folder: HEADSTART_HOME, else the platform's cache folder + headstart."""
    if named := os.environ.get("HEADSTART_HOME"):
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(base) if base else Path.home() / ".cache") / "headstart"


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut (where the system can sync folders)."""
    with suppress(OSError):  # Windows and some network file systems cannot open a folder; the file itself is synced
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def make_folder(folder: str | os.PathLike[str]) -> Path:
    """Make `folder` and its missing parents, each synced into its own. Raises OutputError where that is refused."""
    place = Path(folder)
    try:
        _made(place)
    except OSError as error:
        raise OutputError(f"cannot write: {error.strerror or error}", where=folder, remedy=ROOM) from error
    return place


def _made(folder: Path) -> None:
    if not folder.is_dir():
        _made(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def listed(folder: Path, pattern: str) -> list[Path]:
    """What matches a pattern below `folder`, sorted; nothing where it is not there or not ours to look into."""
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def abandoned(folder: Path, names: Iterable[str]) -> list[Path]:
    """What killed writers of the files `names` left in `folder`, where nobody is writing now."""
    short, found = {_short(name) for name in names}, []
    with suppress(OSError):  # it is not there
        found = [path for path in folder.iterdir() if path.name.endswith(".tmp")]
    return [path for path in found if (told := _TEMPORARY.fullmatch(path.name)) and told[1] in short]


def _short(name: str) -> str:
    return os.fsencode(name)[:80].decode("utf-8", "ignore")  # names are limited in bytes


@contextmanager
def write_stream(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open `path` for atomic writing: the file appears, whole and synced, when the block ends without an error.

    Where `path` is a link its target is written. Raises OutputError when the folder cannot be written, the disk is
    full, or something stands there that is no file.
    """
    target = Path(path)
    temporary: Path | None = None
    with _told(target):
        try:
            target = _place(target)
            temporary, stream = _stage(target)
            with stream:
                yield stream
                _sync(stream)
            temporary.chmod(0o666 & ~_UMASK)
            temporary.replace(target)
            temporary = None
            sync_folder(target.parent)
        finally:
            _drop(temporary)


def write_together(folder: str | os.PathLike[str], contents: Mapping[str, bytes]) -> None:
    """Write files that belong together: all are whole and synced before the first of them takes its name.

    The first should hold the hashes of the others: `finish` puts in place what a killed process could not. Raises
    OutputError when the folder cannot be written or the disk is full; then the old files stand as they did.
    """
    place, staged, named = Path(folder), dict[str, Path](), False
    try:
        for name, data in contents.items():
            with _told(place / name):
                staged[name], stream = _stage(place / name)
                with stream:
                    stream.write(data)
                    _sync(stream)
                staged[name].chmod(0o666 & ~_UMASK)
        sync_folder(place)
        for name in staged:
            with _told(place / name), suppress(FileNotFoundError):  # a reader has finished it
                staged[name].replace(place / name)
            named = True
        sync_folder(place)
    finally:
        for temporary in [] if named else staged.values():  # once the first has its name the others are still needed
            _drop(temporary)


def take_place(ready: Path, target: Path) -> None:
    """Give a file that is whole and synced the name of another one. Raises OutputError where that is refused."""
    with _told(target):
        ready.replace(target)
        sync_folder(target.parent)


def finish(path: str | os.PathLike[str], sha256: str) -> bool:
    """Whether `path` now has the bytes of this hash, which a killed `write_together` had left under another name."""
    target = Path(path)
    for staged in target.parent.glob(f".{glob.escape(_short(target.name))}.*.tmp"):
        with suppress(OSError):  # its writer lives and was quicker, or the folder is not ours to write
            if hash_file(staged) == sha256:
                staged.replace(target)
                return True
    return False


def _stage(target: Path) -> tuple[Path, IO[bytes]]:
    """A new file beside `target`, under another name, and the stream that fills it."""
    _made(target.parent)
    number, name = tempfile.mkstemp(prefix=f".{_short(target.name)}.", suffix=".tmp", dir=target.parent)
    return Path(name), os.fdopen(number, "wb")


def _sync(stream: IO[bytes]) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _drop(temporary: Path | None) -> None:
    if temporary is not None:
        with suppress(OSError):  # the first error is the one to tell
            temporary.unlink(missing_ok=True)


@contextmanager
def _told(target: Path) -> Iterator[None]:
    """An error of the system as one that says which file and what to do."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write: {error.strerror or error}",
            where=target,
            remedy=ROOM,
        ) from error


def _place(target: Path) -> Path:
    """Where to write: a rename would put a file in the place of a link or a device."""
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(target.stat().st_mode):
            raise OSError(errno.EINVAL, "not a file")
    return target.resolve() if target.is_symlink() else target


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` atomically."""
    with write_stream(path) as stream:
        stream.write(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text atomically, with \\n line ends; names that are no valid UTF-8 are escaped."""
    write_bytes(path, text_bytes(text))


def text_bytes(text: str) -> bytes:
    """What `write_text` writes: in JSON, the escape of a byte that is no valid UTF-8 gives the name back."""
    return text.encode("utf-8", "backslashreplace")


def json_text(value: Any) -> str:
    """A record or plain value as JSON text, keys in their own order: equal values give equal text."""
    return json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Rows as CSV text with \\n line ends; a cell with a line end of any kind is quoted, so that it stays one cell."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\r\n")  # with "\n" alone, "\r" in a cell would end its row
    lines = []
    for row in rows:
        text.seek(0)
        text.truncate()
        table.writerow(row)
        lines.append(text.getvalue().removesuffix("\r\n") + "\n")
    return "".join(lines)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a record or plain value as JSON atomically; equal values give equal bytes."""
    write_text(path, json_text(value))


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file. Raises OSError, and ValueError where `parse_json` does."""
    return parse_json(Path(path).read_bytes())


def parse_json(data: bytes) -> Any:
    """What UTF-8 JSON says, whoever wrote it. Raises ValueError where it is none, is nested too deeply or holds NaN."""
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def append_line(path: str | os.PathLike[str], value: Any) -> None:
    """Append one JSON line and sync it; a torn last line of an earlier crash is ended first."""
    target = Path(path)
    line = json.dumps(plain(value), ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"
    try:
        with target.open("ab+") as stream:
            if stream.tell() > 0:
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":
                    line = b"\n" + line
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise OutputError(f"cannot write: {error.strerror or error}", where=target, remedy=ROOM) from error


def hash_bytes(data: bytes) -> str:
    """sha256 of `data`, in hex."""
    return hashlib.sha256(data).hexdigest()


def hash_file(path: str | os.PathLike[str]) -> str:
    """sha256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def hash_json(value: Any) -> str:
    """sha256 of a plain value: equal values give equal hashes whatever the order of their keys."""
    return hash_bytes(json.dumps(plain(value), sort_keys=True, ensure_ascii=True).encode())


def check_writable(folder: str | os.PathLike[str], *, need_bytes: int = 0) -> None:
    """Raise OutputError unless `folder` (or its nearest existing parent) can be written and has `need_bytes` free.

    A quota is asked about, too, where the system can set room aside. Nothing is left behind: the folder is not created.
    """
    try:
        place = _nearest_existing(Path(folder))
        if not place.is_dir():
            raise OutputError("not a folder", where=place, remedy="Choose another --out.")
        free = shutil.disk_usage(place).free
        if free < need_bytes:
            raise OutputError(
                f"needs {need_bytes / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free",
                where=place,
                remedy="Free some space or choose another --out.",
            )
        with tempfile.TemporaryFile(dir=place) as probe:
            probe.write(b"headstart")
            probe.flush()
            _set_aside(probe, need_bytes)
    except OSError as error:
        raise OutputError(
            f"cannot write there: {error.strerror or error}", where=folder, remedy="Choose another --out."
        ) from error


def _set_aside(stream: IO[bytes], need_bytes: int) -> None:
    """Raise OutputError where a quota leaves less than `need_bytes`; what cannot be asked is not told."""
    if not need_bytes or not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(stream.fileno(), 0, need_bytes)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
            raise OSError(error.errno, f"{need_bytes / 1e6:.0f} MB are needed: {error.strerror}") from error


def _nearest_existing(folder: Path) -> Path:
    return next((place for place in (folder, *folder.parents) if place.exists()), Path())


@contextmanager
def lock(folder: str | os.PathLike[str], *, wait: float = 0.0) -> Iterator[None]:
    """Hold `folder` for this process; raise OutputError naming the holder when another living process has it.

    `wait` is how many seconds to wait for it. The system frees the lock of a process that dies, however it dies.
    """
    from filelock import FileLock

    holder = Path(folder) / ".lock.holder"
    held = FileLock(Path(folder) / ".lock")
    try:
        who = _acquired(held, holder, wait=wait)
    except OSError as error:
        raise OutputError(f"cannot write: {error.strerror or error}", where=folder, remedy=ROOM) from error
    if who:
        raise OutputError(
            f"another run ({who}) is working here", where=folder, remedy="Wait for it or choose another --out."
        )
    try:
        with suppress(OutputError):  # who holds it is good to know and not needed
            write_text(holder, f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        with suppress(OSError):  # a folder that vanished or turned read-only has nothing left to free
            holder.unlink(missing_ok=True)
        held.release()


def _acquired(held: Any, holder: Path, *, wait: float) -> str:
    """Take the lock; else who has it. That one may not have written its name yet, or may be going at this moment."""
    from filelock import Timeout

    for _ in range(_NAMED):
        try:
            held.acquire(timeout=wait, poll_interval=0.02)
        except Timeout:
            with suppress(OSError):
                if who := holder.read_text():
                    return who
            time.sleep(0.02)
        else:
            return ""
    return "an unnamed process"
