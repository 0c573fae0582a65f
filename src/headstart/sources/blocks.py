"""Divide a network into blocks from input to head, so that every state entry and leaf module is in exactly one."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from torch import nn

from headstart.records import Block

__all__ = ["blocks_by_children", "blocks_by_pattern", "blocks_by_timm", "leaf_modules"]


def leaf_modules(network: nn.Module) -> list[str]:
    """Dotted names of the modules that contain no other module, in order of definition."""
    return [name for name, module in network.named_modules() if name and not any(True for _ in module.children())]


def blocks_by_pattern(network: nn.Module, patterns: Sequence[tuple[str, str]]) -> tuple[Block, ...]:
    r"""Blocks by rules (regular expression, block name; \1 in the name is the first group), matched from the start.

    What no rule names (an activation, a pooling) belongs to the block of the module defined before it.
    """
    compiled = [(re.compile(pattern), name) for pattern, name in patterns]

    def block_of(name: str) -> str | None:
        for pattern, block in compiled:
            if found := pattern.match(name):
                return found.expand(block)
        return None

    assigned = _assign(network, block_of)
    order = list(dict.fromkeys(assigned.values()))
    return _collect(network, assigned, order, {key: str(key) for key in order})


def blocks_by_children(network: nn.Module) -> tuple[Block, ...]:
    """One block a direct child of the network; the network's own parameters join the first."""
    names = [name for name, child in network.named_children() if child.state_dict()]
    reserved = ("input", "head")  # these words name cuts
    rules = [(rf"{re.escape(name)}(?:\.|$)", f"{name}_block" if name in reserved else name) for name in names]
    return blocks_by_pattern(network, rules)


def blocks_by_timm(network: nn.Module, matcher: Any) -> tuple[Block, ...]:
    """Blocks from a timm network's `group_matcher(coarse=True)`, which orders its parameters from input to head."""
    from timm.models import group_parameters

    entries, leaves = list(network.state_dict()), leaf_modules(network)
    ids: Mapping[str, int] = group_parameters(_Names([*entries, *leaves, _NOWHERE]), matcher, reverse=True)
    used = {ids[entry] for entry in entries}
    unmatched = ids.get(_NOWHERE)

    def block_of(name: str) -> int | None:
        number = ids.get(name)
        if name in leaves and (number == unmatched or number not in used):
            return None
        return number

    assigned = _assign(network, block_of)
    order = sorted(set(assigned.values()), key=lambda number: int(str(number)))
    return _collect(network, assigned, order, _readable(assigned, entries, order))


_NOWHERE = "\0nowhere"


class _Names(nn.Module):
    """Lets timm's `group_parameters` sort names that are not parameters."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.names = list(names)

    def named_parameters(self, *_: Any, **__: Any) -> Iterator[tuple[str, nn.Parameter]]:
        nothing = nn.Parameter()
        return ((name, nothing) for name in self.names)


def _assign(network: nn.Module, block_of: Callable[[str], Hashable | None]) -> dict[str, Hashable]:
    """Entry or leaf module name → block key, walking the modules in order of definition."""
    entries = set(network.state_dict())
    assigned: dict[str, Hashable] = {}
    waiting: list[str] = []  # names seen before the first block is known
    current: Hashable | None = None
    for name, module in network.named_modules():
        own = [f"{name}.{key}" if name else key for key in (*module._parameters, *module._buffers)]
        parts = [key for key in own if key in entries]
        if name and not any(True for _ in module.children()):
            # a leaf stands where its entries stand: one with entries is never asked for by its own name alone
            found = next((key for key in map(block_of, [*parts, name]) if key is not None), None)
            current = current if found is None else found
            keys = dict.fromkeys((*parts, name), current)
        else:
            keys = {key: found if (found := block_of(key)) is not None else current for key in parts}
        for key, block in keys.items():
            if block is None:
                waiting.append(key)
            else:
                assigned[key] = block
    first = next(iter(assigned.values()), "network")
    return {**dict.fromkeys(waiting, first), **assigned}


def _collect(
    network: nn.Module, assigned: Mapping[str, Hashable], order: Sequence[Hashable], names: Mapping[Hashable, str]
) -> tuple[Block, ...]:
    """The Blocks, in `order`."""
    state, sizes = network.state_dict(), {name: p.numel() for name, p in network.named_parameters()}
    leaves = leaf_modules(network)
    blocks = []
    for key in order:
        entries = tuple(name for name in state if assigned.get(name) == key)
        modules = tuple(name for name in leaves if assigned[name] == key)
        blocks.append(Block(names[key], entries, modules, parameters=sum(sizes.get(name, 0) for name in entries)))
    return tuple(blocks)


def _readable(
    assigned: Mapping[str, Hashable], entries: Sequence[str], order: Sequence[Hashable]
) -> dict[Hashable, str]:
    """A short name a block: the shortest module path that no other block shares; "stem" for a mixed first one."""
    names: dict[Hashable, str] = {}
    for key in order:
        mine = [entry.split(".") for entry in entries if assigned[entry] == key]
        others = [entry.split(".") for entry in entries if assigned[entry] != key]
        tops = [top for top, _ in groupby(mine, key=lambda parts: parts[0])]
        if key == order[0] and (len(set(tops)) > 1 or "stem" in tops[0] or "patch_embed" in tops[0]):
            names[key] = "stem"
            continue
        first = [parts for parts in mine if parts[0] == tops[0]]
        depth = next(
            (d for d in range(1, len(first[0])) if not any(parts[:d] == first[0][:d] for parts in others)),
            max(1, len(first[0]) - 1),
        )
        if first[0][:depth] in (["head"], ["input"]):  # these words name cuts
            depth = max(len(first[0]) - 1, depth)
        name = ".".join(first[0][:depth])
        names[key] = name if name not in names.values() else f"{name}#{len(names)}"
    return names
