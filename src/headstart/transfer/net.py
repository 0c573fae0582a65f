"""Source and head as one network: images in, logits out; and heads that begin or end as torch modules."""

from __future__ import annotations

from torch import Tensor, nn

from headstart.sources.base import Source, seeded
from headstart.transfer.heads import FittedHead

__all__ = ["TransferNet", "fresh_head", "head_of"]

_HIDDEN, _DROPOUT = 256, 0.5


class TransferNet(nn.Module):
    """A source without classifier, its pooling, and a head: normalised images (n, 3, h, w) → logits (n, classes)."""

    def __init__(self, source: Source, head: nn.Module, *, pooling: str = "native") -> None:
        super().__init__()
        self.source, self.head, self.pooling = source, head, pooling

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch."""
        return self.both(images)[0]

    def both(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of a batch and the features (n, d) that they were made from, in one pass."""
        features: Tensor = self.source(images, self.pooling)
        return self.head(features), features


def fresh_head(kind: str, width: int, n_classes: int, *, seed: int) -> nn.Module:
    """An untrained head (`linear` or `mlp`) for features of `width`, drawn from `seed`."""
    with seeded(seed):
        if kind == "mlp":
            hidden = (nn.Linear(width, _HIDDEN), nn.ReLU(), nn.Dropout(_DROPOUT))
            return nn.Sequential(*hidden, nn.Linear(_HIDDEN, n_classes))
        return nn.Linear(width, n_classes)


def head_of(kind: str, module: nn.Module) -> FittedHead:
    """A head that was trained by gradient, as plain arrays."""
    state = module.state_dict()
    return FittedHead(kind, {name: value.detach().cpu().float().numpy().copy() for name, value in state.items()})
