"""The same sums in less time on a processor: what torch computes needlessly slowly in bf16, and where it puts memory.

Three things cost a training step on a processor more than its arithmetic: fresh pages for every large tensor, the input
gradient of strided depthwise convolutions in bf16 (no optimised code: up to a hundred times the time of fp32), and
clamping in bf16 (converted value by value). Each is done here by another road to the same values.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["QuickBf16", "kept_memory", "steady_memory"]

_SIX = 0x40C0  # the bits of 6.0 in bf16
_INF = 0x7F80
_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_KEPT, _USUAL = (2**31 - 1, 1 << 30), (64 << 20, 32 << 20)  # the second: what glibc itself comes to with large arrays


@contextmanager
def kept_memory() -> Iterator[None]:
    """Let the process keep the memory of freed tensors while the block runs, and give it back after it.

    glibc asks the system for every array over 32 MB and returns it at once, so each step of training would touch
    thousands of fresh, zeroed pages. The most that is in use grows a little by gaps between tensors (3.2 to 3.5 GB for
    steps of mobilenetv2_100 at 224 with 32 images). Elsewhere than with glibc this does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    _set_thresholds(libc, _KEPT)
    try:
        yield
    finally:
        _set_thresholds(libc, _USUAL)
        libc.malloc_trim(0)


def steady_memory() -> None:
    """Let the process keep some 64 MB of freed memory from now on, as it does after its first very large array.

    Until then glibc gives back what a forward pass frees and asks for it again: up to 4,500 fresh pages a picture, a
    third of its processor time (mobilenetv2_100 at 224, alone). Elsewhere than with glibc this does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        _set_thresholds(ctypes.CDLL(None), _USUAL)


def _set_thresholds(libc: ctypes.CDLL, values: tuple[int, int]) -> None:
    libc.mallopt(_TRIM, values[0])
    libc.mallopt(_MMAP, values[1])


class QuickBf16(TorchFunctionMode):
    """While active, depthwise convolutions with a stride, and relu and relu6 in bf16, take the quick road on a CPU.

    Values and gradients are those of torch up to rounding to bf16; a NaN in front of relu6 becomes 6 or 0, but every
    gradient of a normalised batch that holds one stays NaN.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace the few calls that are slow; let all others pass."""
        if args and isinstance(args[0], Tensor) and args[0].device.type == "cpu":
            if func is torch.conv2d and not kwargs and _strided_depthwise(args):
                half = [
                    torch.bfloat16 if isinstance(v, Tensor) and v.dtype == torch.float32 else None for v in args[:3]
                ]
                cast = [v if kind is None else v.to(kind) for v, kind in zip(args[:3], half, strict=True)]
                return _StridedDepthwise.apply(*cast, *args[3:])
            if func in _CLAMPS and args[0].dtype == torch.bfloat16:
                found = _clamping(func, *args[1:], **(kwargs or {}))
                if found is not None:
                    return _Clamp.apply(args[0], *found)
        return func(*args, **(kwargs or {}))


_CLAMPS = (functional.hardtanh, functional.relu6, functional.relu)


def _clamping(func: Any, *args: Any, **kwargs: Any) -> tuple[int, bool] | None:
    """The upper end by its bits and whether it is in place; None for a clamping to other bounds than 0 and 6."""
    names = ("min_val", "max_val", "inplace") if func is functional.hardtanh else ("inplace",)
    told = {**dict(zip(names, args, strict=False)), **kwargs}
    if func is functional.hardtanh and (told.get("min_val", -1.0), told.get("max_val", 1.0)) != (0, 6):
        return None
    return (_INF if func is functional.relu else _SIX), bool(told.get("inplace", False))


def _strided_depthwise(args: Any) -> bool:
    """Whether torch.conv2d(input, weight, bias, stride, padding, dilation, groups) is one under autocast to bf16."""
    if len(args) != 7 or not torch.is_autocast_enabled("cpu") or not torch.is_grad_enabled():
        return False
    stride, padding, groups = args[3], args[4], args[6]
    plain = isinstance(stride, tuple) and isinstance(padding, tuple) and args[0].ndim == 4
    return plain and groups > 1 and groups == args[0].shape[1] and max(stride) > 1


class _StridedDepthwise(torch.autograd.Function):
    """torch.conv2d whose gradient for the input is computed in fp32."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> Tensor:
        """stride, padding, dilation and groups follow the bias."""
        ctx.save_for_backward(images, weight)
        ctx.how, ctx.biased = how, bias is not None
        return torch.conv2d(images, weight, bias, *how)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Gradients of images, weight and bias."""
        images, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.how
        how = (list(stride), list(padding), list(dilation), False, [0, 0], groups)
        back, wanted = torch.ops.aten.convolution_backward, ctx.needs_input_grad
        first = None
        if wanted[0]:
            shape = torch.empty_like(images, dtype=torch.float32)  # its values are not read
            first = back(grads[0].float(), shape, weight.float(), None, *how, [True, False, False])[0].to(images.dtype)
        sizes = [weight.shape[0]] if ctx.biased else None
        rest = back(grads[0], images, weight, sizes, *how, [False, wanted[1], ctx.biased and wanted[2]])
        return first, rest[1], rest[2], None, None, None, None


class _Clamp(torch.autograd.Function):
    """min(max(x, 0), top) of bf16 on its bits: as int16, positive numbers keep their order and others are below 0."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, top: int, inplace: bool) -> Tensor:
        """`top` is given by its bits."""
        bits = values.detach().view(torch.int16)
        if inplace:
            bits.clamp_(0, top)
            ctx.mark_dirty(values)
            result = values
        else:
            result = bits.clamp(0, top).view(torch.bfloat16)
        ctx.top = top
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """The gradient where the result is neither 0 nor `top`."""
        (result,) = ctx.saved_tensors
        if ctx.top == _SIX:
            return torch.ops.aten.hardtanh_backward(grads[0], result, 0.0, 6.0), None, None
        return torch.ops.aten.threshold_backward(grads[0], result, 0), None, None
