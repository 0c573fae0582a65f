"""Networks of timm: by name with published or random weights, or those of a file."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from headstart.errors import SourceError, did_you_mean
from headstart.records import Card, plain
from headstart.sources._download import fetch_from_hub, unreachable
from headstart.sources._importing import import_timm
from headstart.sources._weights import load_strictly, read_weights
from headstart.sources.base import Library, Source, seeded
from headstart.sources.blocks import blocks_by_children, blocks_by_pattern, blocks_by_timm
from headstart.sources.widths import narrow, narrow_inputs

__all__ = [
    "Recipe",
    "TimmLibrary",
    "card_of",
    "load_backbone",
    "open_random",
    "open_timm",
    "recipe_of",
    "source_of",
]


@dataclass(frozen=True)
class Recipe:
    """What builds a timm network: its name, keyword arguments and the facts that timm calls pretrained_cfg.

    `channels` is the channel plan of a pruned network.
    """

    architecture: str
    model_args: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    channels: Mapping[str, Any] = field(default_factory=dict)

    def build(self, n_classes: int = 0) -> nn.Module:
        """The network with random weights and `n_classes` outputs (0: none, its forward gives features)."""
        timm = import_timm()

        facts = {**self.facts, "num_classes": n_classes} if self.facts else None
        network: nn.Module = timm.create_model(
            self.architecture, pretrained=False, pretrained_cfg=facts, num_classes=n_classes, **dict(self.model_args)
        )
        if self.channels:
            narrow(network, self.channels)
            for name in classifier_names(network) if n_classes else ():
                narrow_inputs(network.get_submodule(name), int(self.channels["features"]))
        return network

    def with_arguments(self, more: Mapping[str, Any]) -> Recipe:
        """The recipe with more keyword arguments."""
        return replace(self, model_args={**self.model_args, **more})

    def sized(self, image_size: int | None) -> Recipe:
        """The recipe for square images of `image_size` pixels; position embeddings are sized to fit."""
        facts, args = dict(self.facts), dict(self.model_args)
        channels, *size = facts.get("input_size") or (3, 224, 224)
        if image_size is not None:
            size = [image_size, image_size]
        if facts.get("fixed_input_size") or "img_size" in args:
            args["img_size"] = list(size)
        if channels != 3:
            args.setdefault("in_chans", channels)
        facts["input_size"] = (channels, *size)
        return replace(self, model_args=args, facts=facts)


class TimmLibrary(Library):
    """timm's answers."""

    def __init__(self, recipe: Recipe, network: nn.Module) -> None:
        self.recipe, self.channels = recipe, recipe.channels
        self.one_size = bool(recipe.facts.get("fixed_input_size")) or "img_size" in recipe.model_args
        self.prefix_tokens = int(getattr(network, "num_prefix_tokens", 0))
        self.channels_last = str(getattr(network, "output_fmt", "NCHW")).endswith("NHWC")

    def feature_map(self, network: nn.Module, images: Tensor) -> Tensor:
        """timm's forward_features, with channels before positions where it is a map."""
        features: Tensor = network.forward_features(images)  # type: ignore[operator]
        if isinstance(features, (tuple, list, Mapping)):
            raise SourceError(
                f"{self.recipe.architecture} gives several feature maps at once, which headstart does not pool",
                remedy="Choose another architecture",
            )
        return features.permute(0, 3, 1, 2) if self.channels_last and features.ndim == 4 else features

    def native(self, network: nn.Module, feature_map: Tensor) -> Tensor:
        """timm's forward_head before the classifier."""
        if self.channels_last and feature_map.ndim == 4:
            feature_map = feature_map.permute(0, 2, 3, 1)
        pooled: Tensor = network.forward_head(feature_map, pre_logits=True)  # type: ignore[operator]
        return pooled.flatten(1)

    def build(self) -> nn.Module:
        """The architecture with random weights and no classifier."""
        return self.recipe.build()

    def whole(self, network: nn.Module, n_classes: int) -> tuple[nn.Module, tuple[nn.Module, ...]]:
        """timm's network with a classifier; a distilled network has two, which it averages."""
        model = self.recipe.build(n_classes)
        names = classifier_names(model)
        load_strictly_but(model, network.state_dict(), names, where=self.recipe.architecture)
        return model, tuple(model.get_submodule(name) for name in names)

    def saved_as(self, network: nn.Module) -> tuple[str, dict[str, Any]]:  # noqa: ARG002
        """The recipe's own name and arguments."""
        return self.recipe.architecture, plain(self.recipe.model_args)

    def pruned(self, channels: Mapping[str, Any]) -> TimmLibrary:
        """The same answers for a network with this channel plan."""
        found = copy(self)
        found.channels, found.recipe = channels, replace(self.recipe, channels=channels)
        return found


