"""The contract of a Source, held by every family of both libraries."""

from __future__ import annotations

import pytest
import torch
from source_families import images_for
from torch import nn

from headstart.errors import HeadstartError, SettingsError, SourceError
from headstart.sources.base import POOLINGS, Source, evaluating, hash_entries
from headstart.transfer.groups import freeze, parameter_groups
from headstart.transfer.strategy import rates


def test_features_have_the_promised_shapes_and_the_network_gives_the_native_ones(family: Source) -> None:
    images = images_for(family)
    with torch.no_grad():
        features = family.feature_map(images)
        assert features.ndim in (3, 4)
        assert len(features) == 2
        channels = features.shape[1] if features.ndim == 4 else features.shape[2]
        for pooling in POOLINGS:
            rows = family(images, pooling)
            assert rows.shape == (2, family.width(pooling))
            assert torch.isfinite(rows).all()
            assert torch.equal(rows, family.pooled(features, pooling))
        assert family.width("avg") == channels
        assert family.width("avgmax") == 2 * channels
        assert family.width("flatten") == features[0].numel()
        assert torch.allclose(family.network(images).flatten(1), family(images), atol=1e-6)
    assert family.card.num_features == family.width("native")


def test_pictures_of_another_size_give_as_many_features_or_are_refused(family: Source) -> None:
    card = family.card
    side = 2 * card.input_size[1]
    if family.library.one_size:
        with pytest.raises(SourceError, match=f"does not take pictures of {side} pixels"):
            family.sized(side)
        return
    other = family.sized(side)
    assert other.card.input_size == (card.input_size[0], side, side)
    with torch.no_grad():
        assert other(images_for(other)).shape == (2, family.width("native"))
    assert all(a is b for a, b in zip(other.parameters(), family.parameters(), strict=True))
    assert family.card == card
    assert family.sized(card.input_size[1]) is family


def test_an_average_leaves_out_the_tokens_that_stand_for_no_patch(family: Source) -> None:
    features = torch.randn(1, 5, 3)
    prefix = family.library.prefix_tokens
    assert torch.allclose(family.pooled(features, "avg"), features[:, prefix:].mean(1), atol=1e-6)
    assert torch.equal(family.pooled(features, "avgmax")[:, 3:], features[:, prefix:].amax(1))


def test_blocks_divide_the_state_and_the_leaf_modules_without_rest(family: Source) -> None:
    entries = [entry for block in family.blocks for entry in block.entries]
    assert sorted(entries) == sorted(family.network.state_dict())
    leaves = [n for n, m in family.network.named_modules() if n and not list(m.children())]
    assert sorted(name for block in family.blocks for name in block.modules) == sorted(leaves)
    names = [block.name for block in family.blocks]
    assert len(set(names)) == len(names) > 2
    assert not {"input", "head"} & set(names)
    assert sum(block.parameters for block in family.blocks) == sum(p.numel() for p in family.network.parameters())


def test_blocks_stand_in_the_order_in_which_the_network_runs_them(family: Source) -> None:
    ran: list[str] = []
    for name, module in family.network.named_modules():
        if any(True for _ in module.parameters(recurse=False)) and not list(module.children()):
            module.register_forward_pre_hook(lambda *_, name=name: ran.append(name))  # type: ignore[misc]
    with torch.no_grad():
        family(images_for(family))
    block_of = {name: index for index, block in enumerate(family.blocks) for name in block.modules}
    order = [block_of[name] for name in ran]
    assert order == sorted(order)


def test_a_new_head_of_any_size_gives_the_same_logits_inside_the_whole_network(family: Source) -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(7, family.width("native"), generator=generator) / family.width("native") ** 0.5
    bias = torch.randn(7, generator=generator)
    model = family.whole(weight, bias)
    assert not any(module.training for module in model.modules())
    images = images_for(family, 3, seed=5)
    with torch.no_grad():
        wanted = family(images) @ weight.T + bias
        assert torch.allclose(model(images), wanted, atol=1e-5 * max(1.0, float(wanted.abs().max())))
        assert torch.allclose(family.whole(weight[:2])(images), family(images) @ weight[:2].T, atol=1e-4)
    with pytest.raises(SourceError, match="does not fit"):
        family.whole(weight[:, 1:], bias)


