"""The channel plan: what was cut is built again as narrow as it was saved, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from headstart.errors import SourceError
from headstart.sources.widths import checked, narrow, narrow_inputs, select, widths_of


def _network(wide: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    depthwise = nn.Conv2d(wide, wide, 3, groups=wide, padding=1)
    return nn.Sequential(nn.Conv2d(3, wide, 3), nn.BatchNorm2d(wide), depthwise, nn.Flatten(), nn.Linear(wide * 4, 5))


def _cut(network: nn.Sequential, kept: list[int]) -> nn.Sequential:
    left = torch.tensor(kept)
    for place in range(3):
        select(network[place], outputs=left)
    select(network[4], inputs=(left[:, None] * 4 + torch.arange(4)).flatten())
    return network.eval()


def test_a_network_that_is_narrowed_by_its_plan_takes_the_weights_of_the_cut_one() -> None:
    cut = _cut(_network(), [0, 2, 5])
    plan = widths_of(cut, _network(), features=5)
    again = narrow(_network(), plan).eval()
    again.load_state_dict(cut.state_dict())
    images = torch.randn(2, 3, 4, 4)
    assert torch.equal(again(images), cut(images))
    assert plan["layers"]["2"] == {"out": 3, "in": 3, "groups": 3}
    assert again[2].groups == 3
    assert again[4].in_features == 12
    assert again[1].num_features == 3


def test_a_network_that_was_not_cut_has_no_plan() -> None:
    assert widths_of(_network(), _network(), features=5) == {}


def test_a_trained_parameter_stays_one_and_a_frozen_one_too() -> None:
    network = _network()
    network[0].weight.requires_grad_(False)
    _cut(network, [1, 2])
    assert not network[0].weight.requires_grad
    assert network[0].bias.requires_grad
    assert not isinstance(network[1].running_mean, nn.Parameter)


def test_a_classifier_is_made_narrower_never_wider() -> None:
    layer = nn.Linear(8, 3)
    narrow_inputs(layer, 9)
    assert layer.weight.shape == (3, 8)
    narrow_inputs(layer, 5)
    assert layer.weight.shape == (3, 5)
    assert layer.in_features == 5


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ({"9": {"out": 1}}, "names a layer '9' that is not there"),
        ({"3": {"out": 1}}, "does not fit '3', a Flatten"),
        ({"1": {"out": 4, "in": 4}}, "does not fit '1', a BatchNorm2d"),
        ({"0": {"out": 9, "in": 3, "groups": 1}}, "wants 9 for 'out' of '0', the architecture has 8"),
        ({"2": {"out": 4, "in": 4, "groups": 3}}, "do not divide"),
    ],
)
def test_a_plan_that_does_not_fit_the_architecture_is_refused(layers: dict[str, Any], words: str) -> None:
    with pytest.raises(SourceError, match=words):
        narrow(_network(), {"features": 5, "layers": layers})


@pytest.mark.parametrize(
    "plan",
    [
        [],
        {"layers": {}},
        {"features": 5},
        {"features": 0, "layers": {}},
        {"features": True, "layers": {}},
        {"features": 5, "layers": []},
        {"features": 5, "layers": {"0": 3}},
        {"features": 5, "layers": {"0": {"out": -1}}},
        {"features": 5, "layers": {"0": {"out": 1.5}}},
    ],
)
def test_what_is_no_channel_plan_is_refused(plan: Any) -> None:
    with pytest.raises(SourceError, match="no channel plan"):
        checked(plan, "config.json")
    assert checked(None, "config.json") == {}
