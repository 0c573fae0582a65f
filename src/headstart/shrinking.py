"""From a finished model to smaller ones: cut a little, make up for it, learn from the whole one, judge, and again.

Every network on the way is judged on the validation items alone; the sealed test set has no part in any choice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headstart.data import augment
from headstart.data.augment import Augmentation
from headstart.data.loader import Views, batches
from headstart.errors import DataError, SettingsError
from headstart.finetune import Candidate, proof
from headstart.judge.calibration import log_softmax
from headstart.judge.intervals import paired_bootstrap, wilson
from headstart.records import Plan
from headstart.ship.distil import distil, distilling
from headstart.ship.importance import IMPORTANCES, importance, refit
from headstart.ship.model import Model
from headstart.ship.prune import choose, costs, find_groups, smaller
from headstart.sources.base import Source
from headstart.stages import Bench
from headstart.transfer.heads import fit_head
from headstart.transfer.net import TransferNet, head_of
from headstart.trusting import answers

__all__ = ["Aim", "Point", "Shrinking", "shrink", "timed", "tuned_candidate"]

STEP, REACH = 1.5, 2.0
"""The curve has a network every so many times less, each cut out of the largest at most so many times as large."""

_IMAGES, _RANKED = 768, 128  # training views that layers are fitted on, and that channels are judged by
_BYTES, _COPIES = 4e9, 12  # of memory for all views at once, and of each number that the largest layer gives
_SEEN = 12_000  # training views that the last network learns from, about
_EARLIER = 0.25  # of its epochs for the networks on the way
_LARGEST = 16.0  # times smaller, where --max-drop lets it go on
_ROUNDS, _BATCH = 9, 16  # timed calls, and the pictures of the larger one


@dataclass(frozen=True)
class Aim:
    """Where to go: a "speedup" (multiply-adds before / after), a share of "parameters", a "max_drop" in points."""

    kind: str
    value: float

    @property
    def name(self) -> str:
        """The name of the folder."""
        return f"{self.kind.replace('_', '-')}-{self.value:g}"

    @property
    def what(self) -> str:
        """What the cuts go by."""
        return "parameters" if self.kind == "parameters" else "macs"

    def shares(self) -> list[float]:
        """The shares of the whole that the networks on the way keep, the aim's last."""
        if self.kind == "max_drop":
            return [STEP**-number for number in range(1, 1 + math.ceil(math.log(_LARGEST) / math.log(STEP)))]
        share = self.value if self.kind == "parameters" else 1 / self.value
        steps = max(1, math.ceil(-math.log(share) / math.log(STEP) - 1e-9))
        return [share ** (number / steps) for number in range(1, steps + 1)]


@dataclass
class Point:
    """A network on the curve: what it costs, and how it answers on the validation items."""

    net: TransferNet
    features: np.ndarray  # which of the whole network's it has
    right: np.ndarray
    told: dict[str, Any] = field(default_factory=dict)


def shrink(bench: Bench, model: Model, aim: Aim, *, epochs: int | None, chosen: dict[str, Any]) -> list[Point]:
    """The whole network and smaller ones, the last at the aim; with max_drop the last but the first that lost too much.

    `chosen` are the head's hyper-parameters. Raises DataError without validation items, SettingsError where the network
    cannot be made as small.
    """
    return Shrinking(bench, model, aim, epochs, chosen).run()