def test_what_is_frozen_does_not_move_and_what_is_trained_does(family: Source) -> None:
    index = len(family.blocks) // 2
    frozen = freeze(family, index)
    head = nn.Linear(family.width("native"), 3)
    before = {name: value.clone() for name, value in family.network.state_dict().items()}
    groups = parameter_groups(
        family, head, rates=rates(family.blocks, index, backbone_lr=0.01, head_lr=0.1), weight_decay=0.01
    )
    optimizer = torch.optim.SGD(groups)
    with frozen:
        for step in range(2):
            loss = head(family(images_for(family, 4, seed=step))).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    after = family.network.state_dict()
    assert all(torch.equal(before[entry], after[entry]) for entry in frozen.entries)
    assert len(frozen.entries) == sum(len(block.entries) for block in family.blocks[:index])
    for block in family.blocks[index:]:
        entries = [entry for entry in block.entries if "index" not in entry]
        assert any(not torch.equal(before[entry], after[entry]) for entry in entries), block.name
    assert frozen.hashes() == frozen.before
    assert all(p.grad is None for n, p in family.network.named_parameters() if n in frozen.entries)


def test_a_frozen_source_draws_no_random_numbers_below_the_cut(family: Source) -> None:
    freeze(family, len(family.blocks)).train_mode()
    assert not any(module.training for module in family.modules())
    images = images_for(family)
    assert torch.equal(family(images), family(images))
    assert not family(images).requires_grad


def test_fresh_weights_are_drawn_from_the_seed_alone(family: Source) -> None:
    torch.manual_seed(1)
    stream = torch.get_rng_state()
    one = family.fresh(4)
    assert torch.equal(torch.get_rng_state(), stream)
    torch.rand(5)
    again, other = family.fresh(4), family.fresh(5)
    assert one.sha256() == again.sha256() == one.card.sha256
    assert len({one.sha256(), other.sha256(), family.sha256()}) == 3
    assert one.blocks == family.blocks
    assert one.card.preprocessing == family.card.preprocessing


def test_a_copy_is_independent(family: Source) -> None:
    kept = family.sha256()
    twin = family.copy()
    with torch.no_grad():
        next(twin.network.parameters()).add_(1.0)
    assert family.sha256() == kept != twin.sha256()


def test_the_hash_below_a_cut_changes_with_the_entries_below_it_alone(family: Source) -> None:
    cuts = ["input", *(block.name for block in family.blocks[1:]), "head"]
    before = [family.hash_below(cut) for cut in cuts]
    assert len(set(before)) == len(before)
    changed = len(family.blocks) // 2
    with torch.no_grad():
        family.network.state_dict()[family.blocks[changed].entries[0]].add_(1)
    after = [family.hash_below(cut) for cut in cuts]
    assert [a == b for a, b in zip(before, after, strict=True)] == [i <= changed for i in range(len(cuts))]
    with pytest.raises(SettingsError, match="unknown cut"):
        family.hash_below("nowhere")


def test_the_mode_of_every_module_is_as_it_was_after_evaluating(family: Source) -> None:
    family.train()
    family.blocks  # noqa: B018
    next(iter(family.network.children())).eval()
    before = [module.training for module in family.modules()]
    with evaluating(family):
        assert not any(module.training for module in family.modules())
    assert [module.training for module in family.modules()] == before
    family._widths.clear()
    family.width("avg")
    family.whole_architecture  # noqa: B018
    assert [module.training for module in family.modules()] == before


def test_frozen_says_what_has_moved(family: Source) -> None:
    frozen = freeze(family, 1)
    entry = family.blocks[0].entries[0]
    with torch.no_grad():
        family.network.state_dict()[entry].add_(1)
    with pytest.raises(HeadstartError, match=entry.replace(".", r"\.")):
        frozen.check()


def test_the_hash_of_entries_sees_names_types_and_shapes() -> None:
    tensor = torch.arange(6, dtype=torch.float32)
    seen = {
        hash_entries({"a": tensor}, ["a"]),
        hash_entries({"b": tensor}, ["b"]),
        hash_entries({"a": tensor.reshape(2, 3)}, ["a"]),
        hash_entries({"a": tensor.view(torch.int32)}, ["a"]),
        hash_entries({"a": tensor}, ["a"], header={"pad": "same"}),
        hash_entries({}, []),
    }
    assert len(seen) == 6


def test_an_unknown_pooling_is_refused_with_the_known_ones() -> None:
    from headstart.sources import open_source

    with pytest.raises(SettingsError, match="Did you mean avg"):
        open_source("toy")(torch.zeros(1, 3, 32, 32), "avgg")
