"""The head with one hidden layer: 256 ReLU units, dropout, Adam, stopped early."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.transfer._heads_common import Array, Scaler, accuracy_and_loss, fold_pairs, linear_layer

if TYPE_CHECKING:
    import torch

__all__ = ["HIDDEN", "fit_mlp", "mlp_logits", "mlp_module", "train_mlp"]

HIDDEN = 256
DROPOUT = 0.5
RATE = 1e-3  # Adam's
BATCH = 64
MOST_EPOCHS = 100
PATIENCE = 10  # epochs without a better validation loss


def mlp_logits(arrays: Mapping[str, Array], X: Array) -> Array:
    """Logits [n, n_classes] of raw features [n, d]."""
    hidden = np.maximum(X @ arrays["0.weight"].T + arrays["0.bias"], 0)
    answers: Array = hidden @ arrays["3.weight"].T + arrays["3.bias"]
    return answers


def mlp_module(arrays: Mapping[str, Array]) -> torch.nn.Module:
    """Sequential(Linear, ReLU, Dropout, Linear) of the arrays, in evaluation mode."""
    from torch import nn

    first, last = (linear_layer(arrays[f"{i}.weight"], arrays[f"{i}.bias"]) for i in (0, 3))
    return nn.Sequential(first, nn.ReLU(), nn.Dropout(DROPOUT), last).eval()


class _Trainer:
    """One network in training on scaled features; it draws only from its own generator."""

    def __init__(self, X: Array, y: Array, *, n_classes: int, seed: int) -> None:
        import torch

        self.generator = torch.Generator().manual_seed(seed)
        self.X, self.y = torch.from_numpy(X), torch.from_numpy(y)
        shapes = [(HIDDEN, X.shape[1]), (HIDDEN,), (n_classes, HIDDEN), (n_classes,)]
        bounds = [X.shape[1] ** -0.5] * 2 + [HIDDEN**-0.5] * 2
        self.weights = [
            torch.empty(shape).uniform_(-bound, bound, generator=self.generator).requires_grad_()
            for shape, bound in zip(shapes, bounds, strict=True)
        ]
        self.optimizer = torch.optim.Adam(self.weights, lr=RATE)

    def epoch(self) -> None:
        """One pass over the items in a fresh order."""
        import torch
        from torch.nn import functional

        first, first_bias, last, last_bias = self.weights
        order = torch.randperm(len(self.y), generator=self.generator)
        for rows in torch.split(order, BATCH):
            hidden = functional.linear(self.X[rows], first, first_bias).relu()
            kept = torch.rand(hidden.shape, generator=self.generator) >= DROPOUT
            logits = functional.linear(hidden * kept / (1 - DROPOUT), last, last_bias)
            loss = functional.cross_entropy(logits, self.y[rows])
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()

    def arrays(self) -> dict[str, Array]:
        """The weights on scaled features, copied."""
        names = ("0.weight", "0.bias", "3.weight", "3.bias")
        return {name: w.detach().numpy().copy() for name, w in zip(names, self.weights, strict=True)}


def _row(epoch: int, train: tuple[float, float], val: tuple[float, float] | None) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "train_loss": train[1],
        "val_loss": val[1] if val else None,
        "train_accuracy": train[0],
        "val_accuracy": val[0] if val else None,
    }


def _patient(losses: list[float]) -> bool:
    """Whether the best loss is still recent."""
    return len(losses) - 1 - int(np.argmin(losses)) < PATIENCE


def train_mlp(
    X: Array,
    y: Array,
    *,
    n_classes: int,
    seed: int,
    validation: tuple[Array, Array] | None = None,
    epochs: int | None = None,
) -> tuple[dict[str, Array], list[dict[str, Any]]]:
    """Train on all of `X` [n, d]: with `validation` until its loss stops falling, best weights back; else `epochs`.

    Gives the arrays on raw features and one history row an epoch. The same seed gives the same weights on one
    machine with the same number of threads; the global random state is neither read nor changed.
    """
    scaler = Scaler.of(X)
    scaled = scaler(X)
    trainer = _Trainer(scaled, y, n_classes=n_classes, seed=seed)
    history: list[dict[str, Any]] = []
    best, losses = trainer.arrays(), list[float]()
    for epoch in range(1, (epochs or MOST_EPOCHS) + 1):
        trainer.epoch()
        arrays = trainer.arrays()
        val = None
        if validation is not None:
            val = accuracy_and_loss(mlp_logits(arrays, scaler(validation[0])), validation[1])
            losses.append(val[1])
        history.append(_row(epoch, accuracy_and_loss(mlp_logits(arrays, scaled), y), val))
        if validation is None or losses[-1] == min(losses):
            best = arrays
        if validation is not None and not _patient(losses):
            break
    return _raw(best, scaler), history


def _raw(arrays: dict[str, Array], scaler: Scaler) -> dict[str, Array]:
    """Fold the scaler into the first layer."""
    weight, bias = scaler.fold(arrays["0.weight"], arrays["0.bias"])
    return {**arrays, "0.weight": weight, "0.bias": bias}


def fit_mlp(
    X: Array,
    y: Array,
    *,
    n_classes: int,
    seed: int,
    folds: int,
    groups: Sequence[Any] | None,
    fixed: Mapping[str, Any],
) -> dict[str, Any]:
    """Choose the number of epochs by cross-validation, then train on all items that long; FittedHead's fields.

    The folds train side by side, so that the epoch is chosen, as a strength is, on every item's held-out answer.
    `history` holds the means over the folds.
    """
    history: list[dict[str, Any]] = []
    oof: Array | None = None
    epochs = int(fixed.get("epochs", 0))
    if epochs < 1:
        for logits, row in _side_by_side(
            X, y, n_classes=n_classes, seed=seed, pairs=fold_pairs(y, folds, seed=seed, groups=groups)
        ):
            history.append(row)
            losses = [entry["val_loss"] for entry in history]
            if losses[-1] == min(losses):
                epochs, oof = row["epoch"], logits
            if not _patient(losses):
                break
    arrays, refit = train_mlp(X, y, n_classes=n_classes, seed=seed, epochs=epochs or 20)
    search = [{"epochs": row["epoch"], "accuracy": row["val_accuracy"], "log_loss": row["val_loss"]} for row in history]
    return {
        "arrays": arrays,
        "chosen": {"epochs": epochs or 20},
        "oof": oof,
        "history": history or refit,
        "search": search,
    }


def _side_by_side(
    X: Array, y: Array, *, n_classes: int, seed: int, pairs: Sequence[tuple[Array, Array]]
) -> Iterator[tuple[Array, dict[str, Any]]]:
    """After each epoch of every fold: the held-out logits of all items, and the history row."""
    parts = []
    for number, (train, held) in enumerate(pairs):
        scaler = Scaler.of(X[train])
        trainer = _Trainer(scaler(X[train]), y[train], n_classes=n_classes, seed=seed + number)
        parts.append((trainer, scaler(X[held]), held))
    logits = np.zeros((len(y), n_classes), dtype=np.float32)
    for epoch in range(1, MOST_EPOCHS + 1 if parts else 0):
        seen = []
        for trainer, X_held, held in parts:
            trainer.epoch()
            arrays = trainer.arrays()
            logits[held] = mlp_logits(arrays, X_held)
            seen.append(accuracy_and_loss(mlp_logits(arrays, trainer.X.numpy()), trainer.y.numpy()))
        mean = (float(np.mean([a for a, _ in seen])), float(np.mean([loss for _, loss in seen])))
        yield logits.copy(), _row(epoch, mean, accuracy_and_loss(logits, y))
