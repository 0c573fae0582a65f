"""Networks of torchvision: published weights by name, or a weights file that bears an architecture's name."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from headstart.errors import SourceError, did_you_mean
from headstart.records import Block, Card, plain
from headstart.sources._config import build_within, numbers_of
from headstart.sources._download import fetch
from headstart.sources._families import FAMILIES, Family
from headstart.sources._importing import import_torchvision
from headstart.sources._timm import Recipe, TimmLibrary, recipe_of
from headstart.sources._weights import load_strictly, read_weights
from headstart.sources.base import Library, Source, evaluating, seeded
from headstart.sources.blocks import blocks_by_pattern
from headstart.sources.widths import narrow, narrow_inputs

__all__ = ["TorchvisionLibrary", "architecture_of_file", "build_whole", "open_architecture", "open_torchvision"]


def _function(name: str, network: nn.Module, x: Tensor) -> Tensor:
    """What torchvision's forward methods do between modules."""
    match name:
        case "=relu":
            return functional.relu(x)
        case "=pool":
            return functional.adaptive_avg_pool2d(x, 1)
        case "=flatten":
            return x.flatten(1)
        case "=first":
            return x[:, 0]
        case _:  # "=tokens"
            patches: Tensor = network._process_input(x)  # type: ignore[operator]
            token: Tensor = network.class_token  # type: ignore[assignment]
            return torch.cat([token.expand(len(x), -1, -1), patches], dim=1)


def _run(network: nn.Module, steps: Sequence[str], x: Tensor) -> Tensor:
    for step in steps:
        x = _function(step, network, x) if step.startswith("=") else network.get_submodule(step)(x)
    return x


class TorchvisionLibrary(Library):
    """torchvision's answers."""

    def __init__(self, name: str, card: Card) -> None:
        self.name, self.family = name, _family(name)
        self.input_size = card.input_size
        self.prefix_tokens = self.family.prefix_tokens
        self.arguments: dict[str, Any] = {}
        if self.family.pattern == "vit_":
            self.arguments["image_size"] = card.input_size[1]
        self.one_size = bool(self.arguments)
        self._tried: tuple[Recipe | None] | None = None

    def feature_map(self, network: nn.Module, images: Tensor) -> Tensor:
        """The family's body."""
        return _run(network, self.family.body, images)

    def native(self, network: nn.Module, feature_map: Tensor) -> Tensor:
        """The family's neck; its last layer is an Identity."""
        return _run(network, self.family.neck, feature_map)

    def build(self) -> nn.Module:
        """The architecture with random weights and an Identity for its last layer."""
        network = build_whole(self.name, 1, model_args=self.arguments)
        network.set_submodule(self.family.classifier, nn.Identity())
        return narrow(network, self.channels)

    def pruned(self, channels: Mapping[str, Any]) -> TorchvisionLibrary:
        """The same answers for a network with this channel plan; timm's equal one is no longer looked for."""
        found = copy(self)
        found.channels, found._tried = channels, (None,)
        return found

    def whole(self, network: nn.Module, n_classes: int) -> tuple[nn.Module, tuple[nn.Module, ...]]:
        """timm's network where it computes the same, else torchvision's own."""
        if (recipe := self._recipe(network)) is not None:
            twin = _twin(recipe, network)
            assert twin is not None  # _recipe has built one before
            return TimmLibrary(recipe, twin).whole(twin, n_classes)
        model = narrow(build_whole(self.name, n_classes, model_args=self.arguments), self.channels)
        last = model.get_submodule(self.family.classifier)
        if self.channels:
            narrow_inputs(last, int(self.channels["features"]))
        kept = {f"{self.family.classifier}.{name}": value for name, value in last.state_dict().items()}
        load_strictly(model, {**network.state_dict(), **kept}, where=self.name)
        return model, (last,)

    def saved_as(self, network: nn.Module) -> tuple[str, dict[str, Any]]:
        """timm's name and arguments where timm has the same network, else "torchvision/NAME"."""
        recipe = self._recipe(network)
        if recipe is None:
            return f"torchvision/{self.name}", dict(self.arguments)
        return recipe.architecture, plain(recipe.model_args)

    def headless(self, network: nn.Module, *, native: bool) -> tuple[nn.Module, str, dict[str, Any]]:
        """timm's network where its native features are equal and suffice, else torchvision's own."""
        recipe = self._recipe(network) if native else None
        if recipe is None:
            return network, f"torchvision/{self.name}", dict(self.arguments)
        twin = _twin(recipe, network)
        assert twin is not None  # _recipe has built one before
        return twin, recipe.architecture, plain(recipe.model_args)

    def _recipe(self, network: nn.Module) -> Recipe | None:
        """The recipe of timm's equal network; whether it is equal is tried once, on random images."""
        if self._tried is None:
            self._tried = (self._equal(network),)
        return self._tried[0]

    def _equal(self, network: nn.Module) -> Recipe | None:
        rule = next((rule for rule in self.family.timm if re.fullmatch(rule[0], self.name)), None)
        if rule is None:
            return None
        recipe = recipe_of(re.sub(rf"^{rule[0]}$", rule[1], self.name)).with_arguments(rule[2])
        recipe = recipe.sized(self.input_size[1] if self.input_size[1:] != (224, 224) else None)
        twin = _twin(recipe, network)
        if twin is None:
            return None
        library = TimmLibrary(recipe, twin)
        with seeded(0):
            images = torch.randn(2, *self.input_size)
        with torch.no_grad(), evaluating(network), evaluating(twin):
            wanted = self.native(network, self.feature_map(network, images))
            got = library.native(twin, library.feature_map(twin, images))
        limit = 1e-5 * max(1.0, float(wanted.abs().max()))
        return recipe if got.shape == wanted.shape and float((got - wanted).abs().max()) <= limit else None


