"""The state of a training run on disk: tensors in safetensors, the rest in JSON, no pickle.

A checkpoint is a folder. The JSON file, with the tensors' sha256 and its own, is written last: a folder without it is
half a checkpoint, and where a byte does not match them the one before is used. Two are kept.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headstart import __version__, files, tensors
from headstart.errors import RunError
from headstart.records import SCHEMA

__all__ = ["flatten_optimizer", "load_latest", "restore_optimizer", "save", "taking"]

_KEEP = 2


def save(
    folder: Path,
    name: str,
    *,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    damaged: Collection[str] = (),
) -> Path:
    """Write a checkpoint under `folder`, never over another one, then drop all but the newest two; returns its folder.

    What an earlier crash left half written is removed too, and those that are known to be `damaged`. Raises OutputError
    when the disk refuses.
    """
    from safetensors.torch import save as pack

    number = max((_number(p) for p in _whole(folder)), default=0) + 1
    place = folder / f"{number:06d}-{name}"
    data = pack({key: value.detach().to("cpu").contiguous().clone() for key, value in tensors.items()})
    files.write_bytes(place / "state.safetensors", data)
    own = {"schema": SCHEMA, "headstart": __version__, "number": number, "sha256": files.hash_bytes(data)}
    told = {**facts, **own}
    files.write_json(place / "state.json", {**told, "own": files.hash_json(told)})
    kept = sorted((p for p in _whole(folder) if p.name not in damaged), key=_number)[-_KEEP:]
    for other in folder.iterdir():
        if other not in kept:
            shutil.rmtree(other, ignore_errors=True)
    return place


def load_latest(folder: Path) -> tuple[tuple[dict[str, Tensor], dict[str, Any]] | None, dict[str, str]]:
    """Tensors and facts of the newest whole checkpoint (None when there is none), and a note on each passed over.

    Raises RunError where the newest is of a newer format: to go on from the one before would undo its work.
    """
    from safetensors.torch import load as unpack

    torn = sorted(path.parent.name for path in folder.glob("*/state.json") if _number(path.parent) < 0)
    notes = {name: f"checkpoint {name} is damaged; another one is used" for name in torn}
    for place in sorted(_whole(folder), key=_number, reverse=True):
        facts = files.read_json(place / "state.json")
        own = facts.pop("own", None)
        if own is not None and own != files.hash_json(facts):
            notes[place.name] = f"checkpoint {place.name} is damaged; the one before is used"
            continue
        if int(facts.get("schema", SCHEMA)) > SCHEMA:
            raise RunError(
                f"the checkpoint has format {facts['schema']}, this headstart reads up to {SCHEMA}",
                where=place / "state.json",
                remedy=f"Install headstart {facts.get('headstart', 'in a newer version')} or newer.",
            )
        try:
            data = (place / "state.safetensors").read_bytes()
            sound = files.hash_bytes(data) == facts["sha256"] and bool(tensors.shapes(place / "state.safetensors"))
        except ValueError:
            sound = False
        except OSError as error:
            notes[place.name] = f"checkpoint {place.name} cannot be read ({error.strerror}); the one before is used"
            continue
        if not sound:
            notes[place.name] = f"checkpoint {place.name} is damaged; the one before is used"
            continue
        return (unpack(data), facts), notes
    return None, notes


@contextmanager
def taking(folder: Path | None) -> Iterator[None]:
    """A state that does not fit what takes it is a RunError."""
    try:
        yield
    except (KeyError, IndexError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise RunError(
            f"the checkpoint does not fit the run: {type(error).__name__}: {str(error)[:200]}",
            where=folder,
            remedy="Start a new run with `headstart fit` and another --out.",
        ) from error


def _whole(folder: Path) -> list[Path]:
    """Checkpoint folders whose JSON file can be read."""
    return [path.parent for path in folder.glob("*/state.json") if _number(path.parent) >= 0]


def _number(place: Path) -> int:
    try:
        facts = files.read_json(place / "state.json")
        int(facts.get("schema", SCHEMA))
        return int(facts["number"]) if isinstance(facts["sha256"], str) else -1
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return -1  # torn or foreign: not a checkpoint


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors by the position of their parameter."""
    flat: dict[str, Tensor] = {}
    for index, entries in optimizer.state_dict()["state"].items():
        for name, value in entries.items():
            if value is not None:  # a momentum that has not begun
                flat[f"{index}.{name}"] = value if isinstance(value, Tensor) else torch.tensor(value)
    return flat


def restore_optimizer(optimizer: torch.optim.Optimizer, flat: Mapping[str, Tensor]) -> None:
    """Put tensors of `flatten_optimizer` back, in their parameter's memory layout, which fused kernels rely on."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in flat.items():
        number, _, name = key.partition(".")
        like = parameters[int(number)]
        fitting = torch.empty_like(like).copy_(value) if value.shape == like.shape and value.ndim else value
        state.setdefault(int(number), {})[name] = fitting.detach()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
