"""Divide a network's computation at the border of two blocks, so that what lies below it need run only once.

The network's own code, the few lines between its blocks, is traced with torch.fx; every module that lies within one
block is a leaf of the trace and keeps its own forward method, its training mode, dropout and drop-path included. What
is, or depends on, a trained block is `above`; the values that go from below to above are the activations at the cut.
Both halves run the very modules of the source, so training the one trains the other.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree

from headstart.sources.base import Library, Source, evaluating, seeded

__all__ = ["Activation", "Cutting", "cut_source"]

_TOLERANCE = 1e-5  # of the largest value: another memory layout may round otherwise
_BATCH = object()  # stands for the number of images wherever a value of the trace is that number
_DEVICE = object()
_CALL, _GETATTR = nn.Module.__call__, nn.Module.__getattr__  # which a trace replaces while it lasts


@dataclass(frozen=True, slots=True)
class Activation:
    """One tensor that crosses the cut: its shape without the batch, and whether it lies channels last in a row."""

    shape: tuple[int, ...]
    channels_last: bool = False

    @property
    def width(self) -> int:
        """How many numbers an image has of it."""
        return prod(self.shape)

    def flat(self, value: Tensor) -> Tensor:
        """(n, *shape) → (n, width), without a copy where the memory lies so already."""
        return (value.permute(0, 2, 3, 1) if self.channels_last else value).flatten(1)

    def shaped(self, rows: Tensor) -> Tensor:
        """(n, width) → (n, *shape), channels last in memory where the shape is one of a map."""
        if not self.channels_last:
            return rows.reshape(-1, *self.shape)
        channels, height, width = self.shape
        return rows.reshape(-1, height, width, channels).permute(0, 3, 1, 2)


@dataclass(frozen=True, slots=True)
class _Crossing:
    """How the values at the cut are told by rows: their structure, with a mark for each tensor, size and device."""

    spec: Any
    leaves: tuple[Any, ...]  # an Activation, _BATCH, _DEVICE or a constant

    @property
    def activations(self) -> tuple[Activation, ...]:
        return tuple(leaf for leaf in self.leaves if isinstance(leaf, Activation))

    def flat(self, values: Any) -> Tensor:
        found = _pytree.tree_leaves(values)
        pairs = zip(self.leaves, found, strict=True)
        parts = [leaf.flat(value) for leaf, value in pairs if isinstance(leaf, Activation)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def values(self, rows: Tensor) -> Any:
        parts = iter(torch.split(rows, [one.width for one in self.activations], dim=1))
        marks = {id(_BATCH): len(rows), id(_DEVICE): rows.device}
        found = [leaf.shaped(next(parts)) if isinstance(leaf, Activation) else marks.get(id(leaf), leaf)
                 for leaf in self.leaves]  # fmt: skip
        return _pytree.tree_unflatten(found, self.spec)


class _Below(nn.Module):
    """Normalised images (n, 3, h, w) → rows (n, width)."""

    def __init__(self, graph: nn.Module, crossing: _Crossing) -> None:
        super().__init__()
        self.graph, self._crossing = graph, crossing

    def forward(self, images: Tensor) -> Tensor:
        return self._crossing.flat(self.graph(images))


class _Above(nn.Module):
    """Rows (n, width) → feature map."""

    def __init__(self, graph: nn.Module, crossing: _Crossing) -> None:
        super().__init__()
        self.graph, self._crossing = graph, crossing

    def forward(self, rows: Tensor) -> Tensor:
        found: Tensor = self.graph(*self._crossing.values(rows))
        return found


class Cutting:
    """A source's computation in two halves.

    `below` maps normalised images (n, 3, h, w) to rows (n, width), the activations side by side; `above` maps such rows
    to the feature map. Their modes (training or evaluation) are those of the source's own modules.
    """

    def __init__(self, graphs: tuple[fx.Graph, fx.Graph], crossing: _Crossing, source: Source) -> None:
        self._graphs, self._crossing = graphs, crossing
        root = _Body(source.network, source.library)
        self.below: nn.Module = _Below(fx.GraphModule(root, graphs[0]), crossing)
        self.above: nn.Module = _Above(fx.GraphModule(root, graphs[1]), crossing)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the activations without the batch."""
        return tuple(one.shape for one in self._crossing.activations)

    @property
    def width(self) -> int:
        """How many numbers a row has."""
        return sum(one.width for one in self._crossing.activations)

    def onto(self, source: Source) -> Cutting:
        """The same division of a copy of the source."""
        return Cutting(self._graphs, self._crossing, source)


def cut_source(source: Source, index: int, *, told: list[str] | None = None) -> Cutting | None:
    """Divide `source` below its block `index`; None where that cannot be done, with the reason appended to `told`.

    Nothing is taken on trust: on one and on three random images `above(below(images))` must be the feature map.
    """
    try:
        return _divided(source, index)
    except _CannotCut as error:
        reason = str(error)
    except Exception as error:  # whatever a network's own code does not bear while it is traced
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if told is not None:
        told.append(reason)
    return None


