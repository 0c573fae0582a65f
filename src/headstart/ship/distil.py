"""Training a pruned network after the whole one: its features and logits on the same views, and no label.

The loop, the views and the choice of the epoch are those of every fine-tuning (transfer.tuning); only what is minimised
differs. A network that was cut has less room than the one before it, but far more than a few hundred labels fill, and
what the whole network makes of a picture says more than a label does: it learns from every augmented view (Hinton et
al. 2015, "Distilling the knowledge in a neural network"; Romero et al. 2015, "FitNets"; Beyer et al. 2022, "Knowledge
distillation: a good teacher is patient and consistent", section 3, which gives both the same blended pictures).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from headstart.progress import Reporter
from headstart.records import Plan
from headstart.settings import Settings
from headstart.tasks import Classification
from headstart.transfer import strategy
from headstart.transfer.engine import Engine
from headstart.transfer.feeds import ImageFeed
from headstart.transfer.groups import freeze
from headstart.transfer.interrupt import Stop
from headstart.transfer.net import TransferNet
from headstart.transfer.steps import Samples
from headstart.transfer.tuning import Trainer, Tuned

__all__ = ["RATES", "distil", "distilling", "resized"]

RATES = (3e-4, 1e-4, 3e-5)
"""The first that brings the features nearer to the whole network's: networks differ in what they bear."""

BATCH, CROP, MIXUP = 16, 0.15, 1.0
"""Strong crops, blended pictures and many epochs: what the whole network says of a picture holds for any picture."""

_LOGITS = 0.5  # how much the logits count beside the features
_TEMPERATURE = 2.0


class _Follower(nn.Module):
    """The pruned network beside the whole one. It answers as the pruned one does, and keeps how far it is from it.

    Both see the same views; a network that takes smaller pictures gets them smaller.
    """

    features: Tensor
    spread: Tensor

    def __init__(self, net: TransferNet, whole: TransferNet, features: np.ndarray) -> None:
        super().__init__()
        self.net, self.distance = net, torch.zeros(())
        self.whole = [whole]  # in a list, for it is no part of what is trained or moved
        self.register_buffer("features", torch.from_numpy(features), persistent=False)
        self.register_buffer("spread", torch.tensor(torch.nan), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch."""
        logits, features = self.net.both(resized(images, self.net.source.card.input_size[1]))
        if torch.is_grad_enabled():
            with torch.no_grad():
                goal, wanted = self.whole[0].both(images)
            self.distance = self._distance(features, wanted[:, self.features], logits, goal)
        return logits

    def _distance(self, features: Tensor, wanted: Tensor, logits: Tensor, goal: Tensor) -> Tensor:
        """Mean square of the features' difference beside their spread, and the logits' divergence."""
        if not torch.isfinite(self.spread):  # the first batch; again where a trial has put the buffers back
            some = wanted.var(0) if len(wanted) > 1 else wanted.square()
            self.spread.copy_(some.mean().clamp(min=1e-12))
        apart = ((features - wanted).square() / self.spread).mean()
        t = _TEMPERATURE
        log, like = functional.log_softmax(logits / t, 1), functional.softmax(goal / t, 1)
        return apart + _LOGITS * t * t * functional.kl_div(log, like, reduction="batchmean")


class _Following(Classification):
    """The task of a follower: how far it was from the whole network at its last batch."""

    def __init__(self, classes: tuple[str, ...], follower: _Follower) -> None:
        super().__init__(classes)
        object.__setattr__(self, "follower", follower)

    def loss(self, *_: Any, **__: Any) -> Tensor:
        """The distance; no label counts."""
        follower: _Follower = self.follower  # type: ignore[attr-defined]
        return follower.distance


class _Last(Trainer):
    """The loop, of which the last epoch is kept: labels of a few validation items would choose by chance."""

    def _judge(self, val: Samples) -> tuple[float, float, float]:
        loss, accuracy, _ = super()._judge(val)
        return loss, accuracy, -float(len(self.result.history))


def resized(images: Tensor, side: int) -> Tensor:
    """Pictures (n, c, h, w) as large as a network takes them, antialiased."""
    if images.shape[2] == side:
        return images
    size = (side, round(images.shape[3] * side / images.shape[2]))
    found = functional.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False)
    return found.contiguous(memory_format=torch.channels_last)


def distilling(
    plan: Plan, settings: Settings, source: Any, *, n_train: int, epochs: int, rate: float
) -> tuple[Plan, Settings]:
    """The plan and the settings by which a pruned network learns for so many epochs at this rate."""
    own = settings.changed(
        strategy="full", cut=None, train_last=None, epochs=epochs, lr=str(rate), backbone_lr=None, head_lr=None,
        layer_decay=None, optimizer="adamw", weight_decay=0.0, batch_size=BATCH, accumulate=1, warmup=0.1, mixup=MIXUP,
        schedule="cosine", patience=epochs, ema=0.0, augment=True, crop_scale=CROP, head="linear",
        norm_stats="frozen",
    )  # fmt: skip
    found = strategy.plan(own, strategy.Situation(n_train, 2, tuple(source.blocks)))
    return replace(found, pooling=plan.pooling, head=plan.head), own


def distil(
    net: TransferNet, whole: TransferNet, features: np.ndarray, *, samples: tuple[Samples, Samples],
    how: tuple[Plan, Settings], reporter: Reporter, stop: Stop | None = None,
) -> Tuned:  # fmt: skip
    """Train `net` to give what `whole` gives, `features` saying which of its features `net` has; in place.

    `samples` are those that it learns from, and those that it is watched on.
    """
    (train, val), classes = samples, tuple(map(str, range(samples[0].labels.max() + 1)))
    plan, settings = how
    feed = ImageFeed(net, settings, reporter=reporter, card=whole.source.card)
    feed.module = follower = _Follower(net, whole.eval(), features)
    frozen = freeze(net.source, 0, pooling=plan.pooling)
    engine = Engine(settings)
    whole.to(engine.device)
    trainer = _Last(feed, frozen, plan=plan, settings=settings, engine=engine, reporter=reporter, stop=stop)
    found = trainer.fit(train, val, task=_Following(classes, follower))
    for one in (net, whole):
        one.to("cpu").eval()
    return found
