"""One class out of several. torch is imported when a tensor is there to work on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.judge.scoring import score
from headstart.records import Scores

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Classification", "balanced_weights"]


@dataclass(frozen=True)
class Classification:
    """Each item has one of `classes`."""

    classes: tuple[str, ...]

    @property
    def outputs(self) -> int:
        """One logit a class."""
        return len(self.classes)

    def loss(self, logits: Tensor, targets: Tensor, *, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy of `logits` [n, k] against class numbers [n] or class shares [n, k] (mixup), a mean over items.

        `weights` [k] weigh the classes; `smoothing` spreads this share of every target evenly. The sum is divided by
        the number of items, never by their weights, so that micro-batches add up.
        Source of the smoothing: Szegedy et al. 2016, "Rethinking the Inception architecture".
        """
        from torch.nn import functional

        shares = targets if targets.ndim == 2 else functional.one_hot(targets, self.outputs)
        total = functional.cross_entropy(
            logits, shares.to(logits.dtype), weight=weights, label_smoothing=smoothing, reduction="sum"
        )
        return total / len(logits)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax over the classes, in float32 at least."""
        return logits.float().softmax(dim=1)

    def score(self, targets: Sequence[int] | Any, probabilities: Any) -> Scores:
        """Measures of `probabilities` [n, k] against class numbers [n]."""
        return score(np.asarray(targets), np.asarray(probabilities), classes=self.classes)


def balanced_weights(labels: Sequence[int] | Any, n_classes: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Weights [n_classes] that make every class that occurs count alike; their mean over the items is 1.

    A class without items has weight 1: nothing is known of it.
    """
    counts = np.bincount(np.asarray(labels, dtype=np.int64), minlength=n_classes)
    present = max(int((counts > 0).sum()), 1)
    return np.where(counts > 0, counts.sum() / (present * np.maximum(counts, 1)), 1.0).astype(np.float32)
