"""Weights between the start of a fine-tuning and its end.

Source: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (WiSE-FT), equation 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headstart.transfer.steps import Samples, judged
from headstart.transfer.tuning import Trainer

__all__ = ["SHARES", "interpolate", "mixed_state"]

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the way from the start (the head fitted on frozen features) to the fine-tuned weights that are tried."""


def interpolate(trainer: Trainer, start: Mapping[str, Tensor], val: Samples) -> dict[str, Any] | None:
    """Leave in the trainer's network the weights, on the way from `start` to its own, of the least loss on `val`.

    Gives {alpha, tried: [{alpha, log_loss, accuracy}]}; None where training has not moved the weights or nothing is
    there to choose by. The loss is the one that epochs are chosen by; of equals the fine-tuned weights stay.
    """
    if not trainer.result.best_epoch or not len(val.items):
        return None
    end = trainer.trained_state()
    tried: list[dict[str, float]] = []
    found: list[tuple[float, float]] = []
    for alpha in SHARES:
        trainer.take_state(mixed_state(start, end, alpha))
        logits, there = trainer.predict(val.items)
        loss, accuracy, choice = judged(logits[there], val.labels[there])
        tried.append({"alpha": alpha, "log_loss": loss, "accuracy": accuracy})
        found.append((choice if np.isfinite(choice) else np.inf, -alpha))
    best = -min(found)[1]
    trainer.take_state(mixed_state(start, end, best))
    return {"alpha": best, "tried": tried}


def mixed_state(start: Mapping[str, Tensor], end: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """`alpha` of the way from `start` to `end`, entry by entry; counters are those of the end."""
    if alpha >= 1:
        return dict(end)
    return {
        name: torch.lerp(start[name], value, alpha) if value.is_floating_point() else value
        for name, value in end.items()
    }
