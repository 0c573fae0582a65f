"""Freezing what lies below a cut, and the optimiser's groups for what lies above (strategy decides cut and rates)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import nn

from headstart.errors import HeadstartError, SettingsError, did_you_mean
from headstart.records import Block
from headstart.sources.base import Source, entry_digest, evaluating

__all__ = ["Frozen", "freeze", "hold_norms", "idle_blocks", "parameter_groups"]


def _within(name: str, module: str) -> bool:
    return bool(module) and (name == module or name.startswith(f"{module}."))


class Frozen:
    """The blocks below a cut, frozen: weights, BatchNorm statistics, dropout and drop-path.

    As a context manager it puts the source in training mode as `train_mode` does and checks at the end.
    """

    def __init__(self, source: Source, index: int, *, pooling: str = "native") -> None:
        if not 0 <= index <= len(source.blocks):
            raise SettingsError(f"the cut must be between 0 and {len(source.blocks)}, got {index}")
        self.source, self.index = source, index
        idle = {block.name for block in idle_blocks(source, pooling)}
        self.blocks = tuple(b for i, b in enumerate(source.blocks) if i < index or b.name in idle)
        self.entries = tuple(entry for block in self.blocks for entry in block.entries)
        frozen = set(self.entries)
        for name, parameter in source.network.named_parameters():
            parameter.requires_grad_(name not in frozen)
        self._modules = tuple(_wholly_frozen(source, [b for b in source.blocks if b not in self.blocks]))
        self._before = self.hashes()

    def train_mode(self) -> None:
        """Training mode for what is trained; what is frozen stays in evaluation mode."""
        self.source.train()
        for module in self._modules:
            module.training = False

    def hashes(self) -> dict[str, str]:
        """The sha256 of every frozen entry, as it is now."""
        state = self.source.network.state_dict()
        return {name: entry_digest(name, state[name]).hex() for name in self.entries}

    @property
    def before(self) -> dict[str, str]:
        """The sha256 of every frozen entry when it was frozen."""
        return dict(self._before)

    def check(self) -> None:
        """Raise HeadstartError when a frozen entry is not what it was when it was frozen."""
        moved = [name for name, value in self.hashes().items() if value != self._before[name]]
        if moved:
            raise HeadstartError(f"{len(moved)} frozen entries have changed: {', '.join(moved[:5])}")

    def __enter__(self) -> Frozen:
        self.train_mode()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.check()


def idle_blocks(source: Source, pooling: str) -> tuple[Block, ...]:
    """The blocks that features with this pooling do not pass through, such as VGG's fully connected layers with avg.

    They get no gradient: training them would change nothing, and count, decay and save them for nothing.
    """
    if pooling == "native":
        return ()
    names = {id(p): name for name, p in source.network.named_parameters()}
    parameters = list(source.network.parameters())
    with evaluating(source), torch.enable_grad():
        for parameter in parameters:
            parameter.requires_grad_(True)
        features = source(source._blank(1), pooling)
        found = torch.autograd.grad(features.sum(), parameters, allow_unused=True)
    used = {names[id(p)] for p, gradient in zip(parameters, found, strict=True) if gradient is not None}
    return tuple(b for b in source.blocks if b.parameters and used.isdisjoint(b.entries))


def _wholly_frozen(source: Source, above: Sequence[Block]) -> Iterator[nn.Module]:
    """Modules, containers too, in which nothing is trained: attention and others read their own mode for dropout."""
    trained = {name for block in above for name in (*block.modules, *block.entries)}
    if not trained:
        yield source
        yield from source.modules()
        return
    for name, module in source.network.named_modules():
        if name and not any(_within(other, name) for other in trained):
            yield module


def freeze(source: Source, index: int, *, pooling: str = "native") -> Frozen:
    """Freeze the first `index` blocks of `source`, and those that `pooling` leaves aside; see Frozen."""
    return Frozen(source, index, pooling=pooling)


def hold_norms(source: Source) -> None:
    """Put BatchNorm layers in evaluation mode: pretrained statistics stay, weights and biases may be trained.

    A head fitted on frozen features was fitted on features made with those statistics, so a fine-tuning then starts
    just where the probe ended, and small rates stay near it.
    """
    for module in source.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def parameter_groups(
    source: Source, head: nn.Module | None, *, rates: Mapping[str, float], weight_decay: float
) -> list[dict[str, Any]]:
    """Optimizer groups {"params", "lr", "weight_decay", "name"}, from input to head, empty ones left out.

    Only parameters that require a gradient are taken, each once (told apart by identity). Biases, norms and other
    one-dimensional parameters, position embeddings and tokens get no weight decay. Raises SettingsError when a rate
    names no block, or a trained block or the head has none.
    """
    names = [block.name for block in source.blocks]
    if unknown := [name for name in rates if name not in (*names, "head")]:
        raise SettingsError(f"a learning rate for the unknown block {unknown[0]!r}. {did_you_mean(unknown[0], names)}")
    spare = _undecayed(source.network)
    parameters = dict(source.network.named_parameters(remove_duplicate=False))
    listed = [(b.name, [(e, parameters[e]) for e in b.entries if e in parameters]) for b in source.blocks]
    if head is not None:
        listed.append(("head", list(head.named_parameters(remove_duplicate=False))))
        spare |= {id(p) for p in head.parameters() if p.ndim < 2}
    groups: list[dict[str, Any]] = []
    taken: set[int] = set()
    for name, members in listed:
        trained = {id(p): p for _, p in members if p.requires_grad and id(p) not in taken}
        taken |= trained.keys()
        if trained and name not in rates:
            raise SettingsError(f"{name} is trained but has no learning rate")
        decayed = [p for key, p in trained.items() if key not in spare]
        plain = [p for key, p in trained.items() if key in spare]
        for label, params, decay in ((name, decayed, weight_decay), (f"{name}.no_decay", plain, 0.0)):
            if params:
                groups.append({"params": params, "lr": float(rates[name]), "weight_decay": decay, "name": label})
    return groups


def _undecayed(network: nn.Module) -> set[int]:
    """Identities of the parameters without weight decay."""
    named = getattr(network, "no_weight_decay", None)
    listed = {str(name) for name in named()} if callable(named) else set()
    marks = ("pos_embed", "pos_embedding", "cls_token", "class_token", "reg_token", "dist_token", "relative_position")
    return {
        id(p)
        for name, p in network.named_parameters()
        if p.ndim < 2 or name in listed or any(mark in name for mark in marks)
    }
