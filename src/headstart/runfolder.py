"""The folder of a run on disk: may it be made, who holds it, what in it is ours. No torch.

settings.json is written first, says how to go on, and is replaced or removed last; run.json is written last of all: a
folder with it is whole. So at any moment the folder is empty, goes on, or is finished.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from headstart import files
from headstart.errors import HeadstartError, Interrupted, OutputError, RunError
from headstart.records import SCHEMA, Card, Dataset, Facts

__all__ = ["anchored", "begun", "changes", "check", "check_room", "content", "hold", "read", "stands"]

_FILES = (
    "predictions.csv", "report.html", "report.md", "log.jsonl", "race.json", "label_issues.csv",
)  # fmt: skip
_MODEL_FILES = (
    "headstart.json", "config.json", "model.safetensors", "head.safetensors", "reject.safetensors",
    "learned.safetensors", "statistics.safetensors", "README.md",
)  # fmt: skip
_PRUNED_FILES = (*_MODEL_FILES, "curve.json")
_STATE_FILES = ("state.json", "state.safetensors")
_READY = ".settings.json.overtake.tmp"  # of a name that is swept away
_WORDS = 200  # letters of what a file or a library says
_TOLD = 8  # changes that are named before the rest is counted
_NEEDED = 50_000_000  # bytes that a run may take; weights and checkpoints come on top, see `check_room`


def read(file: Path) -> dict[str, Any]:
    """settings.json or run.json; RunError when it is torn, foreign or of a newer headstart."""
    try:
        found = files.read_json(file)
        if (schema := int(found["schema"])) > SCHEMA:
            raise RunError(
                f"the run has format {schema}, this headstart reads up to {SCHEMA}",
                where=file,
                remedy="Install a newer headstart.",
            )
        parts = ("data", "settings", "scores") if file.name == "run.json" else ()
        if not all(isinstance(found[part], dict) for part in parts):
            raise TypeError("data, settings or scores are no objects")
        if file.name == "settings.json":
            found = {"begun": found.get("begun")} | {
                name: found[name] for name in ("verb", "data", "directory", "strategies", "settings")
            }
            _check_started(found)
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise RunError(
            f"the file is not as headstart wrote it: {type(error).__name__}: {str(error)[:_WORDS]}",
            where=file,
            remedy="Start again with `headstart fit` and another --out.",
        ) from error
    return dict(found)


def _check_started(found: Mapping[str, Any]) -> None:
    """Raise TypeError where settings.json holds parts of other kinds than `hold` wrote."""
    kinds: dict[str, Any] = {
        "verb": str, "data": (str, type(None)), "directory": str, "strategies": list, "settings": dict,
        "begun": (dict, type(None)),
    }  # fmt: skip
    if odd := next((name for name, kind in kinds.items() if not isinstance(found[name], kind)), None):
        raise TypeError(f"{odd} is of another kind")
    if found["verb"] not in ("fit", "compare") or not all(isinstance(name, str) for name in found["strategies"]):
        raise TypeError("verb or strategies are unknown")
    begun = found["begun"]
    if begun is not None and not all(isinstance(begun[name], dict) for name in ("items", "source", "environment")):
        raise TypeError("begun is of another kind")


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


def check_room(folder: Path, need: int) -> None:
    """Raise OutputError unless a run of `need` bytes has room, what a run before it took there included."""
    held = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    files.check_writable(folder, need_bytes=max(0, _NEEDED + need - held))


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


def stands(folder: Path, started: Mapping[str, Any]) -> bool:
    """Whether the run that was `started` so stands in the folder, finished or not: then `resume` takes it up."""
    try:
        found = read(folder / "settings.json")
    except RunError:
        return False
    wanted = json.loads(files.json_text(started))
    return wanted["data"] is not None and all(
        found[name] == wanted[name] for name in ("verb", "data", "strategies", "settings")
    )


# --- what a run was begun with ------------------------------------------------------------------------------------


def begun(dataset: Dataset, facts: Facts, card: Card, *, environment: Mapping[str, Any]) -> dict[str, Any]:
    """What `resume` must find again, for settings.json: the items of each split and class, and the source.

    A part is told as its number of items and a hash of their names, contents and groups.
    """
    parts: dict[str, dict[str, list[Any]]] = {}
    for item in dataset.items:
        name = dataset.classes[item.label or 0]
        parts.setdefault(item.split, {}).setdefault(name, []).append([item.name, facts.hashes[item.name], item.group])
    return {
        "classes": list(dataset.classes),
        "items": {
            f"{split}/{name}": f"{len(rows)} {files.hash_json(sorted(rows, key=str))[:16]}"
            for split, own in sorted(parts.items())
            for name, rows in sorted(own.items())
        },
        "source": {"weights": card.sha256, "preprocessing": files.hash_json(card.preprocessing)[:16]},
        "environment": dict(environment),
    }


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is no longer as the run was begun with, one phrase each; none where nothing that shapes it has changed."""
    told = []
    if before["classes"] != now["classes"]:
        told.append(f"the classes are {', '.join(now['classes'])} and were {', '.join(before['classes'])}")
    for name in sorted({*before["items"], *now["items"]}):
        old, new = (str(facts["items"].get(name, "0")) for facts in (before, now))
        if old != new:
            had, has = old.partition(" ")[0], new.partition(" ")[0]
            told.append(f"{name} has {has} items and had {had}" if had != has else f"{name} has other items")
    told += [f"the source has other {name}" for name, own in before["source"].items() if now["source"].get(name) != own]
    return told if len(told) <= _TOLD else [*told[:_TOLD], f"and {len(told) - _TOLD} more"]


