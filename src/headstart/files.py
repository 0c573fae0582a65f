"""The one writer, locks and content hashes. Nothing else in headstart opens a file for writing.

A file is written under a temporary name in the same folder, synced, renamed over the old one, and the folder is
synced: whoever reads sees the old whole file or the new whole file, whatever happens in between.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from headstart.errors import OutputError
from headstart.records import plain

__all__ = [
    "append_line",
    "check_writable",
    "hash_bytes",
    "hash_file",
    "hash_json",
    "home",
    "json_text",
    "lock",
    "read_json",
    "sync_folder",
    "write_bytes",
    "write_json",
    "write_stream",
    "write_text",
]

_CHUNK = 1 << 20


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


@contextmanager
def write_stream(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open `path` for atomic writing: the file appears, whole and synced, when the block ends without an error.

    Raises OutputError when the folder cannot be written or the disk is full.
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        short = os.fsencode(target.name)[:80].decode("utf-8", "ignore")  # names are limited in bytes
        number, name = tempfile.mkstemp(prefix=f".{short}.", suffix=".tmp", dir=target.parent)
        temporary = Path(name)
        with os.fdopen(number, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_UMASK)
        temporary.replace(target)
        temporary = None
        sync_folder(target.parent)
    except OSError as error:
        raise OutputError(
            f"cannot write: {error.strerror or error}",
            where=target,
            remedy="Check free space and permissions, or choose another folder.",
        ) from error
    finally:
        if temporary is not None:
            with suppress(OSError):  # the first error is the one to tell
                temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` atomically."""
    with write_stream(path) as stream:
        stream.write(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text atomically, with \\n line ends; names that are no valid UTF-8 are escaped."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def json_text(value: Any) -> str:
    """A record or plain value as JSON text, keys in their own order: equal values give equal text."""
    return json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a record or plain value as JSON atomically; equal values give equal bytes."""
    write_text(path, json_text(value))


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


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
        raise OutputError(f"cannot write: {error.strerror or error}", where=target) from error


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

    Nothing is left behind: the folder is not created.
    """
    try:
        place = _nearest_existing(Path(folder))
        if not place.is_dir():
            raise OutputError("not a folder", where=place, remedy="Choose another --out.")
        with tempfile.TemporaryFile(dir=place) as probe:
            probe.write(b"headstart")
    except OSError as error:
        raise OutputError(
            f"cannot write there: {error.strerror or error}", where=folder, remedy="Choose another --out."
        ) from error
    free = shutil.disk_usage(place).free
    if free < need_bytes:
        raise OutputError(
            f"needs {need_bytes / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free",
            where=place,
            remedy="Free some space or choose another --out.",
        )


def _nearest_existing(folder: Path) -> Path:
    return next((place for place in (folder, *folder.parents) if place.exists()), Path())


@contextmanager
def lock(folder: str | os.PathLike[str], *, wait: float = 0.0) -> Iterator[None]:
    """Hold `folder` for this process; raise OutputError naming the holder when another living process has it.

    `wait` is how many seconds to wait for it. The system frees the lock of a process that dies, however it dies.
    """
    from filelock import FileLock, Timeout

    path, holder = Path(folder) / ".lock", Path(folder) / ".lock.holder"
    held = FileLock(path)
    try:
        held.acquire(timeout=wait, poll_interval=0.02)
    except Timeout:
        who = "an unnamed process"
        with suppress(OSError):  # its holder may end at this very moment
            who = holder.read_text()
        raise OutputError(
            f"another run ({who}) is working here", where=folder, remedy="Wait for it or choose another --out."
        ) from None
    except OSError as error:
        raise OutputError(f"cannot write: {error.strerror or error}", where=folder) from error
    try:
        write_text(holder, f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        with suppress(OSError):  # a folder that vanished or turned read-only has nothing left to free
            holder.unlink(missing_ok=True)
        held.release()
