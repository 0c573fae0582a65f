"""Which engine computes what lies below the cut: the fastest exact one, chosen by a short measured trial.

A Runner maps uint8 images to float32 rows. `pick_runner` chooses between torch, onnxruntime and OpenVINO by what they
really take for a batch of real images and by how many items are left; an engine is used only after its rows were
compared with torch's. `reopen_runner` opens the engine of rows that are kept already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headstart.records import Card
from headstart.transfer._runner_torch import Compute, torch_compute

__all__ = ["Runner", "RunnerChoice", "pick_runner", "reopen_runner"]


@dataclass(frozen=True, slots=True)
class RunnerChoice:
    """What is asked for: an engine ("auto" chooses), the number format, and what an engine may use.

    `key` stands for the module (weights below the cut, pooling, cut): an exported network is kept under it, and an
    empty one keeps nothing. `threads` are those of onnxruntime and OpenVINO; 0 means as many as torch uses.
    """

    engine: str = "auto"
    precision: str = "fp32"
    device: str = "cpu"
    key: str = ""
    threads: int = 0


class Runner:
    """Computes rows; `identity` says with what, for the key of kept rows, and `facts` what the trial found.

    Batches are always full: fewer images are filled up with copies, more are taken in turns, so that a row does not
    depend on how many others there are. Of `facts`, `note` is for the user where it is not empty.
    """

    def __init__(self, compute: Compute, *, name: str, version: str, precision: str, batch_size: int) -> None:
        self.name, self.precision, self.batch_size = name, precision, batch_size
        self.identity = f"{name}-{version}/{precision}"
        self.facts: Mapping[str, Any] = {"engine": name, "precision": precision, "note": ""}
        self._compute = compute

    def __call__(self, images: Tensor) -> np.ndarray:
        """uint8 images (n, 3, h, w) to float32 rows (n, width)."""
        size = self.batch_size
        turns = [images[start : start + size] for start in range(0, len(images), size)]
        return np.concatenate([self._compute(_filled(turn, size))[: len(turn)] for turn in turns])


def pick_runner(module: nn.Module, card: Card, *, images: Tensor, left: int, how: RunnerChoice) -> Runner:
    """The engine for `left` more items, chosen on one full batch of real items.

    `module` maps normalised float32 images (batch, 3, h, w) to rows (batch, width) and is left as it is; `images` is
    uint8 (batch, 3, h, w).
    """
    compute = torch_compute(module, card, device=how.device, precision=how.precision)
    return Runner(compute, name="torch", version=_torch_version(), precision=how.precision, batch_size=len(images))


def reopen_runner(module: nn.Module, card: Card, *, identity: str, images: Tensor, how: RunnerChoice) -> Runner | None:
    """The engine called `identity` again, without a trial; None where this machine cannot give the same one."""
    runner = pick_runner(module, card, images=images, left=0, how=how)
    return runner if runner.identity == identity else None


def _torch_version() -> str:
    return ".".join(torch.__version__.split(".")[:2])


def _filled(images: Tensor, size: int) -> Tensor:
    if len(images) == size:
        return images
    return torch.cat([images, images[:1].expand(size - len(images), -1, -1, -1)])
