"""Where training runs: device, number format and processes, through accelerate.

One process, or as many as torchrun started; on CPU they talk through gloo. Each process takes its part of every batch,
so the batch size is the same whatever the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headstart.errors import SettingsError
from headstart.settings import Settings

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
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise SettingsError("device mps was asked for, and this machine has none", remedy="Use --device auto or cpu.")
    return wanted


class Engine:
    """Thin door to accelerate: what the loop needs of it, and no more."""

    def __init__(self, settings: Settings) -> None:
        from accelerate import Accelerator

        name = pick_device(settings.device)
        if name.startswith("cuda:"):
            torch.cuda.set_device(torch.device(name))
        self.precision = _precision(settings.precision, name)
        self._accelerator: Any = Accelerator(
            cpu=name == "cpu", mixed_precision="bf16" if self.precision == "bf16" else "no"
        )
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.world: int = self._accelerator.num_processes
        self.main: bool = self._accelerator.is_main_process

    def prepare(self, net: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The network on its device (wrapped for several processes) and its optimiser."""
        net.to(device=self.device)
        net.to(memory_format=torch.channels_last)
        model, wrapped = self._accelerator.prepare(net, optimizer)
        return model, wrapped

    def part(self, positions: np.ndarray) -> np.ndarray:
        """This process's share of a batch."""
        return np.array_split(positions, self.world)[self.rank]

    def accumulating(self, model: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        """Hold back the exchange of gradients for all but the last micro-batch."""
        if last or self.world == 1:
            return nullcontext()
        held: AbstractContextManager[Any] = self._accelerator.no_sync(model)
        return held

    def backward(self, loss: Tensor) -> None:
        """Gradients of `loss`."""
        self._accelerator.backward(loss)

    def clip(self, model: nn.Module, largest: float) -> Tensor:
        """Clip the gradient's norm; returns the norm before."""
        norm: Tensor = self._accelerator.clip_grad_norm_(model.parameters(), largest)
        return norm

    def autocast(self) -> AbstractContextManager[Any]:
        """bf16 where training uses it."""
        held: AbstractContextManager[Any] = self._accelerator.autocast()
        return held

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over the processes."""
        reduced: Tensor = self._accelerator.reduce(torch.tensor(values, dtype=torch.float32, device=self.device))
        return [float(value) for value in reduced]

    def collect(self, rows: Mapping[int, np.ndarray], n: int) -> np.ndarray:
        """Put the rows of all processes together as (n, width) float32; NaN where there is none."""
        width = next(iter(rows.values())).shape[0] if rows else 0
        if self.world > 1:
            width = int(max(self.gather(width)))
        table = np.full((n, width), np.nan, dtype=np.float32)
        if rows:
            table[list(rows)] = np.stack(list(rows.values()))
        if self.world > 1:
            tables = self.gather(table)
            for other in tables:
                filled = ~np.isnan(other[:, 0])
                table[filled] = other[filled]
        return table

    def gather(self, value: Any) -> list[Any]:
        """One value of each process, on every process."""
        from accelerate.utils import gather_object

        gathered: list[Any] = gather_object([value])
        return gathered

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process runs the block before the others do."""
        with self._accelerator.main_process_first():
            yield

    def wait(self) -> None:
        """Wait for the other processes."""
        self._accelerator.wait_for_everyone()


def _precision(wanted: str, device: str) -> str:
    if wanted != "auto":
        return wanted
    return "bf16" if device.startswith("cuda") and torch.cuda.is_bf16_supported() else "fp32"
