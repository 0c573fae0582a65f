"""From a finished model to smaller ones: cut a little, make up for it, learn from the whole one, judge, and again.

Multiply-adds are saved by fewer channels and by smaller pictures, whatever of both loses least (Tan and Le 2019,
"EfficientNet", section 3, and Han et al. 2020, "Model Rubik's cube": neither alone is the best way to a size).

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
from headstart.errors import DataError, SettingsError, SourceError
from headstart.finetune import Candidate, proof
from headstart.judge.calibration import log_softmax
from headstart.judge.intervals import paired_bootstrap, wilson
from headstart.records import Plan
from headstart.ship.distil import RATES, distil, distilling, resized
from headstart.ship.importance import IMPORTANCES, importance, refit
from headstart.ship.model import Model
from headstart.ship.prune import Group, choose, costs, find_groups, smaller
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
_SIDE, _LEAST = 32, 64  # pixels by which pictures become smaller, and the least side
_OF_PIXELS = 2 / 3  # of the way (of the logarithm) that smaller pictures may go: the rest are channels
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


def shrink(
    bench: Bench, model: Model, aim: Aim, *, epochs: int | None, image_size: int | None, chosen: dict[str, Any]
) -> list[Point]:
    """The whole network and smaller ones, the last at the aim; with max_drop the last but the first that lost too much.

    The smaller ones take pictures of `image_size` pixels; None: of what loses least. `chosen` are the head's
    hyper-parameters. Raises DataError without validation items, SettingsError where the network cannot be made as small
    or takes no pictures of that size.
    """
    return Shrinking(bench, model, aim, epochs, chosen, image_size).run()


@dataclass(frozen=True)
class _Cut:
    """A network that was cut, which of the whole one's features it has, and how far its answers are from the whole's.

    `missed` says that it is not as small as it should be.
    """

    net: TransferNet
    features: np.ndarray
    apart: float
    missed: bool


class Shrinking:
    """One way to smaller networks: what stays the same from step to step."""

    def __init__(
        self, bench: Bench, model: Model, aim: Aim, epochs: int | None, chosen: dict[str, Any],
        image_size: int | None = None,
    ) -> None:  # fmt: skip
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
        self.tried: dict[str, float] = {}  # how far networks cut by each kind of importance were from the whole one
        self.rates: tuple[float, ...] = RATES
        self.image_size = self._asked(image_size)

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
            cut, sizes = self._least(before, goal, share)
        net, features = cut.net, cut.features
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
        told = {"epochs": epochs, "importance": self.importance, "tried": self.tried, "tried_sizes": sizes}
        return self.point(net, features, told | self._distil(cut, epochs), whole=self.right)

    def _distil(self, cut: _Cut, epochs: int) -> dict[str, Any]:
        """Train a cut network after the whole one, at a rate that brings it nearer, or leave it as it was."""
        net, reporter, bench = cut.net, self.bench.reporter, self.bench
        before, state = self._off(cut), {name: value.clone() for name, value in net.state_dict().items()}
        found: dict[str, float] = {}
        for rate in self.rates:
            how = distilling(
                self.plan, bench.settings, net.source, n_train=len(self.train.items), epochs=epochs, rate=rate
            )
            samples = (self.train, self.val)
            distil(net, self.whole, cut.features, samples=samples, how=how, reporter=reporter, stop=bench.stop)
            found[f"{rate:g}"] = after = self._off(cut)
            if after <= before:
                self.rates = self.rates[self.rates.index(rate) :]  # what was too much once is not tried again
                break
            net.load_state_dict(state)
            reporter.note(
                f"training at the rate {rate:g} took the features from {before:.3f} to {after:.3f} of their spread: "
                "the cut network stays as it was"
            )
        trained = {rate: round(off, 4) for rate, off in found.items()}
        return {"features_off": {"cut": round(before, 4), "trained": trained}}

    def _off(self, cut: _Cut) -> float:
        """How far features of validation items are from the whole network's: mean square beside their variance."""
        found, wanted = self._features(cut.net), self._goal[:, cut.features]
        there = np.isfinite(found).all(axis=1) & np.isfinite(wanted).all(axis=1)
        return float(np.square(found - wanted)[there].mean() / max(1e-12, wanted[there].var(axis=0).mean()))

    @cached_property
    def _goal(self) -> np.ndarray:
        """The whole network's features of the validation items."""
        return self._features(self.whole)

    def _features(self, net: TransferNet) -> np.ndarray:
        return answers(self.bench, net, self.val)[1]

    def _least(self, before: Point, goal: float, share: float) -> tuple[_Cut, dict[str, float]]:
        """The cut that answers most as the whole network does, and how far those of every size of pictures are."""
        own = _side(before.net.source)
        sides = self._sides(before, share)
        kinds = IMPORTANCES if not self.importance else (self.importance,)
        first = own if own in sides else sides[0]
        groups = find_groups(before.net.source, self.plan.pooling)
        images = resized(self.images, own) if own else self.images
        scores = {
            kind: importance(kind, before.net, groups, images[:_RANKED], seed=self.bench.settings.seed)
            for kind in kinds
        }
        found = {kind: self._cut(before, (groups, scores[kind]), images, goal, first) for kind in kinds}
        if not self.importance:
            self.importance = min(kinds, key=lambda kind: found[kind].apart)
            self.tried = {kind: round(cut.apart, 4) for kind, cut in found.items()}
        cuts = {first: found[self.importance]}
        for side in sides:
            if side not in cuts:
                cuts[side] = self._cut(before, (groups, scores[self.importance]), images, goal, side)
        best = min(cuts, key=lambda side: (cuts[side].missed, cuts[side].apart))
        return cuts[best], {str(side): round(cuts[side].apart, 4) for side in sorted(cuts, reverse=True) if side}

    def _asked(self, side: int | None) -> int | None:
        """The size of pictures that was asked for. Raises SettingsError where the network does not take it."""
        own = _side(self.whole.source)
        if side is None or side == own:
            return side
        if not own or side > own:
            are = f"of {own} pixels" if own else "not square"
            raise SettingsError(
                f"--image-size {side} makes no picture smaller: the network's are {are}",
                remedy="Leave it out, or give a smaller one.",
            )
        if not self._takes(side):
            architecture = self.whole.source.card.architecture
            raise SettingsError(f"{architecture} takes no pictures of {side} pixels", remedy="Leave --image-size out.")
        return side

    def _sides(self, before: Point, share: float) -> list[int]:
        """The sizes of pictures to try for a network with this share of the whole one's multiply-adds."""
        if self.image_size is not None:
            return [self.image_size]
        own, whole = _side(before.net.source), _side(self.whole.source)
        if self.aim.what != "macs" or not whole:
            return [own]
        least = math.ceil(max(_LEAST, whole * share ** (_OF_PIXELS / 2)))
        smaller_ones = [side for side in range(own - 1, least - 1, -1) if side % _SIDE == 0]
        return [own, *filter(self._takes, smaller_ones)]

    def _takes(self, side: int) -> bool:
        """Whether the network takes pictures of this size, and gives as many features for them."""
        source, pooling = self.whole.source, self.plan.pooling
        try:
            return source.sized(side).width(pooling) == source.width(pooling)
        except SourceError:
            return False

    def _cut(
        self, before: Point, judged: tuple[list[Group], dict[str, np.ndarray]], images: Tensor, goal: float, side: int
    ) -> _Cut:
        """The network for pictures of this size, cut where its groups' `judged` channels are worth least, fitted anew.

        `images` are of the size that the network takes before.
        """
        net, pooling, what, (groups, scores) = before.net, self.plan.pooling, self.aim.what, judged
        own = net.source
        made = own.sized(side) if side else own
        counted = costs(made, pooling)
        kept = choose(groups, scores, counted, what=what, share=min(1.0, goal / counted.total(what)))
        source, left = smaller(made, groups, kept)
        refit(source, own, left, images, pooling=pooling)
        features = before.features[left.features] if pooling in ("native", "avg") else before.features
        head = _fewer_inputs(net.head, left.features) if len(features) < len(before.features) else net.head
        cut = TransferNet(source, _copied(head), pooling=pooling).eval()
        return _Cut(cut, features, self._apart(cut), costs(source, pooling).total(what) > 1.02 * goal)

    def _apart(self, net: TransferNet) -> float:
        """How far a network's answers are from the whole one's: the mean divergence on the validation items."""
        log, wanted = log_softmax(self._validated(net)), self.wanted
        return float(np.nanmean((np.exp(wanted) * (wanted - log)).sum(1)))  # a picture that cannot be read gives NaN

    # --- judging --------------------------------------------------------------------------------------------------

    def point(
        self, net: TransferNet, features: np.ndarray, told: dict[str, Any], *, whole: np.ndarray | None = None
    ) -> Point:
        """What a network costs and how it answers on validation, beside the whole one."""
        logits, counted = self._validated(net), costs(net.source, self.plan.pooling)
        right = logits.argmax(1) == self.val.labels
        if whole is None:
            self.right = whole = right
            self.wanted = log_softmax(logits)
        change = paired_bootstrap(right, whole, seed=self.bench.settings.seed)
        macs, parameters = (
            counted.total("macs"),
            counted.total("parameters") + sum(p.numel() for p in net.head.parameters()),
        )
        return Point(
            net, features, right,
            {
                "macs": round(macs), "parameters": round(parameters), "features": len(features),
                "image_size": list(net.source.card.input_size[1:]),
                "speedup": self.at_first.total("macs") / macs,
                "accuracy": float(right.mean()), "accuracy_interval": wilson(int(right.sum()), len(right)),
                "change_points": 100 * change.value, "change_interval": [100 * change.low, 100 * change.high],
                **told,
            },
        )  # fmt: skip

    def _validated(self, net: TransferNet) -> np.ndarray:
        """Logits of the validation items; of frozen features by the run's kind of head, fitted on training items."""
        logits, features = answers(self.bench, net, self.val)
        if not self.frozen:
            return logits
        rows = answers(self.bench, net, self.train)[1]
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
        rows = answers(self.bench, bare, self.train)[1]
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


def _side(source: Source) -> int:
    """The side of a source's square pictures; 0 where they are not square."""
    height, width = source.card.input_size[1:]
    return height if height == width else 0


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
    parts = {name: part for name in ("train", "val", "test") if len((part := bench.samples(name)).items)}
    logits = {name: answers(bench, net, part)[0] for name, part in parts.items()}
    return Candidate(
        plan, net, head_of(plan.head, net.head), logits, {"axis": "epochs", "points": []},
        trained_parameters=sum(p.numel() for p in net.parameters()), seconds=0.0, frozen=proof([], 0, "", ""),
        items=bench.dataset.items,
    )  # fmt: skip