def _twin(recipe: Recipe, network: nn.Module) -> nn.Module | None:
    """timm's network with the weights of torchvision's; None where their entries do not correspond."""
    with seeded(0):
        twin = recipe.build()
    state = _translated(network.state_dict(), twin.state_dict())
    if state is None:
        return None
    twin.load_state_dict(state)
    return twin


def _translated(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The entries of one network under the names of another that lists entries of each size in the same order."""
    if ours.keys() == theirs.keys():
        return dict(ours)
    by_size: dict[tuple[int, int], list[Tensor]] = {}
    for tensor in ours.values():
        by_size.setdefault(_size(tensor), []).append(tensor)
    found: dict[str, Tensor] = {}
    for name, tensor in theirs.items():
        if not (rest := by_size.get(_size(tensor))):
            return None
        found[name] = rest.pop(0).reshape(tensor.shape)
    return found if not any(by_size.values()) else None


def _size(tensor: Tensor) -> tuple[int, int]:
    """Rows (0 for a vector in any shape) and numbers: what a linear layer and a 1×1 convolution share."""
    numbers = tensor.numel()
    return (0 if tensor.ndim == 0 or tensor.shape[0] == numbers else tensor.shape[0]), numbers


def _family(name: str) -> Family:
    """The family of an architecture; SourceError with near names where there is none."""
    torchvision = import_torchvision()

    found = next((family for family in FAMILIES if re.match(family.pattern, name)), None)
    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    if found is None or name not in names:
        usable = [n for n in names if any(re.match(family.pattern, n) for family in FAMILIES)]
        raise SourceError(f"headstart knows no torchvision network {name!r}", remedy=did_you_mean(name, usable))
    return found


def architecture_of_file(path: Path) -> str | None:
    """The torchvision architecture that a weights file's name begins with: vgg16 for vgg16-397923af.pth."""
    torchvision = import_torchvision()

    names = torchvision.models.list_models(module=torchvision.models)
    fitting = [n for n in names if re.match(rf"{re.escape(n)}(?![a-z0-9])", path.name.lower())]
    usable = [n for n in fitting if any(re.match(family.pattern, n) for family in FAMILIES)]
    return max(usable, key=len, default=None)


def open_torchvision(name: str, *, weights: str | None, image_size: int | None, seed: int) -> Source:
    """`torchvision:NAME[.WEIGHTS]` with published weights or those of a file, or `torchvision:FILE`."""
    file = Path(name).expanduser()
    if file.suffix in (".pth", ".pt", ".safetensors") or file.is_file():
        architecture = architecture_of_file(file)
        if architecture is None:
            raise SourceError(
                "the file's name begins with no torchvision architecture",
                where=file,
                remedy="Write torchvision:NAME and give the file as --weights",
            )
        name, weights = architecture, weights or str(file)
    name, _, tag = name.partition(".")
    _family(name)
    published = _published(name, tag)
    card = _card(name, published)
    if image_size is not None:
        card = replace(card, input_size=(3, image_size, image_size))
    address = f"torchvision:{name}.{tag}" if tag else f"torchvision:{name}"
    if weights is None:
        path = fetch(published.url, address=address, architecture=name)
    else:
        path = Path(weights)
        card = replace(card, classes=(), origin=path.name, licence="")
    return open_architecture(name, path, card=card, address=address, seed=seed)


def open_architecture(
    name: str, path: Path, *, card: Card, address: str, seed: int = 0, channels: Mapping[str, Any] | None = None
) -> Source:
    """A torchvision network with the weights of a file and a given card, and with a channel plan where there is one."""
    library, state = TorchvisionLibrary(name, card), read_weights(path)
    library = library.pruned(channels) if channels else library
    try:
        state = _modern(name, state, card)
        with seeded(seed):
            network = build_within(library.build, numbers=numbers_of(path, channels), entries=len(state))
    except SourceError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise SourceError(
            f"torchvision/{name} cannot be built for pictures of {card.input_size[1]} pixels: {reason}",
            where=path,
            remedy="Choose another --image-size, or fetch the file again",
        ) from error
    load_strictly(network, state, where=path, classifier=(library.family.classifier, *library.family.aside))
    return Source(network, library, address=address, card=card, blocks=_blocks(network, library.family))


def build_whole(name: str, n_classes: int, *, model_args: Mapping[str, Any]) -> nn.Module:
    """torchvision's own network with `n_classes` outputs and random weights."""
    torchvision = import_torchvision()

    arguments = {**dict(_family(name).arguments), **model_args}
    network: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=n_classes, **arguments)
    return network


