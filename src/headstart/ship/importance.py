"""What a channel is worth, and how what is left makes up for what is gone. Both need pictures, and no label.

magnitude   the mean square of the weights that make and read a channel (Li et al. 2017, "Pruning filters for efficient
            ConvNets", for whole groups as in DepGraph), beside the other channels of its group
taylor      how far the logits would move without it, to first order: the mean square of their slope by a switch on what
            is read of the channel (Molchanov et al. 2019, "Importance estimation for neural network pruning")

After the cut every layer that reads fewer channels is fitted anew by least squares, so that it gives what it gave
before (He et al. 2017, "Channel pruning for accelerating very deep neural networks", section 3.1), in the order in
which they are computed, each on what the fitted ones before it give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from headstart.ship.prune import Group, Left
from headstart.sources.base import Source, evaluating, seeded
from headstart.transfer.net import TransferNet

__all__ = ["IMPORTANCES", "importance", "refit"]

IMPORTANCES = ("taylor", "magnitude")
_BATCH = 16
_MOST = 5_000  # inputs of one output, above which a layer is not fitted
_ROWS = 24_000  # places of the feature maps that a layer is fitted on
_RIDGE = 1e-2  # of the mean square of the inputs: how much the weights are held where they were


def importance(
    kind: str, net: TransferNet, groups: Sequence[Group], images: Tensor, *, seed: int
) -> dict[str, np.ndarray]:
    """The worth [n] of every channel of each group; `images` (m, 3, h, w) are normalised."""
    if kind == "magnitude":
        return _magnitude(net.source, groups)
    return _taylor(net, groups, images, seed=seed)


def _magnitude(source: Source, groups: Sequence[Group]) -> dict[str, np.ndarray]:
    layers, found = dict(source.network.named_modules()), {}
    for group in groups:
        total = np.zeros(group.n)
        for name, side, channel, where in group.places:
            weight = layers[name].weight.detach()
            if isinstance(layers[name], nn.BatchNorm2d):
                continue
            rows = (weight if side == "out" else weight.transpose(0, 1)).flatten(1).square().mean(1)
            total += np.bincount(channel, rows.double().numpy()[where], minlength=group.n)
        found[group.name] = total / max(1e-30, total.mean())
    return found


def _taylor(net: TransferNet, groups: Sequence[Group], images: Tensor, *, seed: int) -> dict[str, np.ndarray]:
    """Squares of the logits' slope, summed over random directions of the logits, one for each image."""
    layers = dict(net.source.network.named_modules())
    read = {name: layers[name].weight for g in groups for name, side, _, _ in g.places if side == "in"}
    totals = {group.name: np.zeros(group.n) for group in groups}
    wanted = [(p, p.requires_grad) for p in net.parameters()]
    for parameter, _ in wanted:
        parameter.requires_grad_(False)
    for weight in read.values():
        weight.requires_grad_(True)
    with evaluating(net), torch.enable_grad(), seeded(seed):
        for part in torch.split(images, _BATCH):
            logits, features = net.both(part)
            goal = (logits * torch.randn_like(logits)).sum()
            asked = [*read.values(), features]
            slopes = torch.autograd.grad(goal, asked, allow_unused=True)
            slope = dict(zip([*read, ""], slopes, strict=True))
            for group in groups:
                totals[group.name] += _switched(group, read, slope, features) ** 2
    for parameter, before in wanted:
        parameter.requires_grad_(before)
    return {name: total / len(images) for name, total in totals.items()}


def _switched(
    group: Group, read: Mapping[str, Tensor], slope: Mapping[str, Tensor | None], features: Tensor
) -> np.ndarray:
    """The slope by a switch on each channel: the sum over all that is read of it."""
    found = np.zeros(group.n)
    for name, side, channel, where in group.places:
        if side == "in" and (own := slope[name]) is not None:
            moved = (read[name].detach() * own).transpose(0, 1).flatten(1).sum(1).double().numpy()
            found += np.bincount(channel, moved[where], minlength=group.n)
    if group.features is not None and (own := slope[""]) is not None:
        channel, feature = group.features
        moved = (features.detach() * own).sum(0).double().numpy()
        found += np.bincount(channel, moved[feature], minlength=group.n)
    return found