def classifier_names(model: nn.Module) -> tuple[str, ...]:
    """Dotted names of a timm network's classifier layers."""
    found = model.get_classifier()  # type: ignore[operator]
    layers = found if isinstance(found, (tuple, list)) else (found,)
    names = tuple(name for name, module in model.named_modules() if any(module is layer for layer in layers))
    if not names:
        raise SourceError(f"{type(model).__name__} has no classifier that could be set", remedy="Choose another source")
    return names


def load_strictly_but(
    model: nn.Module, state: Mapping[str, Tensor], classifier: tuple[str, ...], *, where: str
) -> None:
    """Load backbone weights into a network whose classifier keeps its own."""
    prefixes = tuple(f"{name}." for name in classifier)
    kept = {name: value for name, value in model.state_dict().items() if name.startswith(prefixes)}
    load_strictly(model, {**state, **kept}, where=where)


def source_of(recipe: Recipe, network: nn.Module, *, address: str, origin: str) -> Source:
    """The Source around a timm network without classifier."""
    return Source(
        network,
        TimmLibrary(recipe, network),
        address=address,
        card=card_of(recipe, origin),
        blocks=_blocks(network),
    )


def card_of(recipe: Recipe, origin: str) -> Card:
    """The card that the recipe's facts give."""
    facts, default = recipe.facts, Card(recipe.architecture)
    channels, height, width = facts.get("input_size") or default.input_size
    mean = _per_channel(facts.get("mean") or default.mean, channels)
    std = _per_channel(facts.get("std") or default.std, channels)
    return Card(
        recipe.architecture,
        input_size=(int(channels), int(height), int(width)),
        mean=mean,
        std=std,
        interpolation=str(facts.get("interpolation") or default.interpolation),
        crop_pct=float(facts.get("crop_pct") or default.crop_pct),
        crop_mode=str(facts.get("crop_mode") or default.crop_mode),
        classes=tuple(str(name) for name in facts.get("label_names") or ()),
        licence=str(facts.get("license") or ""),
        origin=origin,
        model_args=plain(recipe.model_args),
    )


def _per_channel(values: Any, channels: int) -> tuple[float, float, float]:
    """A value a channel; a network of one channel takes the mean of three."""
    numbers = tuple(float(value) for value in values)
    if len(numbers) != channels and channels == 1:
        numbers = (sum(numbers) / len(numbers),)
    return numbers  # type: ignore[return-value]


def _blocks(network: nn.Module) -> tuple[Any, ...]:
    """timm's own order; a VGG is cut before every convolution; without a group_matcher: the direct children."""
    if type(network).__name__ == "VGG":
        convolutions = [rf"features\.{i}" for i, m in network.features.named_children() if isinstance(m, nn.Conv2d)]  # type: ignore[union-attr]
        rules = [(rf"({name})(?:\.|$)", r"\1") for name in (*convolutions, r"pre_logits\.fc\d")]
        return blocks_by_pattern(network, rules)
    matcher = getattr(network, "group_matcher", None)
    if matcher is None:
        return blocks_by_children(network)
    stages: Any = matcher(coarse=True)
    if hasattr(network, "norm_pre") and isinstance(stages, dict) and isinstance(stages.get("stem"), str):
        # timm counts it with the last norm, and it runs before the first block
        stages = {**stages, "stem": stages["stem"] + "|^norm_pre"}
    return blocks_by_timm(network, stages)


# --- opening -----------------------------------------------------------------------------------------------


def recipe_of(name: str) -> Recipe:
    """The recipe of a timm name with or without tag; SourceError with near names when timm has no such network."""
    timm = import_timm()

    architecture, _, tag = name.partition(".")
    tags = timm.list_pretrained() if tag else []
    if not timm.is_model(architecture) or (tag and name not in tags):
        known = tags if tag and timm.is_model(architecture) else timm.list_models()
        raise SourceError(f"timm has no network named {name!r}", remedy=did_you_mean(name, known))
    found = timm.get_pretrained_cfg(name)
    facts: dict[str, Any] = {} if found is None else found.to_dict()
    return Recipe(architecture, {}, facts)


