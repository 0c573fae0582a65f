"""Torch below the cut: the plain module, and a copy of it with every BatchNorm folded into its convolution."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode

from headstart.data.augment import normalise
from headstart.records import Card
from headstart.transfer.precision import exact

__all__ = ["Compute", "folded", "prepared", "torch_compute"]

Compute = Callable[[Tensor], np.ndarray]
"""One full batch of uint8 images (batch, 3, h, w) to float32 rows (batch, width)."""


def prepared(module: nn.Module, device: str) -> nn.Module:
    """A copy of `module` on `device`, in evaluation mode and channels_last; the module itself is left as it is."""
    return copy.deepcopy(module).eval().to(device).to(memory_format=torch.channels_last)


def torch_compute(module: nn.Module, card: Card, *, device: str, precision: str) -> Compute:
    """Rows by torch in inference mode, with a module that is `prepared`; bf16 by autocast."""
    kind = torch.device(device).type

    def compute(images: Tensor) -> np.ndarray:
        images = images.contiguous(memory_format=torch.channels_last)
        halves = torch.autocast(kind, dtype=torch.bfloat16, enabled=precision == "bf16")
        with torch.inference_mode(), exact(device), halves:
            there = images.pin_memory().to(device, non_blocking=True) if kind == "cuda" else images.to(device)
            rows: np.ndarray = module(normalise(there, card)).float().cpu().numpy()
        return rows

    return compute


def folded(module: nn.Module, example: Tensor) -> nn.Module | None:
    """A copy whose BatchNorms are folded into the convolutions that feed them; None where no pair is found.

    A pair is found by running one normalised image (1, 3, h, w): the norm's input is what a convolution gave, nothing
    else reads that, and both run once. Whoever calls it compares the rows: code that looks at its norms may still mind.
    The formula is torch's (`fuse_conv_bn_weights`); the rows differ from the plain module's in their last bits.
    """
    own = copy.deepcopy(module)
    names = {part: name for name, part in own.named_modules()}
    pairs = [(conv, norm) for conv, norm in _pairs(own, example) if _without_norm(norm) is not None]
    for conv, norm in pairs:
        assert norm.running_mean is not None and norm.running_var is not None  # noqa: PT018 - for the type checker
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        parent, _, child = names[norm].rpartition(".")
        setattr(own.get_submodule(parent), child, _without_norm(norm))
    return own.to(memory_format=torch.channels_last) if pairs else None


def _without_norm(norm: _BatchNorm) -> nn.Module | None:
    """What is left of a norm that is folded: nothing, or the activation that timm keeps inside; None if unknown."""
    if type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        return nn.Identity()
    inside = [getattr(norm, name, None) for name in ("drop", "act")]
    parts = [part for part in inside if isinstance(part, nn.Module)]
    return nn.Sequential(*parts) if len(parts) == len(inside) else None


def _pairs(module: nn.Module, example: Tensor) -> list[tuple[_ConvNd, _BatchNorm]]:
    """The convolutions and the norms that may be folded into them."""
    parts = list(module.modules())
    watch = _Watch(
        {id(part.weight): part for part in parts if isinstance(part, _ConvNd) and not part.transposed},
        {id(part.running_mean): part for part in parts if isinstance(part, _BatchNorm) and not part.training},
    )
    with torch.no_grad(), watch:
        watch.read(module(example))
    return [
        (conv, norm)
        for conv, norm, between in watch.found
        if watch.reads[id(between)] == 1 and watch.runs[id(conv)] == 1 and watch.runs[id(norm)] == 1
    ]


class _Watch(TorchFunctionMode):
    """Sees every call of a torch function: which tensors it reads, and what convolutions give to norms."""

    def __init__(self, convolutions: Mapping[int, _ConvNd], norms: Mapping[int, _BatchNorm]) -> None:
        super().__init__()
        self.convolutions, self.norms = convolutions, norms  # by the id of their weight and of their running mean
        self.given: dict[int, tuple[_ConvNd, Tensor]] = {}  # what convolutions gave; held, so that no id comes twice
        self.reads: Counter[int] = Counter()
        self.runs: Counter[int] = Counter()
        self.found: list[tuple[_ConvNd, _BatchNorm, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func` and note what it read."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not _tensors(result):
            return result  # a question about shape or kind reads no values
        read, name = self.read((args, kwargs)), getattr(func, "__name__", "")
        if name in ("conv1d", "conv2d", "conv3d") and isinstance(result, Tensor):
            for conv in [self.convolutions[id(t)] for t in read if id(t) in self.convolutions]:
                self.runs[id(conv)] += 1
                self.given[id(result)] = conv, result
                self.reads[id(result)] = 0  # the id of a tensor that is gone may come again
        elif name == "batch_norm":
            for norm in [self.norms[id(t)] for t in read if id(t) in self.norms]:
                self.runs[id(norm)] += 1
                if id(read[0]) in self.given:
                    self.found.append((self.given[id(read[0])][0], norm, read[0]))
        return result

    def read(self, value: Any) -> list[Tensor]:
        """Count the tensors of `value` as read."""
        read = _tensors(value)
        self.reads.update(id(tensor) for tensor in read)
        return read


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for entry in value.values() for tensor in _tensors(entry)]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [tensor for entry in value for tensor in _tensors(entry)]
    return []
