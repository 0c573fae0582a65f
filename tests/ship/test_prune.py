"""What is cut of a network: whole channels, exactly, by what they are worth, and it opens again as narrow as it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.errors import ModelError, SourceError
from headstart.records import Plan
from headstart.ship.importance import IMPORTANCES, importance, refit
from headstart.ship.model import Model, load
from headstart.ship.prune import Group, choose, costs, cut, find_groups, smaller
from headstart.sources import open_source
from headstart.sources.base import Source
from headstart.transfer.heads import fit_head
from headstart.transfer.net import TransferNet

pytest.importorskip("torch_pruning")

FAMILIES = (
    "mobilenetv2_035",
    "mobilenetv3_small_100",
    "regnety_002",
    "convnext_atto",
    "vit_tiny_patch16_224",
    "ghostnet_050",
)


def _random(name: str) -> Source:
    return open_source(f"random:{name}", image_size=32 if name.startswith("vit") else 64)


def _images(source: Source, n: int = 4) -> torch.Tensor:
    return torch.randn(n, *source.card.input_size, generator=torch.Generator().manual_seed(0))


def _model(source: Source, head: str = "linear") -> Model:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, source.width("native"))).astype(np.float32)
    fitted = fit_head(head, X, np.arange(30) % 3, n_classes=3, seed=0)
    plan = Plan("frozen", "pretrained", "head", head, "native", 0, {})
    return Model(TransferNet(source, fitted.module()), ("a", "b", "c"), head=fitted, plan=plan, facts={})


def _halved(source: Source, groups: list[Group]) -> dict[str, np.ndarray]:
    net = TransferNet(source, torch.nn.Identity())
    scores = importance("magnitude", net, groups, _images(source), seed=0)
    return choose(groups, scores, costs(source, "native"), what="macs", share=0.6)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_of_any_family_is_cut_saved_and_opened_with_the_same_answers(name: str, tmp_path: Path) -> None:
    source = _random(name)
    groups = find_groups(source, "native")
    small, left = smaller(source, groups, _halved(source, groups))
    assert costs(small, "native").total("macs") < 0.85 * costs(source, "native").total("macs")
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in source.parameters())
    assert small.width("native") == len(left.features) == small.card.num_features
    place = _model(small).save(tmp_path / "model")
    again = load(place)
    images = _images(small, 2)
    with torch.inference_mode():
        assert torch.allclose(again.net(images), _model(small).net(images), atol=1e-5)
    assert again.net.source.library.channels == small.library.channels
    assert again.net.source.fresh(1).width("native") == small.width("native")


@pytest.mark.parametrize("name", ["toy", "random:mobilenetv2_035", "random:vit_tiny_patch16_224"])
def test_cutting_channels_gives_what_not_reading_them_gives(name: str) -> None:
    source = open_source(name) if name == "toy" else _random(name.partition(":")[2])
    groups = find_groups(source, "native")
    rng = np.random.default_rng(1)
    kept = {group.name: rng.random(group.n) < 0.6 for group in groups}
    for mask in kept.values():
        mask[0] = True
    unread, narrow = source.copy(), source.copy()
    layers = dict(unread.network.named_modules())
    with torch.no_grad():
        for group in groups:
            for layer, side, gone in group.kept(kept[group.name]):
                if side == "in":
                    layers[layer].weight[:, torch.from_numpy(gone)] = 0
    left = cut(narrow, groups, kept)
    images = _images(source)
    with torch.inference_mode():
        assert torch.allclose(narrow(images), unread(images)[:, left.features], atol=1e-4)


def test_attention_and_what_runs_through_it_keep_their_widths() -> None:
    source = _random("vit_tiny_patch16_224")
    assert {group.name.rpartition(".")[2] for group in find_groups(source, "native")} == {"fc1"}


@given(share=st.floats(0.15, 0.95), what=st.sampled_from(["macs", "parameters"]), seed=st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_what_is_chosen_costs_what_was_counted_and_leaves_every_group_its_floor(
    share: float, what: str, seed: int
) -> None:
    source = open_source("toy")
    groups = find_groups(source, "native")
    rng = np.random.default_rng(seed)
    counted, before = costs(source, "native"), costs(source, "native").total(what)
    kept = choose(groups, {g.name: rng.random(g.n) for g in groups}, counted, what=what, share=share)
    small, _ = smaller(source, groups, kept)
    found = costs(small, "native")
    assert found.total(what) == pytest.approx(counted.total(what))
    assert found.total("parameters") == sum(p.numel() for p in small.parameters())
    assert found.total(what) <= share * before or all(
        kept[g.name].sum() - g.step < g.floor for g in groups
    )  # fmt: skip
    assert all(kept[group.name].sum() >= min(group.n, group.floor) for group in groups)


def test_the_channels_that_are_worth_least_go_first() -> None:
    source = open_source("toy")
    groups = find_groups(source, "native")
    scores = {group.name: np.arange(group.n, dtype=float) for group in groups}
    kept = choose(groups, scores, costs(source, "native"), what="macs", share=0.7)
    assert any(not mask.all() for mask in kept.values())
    assert all(list(mask) == sorted(mask) for mask in kept.values())


@pytest.mark.parametrize("kind", IMPORTANCES)
def test_a_channel_that_nobody_reads_is_worth_nothing_to_taylor_and_less_to_magnitude(kind: str) -> None:
    source = open_source("toy")
    groups = [group for group in find_groups(source, "native") if group.features is None]
    layers = dict(source.network.named_modules())
    group = groups[0]
    with torch.no_grad():
        for name, side, channel, where in group.places:
            if side == "in":
                layers[name].weight[:, where[channel == 3]] = 0
    net = TransferNet(source, torch.nn.Linear(64, 3))
    first, second = (importance(kind, net, groups, _images(source), seed=0)[group.name] for _ in range(2))
    assert np.array_equal(first, second)
    assert first[3] == 0 if kind == "taylor" else first[3] < np.median(first)
    assert (first > 0).sum() > 0.8 * group.n


def test_fitting_what_is_left_brings_the_features_nearer_to_what_they_were() -> None:
    source = open_source("toy")
    groups = find_groups(source, "native")
    hidden = [group for group in groups if group.features is None]
    kept = choose(
        hidden, importance("magnitude", TransferNet(source, torch.nn.Identity()), hidden, _images(source), seed=0),
        costs(source, "native"), what="macs", share=0.6,
    )  # fmt: skip
    images, others = _images(source, 64), torch.randn(64, *source.card.input_size)
    apart = []
    for fitted in (False, True):
        small, left = smaller(source, hidden, kept)
        if fitted:
            refit(small, source, left, images, pooling="native")
        with torch.inference_mode():
            apart.append(float((small(others) - source(others)).square().mean()))
    assert apart[1] < 0.7 * apart[0]


def test_a_pruned_folder_opens_where_torch_pruning_is_not_installed(tmp_path: Path) -> None:
    source = open_source("toy")
    groups = find_groups(source, "native")
    small, _ = smaller(source, groups, _halved(source, groups))
    place = _model(small).save(tmp_path / "model")
    code = (
        "import sys; sys.modules['torch_pruning'] = None\n"
        "import numpy as np, headstart\n"
        f"model = headstart.load({str(place)!r})\n"
        "print(model.predict(np.zeros((32, 32, 3), np.uint8))[0].label)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert told.stdout.strip() in ("a", "b", "c"), told.stderr[-500:]


def test_a_head_of_another_kind_stands_beside_the_narrow_network(tmp_path: Path) -> None:
    source = open_source("toy")
    groups = find_groups(source, "native")
    small, _ = smaller(source, groups, _halved(source, groups))
    again = load(_model(small, "knn").save(tmp_path / "model"))
    assert again.head.kind == "knn"
    assert again.card.num_features == small.width("native")


def test_a_network_that_was_cut_is_cut_again() -> None:
    source = open_source("toy")
    for _ in range(2):
        groups = find_groups(source, "native")
        before = costs(source, "native").total("macs")
        source, _ = smaller(source, groups, _halved(source, groups))
        assert costs(source, "native").total("macs") < 0.65 * before


@pytest.mark.parametrize("change", [{"layers": 3}, {"layers": {"nowhere": {"out": 1}}}])
def test_a_folder_with_a_channel_plan_that_does_not_fit_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    source = open_source("toy")
    groups = find_groups(source, "native")
    small, _ = smaller(source, groups, _halved(source, groups))
    place = _model(small).save(tmp_path / "model")
    config = json.loads((place / "config.json").read_text())
    config["channels"] |= change
    (place / "config.json").write_text(json.dumps(config))
    with pytest.raises(SourceError):
        open_source(str(place))
    with pytest.raises(ModelError, match="not as it was saved"):
        load(place)


def test_a_network_without_anything_to_cut_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.ship.prune._same", lambda *_: False)
    with pytest.raises(SourceError, match="nothing in resnet18 can be cut"):
        find_groups(open_source("toy"), "native")


def test_a_group_whose_channels_cannot_be_taken_away_exactly_is_left_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from headstart.ship import prune

    real = prune._same
    monkeypatch.setattr(prune, "_same", lambda s, p, g: "conv1" not in {one.name for one in g} and real(s, p, g))
    names = {group.name for group in find_groups(open_source("toy"), "native")}
    assert names
    assert "conv1" not in names


def test_features_that_a_pooling_lays_out_otherwise_are_never_cut() -> None:
    groups = find_groups(open_source("toy"), "flatten")
    assert groups
    assert all(group.features is None for group in groups)
