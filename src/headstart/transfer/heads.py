"""Heads on frozen features: linear, svm, mlp, ridge and knn. Arrays in, plain arrays and one torch module out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.errors import SettingsError, did_you_mean
from headstart.transfer._heads_common import Array, checked
from headstart.transfer._heads_linear import LINEAR_KINDS, fit_linear

if TYPE_CHECKING:
    from torch import nn

__all__ = ["KINDS", "FittedHead", "fit_head"]

KINDS = ("linear", "mlp", "svm", "ridge", "knn")


@dataclass(frozen=True)
class FittedHead:
    """A trained head: everything it needs to answer stands in `arrays`."""

    kind: str
    arrays: dict[str, Array]
    chosen: dict[str, Any] = field(default_factory=dict)
    oof: Array | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    search: list[dict[str, Any]] = field(default_factory=list)

    def logits(self, X: Array) -> Array:
        """Logits [n, n_classes] float32 of features [n, d]; their softmax is the probabilities."""
        X = np.asarray(X, dtype=np.float32)
        answers: Array = X @ self.arrays["weight"].T + self.arrays["bias"]
        return answers

    def module(self) -> nn.Module:
        """The same head as a torch module."""
        import torch
        from torch import nn

        weight, bias = (torch.from_numpy(self.arrays[name].copy()) for name in ("weight", "bias"))
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        return layer

    def tensors(self) -> dict[str, Array]:
        """The arrays as safetensors.numpy stores them."""
        return {name: np.ascontiguousarray(array) for name, array in self.arrays.items()}

    @classmethod
    def from_tensors(cls, kind: str, arrays: Mapping[str, Array]) -> FittedHead:
        """The head that `tensors` came from."""
        return cls(_known(kind), dict(arrays))


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise SettingsError(f"unknown head {kind!r}", remedy=did_you_mean(kind, list(KINDS)))
    return kind


def fit_head(
    kind: str,
    X: Array,
    y: Array,
    *,
    n_classes: int,
    seed: int = 0,
    folds: int = 5,
    groups: Sequence[Any] | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> FittedHead:
    """Fit a head of `kind` on features `X` [n, d] and labels `y` [n]."""
    X, y = checked(X, y, n_classes)
    if _known(kind) not in LINEAR_KINDS:
        raise SettingsError(f"the head {kind} is not there yet")
    return FittedHead(
        kind,
        **fit_linear(kind, X, y, n_classes=n_classes, seed=seed, folds=folds, groups=groups, fixed=dict(fixed or {})),
    )