class Shrinking:
    """One way to smaller networks: what stays the same from step to step."""

    def __init__(self, bench: Bench, model: Model, aim: Aim, epochs: int | None, chosen: dict[str, Any]) -> None:
        self.bench, self.aim, self.plan, self.chosen = bench, aim, model.plan, chosen
        self.train, self.val = bench.samples("train"), bench.samples("val")
        if not len(self.val.items):
            raise DataError(
                "there is nothing to judge smaller networks on: the training set is too small to hold back a "
                "validation part",
                where=bench.dataset.path,
                remedy="Add images.",
            )
        self.epochs = epochs or min(60, max(2, round(_SEEN / max(1, len(self.train.items)))))
        self.frozen = self.plan.strategy == "frozen"
        head = self._guide(bench.source) if self.frozen else model.net.head
        self.whole = TransferNet(bench.source, head, pooling=self.plan.pooling).eval()
        self.at_first = costs(bench.source, self.plan.pooling)
        self.importance = ""
        self.tried: dict[str, float] = {}  # the losses of all kinds of importance at the first cut

    def run(self) -> list[Point]:
        """All points of the curve."""
        width = self.bench.source.width(self.plan.pooling)
        points = [self.point(self.whole, np.arange(width), {"epochs": 0})]
        shares = self.aim.shares()
        if self.aim.kind == "max_drop":
            n = len(self.val.items)
            self.bench.reporter.note(f"judged on {n} validation items: one of them is {100 / n:.1f} points")
        for number, share in enumerate(shares, 1):
            last = number == len(shares) or self.aim.kind == "max_drop"
            base = next(n for n, larger in enumerate([1.0, *shares]) if larger <= REACH * share + 1e-9)
            found = self._step(points[base], share, last=last)
            if found is None:
                break
            points.append(found)
            if self.aim.kind == "max_drop" and -found.told["change_points"] > self.aim.value + 1e-9:
                break
        return points

    # --- a step ---------------------------------------------------------------------------------------------------

    def _step(self, before: Point, share: float, *, last: bool) -> Point | None:
        """The next smaller network; None where max_drop has gone as far as one can."""
        reporter, what, pooling = self.bench.reporter, self.aim.what, self.plan.pooling
        goal = share * self.at_first.total(what)
        with reporter.stage(f"Cutting to {share:.0%} of the {'multiply-adds' if what == 'macs' else 'parameters'}"):
            kinds = IMPORTANCES if not self.importance else (self.importance,)
            tried = [self._cut(before, kind, goal) for kind in kinds]
            place = int(np.argmin([loss for _, _, loss in tried]))
        if not self.importance:
            self.importance = kinds[place]
            self.tried = {kind: round(loss, 4) for kind, (_, _, loss) in zip(kinds, tried, strict=True)}
        net, features, _ = tried[place]
        reached = costs(net.source, pooling).total(what)
        if reached > 1.02 * goal:
            if self.aim.kind == "max_drop":
                return None
            least, words = reached / self.at_first.total(what), "multiply-adds" if what == "macs" else "parameters"
            possible = f"--speedup {1 / least:.1f}" if what == "macs" else f"--parameters {least:.2f}"
            raise SettingsError(
                f"{net.source.card.architecture} can be cut to {least:.0%} of its {words}, not to {share:.0%}",
                remedy=f"Ask for {possible}.",
            )
        epochs = self.epochs if last else max(1, round(_EARLIER * self.epochs))
        how = distilling(self.plan, self.bench.settings, net.source, n_train=len(self.train.items), epochs=epochs)
        distil(
            net, self.whole, features, samples=(self.train, self.val), how=how, reporter=reporter, stop=self.bench.stop,
        )  # fmt: skip
        told = {"epochs": epochs, "importance": self.importance, "tried": self.tried}
        return self.point(net, features, told, whole=self.right)

    def _cut(self, before: Point, kind: str, goal: float) -> tuple[TransferNet, np.ndarray, float]:
        """The network cut by one kind of importance and fitted anew, its features, and its loss on validation."""
        net, pooling, what = before.net, self.plan.pooling, self.aim.what
        groups, counted = find_groups(net.source, pooling), costs(net.source, pooling)
        scores = importance(kind, net, groups, self.images[:_RANKED], seed=self.bench.settings.seed)
        kept = choose(groups, scores, counted, what=what, share=goal / counted.total(what))
        source, left = smaller(net.source, groups, kept)
        refit(source, net.source, left, self.images, pooling=pooling)
        features = before.features[left.features] if pooling in ("native", "avg") else before.features
        head = _fewer_inputs(net.head, left.features) if len(features) < len(before.features) else net.head
        made = TransferNet(source, _copied(head), pooling=pooling).eval()
        logits = self._validated(made)
        return made, features, float(-log_softmax(logits)[np.arange(len(logits)), self.val.labels].mean())

    # --- judging --------------------------------------------------------------------------------------------------

    def point(
        self, net: TransferNet, features: np.ndarray, told: dict[str, Any], *, whole: np.ndarray | None = None
    ) -> Point:
        """What a network costs and how it answers on validation, beside the whole one."""
        logits, counted = self._validated(net), costs(net.source, self.plan.pooling)
        right = logits.argmax(1) == self.val.labels
        if whole is None:
            self.right = whole = right
        change = paired_bootstrap(right, whole, seed=self.bench.settings.seed)
        macs, parameters = (
            counted.total("macs"),
            counted.total("parameters") + sum(p.numel() for p in net.head.parameters()),
        )
        return Point(
            net, features, right,
            {
                "macs": round(macs), "parameters": round(parameters), "features": len(features),
                "speedup": self.at_first.total("macs") / macs,
                "accuracy": float(right.mean()), "accuracy_interval": wilson(int(right.sum()), len(right)),
                "change_points": 100 * change.value, "change_interval": [100 * change.low, 100 * change.high],
                **told,
            },
        )  # fmt: skip

    def _validated(self, net: TransferNet) -> np.ndarray:
        """Logits of the validation items; of frozen features by the run's kind of head, fitted on training items."""
        logits, features = answers(net, self.val.items, hashes=self.val.hashes)
        if not self.frozen:
            return logits
        rows = answers(net, self.train.items, hashes=self.train.hashes)[1]
        there = np.isfinite(rows).all(axis=1)
        fixed = self.chosen if self.plan.head != "mlp" else None
        head = fit_head(
            self.plan.head, rows[there], self.train.labels[there], n_classes=self.bench.n_classes,
            seed=self.bench.settings.seed, fixed=fixed,
        )  # fmt: skip
        return head.logits(features)

    def _guide(self, source: Source) -> nn.Module:
        """A linear head that shows what of frozen features matters, fitted on the training items."""
        bare = TransferNet(source, nn.Identity(), pooling=self.plan.pooling)
        rows = answers(bare, self.train.items, hashes=self.train.hashes)[1]
        there = np.isfinite(rows).all(axis=1)
        found = fit_head(
            "linear", rows[there], self.train.labels[there], n_classes=self.bench.n_classes,
            seed=self.bench.settings.seed, fixed=self.chosen if self.plan.head == "linear" else None,
        )  # fmt: skip
        return found.module()

    @cached_property
    def images(self) -> Tensor:
        """Training pictures, normalised (n, 3, h, w): the centre view, and augmented ones where there are few."""
        settings, card = self.bench.settings, self.bench.source.card
        most = int(max(64, min(_IMAGES, _BYTES / (_COPIES * self.at_first.largest))))
        order = np.random.default_rng(settings.seed).permutation(len(self.train.items))[:most]
        parts = []
        for epoch in range(math.ceil(most / len(order)) if settings.augment else 1):
            kind = Augmentation.of(settings) if epoch else None
            views = Views(self.train.items, card, augmentation=kind, seed=settings.seed, hashes=self.train.hashes)
            views.epoch = epoch
            places = order[: most - epoch * len(order)]
            parts += [batch.images for batch in batches(views, [places], workers=settings.workers)]
        return augment.normalise(torch.cat(parts), card).contiguous(memory_format=torch.channels_last)


