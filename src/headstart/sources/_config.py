"""What a folder's config.json may ask of timm: nothing but a network of the size of its weights.

The folder may come from anyone. timm's `create_model` takes arguments that load other files, and numbers that would
fill the memory, so arguments are plain values of bounded size and the network is built within bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.overrides import TorchFunctionMode

from headstart.sources._importing import import_timm

__all__ = ["LONGEST_SIDE", "build_within", "checked_arguments", "checked_facts", "numbers_of"]

LONGEST_SIDE = 2048
"""Pixels of a network's input, along a side."""

_OURS = ("num_classes", "pretrained", "pretrained_cfg", "checkpoint_path")  # set by us, whatever the folder says
_BUILDERS = (
    "pretrained_cfg_overlay", "pretrained_strict", "pretrained_filter_fn", "kwargs_filter", "cache_dir",
    "features_only", "out_indices", "feature_cfg", "feature_cls", "scriptable", "exportable", "no_jit",
)  # fmt: skip
_LARGEST = 65_536  # of a whole number: a width or a count of blocks
_LONGEST = 1_000  # letters, or entries of a list
_DEEPEST = 8
_SPARE = 16 << 20  # numbers that a network may have more than its file, and
_SPARE_ENTRIES = 4_000  # entries: classifiers that are built and dropped, position embeddings for larger pictures
_NARROWED = 25  # with four bytes a number: a hundred times, so a tenth of the channels on either side of a layer
_SPARE_STEP = 1 << 26  # numbers of a table that is made on the way
_FILLING = {"normal_", "uniform_", "fill_", "zero_", "erfinv_", "mul_", "add_", "clamp_", "copy_", "bernoulli_"}
_LOADING = ("file", "state_dict", "url", "hf_hub_id", "hf_hub_filename", "source", "custom_load", "pretrained")


class TooLargeError(ValueError):
    """The network would be larger than its weights."""

    def __init__(self) -> None:
        super().__init__("the network would be larger than its weights")


def checked_arguments(found: Any) -> dict[str, Any]:
    """A folder's `model_args` without what we set ourselves. Raises TypeError or ValueError where they are no such."""
    if not isinstance(found, Mapping):
        raise TypeError("model_args are no object")
    args = {str(name): value for name, value in found.items() if name not in _OURS}
    if odd := next((name for name in args if name in _BUILDERS), None):
        raise ValueError(f"model_args may not hold {odd}")
    for name, value in args.items():
        _bounded(name, value, _DEEPEST)
    return args


def _bounded(name: str, value: Any, deeper: int) -> None:
    """Raise ValueError for a value that no network needs."""
    if isinstance(value, (Mapping, list)):
        if not deeper or len(value) > _LONGEST:
            raise ValueError(f"model_args hold too much in {name[:80]}")
        for part in value.values() if isinstance(value, Mapping) else value:
            _bounded(name, part, deeper - 1)
    elif isinstance(value, str):
        if len(value) > _LONGEST:
            raise ValueError(f"model_args hold too long a text in {name[:80]}")
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and not abs(value) <= _LARGEST:
        raise ValueError(f"model_args hold too large a number in {name[:80]}")


def checked_facts(config: Mapping[str, Any], found: Mapping[str, Any], args: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a config that timm knows, with its label names and input size.

    Raises TypeError or ValueError where what shapes the pixels is not what it should be.
    """
    labels = config.get("label_names") or found.get("label_names") or found.get("labels")
    known = import_timm().models.PretrainedCfg.__dataclass_fields__
    facts = {name: value for name, value in found.items() if name in known and name not in _LOADING}
    if labels:
        names = list(labels.values() if isinstance(labels, Mapping) else labels)
        if isinstance(labels, str) or not all(isinstance(name, (str, int)) for name in names):
            raise TypeError("the label names are no names")
        facts["label_names"] = names
    shape = facts.get("input_size") or (3, 224, 224)
    if not isinstance(shape, (list, tuple)) or len(shape) != 3:
        raise ValueError("input_size is not of three numbers")
    channels, size = args.get("in_chans") or shape[0], args.get("img_size") or shape[1:]
    sides = (size, size) if isinstance(size, int) else size
    if not isinstance(sides, (list, tuple)) or len(sides) != 2:
        raise ValueError("img_size is not of two numbers")
    if not all(type(side) is int and 1 <= side <= LONGEST_SIDE for side in (channels, *sides)):
        raise ValueError(f"pictures are of 1 to {LONGEST_SIDE} pixels a side")
    facts["input_size"] = (channels, *sides)
    for name in ("mean", "std"):
        if facts.get(name) and not _numbers(facts[name], channels):
            raise ValueError(f"{name} is not a finite number for each channel")
    if not all(facts.get("std") or [1]):
        raise ValueError("std is zero")
    share = facts.get("crop_pct") or 1.0
    if not isinstance(share, (int, float)) or not 0.1 <= share <= 10:
        raise ValueError("crop_pct is no share")
    return facts


def _numbers(values: Any, channels: int) -> bool:
    """Whether these are finite numbers, one for each channel (or the three of a picture)."""
    return (
        isinstance(values, (list, tuple))
        and len(values) in (channels, 3)
        and all(isinstance(n, (int, float)) and abs(n) < 1e6 and math.isfinite(n) for n in values)
    )


class _Sizes(TorchFunctionMode):
    """Refuses a step that would make an array of more than `most` numbers; skips those that fill one with numbers.

    There is nothing to fill, and torch computes some of it by what loads its compiler.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _FILLING:
            return (*args, *(kwargs or {}).values())[0]
        made = func(*args, **(kwargs or {}))
        for part in made if isinstance(made, (list, tuple)) else (made,):
            if isinstance(part, Tensor) and part.numel() > self.most:
                raise TooLargeError
        return made


@contextmanager
def _held(numbers: int, entries: int) -> Iterator[None]:
    """Raise TooLargeError in the block as soon as modules hold more numbers or entries than this."""
    held = [0, 0]

    def add(_: nn.Module, __: str, value: Tensor | None) -> None:
        if value is not None:
            held[0] += value.numel()
            held[1] += 1
            if held[0] > numbers or held[1] > entries:
                raise TooLargeError

    hooks = [register_module_parameter_registration_hook(add), register_module_buffer_registration_hook(add)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def numbers_of(weights: Path, channels: Mapping[str, Any] | None = None) -> int:
    """How many numbers a network may hold whose weights are in this file, four bytes to one at the most.

    One with a channel plan is built whole and then made narrow.
    """
    return weights.stat().st_size * (_NARROWED if channels else 1)


def build_within(build: Callable[[], nn.Module], *, numbers: int, entries: int) -> nn.Module:
    """The network that `build` gives, if weights of so many numbers and entries could be its own.

    It is built without memory first. Raises TooLargeError otherwise, and whatever `build` raises.
    """
    numbers, entries = numbers + _SPARE, 2 * entries + _SPARE_ENTRIES
    unable = suppress(NotImplementedError, RuntimeError)  # not every version of timm can
    with unable, torch.device("meta"), _held(numbers, entries), _Sizes(numbers + _SPARE_STEP):
        build()
    with _held(numbers, entries):
        return build()