def _published(name: str, tag: str) -> Any:
    """The published weights of an architecture: the recommended ones, or those named `tag`."""
    torchvision = import_torchvision()

    found = torchvision.models.get_model_weights(name)
    if not tag:
        return found.DEFAULT
    if tag not in found.__members__:
        raise SourceError(
            f"torchvision:{name} has no weights {tag!r}", remedy=did_you_mean(tag, list(found.__members__))
        )
    return found[tag]


def _card(name: str, published: Any) -> Card:
    """The card that the transforms of published weights give."""
    view = published.transforms()
    crop, resize = int(view.crop_size[0]), int(view.resize_size[0])
    mean, std = tuple(view.mean), tuple(view.std)
    if name in ("inception_v3", "googlenet"):
        mean = std = (0.5, 0.5, 0.5)  # torchvision's transform_input, done by the preprocessing instead
    return Card(
        f"torchvision/{name}",
        input_size=(3, crop, crop),
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=(float(std[0]), float(std[1]), float(std[2])),
        interpolation=str(view.interpolation.value),
        crop_pct=crop / resize,
        classes=tuple(published.meta.get("categories") or ()),
        licence="BSD-3-Clause",
        origin=str(published.url),
    )


def _modern(name: str, state: dict[str, Tensor], card: Card) -> dict[str, Tensor]:
    """Published files of old under the names of today; a ViT's position embeddings resampled to the card's size."""
    if name.startswith("densenet"):
        old = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.")
        state = {old.sub(r"\1\2.", key): value for key, value in state.items()}
    if name.startswith("vit_") and "encoder.pos_embedding" in state:
        from torchvision.models.vision_transformer import interpolate_embeddings

        patch = int(state["conv_proj.weight"].shape[-1])
        state = dict(interpolate_embeddings(card.input_size[1], patch, OrderedDict(state)))
    return state


def _blocks(network: nn.Module, family: Family) -> tuple[Block, ...]:
    """The family's blocks; without rules each convolution or linear layer with what follows it."""
    rules = family.blocks
    if not rules:
        layers = [name for name, module in network.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
        rules = tuple((rf"({re.escape(name)})(?:\.|$)", r"\1") for name in layers)
    return blocks_by_pattern(network, rules)
