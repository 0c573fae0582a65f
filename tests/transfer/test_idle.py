"""What a pooling leaves aside is neither trained, counted nor kept for going on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import headstart
from headstart.sources import open_source
from headstart.sources.base import Source
from headstart.transfer.checkpoint import load_latest
from headstart.transfer.groups import freeze, idle_blocks
from toydata import write_shapes

SMALL = "random:mobilenetv3_small_050"


@pytest.fixture(scope="module")
def source() -> Source:
    return open_source(SMALL, image_size=32)


def test_the_layer_after_the_pooling_is_idle_unless_the_pooling_is_the_networks_own(source: Source) -> None:
    idle = idle_blocks(source, "avg")
    assert idle == (source.blocks[-1],)
    assert any("conv_head" in entry for entry in idle[0].entries)
    assert idle_blocks(source, "native") == ()


@pytest.mark.parametrize("pooling", ["native", "avg", "avgmax", "flatten"])
def test_every_parameter_that_is_trained_gets_a_gradient(source: Source, pooling: str) -> None:
    network = source.copy()
    frozen = freeze(network, 3, pooling=pooling)
    network(torch.randn(2, 3, 32, 32), pooling).square().sum().backward()
    for name, parameter in network.network.named_parameters():
        assert parameter.requires_grad == (name not in frozen.entries), name
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_a_run_counts_and_keeps_only_what_it_trains(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", splits={"train": 8, "test": 3})
    options = {"source": SMALL, "image_size": 32, "strategy": "partial", "train_last": 2, "epochs": 1}
    run = headstart.fit(data, tmp_path / "run", pooling="avg", **options).run
    blocks = {block.name: block for block in open_source(SMALL).blocks}
    last = list(blocks)[-1]
    assert last in run["frozen"]["blocks"]
    assert last not in run["plan"]["rates"]
    assert run["frozen"]["unchanged"]
    trained = [name for name in blocks if name not in run["frozen"]["blocks"]]
    assert trained == list(blocks)[-3:-1], "the last two that do something"
    head = 3 * (open_source(SMALL, image_size=32).width("avg") + 1)
    assert run["plan"]["trained_parameters"] == sum(blocks[name].parameters for name in trained) + head
    kept = load_latest(tmp_path / "run" / "checkpoints")
    assert kept is not None
    assert not [name for name in kept[0] if "conv_head" in name]
