"""The channel plan: how wide each layer of a pruned network is, where that is less than its architecture builds.

It is a plain mapping {"features": n, "layers": {NAME: {"out": n, "in": n, "groups": n}}} that stands under `channels`
in the config.json of a pruned model. To open one, the architecture is built, `narrow` makes the listed layers as
narrow as they were saved, and the weights are then loaded strictly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from headstart.errors import SourceError

__all__ = ["checked", "narrow", "narrow_inputs", "select", "widths_of"]

_AGAIN = "Copy the whole folder again."
_KINDS: tuple[tuple[type[nn.Module], dict[str, str]], ...] = (
    (nn.Conv2d, {"out": "out_channels", "in": "in_channels", "groups": "groups"}),
    (nn.Linear, {"out": "out_features", "in": "in_features"}),
    (nn.BatchNorm2d, {"out": "num_features"}),
)


def _attributes(module: nn.Module) -> dict[str, str]:
    """Which attribute holds each width of a layer; none for a kind of layer that is never narrowed."""
    return next((names for kind, names in _KINDS if isinstance(module, kind)), {})


def _widths(module: nn.Module) -> dict[str, int]:
    return {key: int(getattr(module, name)) for key, name in _attributes(module).items()}


def widths_of(network: nn.Module, built: nn.Module, *, features: int) -> dict[str, Any]:
    """The channel plan of `network`, which was `built` by its architecture and then cut; {} where nothing was.

    `features` is how many native features it has.
    """
    whole = {name: _widths(module) for name, module in built.named_modules()}
    layers = {name: now for name, module in network.named_modules() if (now := _widths(module)) != whole.get(name, now)}
    return {"features": features, "layers": layers} if layers else {}


def checked(plan: Any, where: object) -> dict[str, Any]:
    """A channel plan as config.json holds it ({} for none). Raises SourceError where it is none."""
    if plan is None:
        return {}
    good = (
        isinstance(plan, dict)
        and isinstance(plan.get("features"), int)
        and isinstance(plan.get("layers"), dict)
        and all(isinstance(row, dict) and all(_count(n) for n in row.values()) for row in plan["layers"].values())
    )
    if not good or not _count(plan["features"]):
        raise SourceError("the channels in config.json are no channel plan", where=where, remedy=_AGAIN)
    return dict(plan)


def _count(n: object) -> bool:
    return isinstance(n, int) and not isinstance(n, bool) and n >= 1


def narrow(network: nn.Module, plan: Mapping[str, Any], *, where: object = None) -> nn.Module:
    """The network with the listed layers as narrow as the plan says, in place; what they hold is cut off, not chosen.

    Raises SourceError for a layer that the architecture does not have, of a kind that is never narrowed, or a width
    that is larger than the architecture's.
    """
    layers = dict(network.named_modules())
    for name, wanted in plan.get("layers", {}).items():
        if name not in layers:
            raise SourceError(f"the channel plan names a layer {name!r} that is not there", where=where, remedy=_AGAIN)
        module, now = layers[name], _widths(layers[name])
        if not now or set(wanted) != set(now):
            kind = type(module).__name__
            raise SourceError(f"the channel plan does not fit {name!r}, a {kind}", where=where, remedy=_AGAIN)
        if wide := [key for key in now if wanted[key] > now[key]]:
            raise SourceError(
                f"the channel plan wants {wanted[wide[0]]} for {wide[0]!r} of {name!r}, the architecture has "
                f"{now[wide[0]]}",
                where=where,
                remedy=_AGAIN,
            )
        if wanted.get("in", 1) % wanted.get("groups", 1) or wanted["out"] % wanted.get("groups", 1):
            raise SourceError(f"the groups of {name!r} do not divide its channels", where=where, remedy=_AGAIN)
        _resize(module, wanted)
    return network


def narrow_inputs(layer: nn.Module, width: int) -> None:
    """Make a classifier take `width` features, in place."""
    now = _widths(layer)
    if now and now["in"] > width:
        _resize(layer, {**now, "in": width})


def _resize(module: nn.Module, wanted: Mapping[str, int]) -> None:
    for key, name in _attributes(module).items():
        setattr(module, name, wanted[key])
    inputs = wanted["in"] // wanted.get("groups", 1) if "in" in wanted else None
    for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        if tensor.ndim:
            _put(module, name, tensor[: wanted["out"]] if tensor.ndim == 1 else tensor[: wanted["out"], :inputs])


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    """A parameter or buffer of another shape in the place of the old one."""
    old = getattr(module, name)
    kept = tensor.detach().clone()
    setattr(
        module, name, nn.Parameter(kept, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else kept
    )


def select(module: nn.Module, *, outputs: Tensor | None = None, inputs: Tensor | None = None) -> None:
    """Keep some output and input channels of a layer, in place; of a depthwise convolution both are its `outputs`."""
    depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
    for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        if not tensor.ndim:
            continue
        kept = tensor if outputs is None else tensor[outputs]
        _put(module, name, kept if inputs is None or tensor.ndim == 1 else kept[:, inputs])
    names = _attributes(module)
    if outputs is not None:
        for key in names if depthwise else ("out",):
            setattr(module, names[key], len(outputs))
    if inputs is not None:
        setattr(module, names["in"], len(inputs))
