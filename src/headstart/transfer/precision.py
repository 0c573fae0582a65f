"""The number format of training: bf16 where the machine has it, where it pays and where a check says it does no harm;
and `exact`: fp32 that is fp32, and repeats, on a GPU too.

The check is made on the first real batch, by the numbers alone and never by the clock, so the same run chooses the same
format again. bf16 keeps 8 significant bits: a network that doubles the rounding at every layer (a deep one with random
weights and batch norm) answers it with another gradient altogether, and such a one trains in fp32.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["LEAST_WORK", "Verdict", "exact", "has_fast_bf16", "try_bf16"]

LEAST_WORK = 4e9
"""Multiply-adds of one batch forward from which bf16 is tried on a CPU.

With less, casting weights and activations eats the gain. Measured on training steps, bf16 against fp32: 0.5 to 0.8 of
the speed at 0.05 to 0.15 billion, 0.9 to 1.15 times at a third, 1.1 to 1.4 times at one to two (where a small network
ended with a validation loss 3 to 5 % higher: not worth it), 1.3 to 2.9 times at ten and more.
"""

_DIRECTION = 0.8
"""The least cosine between the gradients. Two batches of 32 agree by 0.05 to 0.5, and half a grey level of noise in the
pixels leaves 0.8 to 0.95 (measured on pretrained networks): above this, rounding is small beside either."""

_LOSS, _NATS = 0.1, 0.02
"""The loss may differ by this share of itself, or by so many nats where it is nearly 0 already."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The format that was chosen, "fp32" or "bf16", and why in words."""

    precision: str
    reason: str


def has_fast_bf16(device: str) -> bool:
    """Whether the device computes matrix products in bf16 by itself, rather than by casting to fp32 and back."""
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if not device.startswith("cpu"):
        return False
    able = torch.cpu.get_capabilities()
    return bool(able.get("amx_bf16") or able.get("avx512_bf16"))


class _Held:
    """The process's settings of the GPU libraries, while somebody inside `exact` counts on them."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._before: list[tuple[Any, str, Any]] = []

    def enter(self) -> None:
        """Set them; the first who comes remembers what they were."""
        cudnn: Any = torch.backends.cudnn  # its types know nothing of what is new
        matmul = torch.backends.cuda.matmul
        with self._lock:
            self._inside += 1
            if self._inside > 1:
                return
            wanted: list[tuple[Any, str, Any]] = []
            with suppress(RuntimeError):  # torch's older switch, which cannot be read where its newer ones disagree
                wanted = [(cudnn, "allow_tf32", False)] if cudnn.allow_tf32 else []
            wanted += [(cudnn.conv, "fp32_precision", "ieee"), (cudnn.rnn, "fp32_precision", "ieee")]
            if matmul.fp32_precision == "tf32":  # not by default
                wanted.append((matmul, "fp32_precision", "ieee"))
            wanted += [(cudnn, "deterministic", True), (cudnn, "benchmark", False)]
            self._before = [(place, name, getattr(place, name)) for place, name, _ in wanted]
            for place, name, value in wanted:
                setattr(place, name, value)

    def leave(self) -> None:
        """Put them back when the last one leaves."""
        with self._lock:
            self._inside -= 1
            while not self._inside and self._before:
                setattr(*self._before.pop())


_HELD = _Held()


@contextmanager
def exact(device: torch.device | str) -> Iterator[None]:
    """On an NVIDIA GPU: fp32 that is fp32, and the same bits for the same work. Elsewhere it is so anyway.

    By default torch lets cuDNN round the factors of fp32 convolutions to TF32, 10 bits after the point (probabilities
    of a small network moved by 1e-3 on an H100), and take algorithms whose sums differ from call to call. The settings
    are the process's: several threads may be inside, and what was set before comes back after.
    """
    if torch.device(device).type != "cuda":
        yield
        return
    _HELD.enter()
    try:
        yield
    finally:
        _HELD.leave()


def try_bf16(
    net: nn.Module, loss: Callable[[], Tensor], *, bf16: Callable[[], AbstractContextManager[object]], device: str
) -> Verdict:
    """Compare the loss and the gradient of one batch in fp32 and under `bf16`; the network is left as it was.

    `loss` computes the batch's mean loss. Buffers, random numbers and (empty) gradients are restored.
    """
    from torch.utils.flop_counter import FlopCounterMode  # which loads triton: a fifth of a second

    buffers = {name: value.clone() for name, value in net.named_buffers()}
    own = [torch.device(device)] if device.startswith("cuda") else []
    try:
        with torch.random.fork_rng(devices=own), FlopCounterMode(display=False) as counter:
            exact = loss()
        work = counter.get_total_flops() / 2
        if device.startswith("cpu") and work < LEAST_WORK:
            return Verdict("fp32", f"a batch is {work / 1e9:.2g} billion multiply-adds, too few for bf16 to pay")
        slope = _gradient(net, exact)
        _restore(net, buffers)
        with torch.random.fork_rng(devices=own), bf16():
            rounded = loss()
        cosine = nn.functional.cosine_similarity(slope, _gradient(net, rounded), dim=0)
        return _judge(float(exact.detach()), float(rounded.detach()), cosine=float(cosine))
    finally:
        net.zero_grad(set_to_none=True)
        _restore(net, buffers)


def _gradient(net: nn.Module, loss: Tensor) -> Tensor:
    """The gradient of all parameters as one row; it is taken away again."""
    loss.backward()  # type: ignore[no-untyped-call]
    found = [p.grad.detach().flatten().float() for p in net.parameters() if p.grad is not None]
    net.zero_grad(set_to_none=True)
    return torch.cat(found) if found else torch.zeros(1)


def _restore(net: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Put back what a forward pass in training mode changes: BatchNorm's running statistics."""
    with torch.no_grad():
        for name, buffer in net.named_buffers():
            buffer.copy_(buffers[name])


def _judge(exact: float, rounded: float, *, cosine: float) -> Verdict:
    apart = abs(rounded - exact)
    told = f"on the first batch the loss is {exact:.4f}, in bf16 {rounded:.4f}; cosine of the gradients {cosine:.3f}"
    if apart <= max(_LOSS * abs(exact), _NATS) and cosine >= _DIRECTION:  # NaN fails both
        return Verdict("bf16", f"no harm in it: {told}")
    return Verdict("fp32", f"bf16 would do harm: {told}")
