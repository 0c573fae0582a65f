"""Read weight files without running code, and load them into a network without losing or inventing an entry."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headstart import tensors
from headstart.errors import SourceError
from headstart.files import hash_file

__all__ = ["hash_matches_name", "load_strictly", "read_weights", "without"]

_NESTS = ("state_dict", "model", "model_state", "model_state_dict", "state_dict_ema", "model_ema", "module")
_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "network.")
_NAMED_HASH = re.compile(r"-([0-9a-f]{8,})\.")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors file or a .pth/.pt/.bin file (read with weights_only, so no code runs).

    A state dict nested under "state_dict", "model" or "model_state" is found, and a prefix that all names share
    ("module.") is taken off. Raises SourceError when the file is missing, damaged, holds code or no weights.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise SourceError("the weights file does not exist", where=path, remedy="Check the path")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors.shapes(path)
            found: Any = load_file(path, device="cpu")
        else:
            tensors.check_archive(path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        if first.startswith("Weights only load failed"):  # torch goes on to say how to run what it holds
            first = "it holds more than tensors, and to read the rest would run it"
        raise SourceError(
            f"the weights file cannot be read: {first}",
            where=path,
            remedy="It must be a .safetensors file, or a .pth/.pt/.bin file that holds nothing but tensors",
        ) from error
    while isinstance(found, Mapping) and (nest := next((n for n in _NESTS if isinstance(found.get(n), Mapping)), None)):
        found = found[nest]
    if not isinstance(found, Mapping) or not any(isinstance(value, Tensor) for value in found.values()):
        raise SourceError("the file holds no state dict", where=path, remedy="Save the network's state_dict() alone")
    return {str(name): value for name, value in found.items() if isinstance(value, Tensor)}


def without(state: Mapping[str, Tensor], modules: Iterable[str]) -> dict[str, Tensor]:
    """The state dict without the entries of these modules."""
    prefixes = tuple(f"{name}." for name in modules)
    return {name: value for name, value in state.items() if not name.startswith(prefixes)}


def _unprefixed(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off a wrapper's prefix where that makes more names fit."""
    best = dict(state)
    for prefix in _PREFIXES:
        if any(name.startswith(prefix) for name in best):
            shorter = {name.removeprefix(prefix): value for name, value in best.items()}
            if len(shorter) == len(best) and len(shorter.keys() & wanted.keys()) > len(best.keys() & wanted.keys()):
                best = shorter
    return best


def load_strictly(
    network: nn.Module, state: Mapping[str, Tensor], *, where: object, classifier: Iterable[str] = ()
) -> None:
    """Load `state` into `network`: every entry, none missing, none left over but those of the `classifier` modules.

    Numbers are converted to the network's own type. Raises SourceError with a few names and shapes otherwise.
    """
    wanted = network.state_dict()
    state = without(_unprefixed(state, wanted), classifier)
    optional = ("num_batches_tracked",)  # files from before BatchNorm counted its batches lack it
    missing = [name for name in wanted if name not in state and not name.endswith(optional)]
    unexpected = [name for name in state if name not in wanted]
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    kinds = [
        f"{name} {str(state[name].dtype).removeprefix('torch.')}"
        for name, like in wanted.items()
        if name in state and like.is_floating_point() and not state[name].is_floating_point()
    ]
    found = {"missing": missing, "unexpected": unexpected, "wrong shape": shapes, "no fractions": kinds}
    complaints = [
        f"{label} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for label, names in found.items()
        if names
    ]
    if complaints:
        raise SourceError(
            f"the weights do not fit the architecture: {'; '.join(complaints)}",
            where=where,
            remedy="Name the architecture that the file was saved from",
        )
    if broken := next((n for n, v in state.items() if v.is_floating_point() and not bool(v.isfinite().all())), None):
        raise SourceError(
            f"the weights hold NaN or infinite numbers, first in {broken}",
            where=where,
            remedy="Fetch or save them again",
        )
    network.load_state_dict({name: state.get(name, value) for name, value in wanted.items()})


def hash_matches_name(path: Path) -> bool:
    """Whether a file named NAME-HASH.pth has a sha256 that begins with HASH (true where the name has no hash)."""
    named = _NAMED_HASH.search(path.name)
    return named is None or hash_file(path).startswith(named.group(1))
