"""The state of a training run on disk: tensors in safetensors, the rest in JSON, no pickle.

A checkpoint is a folder. The JSON file, with the tensors' sha256, is written last: a folder without it, or whose
tensors do not match it, is half a checkpoint and the one before is used. Two are kept.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headstart import files

__all__ = ["flatten_optimizer", "load_latest", "restore_optimizer", "save"]

_KEEP = 2


def save(folder: Path, name: str, *, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write checkpoint `name` under `folder`, then drop all but the newest two."""
    from safetensors.torch import save as pack

    place = folder / name
    data = pack({key: value.detach().to("cpu").contiguous() for key, value in tensors.items()})
    files.write_bytes(place / "state.safetensors", data)
    number = max((_number(p) for p in _whole(folder)), default=0) + 1
    files.write_json(place / "state.json", {**facts, "number": number, "sha256": files.hash_bytes(data)})
    for old in sorted(_whole(folder), key=_number)[:-_KEEP]:
        shutil.rmtree(old)


def load_latest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], list[str]] | None:
    """Tensors, facts and notes (which checkpoints were passed over as damaged); None when there is none."""
    from safetensors.torch import load as unpack

    notes: list[str] = []
    for place in sorted(_whole(folder), key=_number, reverse=True):
        facts = files.read_json(place / "state.json")
        try:
            data = (place / "state.safetensors").read_bytes()
        except OSError as error:
            notes.append(f"checkpoint {place.name} cannot be read ({error.strerror}); the one before is used")
            continue
        if files.hash_bytes(data) != facts["sha256"]:
            notes.append(f"checkpoint {place.name} is damaged; the one before is used")
            continue
        return unpack(data), facts, notes
    return None


def _whole(folder: Path) -> list[Path]:
    """Checkpoint folders whose JSON file can be read."""
    return [path.parent for path in folder.glob("*/state.json") if _number(path.parent) >= 0]


def _number(place: Path) -> int:
    try:
        return int(files.read_json(place / "state.json")["number"])
    except (OSError, ValueError, KeyError, TypeError):
        return -1  # torn or foreign: not a checkpoint


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors by the position of their parameter."""
    flat: dict[str, Tensor] = {}
    for index, entries in optimizer.state_dict()["state"].items():
        for name, value in entries.items():
            flat[f"{index}.{name}"] = value if isinstance(value, Tensor) else torch.tensor(value)
    return flat


def restore_optimizer(optimizer: torch.optim.Optimizer, flat: Mapping[str, Tensor]) -> None:
    """Put tensors of `flatten_optimizer` back."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in flat.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():  # fused optimisers walk memory: the order must be the parameter's own
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                entries[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
