"""Torch below the cut: the plain module, and a copy of it with every BatchNorm folded into its convolution."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from headstart.data.augment import normalise
from headstart.records import Card

__all__ = ["Compute", "torch_compute"]

Compute = Callable[[Tensor], np.ndarray]
"""One full batch of uint8 images (batch, 3, h, w) to float32 rows (batch, width)."""


def torch_compute(module: nn.Module, card: Card, *, device: str, precision: str) -> Compute:
    """A copy of `module` in evaluation mode, channels_last, on `device`; bf16 by autocast."""
    own = copy.deepcopy(module).eval().to(device).to(memory_format=torch.channels_last)
    kind, pinned = torch.device(device).type, torch.device(device).type == "cuda"

    def compute(images: Tensor) -> np.ndarray:
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), torch.autocast(kind, dtype=torch.bfloat16, enabled=precision == "bf16"):
            there = images.pin_memory().to(device, non_blocking=True) if pinned else images.to(device)
            rows: np.ndarray = own(normalise(there, card)).float().cpu().numpy()
        return rows

    return compute
