"""Which blocks the data ask to train: the gradient of each block against the size of its weights.

Source: Lee et al. 2023, "Surgical fine-tuning improves adaptation to distribution shifts", section 4.1 (Auto-RGN).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch.nn import functional

from headstart.data.augment import normalise
from headstart.data.loader import Views, batches
from headstart.records import Block
from headstart.sources.base import evaluating
from headstart.transfer.net import TransferNet
from headstart.transfer.precision import exact
from headstart.transfer.steps import Samples

__all__ = ["ITEMS", "gradient_ratios", "lowest_asked"]

ITEMS = 128
"""Items over which the gradients are averaged."""

_BATCH = 32
_WANTED = 0.5  # share of the largest ratio from which on a block counts as asked for


def gradient_ratios(
    net: TransferNet, train: Samples, *, device: str, seed: int = 0, most: int = ITEMS
) -> dict[str, float]:
    """Relative gradient norm of each block with weights: |gradient| / |weights|, the mean over some batches.

    Centre views in evaluation mode, with the head that the network has; `most` items, drawn by the seed.
    The network is left as it was.
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(len(train.items))[:most])
    items, labels = [train.items[i] for i in chosen], torch.from_numpy(train.labels[chosen])
    hashes = [train.hashes[i] for i in chosen] if train.hashes else ()
    order = [np.arange(start, min(start + _BATCH, len(items))) for start in range(0, len(items), _BATCH)]
    state = dict(net.source.network.named_parameters())
    asked = {name: parameter.requires_grad for name, parameter in state.items()}
    sums = {block.name: 0.0 for block in net.source.blocks if block.parameters}
    net.to(device=device)
    with evaluating(net), exact(device), torch.enable_grad():
        for parameter in net.parameters():
            parameter.requires_grad_(True)
        for batch in batches(Views(items, net.source.card, hashes=hashes), order):
            if not len(batch.index):
                continue
            net.zero_grad(set_to_none=True)
            inputs = normalise(batch.images.to(device), net.source.card).contiguous(memory_format=torch.channels_last)
            loss = functional.cross_entropy(net(inputs).float(), labels[torch.from_numpy(batch.index)].to(device))
            loss.backward()  # type: ignore[no-untyped-call]
            for block in net.source.blocks:
                if block.parameters:
                    sums[block.name] += _ratio([state[name] for name in block.entries if name in state])
    net.zero_grad(set_to_none=True)
    for name, parameter in state.items():
        parameter.requires_grad_(asked[name])
    net.to(device="cpu")
    return {name: value / max(1, len(order)) for name, value in sums.items()}


def _ratio(parameters: Sequence[torch.Tensor]) -> float:
    gradient = sum(float(p.grad.square().sum()) for p in parameters if p.grad is not None)
    weight = sum(float(p.detach().square().sum()) for p in parameters)
    return float(np.sqrt(gradient / weight)) if weight > 0 else 0.0


def lowest_asked(ratios: Mapping[str, float], blocks: Sequence[Block]) -> str | None:
    """The lowest block whose ratio is at least half of the largest one; None where no block has a gradient."""
    named = [block.name for block in blocks if ratios.get(block.name, 0.0) > 0]
    if not named:
        return None
    largest = max(ratios[name] for name in named)
    return next(name for name in named if ratios[name] >= _WANTED * largest)