# --- holding it ---------------------------------------------------------------------------------------------------


@contextmanager
def hold(folder: Path | None, started: Mapping[str, Any], *, overwrite: bool, going_on: bool) -> Iterator[None]:
    """Make and lock the run folder and write `started` as settings.json (None: nothing is held).

    An error before the first checkpoint takes away again what was written.
    """
    if folder is None:
        yield
        return
    new = not folder.exists()
    files.make_folder(folder)
    try:
        with files.lock(folder):
            _sweep(folder)
            try:
                yield from _held(folder, started, overwrite=overwrite, going_on=going_on)
            finally:
                if new and not content(folder):
                    shutil.rmtree(folder, ignore_errors=True)  # as long as it is ours: another run may be waiting
    finally:
        if new:
            with suppress(OSError):  # it is not empty, or gone
                folder.rmdir()


def _held(folder: Path, started: Mapping[str, Any], *, overwrite: bool, going_on: bool) -> Iterator[None]:
    """What `hold` does while the folder is locked."""
    if not going_on:
        check(folder, overwrite=overwrite)  # again: another run may have come first
    try:
        if not going_on:
            _begin(folder, started)
        yield
    except OutputError as error:
        _left_clean(folder, going_on=going_on)
        if not _checkpoints(folder) or started["data"] is None:
            raise
        remedy = f"{error.remedy} Then go on with: headstart resume {shlex.quote(str(folder))}".strip()
        raise OutputError(error.what, where=error.where, remedy=remedy) from error
    except HeadstartError as error:
        _left_clean(folder, going_on=going_on or isinstance(error, Interrupted))
        raise


def _begin(folder: Path, started: Mapping[str, Any]) -> None:
    """Take the place of the run before: a disk that refuses the new settings has not cost the old run.

    They get their name last: killed in here, the old run can be taken up.
    """
    files.write_json(folder / _READY, started)
    _clear(folder)
    files.take_place(folder / _READY, folder / "settings.json")


def _left_clean(folder: Path, *, going_on: bool) -> None:
    """After an error: a run that nobody can go on with leaves nothing."""
    if not going_on and not _checkpoints(folder) and not (folder / "run.json").exists():
        with suppress(OutputError, OSError):  # the first error is the one to tell
            _sweep(folder)  # a model of which some files have their names and some not yet
            _clear(folder)
            (folder / "settings.json").unlink(missing_ok=True)


def _checkpoints(folder: Path) -> list[Path]:
    """The folders of checkpoints in a run folder."""
    return [*folder.glob("checkpoints/*-step-*"), *folder.glob("scratch/checkpoints/*-step-*"),
            *folder.glob("strategies/*/checkpoints/*-step-*")]  # fmt: skip


def _parts(folder: Path) -> list[Path]:
    """The folder and those of its parts that hold files like its own."""
    return [folder, folder / "scratch", *folder.glob("strategies/*")]


def _export_files() -> tuple[str, ...]:
    """The files of an export's folder."""
    from headstart.ship.exported import CERTIFICATE, PAYLOAD  # not above: api would load NumPy with this module

    return (CERTIFICATE, *PAYLOAD)


def _exports(folder: Path) -> list[Path]:
    """The folders of the exports of a run, and of the models that were pruned out of it."""
    return [*folder.glob("exports/*-*"), *folder.glob("pruned/*/exports/*-*")]


def _sweep(folder: Path) -> None:
    """Remove what killed writers left: whoever holds the folder is its only writer."""
    parts = _parts(folder)
    own = ("run.json", "settings.json", _READY, ".lock.holder", *_FILES)
    places: dict[Path, tuple[str, ...]] = dict.fromkeys(parts, own)
    places |= dict.fromkeys((place for part in parts for place in part.glob("checkpoints/*")), _STATE_FILES)
    places |= dict.fromkeys(_exports(folder), _export_files()) | dict.fromkeys(folder.glob("pruned/*"), _PRUNED_FILES)
    for place, names in {**places, folder / "model": _MODEL_FILES}.items():
        for path in files.abandoned(place, names):
            with suppress(OSError):  # it costs some room and harms nothing
                path.unlink(missing_ok=True)


def _clear(folder: Path) -> None:
    """Remove what a run writes, run.json first, but for settings.json: killed in here, the old run can be taken up."""
    parts = _parts(folder)
    ours = [folder / "run.json", *(part / name for part in parts for name in _FILES)]
    ours += [folder / "model" / name for name in _MODEL_FILES]
    ours += [place / name for place in _checkpoints(folder) for name in _STATE_FILES]
    exports, pruned = _exports(folder), [*folder.glob("pruned/*")]
    ours += [place / name for place in exports for name in _export_files()]
    ours += [place / name for place in pruned for name in _PRUNED_FILES]
    try:
        for file in ours:
            file.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot remove: {error.strerror or error}",
            where=error.filename,
            remedy="Check permissions, or choose another --out.",
        ) from error
    emptied = [*_checkpoints(folder), *(part / "checkpoints" for part in parts), folder / "model", *parts[1:]]
    made = [*exports, *(place / "exports" for place in (folder, *pruned)), *pruned, folder / "pruned"]
    for place in [*emptied, folder / "strategies", *made]:
        with suppress(OSError):  # something of the user's stands in it
            place.rmdir()
