"""What the tests of numbers share: broken losses and gradients, a small memory, many classes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from headstart.sources.base import Source
from headstart.tasks import Classification
from headstart.transfer.tuning import Trainer

__all__ = [
    "all_finite",
    "break_loss",
    "finite_checkpoints",
    "infinite_gradient",
    "narrow",
    "not_a_number",
    "read",
    "write_many",
]


def not_a_number(loss: Tensor) -> Tensor:
    """A loss that is NaN, with gradients of NaN."""
    return loss * float("nan")


class _Infinite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:  # type: ignore[override]
        return slopes[0] * float("inf")


def infinite_gradient(loss: Tensor) -> Tensor:
    """A loss as it is, whose gradients are infinite."""
    changed: Tensor = _Infinite.apply(loss)
    return changed


def break_loss(
    monkeypatch: pytest.MonkeyPatch, how: Callable[[Tensor], Tensor], when: Callable[[int, int], bool]
) -> list[tuple[int, int]]:
    """Break the loss of the steps (epoch, step) that `when` names; the list grows by them."""
    usual, step, now, broken = Classification.loss, Trainer._step, [(0, 0)], []

    def stepped(self: Trainer, *args: Any, at: Any, **more: Any) -> None:
        now[0] = (at.epoch, at.step)
        step(self, *args, at=at, **more)

    def loss(self: Classification, *args: Any, **more: Any) -> Tensor:
        if not when(*now[0]):
            return usual(self, *args, **more)
        broken.append(now[0])
        return how(usual(self, *args, **more))

    monkeypatch.setattr(Trainer, "_step", stepped)
    monkeypatch.setattr(Classification, "loss", loss)
    return broken


def narrow(monkeypatch: pytest.MonkeyPatch, room: int, error: Exception, *, training: bool) -> list[int]:
    """Let memory run out where more than `room` images go through a source at once; the list grows by their numbers.

    With `training` only where gradients are wanted.
    """
    usual, seen = Source.feature_map, []

    def feature_map(self: Source, images: Tensor) -> Tensor:
        if len(images) > room and (torch.is_grad_enabled() or not training):
            seen.append(len(images))
            raise error
        return usual(self, images)

    monkeypatch.setattr(Source, "feature_map", feature_map)
    return seen


def finite_checkpoints(run: Path) -> int:
    """How many checkpoints a run folder holds; fails where one of their numbers is not finite."""
    from safetensors.torch import load_file

    states = list(run.rglob("state.safetensors"))
    for state in states:
        assert [name for name, value in load_file(state).items() if not torch.isfinite(value).all()] == []
    return len(states)


def all_finite(value: Any) -> bool:
    """Whether no score within is missing or not finite."""
    if isinstance(value, dict):
        return all(all_finite(entry) for name, entry in value.items() if name != "top5_accuracy")
    if isinstance(value, list | tuple):
        return all(map(all_finite, value))
    return isinstance(value, str) or (value is not None and math.isfinite(value))


def write_many(folder: Path, classes: int) -> Path:
    """One picture of noise a class in each of train, val and test."""
    for number, split in enumerate(("train", "val", "test")):
        for label in range(classes):
            place = folder / split / f"class-{label:05d}"
            place.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng((number, label)).integers(0, 256, (16, 16, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(place / "one.png", compress_level=1)
    return folder


def read(run: Path) -> dict[str, Any]:
    """run.json."""
    found: dict[str, Any] = json.loads((run / "run.json").read_text("utf-8"))
    return found