def open_random(
    name: str, *, weights: str | None, image_size: int | None, seed: int, model_args: Mapping[str, Any] | None = None
) -> Source:
    """An untrained timm network with weights drawn from `seed`, or with those of a file."""
    recipe = recipe_of(name)
    recipe = recipe.with_arguments(model_args or {}).sized(image_size)
    with seeded(seed):
        network = recipe.build()
    if weights is None:
        return source_of(recipe, network, address=f"random:{name}", origin=f"random weights, seed {seed}")
    load_backbone(network, recipe, read_weights(weights), where=weights)
    return source_of(recipe, network, address=f"timm:{name}", origin=Path(weights).name)


def open_timm(name: str, *, weights: str | None, image_size: int | None, seed: int) -> Source:
    """`timm:NAME[.tag]` with its published weights or those of a file."""
    if weights is not None:
        return open_random(name, weights=weights, image_size=image_size, seed=seed)
    recipe = recipe_of(name).sized(image_size)
    if not any(recipe.facts.get(key) for key in ("url", "file", "hf_hub_id")):
        raise SourceError(
            f"timm publishes no weights for {name!r}",
            remedy=f"Give --weights FILE, use random:{name}, or choose one of: headstart sources",
        )
    network = _published(name, recipe)
    hub = recipe.facts.get("hf_hub_id")
    return source_of(recipe, network, address=f"timm:{name}", origin=f"hf-hub:{hub}" if hub else recipe.facts["url"])


def _published(name: str, recipe: Recipe) -> nn.Module:
    """The network with its published weights, loaded by timm itself, which knows their older formats."""
    timm = import_timm()

    facts, address, file = recipe.facts, f"timm:{name}", ""
    if facts.get("hf_hub_id") and not facts.get("custom_load"):
        named = facts.get("hf_hub_filename")
        files = [named] if named else ["model.safetensors", "pytorch_model.bin"]
        file = str(fetch_from_hub(facts["hf_hub_id"], files, address=address, architecture=name))
    try:
        network: nn.Module = timm.create_model(
            name,
            pretrained=True,
            pretrained_cfg_overlay={"file": file} if file else None,
            num_classes=0,
            **dict(recipe.model_args),
        )
    except Exception as error:
        if not file:
            raise unreachable(address, error, architecture=name) from error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        remedy = "Delete the file and try again, it may be damaged"
        raise SourceError(f"the weights of {address} cannot be loaded: {reason}", where=file, remedy=remedy) from error
    return network


def load_backbone(network: nn.Module, recipe: Recipe, state: dict[str, Tensor], *, where: object) -> None:
    """Load a file's weights: as they are where the names fit, else through timm's own translation of older formats."""
    names = [recipe.facts.get("classifier") or ()]
    classifier = {str(name) for group in names for name in ([group] if isinstance(group, str) else group)}
    classifier |= {"head.fc", "fc", "classifier", "head", "head_dist", "head.l"} & _modules_of(state, network)
    wanted = network.state_dict()
    translate = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None) or getattr(
        sys.modules[type(network).__module__], "_filter_fn", None
    )
    fits = all(name in state and state[name].shape == value.shape for name, value in wanted.items())
    if translate is not None and not fits:
        try:
            two = len(inspect.signature(translate).parameters) > 1
            state = translate(state, network) if two else translate(state)
        except Exception as error:
            raise SourceError(
                f"the weights do not fit the architecture: {error}",
                where=where,
                remedy="Name the architecture that the file was saved from",
            ) from error
    load_strictly(network, state, where=where, classifier=classifier)


def _modules_of(state: Mapping[str, Tensor], network: nn.Module) -> set[str]:
    """Modules that the file has and the network, without its classifier, has no entries for."""
    own = {name.rpartition(".")[0] for name in network.state_dict()}
    prefixes = {".".join(parts[:i]) for name in own for parts in [name.split(".")] for i in range(1, len(parts) + 1)}
    return {module for name in state if (module := name.rpartition(".")[0]) not in prefixes}
