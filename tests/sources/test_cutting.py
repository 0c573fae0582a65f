"""A source in two halves: together they are the whole, at every border of every family."""

from __future__ import annotations

import copy

import pytest
import torch
from source_families import images_for, timm_source
from torch import Tensor, nn

from headstart.records import Card
from headstart.sources.base import Library, Source, hash_entries
from headstart.sources.blocks import blocks_by_children
from headstart.sources.cutting import Cutting, cut_source


def borders(source: Source) -> list[int]:
    """Every border; of deep networks every fourth, the first and the last."""
    n = len(source.blocks)
    return list(range(1, n + 1)) if n <= 6 else sorted({1, *range(3, n, 4), n})


def ran(source: Source) -> list[str]:
    """The names of leaf modules with weights, appended to as they run."""
    names: list[str] = []
    for name, module in source.network.named_modules():
        if any(True for _ in module.parameters(recurse=False)) and not list(module.children()):
            module.register_forward_pre_hook(lambda *_, name=name: names.append(name))  # type: ignore[misc]
    return names


def made(source: Source, index: int) -> Cutting:
    told: list[str] = []
    found = cut_source(source, index, told=told)
    assert found is not None, told
    return found


def test_every_family_can_be_cut_at_every_border_and_the_halves_are_the_whole(family: Source) -> None:
    images = images_for(family, 2, seed=3)
    modes = [module.training for module in family.modules()]
    state = hash_entries(family.network.state_dict(), family.network.state_dict())
    names = ran(family)
    block_of = {name: number for number, block in enumerate(family.blocks) for name in block.modules}
    for index in borders(family):
        found = made(family, index)
        with torch.no_grad():
            names.clear()
            rows = found.below(images)
            assert all(block_of[name] < index for name in names)
            assert rows.shape == (2, found.width)
            names.clear()
            features = found.above(rows)
            assert all(block_of[name] >= index for name in names)
            wanted = family.feature_map(images)
        assert torch.allclose(features, wanted, atol=1e-5 * max(1.0, float(wanted.abs().max())))
    assert [module.training for module in family.modules()] == modes
    assert hash_entries(family.network.state_dict(), family.network.state_dict()) == state


def test_above_trains_the_very_parameters_of_the_source() -> None:
    source = timm_source("test_efficientnet", 64)
    index = len(source.blocks) - 2
    found = made(source, index)
    with torch.no_grad():
        rows = found.below(images_for(source))
    found.above(rows).square().mean().backward()
    entries = {entry for block in source.blocks[index:] for entry in block.entries}
    learnt = {name for name, p in source.network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert learnt
    assert learnt <= entries


def test_the_halves_of_a_copy_are_the_copys_own() -> None:
    source = timm_source("test_resnet", 64)
    found, other = made(source, 3), copy.deepcopy(source)
    mine = found.onto(other)
    with torch.no_grad():
        for p in other.network.parameters():
            p.mul_(1.1)
        images = images_for(source)
        assert torch.allclose(mine.above(mine.below(images)), other.feature_map(images), atol=1e-4)
        assert not torch.allclose(mine.below(images), found.below(images))


def test_drop_path_above_the_cut_drops_in_training_and_not_in_evaluation() -> None:
    source = timm_source("test_convnext", 64, drop_path_rate=0.9)
    found = made(source, 1)
    with torch.no_grad():
        rows = found.below(images_for(source, 4))
        calm = [found.above(rows) for _ in range(2)]
        source.train()
        wild = [found.above(rows) for _ in range(4)]
    assert torch.equal(*calm)
    assert any(not torch.equal(one, calm[0]) for one in wild)


class Plain(Library):
    """A network whose forward method is its feature map."""

    def feature_map(self, network: nn.Module, images: Tensor) -> Tensor:
        return network(images)  # type: ignore[no-any-return]

    def native(self, network: nn.Module, feature_map: Tensor) -> Tensor:
        return feature_map.mean((2, 3))

    build = whole = saved_as = lambda *_: None  # type: ignore[assignment]


class Writing(nn.Module):
    """Changes the list that it is given."""

    def forward(self, values: list[Tensor]) -> Tensor:
        values[0] = values[0] + values[1]
        return values[0]


class Skipping(nn.Module):
    """Three layers; the first's output is added to the third's, and `told` decides what else happens on the way."""

    def __init__(self, told: str = "") -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(n, 4, 3, padding=1) for n in (3, 4, 4))
        self.told, self.writing = told, Writing()
        self.register_buffer("shift", torch.full((1,), 0.5), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        first = self.a(x)
        second = self.b(first).relu()
        if self.told == "mode" and self.training:
            second = second * 2
        if self.told == "batch" and x.shape[0] == 2:
            second = second + 1
        if self.told == "shape":
            n, _, height, width = x.shape
            second = second.reshape(n, 4, height * width).reshape(n, 4, height, width)
        if self.told == "value" and second.sum() > 0:
            second = second - 1
        if self.told == "buffer":
            second = torch.add(second, self.shift)
        if self.told == "writes":
            second = self.writing([second, first])
        return self.c(second) + first  # type: ignore[no-any-return]


def skipping(told: str = "") -> Source:
    torch.manual_seed(0)
    network = Skipping(told)
    card = Card("skipping", input_size=(3, 8, 8))
    return Source(network, Plain(), address="skipping", card=card, blocks=blocks_by_children(network)).eval()


@pytest.mark.parametrize("told", ["", "shape", "buffer", "writes"])
def test_a_skip_connection_over_the_cut_crosses_it_too(told: str) -> None:
    source = skipping(told)
    found = made(source, 2)
    assert sorted(found.shapes) == [(4, 8, 8), (4, 8, 8)]
    images = images_for(source, 5)
    with torch.no_grad():
        assert torch.allclose(found.above(found.below(images)), source.feature_map(images), atol=1e-6)


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("mode", "differs between training and evaluation"),
        ("batch", "do not give the features of the whole"),
        ("value", "control flow"),
    ],
)
def test_a_network_that_cannot_be_cut_is_told_with_its_reason(told: str, reason: str) -> None:
    reasons: list[str] = []
    assert cut_source(skipping(told), 2, told=reasons) is None
    assert len(reasons) == 1
    assert reason in reasons[0]


def test_nothing_lies_below_the_input() -> None:
    assert cut_source(skipping(), 0) is None