# --- making up for it ---------------------------------------------------------------------------------------------


@torch.no_grad()
def refit(source: Source, whole: Source, left: Left, images: Tensor, *, pooling: str) -> None:
    """Fit the layers of `source` that read fewer channels than those of `whole` to give what these give, in place.

    `images` (m, 3, h, w) are normalised. Depthwise layers and norms stay as they are.
    """
    layers, before = dict(source.network.named_modules()), dict(whole.network.named_modules())
    fewer = [n for n, m in layers.items() if _fitted(m) and m.weight.shape[1] < before[n].weight.shape[1]]
    wanted: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], result: Tensor) -> None:
            rows = _rows(result)
            wanted[name] = rows[:, torch.from_numpy(left.outs[name])] if name in left.outs else rows

        return hook

    def fit(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], result: Tensor) -> Tensor:
            _fit(module, _read(module, inputs[0], result), wanted.pop(name))
            found: Tensor = module.forward(inputs[0])
            return found

        return hook

    hooks = [before[name].register_forward_hook(keep(name)) for name in fewer]
    hooks += [layers[name].register_forward_hook(fit(name)) for name in fewer]
    try:
        with evaluating(source), evaluating(whole):
            whole(images, pooling)
            source(images, pooling)
    finally:
        for hook in hooks:
            hook.remove()


def _fitted(module: nn.Module) -> bool:
    """Whether a layer is one that can be fitted: linear, or a convolution whose padding is known."""
    if isinstance(module, nn.Linear):
        return True
    if not isinstance(module, nn.Conv2d) or module.groups > 1 or module.weight[0].numel() > _MOST:
        return False
    return module.kernel_size == (1, 1) or (type(module) is nn.Conv2d and not isinstance(module.padding, str))


def _places(result: Tensor) -> Tensor:
    """Which places of a map (n, c, h, w), or of all rows (..., c), are looked at: the same for the same shape."""
    n = result.shape[2:].numel() if result.ndim == 4 else result[..., 0].numel()
    most = max(1, _ROWS // len(result)) if result.ndim == 4 else _ROWS
    order = np.random.default_rng(n).permutation(n)[:most]
    return torch.from_numpy(np.sort(order))


def _rows(result: Tensor) -> Tensor:
    """The outputs of a layer at the places: (m, c)."""
    if result.ndim == 4:
        return result.flatten(2)[:, :, _places(result)].transpose(1, 2).flatten(0, 1)
    return result.flatten(0, -2)[_places(result)]


def _read(module: nn.Module, inputs: Tensor, result: Tensor) -> Tensor:
    """What a layer reads for its outputs at the places: (m, inputs of one output), in the order of its weights."""
    if isinstance(module, nn.Linear):
        return inputs.flatten(0, -2)[_places(result)]
    assert isinstance(module, nn.Conv2d)
    places, wide = _places(result), result.shape[3]
    high, low = places // wide * module.stride[0], places % wide * module.stride[1]
    if module.kernel_size != (1, 1):
        assert not isinstance(module.padding, str)
        inputs = functional.pad(inputs, (module.padding[1],) * 2 + (module.padding[0],) * 2)
    parts = [
        inputs[:, :, high + y * module.dilation[0], low + x * module.dilation[1]]
        for y in range(module.kernel_size[0])
        for x in range(module.kernel_size[1])
    ]
    return torch.stack(parts, dim=2).flatten(1, 2).transpose(1, 2).flatten(0, 1)


def _fit(module: nn.Module, read: Tensor, wanted: Tensor) -> None:
    """Least squares for the weights of a layer, held a little where they are; its bias stays."""
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    X, Y = read.double(), wanted.double()
    if isinstance(bias, Tensor):
        Y = Y - bias.double()
    before = weight.flatten(1).double()
    square = X.T @ X / len(X)
    hold = _RIDGE * float(square.diagonal().mean()) + 1e-12
    found = before.T + torch.linalg.solve(
        square + hold * torch.eye(len(square), dtype=torch.float64), X.T @ (Y - X @ before.T) / len(X)
    )
    if bool(torch.isfinite(found).all()):
        weight.copy_(found.T.reshape(weight.shape).to(weight.dtype))
