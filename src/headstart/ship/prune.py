"""What of a network can be cut, and what should be: whole channels, found by its dependency graph.

A channel is made by one layer and taken by others, through norms, sums and depthwise convolutions that must all keep
step. torch-pruning finds these groups (Fang et al. 2023, "DepGraph: towards any structural pruning"); whether it found
them rightly is then tried: without the inputs that read a channel, the network must give what it gives without the
channel. Groups that hold anything but convolutions, linear layers and BatchNorm are left whole, so attention, LayerNorm
and what runs through them keep their widths.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from headstart.errors import MissingExtraError, SourceError
from headstart.sources.base import Source, evaluating, seeded
from headstart.sources.widths import select, widths_of

__all__ = ["Costs", "Group", "Kept", "Left", "choose", "costs", "cut", "find_groups", "need_torch_pruning", "smaller"]

_FLOOR = 0.1  # of a group's channels stay, whatever they seem to be worth
_FEATURES_FLOOR = 0.3  # of the features: a head of its own is fitted on them, which finds more in them than this one
_EXACT = 1e-4  # of the features' size: how far the two ways of taking a channel away may differ
_POOLINGS = ("native", "avg")  # with which a feature is a channel

Kept = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Group:
    """Channels that go together: `n` of them, made and read at `places`.

    `places` holds (layer, "out" or "in", channel [m], position in the layer [m]); `features` (channel, feature) where
    the channels are the network's features. `name` is the layer that makes them.
    """

    name: str
    n: int
    places: tuple[tuple[str, str, np.ndarray, np.ndarray], ...]
    features: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def step(self) -> int:
        """Channels that are cut in one go: processors like whole vectors of them."""
        return 8 if self.n >= 64 else 4 if self.n >= 24 else 2 if self.n >= 8 else 1

    @property
    def floor(self) -> int:
        """Channels that stay."""
        return max(self.step, math.ceil((_FLOOR if self.features is None else _FEATURES_FLOOR) * self.n))

    def kept(self, channels: np.ndarray) -> list[tuple[str, str, np.ndarray]]:
        """What stays of every layer where these channels [bool n] stay: (layer, side, positions that go)."""
        return [(name, side, where[~channels[channel]]) for name, side, channel, where in self.places]


def need_torch_pruning() -> None:
    """Raise MissingExtraError where torch-pruning is not installed."""
    if importlib.util.find_spec("torch_pruning") is None:
        raise MissingExtraError("torch-pruning", "compress", "headstart prune")


def find_groups(source: Source, pooling: str) -> list[Group]:
    """The groups of channels that can be cut, as they are now. Raises SourceError where there are none."""
    need_torch_pruning()
    import torch_pruning

    network = source.network
    names = {module: name for name, module in network.named_modules()}
    wanted = [parameter.requires_grad for parameter in network.parameters()]
    with evaluating(source), torch.enable_grad():
        for parameter in network.parameters():
            parameter.requires_grad_(True)
        graph = torch_pruning.DependencyGraph().build_dependency(
            network, source._blank(1), forward_fn=lambda _, images: source(images, pooling), verbose=False
        )
        found = [_group(each, names, pooling) for each in graph.get_all_groups()]
    for parameter, before in zip(network.parameters(), wanted, strict=True):
        parameter.requires_grad_(before)
    groups = _exact(source, pooling, [group for group in found if group is not None and group.n > group.floor])
    if not groups:
        raise SourceError(
            f"nothing in {source.card.architecture} can be cut", where=source.address, remedy="Choose another source."
        )
    return groups


def _group(found: object, names: Mapping[nn.Module, str], pooling: str) -> Group | None:
    """A group of torch-pruning as ours; None where it holds what is never cut."""
    from torch_pruning.ops import OPTYPE

    fine = {OPTYPE.ELEMENTWISE, OPTYPE.RESHAPE, OPTYPE.CONCAT, OPTYPE.SPLIT}
    places, features = [], None
    for item in found:  # type: ignore[attr-defined]
        target, out = item.dep.target, "out" in item.dep.handler.__name__
        channel, where = np.array(item.root_idxs), np.array(item.idxs)
        module = target.module
        if target.type == OPTYPE.OUTPUT:
            features = channel, where
        elif module in names:
            if not _cuttable(module):
                return None
            if len(np.unique(channel)) != len(found[0].idxs):  # type: ignore[index]
                return None  # some of the channels could be all that this layer has
            side = "out" if out or isinstance(module, nn.BatchNorm2d) or _depthwise(module) else "in"
            places.append((names[module], side, channel, where))
        elif target.type not in fine:
            return None
    root = found[0]  # type: ignore[index]
    if features is not None and pooling not in _POOLINGS:
        return None
    return Group(names[root.dep.target.module], len(root.idxs), tuple(places), features)


def _cuttable(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 or _depthwise(module)
    return isinstance(module, (nn.Linear, nn.BatchNorm2d))


def _depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels == module.out_channels


def _exact(source: Source, pooling: str, groups: list[Group]) -> list[Group]:
    """The groups whose channels can be taken away by cutting them just as by not reading them."""
    apart: list[Group] = []
    taken: set[tuple[str, str, int]] = set()
    for group in groups:  # a channel that two groups claim belongs to none that could be judged alone
        own = {(name, side, int(at)) for name, side, _, where in group.places for at in where}
        if not own & taken:
            apart.append(group)
            taken |= own
    if _same(source, pooling, apart):
        return apart
    found: list[Group] = []
    for group in apart:
        if _same(source, pooling, [*found, group]):
            found.append(group)
    return found


def _same(source: Source, pooling: str, groups: Sequence[Group]) -> bool:
    """Whether a network without a third of the channels answers as one in which nobody reads these channels."""
    rng = np.random.default_rng(0)
    chosen = {group.name: rng.permutation(group.n) >= group.n // 3 for group in groups}
    unread, narrower = source.copy(), source.copy()
    layers = dict(unread.network.named_modules())
    with torch.no_grad():
        for group in groups:
            for name, side, gone in group.kept(chosen[group.name]):
                if side == "in":
                    layers[name].weight[:, torch.from_numpy(gone)] = 0
    left = cut(narrower, groups, chosen)
    with seeded(0):
        images = torch.randn(2, *source.card.input_size)
    with torch.no_grad(), evaluating(unread), evaluating(narrower):
        wanted = unread(images, pooling)
        try:
            got = narrower(images, pooling)
        except RuntimeError:  # shapes that do not fit
            return False
    wanted = wanted[:, torch.from_numpy(left.features)] if pooling in _POOLINGS else wanted
    limit = _EXACT * max(1.0, float(wanted.abs().max()))
    return got.shape == wanted.shape and float((got - wanted).abs().max()) <= limit


@dataclass(frozen=True)
class Left:
    """What a cut leaves, as positions among those before: of the features, and of the outputs that layers lose."""

    features: np.ndarray
    outs: Mapping[str, np.ndarray]


def cut(source: Source, groups: Iterable[Group], kept: Kept) -> Left:
    """Take the channels that are not `kept` (group's name → bool [n]) out of the network, in place."""
    gone: dict[tuple[str, str], list[np.ndarray]] = {}
    features, outs = np.arange(source.width("native")), {}
    for group in groups:
        if group.name not in kept or kept[group.name].all():
            continue
        for name, side, where in group.kept(kept[group.name]):
            gone.setdefault((name, side), []).append(where)
        if group.features is not None:
            channel, feature = group.features
            features = np.setdiff1d(features, feature[~kept[group.name][channel]])
    layers = dict(source.network.named_modules())
    for (name, side), parts in gone.items():
        module = layers[name]
        size = module.weight.shape[0 if side == "out" else 1]
        left = np.setdiff1d(np.arange(size), np.concatenate(parts))
        select(module, **{"outputs" if side == "out" else "inputs": torch.from_numpy(left)})
        if side == "out":
            outs[name] = left
    source._widths.clear()
    return Left(features, outs)


def smaller(source: Source, groups: Iterable[Group], kept: Kept) -> tuple[Source, Left]:
    """A copy of the source without the channels that are not `kept`, and what is left of it.

    It knows its channel plan, so it can be saved, opened and cut again.
    """
    made = source.copy()
    left = cut(made, groups, kept)
    network, library = made.network, made.library
    with seeded(0):
        built = library.pruned({}).build()
    plan = widths_of(network, built, features=made.width("native"))
    numbers = {name: parameter.numel() for name, parameter in network.named_parameters()}
    blocks = tuple(replace(b, parameters=sum(numbers.get(e, 0) for e in b.entries)) for b in made.blocks)
    card = replace(source.card, sha256="", origin=f"{source.card.origin}, pruned".removeprefix(", "))
    found = Source(network, library.pruned(plan), address=source.address, card=card, blocks=blocks).eval()
    return found, left


# --- what it costs ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """What a layer costs: `unit` times its widths, in multiplications an image and in parameters."""

    macs: float
    parameters: float
    dense: bool  # in × out, else out alone


@dataclass
class Costs:
    """The layers of a network with their widths, counted on one image; widths may be taken away in thought."""

    layers: dict[str, Layer]
    out: dict[str, float]
    into: dict[str, float]
    other: float = 0.0  # parameters that no layer here holds
    largest: int = 0  # numbers that a layer gives for one image, at most

    def total(self, what: str) -> float:
        """All "macs" or "parameters"."""
        return sum(self._of(name, what, 0.0, 0.0) for name in self.layers) + (self.other if what != "macs" else 0.0)

    def _of(self, name: str, what: str, out: float, into: float) -> float:
        layer = self.layers[name]
        unit = layer.macs if what == "macs" else layer.parameters
        made = self.out[name] - out
        return unit * made * ((self.into[name] - into) if layer.dense else 1.0)

    def saved(self, change: Mapping[str, tuple[float, float]], what: str) -> float:
        """What is saved where layers lose (out, in) channels."""
        return sum(self._of(n, what, 0.0, 0.0) - self._of(n, what, *lost) for n, lost in change.items())

    def take(self, change: Mapping[str, tuple[float, float]]) -> None:
        """Lose these channels."""
        for name, (out, into) in change.items():
            self.out[name], self.into[name] = self.out[name] - out, self.into[name] - into


def costs(source: Source, pooling: str) -> Costs:
    """Count multiply-adds of convolutions and linear layers for one image, and parameters."""
    found, out, into, largest = dict[str, Layer](), dict[str, float](), dict[str, float](), [0]
    names = {module: name for name, module in source.network.named_modules()}

    def seen(module: nn.Module, _inputs: object, result: Tensor) -> None:
        name, weight = names[module], module.weight
        assert isinstance(weight, Tensor)
        largest.append(result.numel())
        size = float(weight[0, 0].numel()) if weight.ndim > 2 else 1.0
        places = result.numel() / result.shape[-1 if weight.ndim == 2 else 1]
        if isinstance(module, nn.BatchNorm2d):
            found[name], out[name], into[name] = Layer(0.0, 2.0, False), float(module.num_features), 1.0
            return
        dense = not _depthwise(module)
        out[name], into[name] = float(weight.shape[0]), float(weight.shape[1])
        found[name] = Layer(places * size, size, dense)

    kinds = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
    hooks = [module.register_forward_hook(seen) for module in names if isinstance(module, kinds)]
    with torch.no_grad(), evaluating(source):
        source(source._blank(1), pooling)
    for hook in hooks:
        hook.remove()
    counted = Costs(found, out, into, largest=max(largest))
    counted.other = sum(p.numel() for p in source.network.parameters()) - counted.total("parameters")
    return counted


# --- what is cut --------------------------------------------------------------------------------------------------


def choose(
    groups: Sequence[Group], scores: Mapping[str, np.ndarray], counted: Costs, *, what: str, share: float
) -> dict[str, np.ndarray]:
    """Which channels stay (bool [n] a group) so that `share` of the "macs" or "parameters" does, or all that must.

    Again and again the step of channels goes that is worth least for what it saves; `scores` [n] say what a channel is
    worth. Rounded to the step of each group, and never below its floor.
    """
    order = {group.name: np.argsort(scores[group.name], kind="stable") for group in groups}
    worth = {g.name: np.concatenate([[0.0], np.cumsum(scores[g.name][order[g.name]])]) for g in groups}
    gone = dict.fromkeys(order, 0)
    now = counted.total(what)
    goal = now * share
    waiting = {group.name: group for group in groups}
    change = {group.name: _change(group) for group in groups}
    while now > goal and waiting:
        best, least = "", float("inf")
        for name, group in waiting.items():
            at, step = gone[name], _step(group, gone[name])
            lost = {layer: (o * step, i * step) for layer, (o, i) in change[name].items()}
            price = (worth[name][at + step] - worth[name][at]) / max(1e-12, counted.saved(lost, what))
            if price < least or not best:
                best, least = name, price
        step = _step(waiting[best], gone[best])
        lost = {layer: (o * step, i * step) for layer, (o, i) in change[best].items()}
        now -= counted.saved(lost, what)
        counted.take(lost)
        gone[best] += step
        if waiting[best].n - gone[best] - waiting[best].step < waiting[best].floor:
            del waiting[best]
    kept = {}
    for name, number in gone.items():
        kept[name] = np.ones(len(order[name]), dtype=bool)
        kept[name][order[name][:number]] = False
    return kept


def _step(group: Group, gone: int) -> int:
    """How many channels go next: first those that bring the rest to a whole number of steps."""
    return (group.n - gone) % group.step or group.step


def _change(group: Group) -> dict[str, tuple[float, float]]:
    """What each layer loses with one channel of the group: (out, in)."""
    found: dict[str, tuple[float, float]] = {}
    for name, side, _, where in group.places:
        out, into = found.get(name, (0.0, 0.0))
        each = len(where) / group.n
        found[name] = (out + each, into) if side == "out" else (out, into + each)
    return found
