"""A tiny network, tiny pictures, and a trainer on them: what the tests of training share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from headstart.data.augment import View, normalise
from headstart.data.loader import Views
from headstart.records import Item, MemoryOrigin, Plan
from headstart.settings import Settings
from headstart.sources import open_source
from headstart.sources.base import Source, evaluating
from headstart.sources.cutting import cut_source
from headstart.tasks import Classification
from headstart.transfer import strategy
from headstart.transfer.engine import Engine
from headstart.transfer.feeds import ImageFeed, KeptRows, StoredFeed, kept_views
from headstart.transfer.groups import freeze
from headstart.transfer.interrupt import Stop
from headstart.transfer.net import TransferNet, fresh_head
from headstart.transfer.steps import Samples
from headstart.transfer.tuning import Trainer
from noting import Noting

torch.set_num_threads(1)


def coloured(n: int, *, classes: int = 3, seed: int = 0, first: int = 0) -> Samples:
    """Noise around a colour that is the class: learnt in a few steps."""
    items = []
    for number in range(first, first + n):
        rng = np.random.default_rng((seed, number))
        label = number % classes
        pixels = rng.integers(0, 110, (32, 32, 3))
        pixels[:, :, label % 3] += 100
        items.append(Item(f"p{number}", MemoryOrigin(pixels.astype(np.uint8)), label))
    return Samples.of(items)


@dataclass
class Rig:
    """A trainer with all it was made of."""

    trainer: Trainer
    train: Samples
    val: Samples
    plan: Plan
    reporter: Noting = field(default_factory=Noting)

    @property
    def net(self) -> TransferNet:
        return self.trainer.net

    @property
    def task(self) -> Classification:
        outputs = int(list(self.net.head.parameters())[-1].shape[0])
        return Classification(tuple(str(number) for number in range(outputs)))

    def fit(self, **more: Any) -> Any:
        return self.trainer.fit(self.train, self.val, task=self.task, **more)

    def judge_as(self, losses: Iterable[float]) -> None:
        """Let validation say these losses, epoch by epoch."""
        left = iter(losses)

        def said(_: Samples) -> tuple[float, float, float]:
            loss = next(left)
            return loss, 0.0, loss

        self.trainer._judge = said  # type: ignore[method-assign]

    def state(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.net.state_dict().items()}


def make_rig(
    *,
    address: str = "toy",
    head: nn.Module | None = None,
    folder: Path | None = None,
    stop: Stop | None = None,
    n: int = 18,
    source: Source | None = None,
    train: Samples | None = None,
    val: Samples | None = None,
    **options: Any,
) -> Rig:
    """A rig by settings: strategy full on the toy network, two epochs of three steps, unless told otherwise.

    With `stored` it trains from rows that are kept at the cut (and, of augmented views, `views` of them).
    """
    stored = options.pop("stored", False)
    usual = {"strategy": "full", "epochs": 2, "batch_size": 6, "lr": "1e-3", "workers": 0, "device": "cpu"}
    usual["precision"] = "fp32"  # the same on every machine
    settings = Settings.of(**{**usual, **options})
    opened = source or open_source(address)
    train, val = train or coloured(n), val or coloured(9, first=1000)
    plan = strategy.plan(settings, strategy.Situation(len(train.items), 3, opened.blocks))
    if plan.strategy == "partial":
        plan = strategy.with_views(plan, settings, n_train=len(train.items), n_items=n, width=int(stored))
    own = opened.fresh(settings.seed) if plan.start == "random" else opened.copy()
    head = head or fresh_head("linear", own.width(plan.pooling), 3, seed=settings.seed)
    net = TransferNet(own, head, pooling=plan.pooling)
    reporter = Noting()
    index = strategy.frozen_blocks(plan, own.blocks)
    views = int(plan.schedule.get("views", 0))
    feed = stored_feed(net, index, settings, (train, val), views=views) if stored else None
    trainer = Trainer(
        feed or ImageFeed(net, settings, views=views), freeze(net.source, index), plan=plan,
        settings=settings, engine=Engine(settings), reporter=reporter, folder=folder, stop=stop,
    )  # fmt: skip
    return Rig(trainer, train, val, plan, reporter)


def stored_feed(
    net: TransferNet, index: int, settings: Settings, both: tuple[Samples, Samples], *, views: int
) -> StoredFeed:
    """Rows of all views, computed by plain torch."""
    cutting = cut_source(net.source, index)
    below = net.source if cutting is None else cutting.below

    def rows(samples: Samples, view: View) -> KeptRows:
        looks = Views(samples.items, net.source.card, view=view, hashes=samples.hashes)
        images = normalise(torch.stack([looks(n) for n in range(len(samples.items))]), net.source.card)
        with evaluating(net.source), torch.no_grad():
            return KeptRows.of(samples.items, below(images).numpy())

    everything = Samples.of([*both[0].items, *both[1].items])
    kept = [rows(both[0], view) for view in kept_views(settings, views)]
    return StoredFeed(net, cutting, centre=rows(everything, View()), views=kept, settings=settings)