class _CannotCut(Exception):
    """This network has no two halves at this border."""


def _divided(source: Source, index: int) -> Cutting:
    if not 0 < index <= len(source.blocks):
        raise _CannotCut("nothing lies below the cut")
    graph = _traced(source)
    above = _nodes_above(graph, source, index)
    images = next(node for node in graph.nodes if node.op == "placeholder")
    fixed = _independent(graph, images)
    crossing = _crossing_nodes(graph, above, fixed)
    if not crossing:
        raise _CannotCut("nothing crosses the cut")
    graphs = _lower(graph, above, crossing), _upper(graph, above, fixed, crossing)
    lower = fx.GraphModule(_Body(source.network, source.library), graphs[0])
    with evaluating(source), torch.no_grad():
        two, three = (lower(_random_images(source, n)) for n in (2, 3))
    found = Cutting(graphs, _described(two, three), source)
    _verify(found, source)
    return found


# --- the trace --------------------------------------------------------------------------------------------------


class _Body(nn.Module):
    """A network whose forward method gives the feature map."""

    def __init__(self, network: nn.Module, library: Library) -> None:
        super().__init__()
        self.network = network
        self.library = library

    def forward(self, images: Tensor) -> Tensor:
        return self.library.feature_map(self.network, images)


class _Tracer(fx.Tracer):
    """Leaves are the modules that lie within one block.

    Every node is run on example images at once, so that code which asks for a shape or for the number of dimensions
    gets its answer; that no answer depended on the number of images is verified afterwards.
    """

    def __init__(self, body: _Body, within: Mapping[str, set[int]], images: Tensor) -> None:
        super().__init__(param_shapes_constant=True)
        self._body, self._within, self._images = body, within, images
        self._values: dict[fx.Node, Any] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
        return len(self._within.get(module_qualified_name, ())) <= 1

    def create_proxy(self, kind: str, target: Any, *args: Any, **more: Any) -> fx.Proxy:
        made = super().create_proxy(kind, target, *args, **more)
        self._values[made.node] = self._images if kind == "placeholder" else self._run(made.node)
        return made

    def _run(self, node: fx.Node) -> Any:
        args, kwargs = _mutable(fx.node.map_arg((node.args, node.kwargs), self._value))
        if node.op == "output":
            return None
        module = self._body.get_submodule(str(node.target)) if node.op == "call_module" else nn.Identity()
        with _untraced(), evaluating(module), torch.no_grad():
            return getattr(fx.Interpreter(self._body, graph=self.graph), node.op)(node.target, args, kwargs)

    def _value(self, node: fx.Node) -> Any:
        if node not in self._values and node.op == "get_attr":  # a tensor of the network's own, no parameter
            self._values[node] = operator.attrgetter(str(node.target))(self._body)
        return self._values[node]

    def to_bool(self, obj: fx.Proxy) -> bool:
        value = self._values[obj.node]
        return super().to_bool(obj) if isinstance(value, Tensor) else bool(value)

    def iter(self, obj: fx.Proxy) -> Any:
        value = self._values[obj.node]
        if not isinstance(value, (tuple, list)):
            return super().iter(obj)
        return iter([obj[i] for i in range(len(value))])  # type: ignore[index]


def _mutable(value: Any) -> Any:
    """Lists and dicts that a module may write to, as it will be given them: a graph's own may not be changed."""
    if isinstance(value, (list, tuple)):
        inner = [_mutable(one) for one in value]
        return inner if isinstance(value, list) else tuple(inner)
    return {name: _mutable(one) for name, one in value.items()} if isinstance(value, dict) else value


@contextmanager
def _untraced() -> Iterator[None]:
    """Inside a trace: modules run as they always do, without being recorded."""
    traced = nn.Module.__call__, nn.Module.__getattr__
    _set_module_methods(_CALL, _GETATTR)
    try:
        yield
    finally:
        _set_module_methods(*traced)


def _set_module_methods(call: Any, getattr_: Any) -> None:
    nn.Module.__call__ = call  # type: ignore[method-assign]
    nn.Module.__getattr__ = getattr_  # type: ignore[method-assign]


def _traced(source: Source) -> fx.Graph:
    """The graph of the network's own code; the same in training and in evaluation."""
    body, within, images = _Body(source.network, source.library), _blocks_within(source), _random_images(source, 2)
    found = []
    for training in (True, False):
        with evaluating(source):
            for module in source.modules():
                module.training = training
            found.append(_Tracer(body, within, images).trace(body))
    if str(found[0]) != str(found[1]):
        raise _CannotCut("the network's own code differs between training and evaluation")
    return found[1]


def _blocks_within(source: Source) -> dict[str, set[int]]:
    """Names of modules and entries, as seen from the traced body → the numbers of the blocks that they lie in.

    A module lies where its entries lie; only one without any where its leaf modules do.
    """
    found: dict[str, set[int]] = {}
    for members in ("entries", "modules"):
        mine: dict[str, set[int]] = {}
        for number, block in enumerate(source.blocks):
            for name in getattr(block, members):
                parts = ["network", *name.split(".")]
                for depth in range(1, len(parts) + 1):
                    mine.setdefault(".".join(parts[:depth]), set()).add(number)
        found = {**mine, **found}
    return found


