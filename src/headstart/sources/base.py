"""The Source: a pretrained network without its classifier, cut into blocks from input to head.

A library (timm, torchvision) answers five questions about its networks through `Library`; everything else, pooling,
widths, hashes, copies and saving, is the same for all and lives here.
"""

from __future__ import annotations

import copy as _copy
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from headstart.errors import SettingsError, SourceError, did_you_mean
from headstart.records import Block, Card, plain
from headstart.settings import POOLINGS

__all__ = ["POOLINGS", "Library", "Source", "entry_digest", "evaluating", "hash_entries", "seeded"]

_PROBE_TOLERANCE = 1e-4


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put `module` and all modules in it in evaluation mode; restore the mode of each when the block ends."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw torch's random numbers on the CPU from `seed` inside the block and leave the outer stream untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def entry_digest(name: str, tensor: Tensor) -> bytes:
    """The sha256 digest of one state entry: its name, dtype, shape and bytes."""
    digest = hashlib.sha256(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
    data = tensor.detach().cpu().contiguous()
    digest.update(data.reshape(-1).view(torch.uint8).numpy().data if data.numel() else b"")
    return digest.digest()


def hash_entries(state: Mapping[str, Tensor], names: Iterable[str], *, header: Any = None) -> str:
    """The sha256, in hex, over the entries `names` of a state dict in sorted order (and over `header`, as JSON)."""
    digest = hashlib.sha256(json.dumps(plain(header), sort_keys=True).encode())
    for name in sorted(names):
        digest.update(entry_digest(name, state[name]))
    return digest.hexdigest()


class Library(ABC):
    """What headstart asks of the library a network comes from."""

    one_size: bool = False
    """Whether the network is built for pictures of one size."""

    prefix_tokens: int = 0
    """Leading tokens of a token map that stand for no patch (class token, registers)."""

    channels: Mapping[str, Any] = MappingProxyType({})
    """The channel plan that `build` follows (see sources.widths); empty for the architecture's own widths."""

    @abstractmethod
    def feature_map(self, network: nn.Module, images: Tensor) -> Tensor:
        """The unpooled features, [n,C,H,W] or tokens [n,T,C]."""

    @abstractmethod
    def native(self, network: nn.Module, feature_map: Tensor) -> Tensor:
        """The features that the network's own classifier would see, [n,d]."""

    @abstractmethod
    def build(self) -> nn.Module:
        """The same architecture without classifier, with random weights."""

    @abstractmethod
    def whole(self, network: nn.Module, n_classes: int) -> tuple[nn.Module, tuple[nn.Module, ...]]:
        """The library's network with `n_classes` outputs and the weights of `network`, and its last layer(s)."""

    def headless(self, network: nn.Module, *, native: bool) -> tuple[nn.Module, str, dict[str, Any]]:  # noqa: ARG002
        """The network to save without classifier, with the name and arguments that build it.

        With `native` its native features are those of `network`; without, its feature map too.
        """
        return network, *self.saved_as(network)

    @abstractmethod
    def saved_as(self, network: nn.Module) -> tuple[str, dict[str, Any]]:
        """The architecture's name and keyword arguments that belong in the config.json of `whole`."""

    def pruned(self, channels: Mapping[str, Any]) -> Library:
        """The same answers for a network with this channel plan."""
        found = _copy.copy(self)
        found.channels = channels
        return found


class Source(nn.Module):
    """A pretrained network without its classifier.

    `blocks` go from input to head and hold every state entry of `network` exactly once; `card` alone decides the
    preprocessing.
    """

    def __init__(
        self, network: nn.Module, library: Library, *, address: str, card: Card, blocks: tuple[Block, ...]
    ) -> None:
        super().__init__()
        self.network = network
        self.library = library
        self.address = address
        self.blocks = blocks
        self.card = card
        self._widths: dict[str, int] = {}
        self.card = replace(card, num_features=self.width("native"), sha256=card.sha256 or self.sha256())

    # --- features -----------------------------------------------------------------------------------------

    def feature_map(self, images: Tensor) -> Tensor:
        """The unpooled features of `images` [n,channels,height,width]: [n,C,H,W], or tokens [n,T,C]."""
        return self.library.feature_map(self.network, images)

    def pooled(self, feature_map: Tensor, pooling: str) -> Tensor:
        """One row of features an image, [n,d].

        "native": as the network pools for its own classifier; "avg": the mean over positions (patch tokens only);
        "avgmax": that mean and the maximum side by side; "flatten": everything. Raises SettingsError otherwise.
        """
        if pooling == "native":
            return self.library.native(self.network, feature_map)
        if pooling == "flatten":
            return feature_map.flatten(1)
        if pooling not in POOLINGS:
            raise SettingsError(f"unknown pooling {pooling!r}. {did_you_mean(pooling, list(POOLINGS))}")
        tokens = feature_map.ndim == 3
        positions = feature_map[:, self.library.prefix_tokens :].transpose(1, 2) if tokens else feature_map.flatten(2)
        mean = positions.mean(2)
        return mean if pooling == "avg" else torch.cat([mean, positions.amax(2)], dim=1)

    def forward(self, images: Tensor, pooling: str = "native") -> Tensor:
        """Features [n,d] of `images` [n,channels,height,width], normalised as the card says."""
        return self.pooled(self.feature_map(images), pooling)

    def width(self, pooling: str) -> int:
        """How many features a row has with this pooling at the card's input size."""
        if pooling not in self._widths:
            with evaluating(self), torch.no_grad():
                self._widths[pooling] = self(self._blank(1), pooling).shape[1]
        return self._widths[pooling]

    def _blank(self, n: int) -> Tensor:
        like = next(self.network.parameters())
        return torch.zeros(n, *self.card.input_size, device=like.device, dtype=like.dtype)

    # --- copies -------------------------------------------------------------------------------------------

    def fresh(self, seed: int) -> Source:
        """The same architecture with random weights drawn from `seed`; on the CPU."""
        with seeded(seed):
            network = self.library.build()
        card = replace(self.card, origin=f"random weights, seed {seed}", classes=(), sha256="")
        return Source(network, self.library, address=self.address, card=card, blocks=self.blocks)

    def copy(self) -> Source:
        """An independent copy."""
        return _copy.deepcopy(self)

    def sized(self, side: int) -> Source:
        """The same network, its modules shared, for square pictures of `side` pixels.

        Raises SourceError where it is built for pictures of one size, or gives other features for smaller ones.
        """
        if (self.card.input_size[0], side, side) == self.card.input_size:
            return self
        found = _copy.copy(self)
        found._modules, found._widths = dict(self._modules), {}
        found.card = replace(self.card, input_size=(self.card.input_size[0], side, side))
        fits = not self.library.one_size
        if fits:
            try:
                fits = found.width("native") == self.width("native")
            except (RuntimeError, AssertionError, ValueError):  # the ways in which networks refuse a size
                fits = False
        if not fits:
            raise SourceError(
                f"{self.card.architecture} does not take pictures of {side} pixels, but of {self.card.input_size[1]}",
                where=self.address,
                remedy="Leave its pictures as they are.",
            )
        return found

    def whole(self, weight: Tensor, bias: Tensor | None = None) -> nn.Module:
        """The library's own network with a classifier of these weights ([classes,d], [classes]), on the CPU, to save.

        Its logits are those of `weight` @ native features + `bias`; this is checked on random images, and SourceError
        is raised where the architecture cannot hold such a classifier.
        """
        like = next(self.network.parameters())
        ready = like.device.type == "cpu" and like.dtype == torch.float32
        source = self if ready else _copy.deepcopy(self).cpu().float()
        weight = weight.detach().cpu().float()
        bias = torch.zeros(len(weight)) if bias is None else bias.detach().cpu().float()
        if weight.ndim != 2 or weight.shape[1] != source.width("native") or bias.shape != weight.shape[:1]:
            raise SourceError(
                f"a classifier of shape {tuple(weight.shape)} does not fit {source.width('native')} native features",
                where=self.address,
            )
        model, layers = self.library.whole(source.network, len(weight))
        for layer in layers:
            _set_classifier(layer, weight, bias, self.address)
        model.eval()
        with seeded(0), torch.no_grad(), evaluating(source):
            images = torch.randn(2, *self.card.input_size)
            wanted, got = source(images) @ weight.T + bias, model(images)
        scale = max(1.0, float(wanted.abs().max()))
        if got.shape != wanted.shape or not float((got - wanted).abs().max()) <= _PROBE_TOLERANCE * scale:
            raise SourceError(
                f"{self.card.architecture} does more than one linear layer after its features: it cannot be saved",
                where=self.address,
                remedy="Choose another source",
            )
        return model

    @property
    def whole_architecture(self) -> str:
        """The architecture's name for the config.json of `whole`: timm's, or "torchvision/NAME"."""
        return self.library.saved_as(self.network)[0]

    @property
    def whole_model_args(self) -> dict[str, Any]:
        """The keyword arguments of `whole_architecture` for the config.json of `whole`."""
        return self.library.saved_as(self.network)[1]

    # --- hashes -------------------------------------------------------------------------------------------

    def hash_below(self, cut: str) -> str:
        """The sha256 over what computes the activations at `cut`: architecture, arguments and the entries below it.

        `cut` is the name of the first block above, "input" (nothing lies below) or "head" (everything does).
        Raises SettingsError for another name.
        """
        names = [block.name for block in self.blocks]
        if cut not in ("input", "head", *names):
            raise SettingsError(f"unknown cut {cut!r}. {did_you_mean(cut, ['input', 'head', *names])}")
        index = {"input": 0, "head": len(names)}.get(cut)
        below = self.blocks[: names.index(cut) if index is None else index]
        header = {"architecture": self.card.architecture, "model_args": self.card.model_args}
        return hash_entries(self.network.state_dict(), [e for block in below for e in block.entries], header=header)

    def sha256(self) -> str:
        """The sha256 over all entries of the network."""
        return hash_entries(state := self.network.state_dict(), state)


def _set_classifier(layer: nn.Module, weight: Tensor, bias: Tensor, address: str) -> None:
    """Write weight [k,d] and bias [k] into a linear or a 1×1 convolution layer."""
    own = getattr(layer, "weight", None)
    linear = isinstance(layer, (nn.Linear, nn.Conv2d)) and isinstance(own, Tensor) and own.numel() == weight.numel()
    if not linear or (getattr(layer, "bias", None) is None and bool(bias.any())):
        raise SourceError(
            f"the network's last layer ({type(layer).__name__}) cannot hold a linear classifier",
            where=address,
            remedy="Choose another source",
        )
    assert isinstance(own, Tensor)  # for the type checker
    with torch.no_grad():
        own.copy_(weight.reshape(own.shape))
        if isinstance(layer.bias, Tensor):
            layer.bias.copy_(bias)
