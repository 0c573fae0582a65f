"""Pieces of training and prediction that need no state: the optimiser, class weights, mixup, batches of one, logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from headstart.judge.calibration import temperature
from headstart.records import Item
from headstart.tasks import balanced_weights

__all__ = ["Samples", "class_weights", "judged", "lone_images", "make_optimizer", "mixed"]


@dataclass(frozen=True, slots=True)
class Samples:
    """Items with their class numbers, int64 (n,), and the sha256 of their bytes (empty: not checked)."""

    items: tuple[Item, ...]
    labels: np.ndarray
    hashes: tuple[str, ...] = ()

    @classmethod
    def of(cls, items: Sequence[Item], hashes: Mapping[str, str] | None = None) -> Samples:
        """Take the labels from labelled items, and their hashes by name."""
        labels = np.array([item.label for item in items], dtype=np.int64)
        return cls(tuple(items), labels, tuple(hashes[item.name] for item in items) if hashes else ())


def judged(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """Loss, accuracy, and the loss that epochs are chosen by, of logits (n, classes).

    That one is the loss at the best temperature of at least 1: training by gradient soon makes a network too sure of
    itself, which says nothing about its order of the classes; a hesitant one that was right by luck on a few items is
    not made surer. A little of the plain loss decides between equals.
    """
    if not len(labels):
        return float("nan"), float("nan"), float("inf")
    goals = torch.from_numpy(labels)
    loss = float(functional.cross_entropy(torch.from_numpy(logits), goals))
    calm = torch.from_numpy(logits / max(1.0, temperature(logits, labels)))
    choice = float(functional.cross_entropy(calm, goals)) + 0.01 * loss
    return loss, float((logits.argmax(1) == labels).mean()), choice


def class_weights(labels: np.ndarray, n_classes: int, mode: str) -> Tensor | None:
    """Weights (classes,) of mean 1 over the items, rarer classes heavier; None when none are needed."""
    counts = np.bincount(labels, minlength=n_classes)
    present = counts[counts > 0]
    if mode == "none" or not len(present) or (mode == "auto" and present.max() <= 1.5 * present.min()):
        return None
    return torch.from_numpy(balanced_weights(labels, n_classes))


def make_optimizer(schedule: Mapping[str, Any], groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimiser by name, over groups that carry their own rate and decay."""
    wanted: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "adamw": lambda: torch.optim.AdamW(groups, fused=True),
        "sgd": lambda: torch.optim.SGD(groups, momentum=float(schedule["momentum"]), fused=True),
    }
    return wanted[schedule["optimizer"]]()


def mixed(inputs: Tensor, goals: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Blend pairs of images and their targets; 0 does nothing (Zhang et al. 2018, mixup, section 2)."""
    if alpha <= 0 or len(inputs) < 2:
        return inputs, goals
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    other = torch.randperm(len(inputs), device=inputs.device)
    return inputs.lerp(inputs[other], 1 - share), goals.lerp(goals[other], 1 - share)


@contextmanager
def lone_images(net: nn.Module, n: int) -> Iterator[None]:
    """Where a batch holds one image, BatchNorm uses its running statistics: one image has none of its own."""
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.training] if n == 1 else []
    for module in norms:
        module.training = False
    try:
        yield
    finally:
        for module in norms:
            module.training = True
