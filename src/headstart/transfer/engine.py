"""Where training runs: device, number format and processes.

One process, or as many as torchrun started; those talk through accelerate (gloo on CPU, nccl on GPUs). Each process
takes its part of every batch, so the batch size is the same whatever the number of processes.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headstart.errors import SettingsError
from headstart.settings import Settings
from headstart.sources.base import evaluating
from headstart.transfer.kernels import QuickBf16, kept_memory
from headstart.transfer.precision import Verdict, exact, has_fast_bf16, try_bf16

__all__ = ["Engine", "pick_device"]


def pick_device(wanted: str) -> str:
    """`auto` → cuda, mps or cpu; raises SettingsError for a device this machine lacks."""
    if wanted == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise SettingsError(f"unknown device {wanted!r}", remedy="Use auto, cpu, cuda, cuda:N or mps.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device cuda was asked for, and torch sees no GPU", remedy="Use --device auto or cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        sees = f"{(n := torch.cuda.device_count())} GPU{'s' * (n != 1)}"
        raise SettingsError(f"device {wanted} was asked for, and torch sees {sees}", remedy="Use --device cuda.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise SettingsError("device mps was asked for, and this machine has none", remedy="Use --device auto or cpu.")
    if device.type not in ("cpu", "cuda", "mps"):
        raise SettingsError(f"device {wanted!r} is not supported", remedy="Use auto, cpu, cuda, cuda:N or mps.")
    return wanted


class Engine:
    """What the loop needs of the machine, and no more.

    `precision` is "fp32", "bf16", or "auto" until `settle` has looked at a first batch (fp32 counts as long).
    """

    def __init__(self, settings: Settings) -> None:
        name = pick_device(settings.device)
        self.precision = _precision(settings.precision, name)
        self.device, self.rank, self.world, self.main = torch.device(name), 0, 1, True
        self._accelerator: Any = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import Accelerator

            self._accelerator = Accelerator(cpu=name == "cpu", mixed_precision="no")  # the loop casts by itself
            self.device = self._accelerator.device
            self.rank, self.world = self._accelerator.process_index, self._accelerator.num_processes
            self.main = self._accelerator.is_main_process

    def prepare(self, net: nn.Module, example: Tensor) -> nn.Module:
        """The network on its device, wrapped where several processes train it. Call it before making the optimiser.

        `example` is an input: the exchange of gradients wants to know whether some parameters take no part, as those
        that a pooling of one's own passes by.
        """
        net.to(device=self.device)
        net.to(memory_format=torch.channels_last)
        if self.world == 1:
            return net
        from accelerate import DistributedDataParallelKwargs

        handler = DistributedDataParallelKwargs(find_unused_parameters=_has_unused(net, example.to(self.device)))
        self._accelerator.ddp_handler = handler
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        wrapped: nn.Module = self._accelerator.prepare_model(net)
        return wrapped

    def part(self, positions: np.ndarray) -> np.ndarray:
        """This process's share of a batch."""
        return np.array_split(positions, self.world)[self.rank]

    def accumulating(self, model: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        """Hold back the exchange of gradients for all but the last micro-batch."""
        if last or self.world == 1:
            return nullcontext()
        held: AbstractContextManager[Any] = self._accelerator.no_sync(model)
        return held

    def at_work(self) -> AbstractContextManager[None]:
        """What holds while it computes: memory that is kept on a processor, numbers that repeat on a GPU."""
        return kept_memory() if self.device.type == "cpu" else exact(self.device)

    def autocast(self) -> AbstractContextManager[Any]:
        """bf16 where training uses it."""
        return _bf16(self.device.type) if self.precision == "bf16" else nullcontext()

    def settle(self, net: nn.Module, loss: Callable[[], Tensor]) -> str:
        """Choose the precision by a first batch's mean loss, the same on all processes; returns the reason in words.

        `net` is the bare network, so that nothing is exchanged but the verdict.
        """
        kind = self.device.type
        found = self.gather(try_bf16(net, loss, bf16=lambda: _bf16(kind), device=str(self.device)))
        verdict: Verdict = next((one for one in found if one.precision == "fp32"), found[0])
        self.precision = verdict.precision
        return f"number format {verdict.precision}: {verdict.reason}"

    def worst(self, value: int) -> int:
        """The largest of the processes' values, on every process."""
        return value if self.world == 1 else int(max(self.gather(value)))

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over the processes."""
        return [float(sum(column)) for column in zip(*self.gather(list(values)), strict=True)]

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace floating tensors by their means over the processes, others by the main process's."""
        if self.world == 1:
            return
        from accelerate.utils import broadcast, reduce

        with torch.no_grad():
            for tensor in tensors:
                shared = reduce(tensor, "mean") if tensor.is_floating_point() else broadcast(tensor)
                tensor.copy_(shared)

    def collect(self, rows: Mapping[int, np.ndarray], n: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows of all processes together as (n, width) float32, and which are there as bool (n,)."""
        width = self.worst(len(next(iter(rows.values()))) if rows else 0)
        table, there = np.full((n, width), np.nan, dtype=np.float32), np.zeros(n, dtype=bool)
        for part in self.gather(dict(rows)):
            if part:
                table[list(part)] = np.stack(list(part.values()))
                there[list(part)] = True
        return table, there

    def gather(self, value: Any) -> list[Any]:
        """One value of each process, on every process."""
        if self.world == 1:
            return [value]
        from accelerate.utils import gather_object

        gathered: list[Any] = gather_object([value])
        return gathered

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process runs the block before the others do."""
        with self._accelerator.main_process_first() if self.world > 1 else nullcontext():
            yield

    def wait(self) -> None:
        """Wait for the other processes."""
        if self.world > 1:
            self._accelerator.wait_for_everyone()


def _has_unused(net: nn.Module, example: Tensor) -> bool:
    """Whether a trained parameter gets no gradient from an example."""
    with evaluating(net):
        net(example).sum().backward()
    unused = any(p.requires_grad and p.grad is None for p in net.parameters())
    net.zero_grad(set_to_none=True)
    return unused


@contextmanager
def _bf16(device: str) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device, dtype=torch.bfloat16))
        if device == "cpu":
            stack.enter_context(QuickBf16())
        yield


def _precision(wanted: str, device: str) -> str:
    """`auto` stays open where the device is fast in bf16; the first batch decides then."""
    return "fp32" if wanted == "auto" and not has_fast_bf16(device) else wanted
