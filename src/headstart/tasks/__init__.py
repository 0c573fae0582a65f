"""What the answer is: the Protocol that the training loop knows, and the tasks that follow it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from headstart.records import Scores
from headstart.tasks.classification import Classification, balanced_weights

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Classification", "Task", "balanced_weights"]


class Task(Protocol):
    """The answer of a model: how many numbers, how wrong they are, what they mean and how good they are."""

    @property
    def outputs(self) -> int:
        """Numbers that the head gives for one item."""
        ...

    def loss(self, logits: Tensor, targets: Tensor, *, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
        """One number to minimise, the mean over the items of a batch."""
        ...

    def probabilities(self, logits: Tensor) -> Tensor:
        """What the logits mean."""
        ...

    def score(self, targets: Sequence[int] | Any, probabilities: Any) -> Scores:
        """The measures of the answers."""
        ...
