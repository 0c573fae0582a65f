"""The folder of a run on disk: may it be made, who holds it, what in it is ours. No torch.

settings.json is written first and says how to go on; run.json is written last: a folder with it is whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from headstart import files
from headstart.errors import HeadstartError, Interrupted, OutputError, RunError
from headstart.records import SCHEMA

__all__ = ["anchored", "check", "content", "hold", "read"]

_FILES = (
    "predictions.csv", "report.html", "report.md", "log.jsonl", "race.json", "label_issues.csv", "settings.json",
)  # fmt: skip
_MODEL_FILES = ("headstart.json", "config.json", "model.safetensors", "head.safetensors", "README.md")
_NEEDED = 50_000_000  # bytes that a run may take; a large source's own weights come on top


def read(file: Path) -> dict[str, Any]:
    """settings.json or run.json; RunError when it is torn, foreign or of a newer headstart."""
    try:
        found = files.read_json(file)
        schema = int(found["schema"])
        if file.name == "settings.json":
            found = {name: found[name] for name in ("verb", "data", "directory", "strategies", "settings")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"the file is not as headstart wrote it: {type(error).__name__}: {error}",
            where=file,
            remedy="Start again with `headstart fit` and another --out.",
        ) from error
    if schema > SCHEMA:
        raise RunError(
            f"the run has format {schema}, this headstart reads up to {SCHEMA}",
            where=file,
            remedy="Install a newer headstart.",
        )
    return dict(found)


def anchored(path: str | None, base: Path) -> str | None:
    """A relative path of a run that was started in the folder `base`, for the folder we are in now."""
    if path is None or Path(path).exists() or not (base / path).exists():
        return path
    return str(base / path)


def check(folder: Path, *, overwrite: bool, data: Any = None) -> None:
    """Raise OutputError unless the run folder can be made: nothing is written."""
    if folder.exists() and not folder.is_dir():
        raise OutputError("a file stands where the run folder should be", where=folder, remedy="Choose another --out.")
    inside = isinstance(data, (str, Path)) and Path(data).expanduser()
    if inside and inside.is_dir() and folder.resolve().is_relative_to(inside.resolve()):
        raise OutputError(
            "the run folder would stand inside the data, which are only read",
            where=folder,
            remedy="Choose an --out elsewhere.",
        )
    if folder.is_dir() and (names := content(folder)):
        if not _is_run(folder):
            raise OutputError(
                "the folder is not empty and no run of headstart", where=folder, remedy="Choose another --out."
            )
        if not overwrite:
            resumable = "" if "run.json" in names else f", or go on with: headstart resume {folder}"
            raise OutputError(
                "a run stands there already",
                where=folder,
                remedy=f"Choose another --out, or give --overwrite{resumable}",
            )
    files.check_writable(folder, need_bytes=_NEEDED)


def content(folder: Path) -> set[str]:
    """The names in a folder but for locks and what a killed writer left."""
    names = {entry.name for entry in folder.iterdir()}
    return {n for n in names if n not in (".lock", ".lock.holder") and not (n[0] == "." and n.endswith(".tmp"))}


def _is_run(folder: Path) -> bool:
    """Whether a run was started here: other programs, too, call a file settings.json."""
    try:
        return bool(read(folder / "settings.json"))
    except RunError:
        return False


@contextmanager
def hold(folder: Path | None, started: Mapping[str, Any], *, overwrite: bool, going_on: bool) -> Iterator[None]:
    """Make and lock the run folder and write `started` as settings.json (None: nothing is held).

    An error before the first checkpoint takes away again what was written.
    """
    if folder is None:
        yield
        return
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write: {error.strerror or error}", where=folder) from error
    try:
        with files.lock(folder):
            if not going_on:
                check(folder, overwrite=overwrite)  # again: another run may have come first
                _clear(folder)
                files.write_json(folder / "settings.json", started)
            try:
                yield
            except HeadstartError as error:
                if not going_on and not isinstance(error, Interrupted) and not _checkpoints(folder):
                    _clear(folder)
                raise
    finally:
        if new and not content(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _checkpoints(folder: Path) -> list[Path]:
    """The folders of checkpoints in a run folder."""
    return [*folder.glob("checkpoints/*-step-*"), *folder.glob("scratch/checkpoints/*-step-*"),
            *folder.glob("strategies/*/checkpoints/*-step-*")]  # fmt: skip


def _clear(folder: Path) -> None:
    """Remove what a run writes, run.json first, and nothing else."""
    parts = [folder, folder / "scratch", *folder.glob("strategies/*")]
    ours = [folder / "run.json", *(part / name for part in parts for name in _FILES)]
    ours += [folder / "model" / name for name in _MODEL_FILES]
    ours += [place / name for place in _checkpoints(folder) for name in ("state.json", "state.safetensors")]
    try:
        for file in ours:
            file.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot remove: {error.strerror or error}", where=error.filename) from error
    emptied = [*_checkpoints(folder), *(part / "checkpoints" for part in parts), folder / "model", *parts[1:]]
    for place in [*emptied, folder / "strategies"]:
        with suppress(OSError):  # something of the user's stands in it
            place.rmdir()
