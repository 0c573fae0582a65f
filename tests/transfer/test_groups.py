"""Cut, freeze and rates: what is frozen stays, each trained parameter has one rate and its decay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from headstart.errors import HeadstartError, SettingsError
from headstart.records import Block, Card
from headstart.sources import open_source
from headstart.sources.base import Library, Source
from headstart.transfer.groups import freeze, parameter_groups
from headstart.transfer.strategy import rates


@pytest.fixture(scope="module")
def toy() -> Source:
    return open_source("toy")


def test_a_cut_outside_the_network_cannot_be_frozen(toy: Source) -> None:
    with pytest.raises(SettingsError, match="between 0 and"):
        freeze(toy.copy(), len(toy.blocks) + 1)


def test_freezing_again_further_down_thaws_what_lies_above(toy: Source) -> None:
    source = toy.copy()
    freeze(source, len(source.blocks))
    assert not any(p.requires_grad for p in source.parameters())
    freeze(source, 0)
    assert all(p.requires_grad for p in source.parameters())


def test_batch_statistics_below_the_cut_stand_still_and_those_above_move(toy: Source) -> None:
    source = toy.copy()
    before = {k: v.clone() for k, v in source.network.state_dict().items()}
    with freeze(source, 2):
        source(torch.randn(4, 3, 32, 32))
    after = source.network.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    statistics = {n for b in source.blocks[2:] for n in b.entries if "running" in n or "num_batches" in n}
    assert moved == statistics


def test_dropout_below_the_cut_is_off_also_where_the_container_asks_its_own_mode() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.dropout(self.linear(x), 0.5, training=self.training)

    network = nn.Sequential(Attention(), Attention())
    blocks = tuple(Block(str(i), (f"{i}.linear.weight", f"{i}.linear.bias"), (f"{i}.linear",)) for i in range(2))
    source = Source(network, _Plain(), address="test", card=Card("test", input_size=(4, 1, 1)), blocks=blocks)
    frozen = freeze(source, 1)
    frozen.train_mode()
    assert [m.training for m in (network[0], network[0].linear, network[1], network[1].linear)] == [
        False,
        False,
        True,
        True,
    ]
    assert source.training


class _Plain(Library):
    def feature_map(self, network: nn.Module, images: torch.Tensor) -> torch.Tensor:
        return network(images.flatten(1))[:, :, None, None]

    def native(self, network: nn.Module, feature_map: torch.Tensor) -> torch.Tensor:
        return feature_map.flatten(1)

    def build(self) -> nn.Module:
        raise NotImplementedError

    def whole(self, network: nn.Module, n_classes: int) -> tuple[nn.Module, tuple[nn.Module, ...]]:
        # a network that does more after its features than one linear layer
        last = nn.Linear(4, n_classes)
        return nn.Sequential(nn.Flatten(), network, last, nn.Tanh()), (last,)

    def saved_as(self, network: nn.Module) -> tuple[str, dict[str, object]]:
        return "test", {}


def test_the_check_at_the_end_of_the_block_does_not_hide_an_error_inside(toy: Source) -> None:
    source = toy.copy()

    def spoil(error: bool = False) -> None:
        with torch.no_grad():
            next(source.network.parameters()).add_(1)
        if error:
            raise ZeroDivisionError

    with pytest.raises(HeadstartError, match="frozen entries have changed"), freeze(source, 1):
        spoil()
    with pytest.raises(ZeroDivisionError), freeze(source, 1):
        spoil(error=True)


def _groups(source: Source, head: nn.Module | None, index: int = 0) -> list[dict[str, object]]:
    freeze(source, index)
    table = rates(source.blocks, index, backbone_lr=0.01, head_lr=0.1, layer_decay=0.5)
    return parameter_groups(source, head, rates=table, weight_decay=0.05)


@pytest.mark.parametrize("index", [0, 2, 5])
def test_every_trained_parameter_is_in_one_group_at_the_rate_of_its_block(toy: Source, index: int) -> None:
    source, head = toy.copy(), nn.Linear(64, 5)
    groups = _groups(source, head, index)
    members = [id(p) for group in groups for p in group["params"]]  # type: ignore[attr-defined]
    trained = [p for p in (*source.network.parameters(), *head.parameters()) if p.requires_grad]
    assert sorted(members) == sorted(map(id, trained))
    expected = rates(source.blocks, index, backbone_lr=0.01, head_lr=0.1, layer_decay=0.5)
    for group in groups:
        name, _, rest = str(group["name"]).partition(".no_decay")
        assert rest == ""
        assert group["lr"] == expected[name]
    torch.optim.AdamW(groups)


def test_norms_biases_tokens_and_position_embeddings_do_not_decay() -> None:
    source = open_source("random:test_vit")
    names = {id(p): n for n, p in source.network.named_parameters()}
    spared, decayed = set(), set()
    for group in _groups(source, None):
        (decayed if group["weight_decay"] else spared).update(names[id(p)] for p in group["params"])  # type: ignore[attr-defined]
    assert {"cls_token", "pos_embed", "norm.weight", "blocks.0.attn.qkv.bias"} <= spared
    assert {"patch_embed.proj.weight", "blocks.5.mlp.fc2.weight"} <= decayed
    assert all(source.network.get_parameter(name).ndim > 1 for name in decayed)


def test_parameters_of_equal_value_are_told_apart_and_shared_ones_counted_once(toy: Source) -> None:
    source, head = toy.copy(), nn.ModuleList([nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)])
    nn.init.ones_(head[0].weight)
    nn.init.ones_(head[1].weight)
    assert len(_groups(source, head, 5)[0]["params"]) == 2  # type: ignore[arg-type]
    head[1].weight = head[0].weight
    assert len(_groups(source, head, 5)[0]["params"]) == 1  # type: ignore[arg-type]


def test_a_rate_without_block_and_a_trained_block_without_rate_are_refused(toy: Source) -> None:
    source = toy.copy()
    freeze(source, 4)
    with pytest.raises(SettingsError, match="unknown block 'layer9'"):
        parameter_groups(source, None, rates={"layer9": 0.1}, weight_decay=0.0)
    with pytest.raises(SettingsError, match="layer4 is trained but has no learning rate"):
        parameter_groups(source, nn.Linear(2, 2), rates={"head": 0.1}, weight_decay=0.0)


def test_a_network_that_goes_on_after_its_classifier_is_not_saved_as_if_it_did_not() -> None:
    from headstart.errors import SourceError

    network = nn.Linear(4, 4)
    blocks = (Block("only", ("weight", "bias"), ()),)
    source = Source(network, _Plain(), address="test", card=Card("test", input_size=(4, 1, 1)), blocks=blocks)
    with pytest.raises(SourceError, match="more than one linear layer"):
        source.whole(torch.ones(3, 4))
