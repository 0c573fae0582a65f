"""A pruned network learns from the whole one: what it is told is how far it is, in the whole network's own measure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from headstart.ship.distil import _Follower, resized
from headstart.sources import open_source
from headstart.transfer.net import TransferNet


def _follower() -> tuple[_Follower, torch.Tensor]:
    """A network that follows one whose features are another's, and eight pictures."""
    source = open_source("toy")
    net, whole = (TransferNet(one, nn.Linear(one.width("native"), 3)).eval() for one in (source.copy(), source.copy()))
    with torch.no_grad():
        for parameter in net.source.parameters():
            parameter.mul_(0.9)
    images = torch.randn(8, *source.card.input_size, generator=torch.Generator().manual_seed(0))
    return _Follower(net, whole, np.arange(source.width("native"))), images


def test_the_distance_is_beside_the_spread_of_the_whole_networks_features() -> None:
    follower, images = _follower()
    follower(images)
    with torch.no_grad():
        (logits, features), (goal, wanted) = follower.net.both(images), follower.whole[0].both(images)
    apart = (features - wanted).square().mean() / wanted.var(0).mean()
    said = nn.functional.kl_div((logits / 2).log_softmax(1), (goal / 2).softmax(1), reduction="batchmean")
    assert follower.distance.item() == pytest.approx(float(apart + 0.5 * 4 * said), rel=1e-4)


def test_a_trial_that_puts_the_buffers_back_does_not_change_the_measure() -> None:
    follower, images = _follower()
    before = {name: value.clone() for name, value in follower.named_buffers()}
    follower(images)
    first = follower.distance.item()
    with torch.no_grad():
        for name, value in follower.named_buffers():
            value.copy_(before[name])
    follower(images)
    assert follower.distance.item() == pytest.approx(first)
    assert torch.isfinite(follower.spread)
    spread = follower.spread.item()
    follower(2 * images)
    assert follower.spread.item() == spread, "of the first batch"


def test_pictures_become_smaller_in_their_proportions_and_one_of_the_size_is_left_alone() -> None:
    images = torch.rand(2, 3, 32, 64)
    assert resized(images, 32) is images
    small = resized(images, 16)
    assert small.shape == (2, 3, 16, 32)
    assert small.mean().item() == pytest.approx(images.mean().item(), abs=0.01)