# --- which node lies where ------------------------------------------------------------------------------------------


def _nodes_above(graph: fx.Graph, source: Source, index: int) -> set[fx.Node]:
    """The nodes that are, or depend on, something of a trained block."""
    within, above = _blocks_within(source), set[fx.Node]()
    for node in graph.nodes:
        own: set[int] = set()
        if node.op in ("call_module", "get_attr"):
            target = str(node.target)
            own = within.get(target) or within.get(target.rpartition(".")[0], set())
        trained = len(own) == 1 and max(own) >= index
        if trained or node.op == "output" or any(one in above for one in node.all_input_nodes):
            above.add(node)
    return above


def _independent(graph: fx.Graph, images: fx.Node) -> set[fx.Node]:
    """The nodes whose values are the same for all images."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node is not images and all(one in found for one in node.all_input_nodes):
            found.add(node)
    return found


def _crossing_nodes(graph: fx.Graph, above: set[fx.Node], fixed: set[fx.Node]) -> list[fx.Node]:
    """The nodes below that something above asks for; what is the same for all images is computed on both sides."""
    asked = {one for node in above for one in node.all_input_nodes}
    return [node for node in graph.nodes if node in asked and node not in above and node not in fixed]


def _lower(graph: fx.Graph, above: set[fx.Node], crossing: Sequence[fx.Node]) -> fx.Graph:
    """The graph from images to the crossing values."""
    made, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in graph.nodes:
        if node not in above:
            copies[node] = made.node_copy(node, copies.__getitem__)
    made.output(tuple(copies[node] for node in crossing))
    _strip(made)
    return made


def _upper(graph: fx.Graph, above: set[fx.Node], fixed: set[fx.Node], crossing: Sequence[fx.Node]) -> fx.Graph:
    """The graph from the crossing values to the feature map."""
    made = fx.Graph()
    copies = {node: made.placeholder(f"crossing_{number}") for number, node in enumerate(crossing)}
    for node in graph.nodes:
        if node in above or (node in fixed and node not in copies):
            copies[node] = made.node_copy(node, copies.__getitem__)
    _strip(made)
    return made


def _strip(graph: fx.Graph) -> None:
    """Drop what nothing asks for."""
    for node in reversed(list(graph.nodes)):
        if node.op not in ("placeholder", "output") and not node.users:
            graph.erase_node(node)
    graph.lint()


# --- what crosses ----------------------------------------------------------------------------------------------------


def _described(two: Any, three: Any) -> _Crossing:
    """The structure of the crossing values, from those of two and of three images."""
    leaves, spec = _pytree.tree_flatten(two)
    others, other_spec = _pytree.tree_flatten(three)
    if spec != other_spec:
        raise _CannotCut("what crosses the cut has another structure for another number of images")
    return _Crossing(spec, tuple(_leaf(a, b) for a, b in zip(leaves, others, strict=True)))


def _leaf(two: Any, three: Any) -> Any:
    """What a crossing value is: an activation, the number of images, the device, or the same for all."""
    if isinstance(two, Tensor):
        if two.dtype != torch.float32 or not two.ndim or (len(two), len(three)) != (2, 3):
            raise _CannotCut("a tensor that crosses the cut is not one float32 activation an image")
        last = two.ndim == 4 and two.is_contiguous(memory_format=torch.channels_last) and not two.is_contiguous()
        return Activation(tuple(two.shape[1:]), channels_last=last)
    if isinstance(two, torch.device):
        return _DEVICE
    if type(two) is int and (two, three) == (2, 3):
        return _BATCH
    if type(two) is not type(three) or not isinstance(two, (bool, int, float, str, torch.dtype, type(None))):
        raise _CannotCut(f"a {type(two).__name__} crosses the cut")
    if two != three:
        raise _CannotCut("a number that crosses the cut depends on the number of images")
    return two


def _verify(found: Cutting, source: Source) -> None:
    """Raise _CannotCut where the halves together are not the whole; two images are what the trace was made with."""
    with evaluating(source), torch.no_grad():
        images = _random_images(source, 3)
        wanted = source.feature_map(images)
        for n in (1, 3):
            got = found.above(found.below(images[:n]).contiguous())
            scale = max(1.0, float(wanted.abs().max()))
            if got.shape != wanted[:n].shape or not float((got - wanted[:n]).abs().max()) <= _TOLERANCE * scale:
                raise _CannotCut(f"the two halves do not give the features of the whole for {n} images")


def _random_images(source: Source, n: int) -> Tensor:
    """Random images, channels last in memory, as they come in training."""
    with seeded(0):
        images = torch.randn(n, *source.card.input_size)
    like = next(source.network.parameters())
    return images.to(like.device, like.dtype).contiguous(memory_format=torch.channels_last)