def _copied(module: nn.Module) -> nn.Module:
    import copy

    return copy.deepcopy(module)


def _fewer_inputs(head: nn.Module, features: np.ndarray) -> nn.Module:
    """A head of torch's, linear or with a hidden layer, that reads some of the features."""
    found = _copied(head)
    first = next(layer for layer in found.modules() if isinstance(layer, nn.Linear))
    first.weight = nn.Parameter(first.weight.detach()[:, torch.from_numpy(features)].clone())
    first.in_features = len(features)
    return found


def timed(nets: Sequence[TransferNet]) -> list[dict[str, float]]:
    """Milliseconds of one picture, and pictures a second in batches, of each network; all in turn, the medians."""
    found: dict[int, np.ndarray] = {}
    threads = torch.get_num_threads()
    for size in (1, _BATCH):
        images = torch.zeros(size, *nets[0].source.card.input_size).contiguous(memory_format=torch.channels_last)
        rows = np.empty((_ROUNDS, len(nets)))
        with torch.inference_mode():
            for net in nets:
                net(images)
            for number in range(_ROUNDS):
                for place, net in enumerate(nets):
                    started = time.perf_counter()
                    net(images)
                    rows[number, place] = time.perf_counter() - started
        found[size] = np.median(rows, axis=0)
    return [
        {"ms": 1000 * float(one), "images_per_second": _BATCH / float(many), "threads": threads}
        for one, many in zip(found[1], found[_BATCH], strict=True)
    ]


def tuned_candidate(bench: Bench, net: TransferNet, plan: Plan) -> Candidate:
    """A network that was trained with its head, with its answers on all splits."""
    splits = [name for name in ("train", "val", "test") if len(bench.samples(name).items)]
    logits = {name: answers(net, bench.samples(name).items, hashes=bench.samples(name).hashes)[0] for name in splits}
    return Candidate(
        plan, net, head_of(plan.head, net.head), logits, {"axis": "epochs", "points": []},
        trained_parameters=sum(p.numel() for p in net.parameters()), seconds=0.0, frozen=proof([], 0, "", ""),
        items=bench.dataset.items,
    )  # fmt: skip
