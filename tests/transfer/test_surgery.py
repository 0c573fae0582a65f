"""Which blocks the data ask to train: gradients against weights, and the network as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rigs import coloured

from headstart.records import Block
from headstart.sources import open_source
from headstart.sources.base import hash_entries
from headstart.transfer.net import TransferNet, fresh_head
from headstart.transfer.surgery import gradient_ratios, lowest_asked


def _net() -> TransferNet:
    source = open_source("toy").copy()
    return TransferNet(source, fresh_head("linear", source.width("native"), 3, seed=0)).eval()


def _block(name: str, parameters: int = 1) -> Block:
    return Block(name, (f"{name}.weight",), (name,), parameters)


def test_every_block_with_weights_has_a_ratio_and_the_network_is_left_as_it_was() -> None:
    net = _net()
    state, modes = net.state_dict(), [m.training for m in net.modules()]
    before = hash_entries(state, tuple(state))
    asked = [p.requires_grad for p in net.source.network.parameters()]
    ratios = gradient_ratios(net, coloured(40), device="cpu")
    assert list(ratios) == [b.name for b in net.source.blocks if b.parameters]
    assert all(value > 0 and np.isfinite(value) for value in ratios.values())
    assert hash_entries(net.state_dict(), tuple(state)) == before
    assert [m.training for m in net.modules()] == modes
    assert [p.requires_grad for p in net.source.network.parameters()] == asked
    assert all(p.grad is None for p in net.parameters())


def test_ratios_are_those_of_a_plain_backward_pass() -> None:
    from torch.nn import functional

    from headstart.data.augment import normalise
    from headstart.data.loader import Views

    net, train = _net(), coloured(20)
    ratios = gradient_ratios(net, train, device="cpu", most=20)
    views = Views(train.items, net.source.card)
    images = normalise(torch.stack([views(i) for i in range(20)]), net.source.card)
    loss = functional.cross_entropy(net(images), torch.from_numpy(train.labels))
    loss.backward()
    named = dict(net.source.network.named_parameters())
    for block in net.source.blocks:
        own = [named[name] for name in block.entries if name in named]
        if not own:
            continue
        gradient = torch.sqrt(sum(p.grad.square().sum() for p in own if p.grad is not None))
        weight = torch.sqrt(sum(p.detach().square().sum() for p in own))
        assert ratios[block.name] == pytest.approx(float(gradient / weight), rel=1e-3)


def test_weights_ten_times_as_large_for_the_same_gradient_have_a_tenth_of_the_ratio() -> None:
    first, second = _net(), _net()
    name = first.source.blocks[-1].name
    with torch.no_grad():  # the head's own scale takes the change back
        for net, factor in ((first, 1.0), (second, 10.0)):
            net.head.weight.mul_(factor)
    a, b = (gradient_ratios(net, coloured(20), device="cpu")[name] for net in (first, second))
    assert b > 2 * a  # a larger head sends a larger gradient down to the same weights


def test_the_lowest_block_of_at_least_half_the_largest_ratio_is_asked_for() -> None:
    blocks = [_block("a"), _block("b"), _block("c"), _block("d")]
    assert lowest_asked({"a": 0.1, "b": 0.6, "c": 0.2, "d": 1.0}, blocks) == "b"
    assert lowest_asked({"a": 0.1, "b": 0.1, "c": 0.1, "d": 1.0}, blocks) == "d"


def test_no_block_is_asked_for_where_no_gradient_flows() -> None:
    assert lowest_asked({"a": 0.0}, [_block("a")]) is None
