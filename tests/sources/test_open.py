"""Addresses: what opens, what is refused, and in which words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from source_families import images_for

from headstart.errors import SourceError
from headstart.sources import build_whole, known, open_source
from headstart.sources.base import Source


def save_folder(folder: Path, model: torch.nn.Module, architecture: str, **config: Any) -> Path:
    """A folder as timm writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": architecture, **config}))
    return folder


def write_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a tiny network of three classes."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3)
    facts = {"input_size": [3, 64, 64], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "interpolation": "bilinear"}
    facts |= {"crop_pct": 0.9, "crop_mode": "squash", "license": "cc0", "num_classes": 3, "classifier": "fc"}
    return save_folder(
        tmp_path / "net", model, "test_resnet", num_classes=3, label_names=["a", "b", "c"], pretrained_cfg=facts
    )


# --- folders ------------------------------------------------------------------------------------------------


def test_the_card_of_a_folder_is_what_its_config_says(folder: Path) -> None:
    card = open_source(str(folder)).card
    assert card.architecture == "test_resnet"
    assert card.input_size == (3, 64, 64)
    assert (card.mean, card.std) == ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    assert (card.interpolation, card.crop_pct, card.crop_mode) == ("bilinear", 0.9, "squash")
    assert (card.classes, card.licence, card.origin, card.num_features) == (("a", "b", "c"), "cc0", "net", 96)


def test_a_folder_gives_the_features_that_timm_gives(folder: Path) -> None:
    source = open_source(str(folder))
    reference = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    images = images_for(source)
    with torch.no_grad():
        assert torch.equal(source(images), reference(images))
    assert not source.training


def test_the_old_form_of_config_without_pretrained_cfg_opens_too(folder: Path) -> None:
    facts = json.loads((folder / "config.json").read_text())
    flat = {**facts["pretrained_cfg"], "architecture": "test_resnet", "labels": ["x", "y", "z"], "num_features": 96}
    (folder / "config.json").write_text(json.dumps(flat))
    card = open_source(str(folder)).card
    assert (card.classes, card.input_size, card.licence) == (("x", "y", "z"), (3, 64, 64), "cc0")


def test_real_networks_open_as_they_are(shared: Path) -> None:
    headless = open_source(str(shared / "sources" / "mobilenetv2_035.keras_in1k"))
    assert headless.card.model_args == {"pad_type": "same", "bn_eps": 1e-3}
    assert headless.card.mean == (0.5, 0.5, 0.5)
    assert headless.card.num_features == 1280
    assert all(m.eps == 1e-3 for m in headless.network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    halves = open_source(str(shared / "sources" / "mobilenetv1_100.google_qat_in1k"))
    assert {p.dtype for p in halves.network.parameters()} == {torch.float32}
    stored = load_file(shared / "sources" / "mobilenetv1_100.google_qat_in1k" / "model.safetensors")
    assert torch.equal(halves.network.state_dict()["conv_stem.weight"], stored["conv_stem.weight"].float())
    sounds = open_source(str(shared / "sources" / "mobilenetv1_100.yamnet_audioset"))
    assert sounds.card.input_size == (1, 96, 64)
    assert sounds.width("native") == 1024


def test_padding_and_epsilon_are_part_of_the_hash_of_the_features(shared: Path, tmp_path: Path) -> None:
    original = shared / "sources" / "mobilenetv2_035.keras_in1k"
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(original / name, other / name)
    write_config(other, model_args={"bn_eps": 1e-3})
    one, two = open_source(str(original)), open_source(str(other))
    assert one.sha256() == two.sha256()
    assert one.hash_below("head") != two.hash_below("head")


def test_a_saved_transfer_is_the_source_of_the_next_one(tmp_path: Path) -> None:
    toy = open_source("toy")
    model = toy.whole(torch.randn(2, 64), torch.zeros(2))
    save_folder(
        tmp_path / "run" / "model",
        model,
        toy.whole_architecture,
        num_classes=2,
        label_names=["ant", "bee"],
        model_args=toy.whole_model_args,
        pretrained_cfg={"input_size": [3, 32, 32], "num_classes": 2},
    )
    again = open_source(str(tmp_path / "run"))  # the run folder leads to its model
    assert again.card.classes == ("ant", "bee")
    assert again.sha256() == toy.sha256()
    assert [block.name for block in again.blocks] == [block.name for block in toy.blocks]
    opened = timm.create_model(f"local-dir:{tmp_path / 'run' / 'model'}", pretrained=True).eval()
    images = images_for(toy)
    with torch.no_grad():
        assert torch.allclose(opened(images), model(images), atol=1e-6)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda f: (f / "config.json").write_text("[]"), "not an object"),
        (lambda f: (f / "config.json").write_text("{}"), "names no timm architecture"),
        (lambda f: write_config(f, architecture="test_resnat"), "Did you mean test_resnet"),
        (lambda f: write_config(f, model_args={"colour": 3}), "cannot be built .*colour"),
        (lambda f: (f / "model.safetensors").unlink(), "holds no weights"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 100), "cannot be read"),
        (lambda f: write_config(f, architecture="test_vit"), "do not fit the architecture"),
    ],
)
def test_a_damaged_folder_is_named_in_one_line(folder: Path, spoil: Any, message: str) -> None:
    spoil(folder)
    with pytest.raises(SourceError, match=message) as caught:
        open_source(str(folder))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


# --- weights files ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(7)
    return timm.create_model("test_resnet", num_classes=11).eval()


def same(source: Source, network: torch.nn.Module) -> bool:
    wanted = network.state_dict()
    return all(torch.equal(value, wanted[name]) for name, value in source.network.state_dict().items())


@pytest.mark.parametrize(
    "nest",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {"model_state": {f"module.{k}": v for k, v in state.items()}},
        lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
    ],
)
@pytest.mark.parametrize("name", ["timm:test_resnet", "random:test_resnet", "timm:test_resnet.r160_in1k"])
def test_a_weights_file_opens_in_every_common_nesting(
    network: torch.nn.Module, tmp_path: Path, nest: Any, name: str
) -> None:
    torch.save(nest(network.state_dict()), tmp_path / "w.pth")
    source = open_source(name, weights=str(tmp_path / "w.pth"))
    assert same(source, network)
    assert (source.address, source.card.origin) == (name, "w.pth")


def test_safetensors_in_half_precision_load_into_single(network: torch.nn.Module, tmp_path: Path) -> None:
    save_file({k: v.half() if v.ndim > 1 else v for k, v in network.state_dict().items()}, tmp_path / "w.safetensors")
    source = open_source("timm:test_resnet", weights=str(tmp_path / "w.safetensors"))
    assert {v.dtype for v in source.network.parameters()} == {torch.float32}
    assert torch.equal(source.network.conv1[0].weight, network.conv1[0].weight.half().float())  # type: ignore[index,union-attr]


def test_weights_also_replace_those_of_a_folder(network: torch.nn.Module, folder: Path, tmp_path: Path) -> None:
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    source = open_source(str(folder), weights=str(tmp_path / "w.safetensors"))
    assert same(source, network)
    assert source.card.mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {k: v for k, v in s.items() if "layer3" not in k}, r"missing layer3\.0\.conv1\.weight, .* more"),
        (lambda s: {**s, "extra.weight": torch.ones(1)}, r"unexpected extra\.weight"),
        (lambda s: {**s, "layer1.0.conv1.weight": torch.ones(1)}, r"wrong shape layer1\.0\.conv1\.weight \(1,\)"),
        (lambda s: {**s, "bn1.weight": torch.full_like(s["bn1.weight"], torch.nan)}, r"NaN .* bn1\.weight"),
        (lambda s: {"epoch": 3}, "holds no state dict"),
        (lambda s: [1, 2], "holds no state dict"),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_names(
    network: torch.nn.Module, tmp_path: Path, change: Any, message: str
) -> None:
    torch.save(change(dict(network.state_dict())), tmp_path / "w.pth")
    with pytest.raises(SourceError, match=message):
        open_source("timm:test_resnet", weights=str(tmp_path / "w.pth"))


class _Trap:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".pt", ".safetensors"])
def test_a_file_with_code_in_it_is_refused_and_nothing_runs(tmp_path: Path, suffix: str) -> None:
    marker, file = tmp_path / "marker", tmp_path / f"w{suffix}"
    torch.save({"state_dict": _Trap(marker)}, file)
    with pytest.raises(SourceError, match="cannot be read"):
        open_source("timm:test_resnet", weights=str(file))
    assert not marker.exists()
    with pytest.raises(SourceError, match="does not exist"):
        open_source("timm:test_resnet", weights=str(tmp_path / "none.pth"))


def test_torchvision_files_of_a_vgg_are_translated_by_timm_itself(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("vgg11", num_classes=0, mlp_ratio=1 / 256)
    names = {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3"}
    state = {}
    for name, value in model.state_dict().items():
        for new, old in names.items():
            name = name.replace(new, old)
        state[name] = value.flatten(1) if name.startswith("classifier") and value.ndim > 1 else value
    from headstart.sources._timm import load_backbone, recipe_of

    recipe = recipe_of("vgg11").with_arguments({"mlp_ratio": 1 / 256})
    twin = recipe.build()
    state["classifier.6.weight"], state["classifier.6.bias"] = torch.ones(5, 4096), torch.ones(5)
    state["classifier.3.weight"] = state["classifier.3.weight"].repeat(1, 256)[:, :4096]
    with pytest.raises(SourceError, match=r"wrong shape pre_logits\.fc2\.weight"):
        load_backbone(twin, recipe, state, where="test")


def test_position_embeddings_are_resampled_for_another_image_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_vit")
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    small = open_source("timm:test_vit", weights=str(tmp_path / "w.safetensors"), image_size=64)
    assert small.card.input_size == (3, 64, 64)
    assert small.network.pos_embed.shape == (1, 17, 64)  # type: ignore[union-attr]
    assert torch.equal(small.network.blocks[0].norm1.weight, model.blocks[0].norm1.weight)  # type: ignore[index,union-attr]
    assert small.card.model_args["img_size"] == [64, 64]
    assert small.feature_map(images_for(small)).shape == (2, 17, 64)


# --- names --------------------------------------------------------------------------------------------------


def test_random_weights_come_from_the_seed() -> None:
    one, again, other = (open_source("random:test_resnet", seed=s) for s in (3, 3, 4))
    assert one.sha256() == again.sha256() != other.sha256()
    assert one.card.input_size == (3, 160, 160)
    assert one.card.origin == "random weights, seed 3"
    assert open_source("random:test_resnet", image_size=48).card.input_size == (3, 48, 48)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("timm:resnat18", ["Did you mean resnet18"]),
        ("random:resnat18", ["Did you mean resnet18"]),
        ("timm:resnet18.a1_in1", ["no network named 'resnet18.a1_in1'", "resnet18.a1_in1k"]),
        ("timm:", ["Write timm:NAME"]),
        ("tim:resnet18", ["Did you mean timm"]),
        ("resnet18", ["Write timm:resnet18"]),
        ("/no/such/folder", ["neither a folder nor", "timm:NAME", "toy"]),
        ("", ["neither a folder nor"]),
        ("toy:5", ["one toy"]),
        ("timm:vgg11", ["not in the cache", "local folder", "--weights", "random:vgg11", "headstart sources"]),
        ("timm:hf-hub:someone/something", ["not in the cache", "someone/something", "local folder", "--weights"]),
        ("timm:someone/something@main", ["not in the cache"]),
        ("timm:resnetv2_50d", ["publishes no weights", "random:resnetv2_50d"]),
        ("torchvision:resnat18", ["Did you mean resnet18"]),
        ("torchvision:resnet18.V9", ["no weights 'V9'", "IMAGENET1K_V1"]),
        ("torchvision:squeezenet1_0", ["knows no torchvision network"]),
    ],
)
def test_an_address_that_leads_nowhere_says_where_to_go(
    address: str, words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(SourceError) as caught:
        open_source(address)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_an_image_size_below_one_is_refused() -> None:
    with pytest.raises(SourceError, match="at least 1 pixel"):
        open_source("toy", image_size=0)


def test_known_finds_names_by_part_and_by_pattern() -> None:
    assert "timm:resnet18.a1_in1k" in known("resnet18")
    assert known("timm:mobilenetv2_035*") == known("mobilenetv2_035*")
    assert known("no such network") == []


def test_networks_are_built_whole_by_the_names_they_are_saved_under() -> None:
    assert build_whole("test_resnet", 4)(torch.zeros(1, 3, 64, 64)).shape == (1, 4)
    assert build_whole("torchvision/shufflenet_v2_x0_5", 4).fc.out_features == 4  # type: ignore[union-attr]
    with pytest.raises(SourceError):
        build_whole("torchvision/nothing", 4)
    with pytest.raises(SourceError):
        build_whole("nothing", 4)


def test_a_network_with_several_feature_maps_is_refused() -> None:
    with pytest.raises(SourceError, match="several feature maps"):
        open_source("random:crossvit_9_240")


def test_a_network_without_groups_is_cut_at_its_children() -> None:
    from headstart.sources.blocks import blocks_by_children

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))
            self.input = torch.nn.Linear(2, 2)
            self.relu = torch.nn.ReLU()
            self.body = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout())
            self.head = torch.nn.BatchNorm1d(2)

    blocks = blocks_by_children(Network())
    assert [block.name for block in blocks] == ["input_block", "body", "head_block"]
    assert blocks[0].entries == ("scale", "input.weight", "input.bias")
    assert [block.modules for block in blocks] == [("input", "relu"), ("body.0", "body.1"), ("head",)]


def test_a_layer_that_cannot_hold_a_classifier_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = open_source("toy")
    for layer in (torch.nn.Identity(), torch.nn.Linear(64, 3, bias=False), torch.nn.Conv2d(64, 3, 3)):
        monkeypatch.setattr(toy.library, "whole", lambda network, n, layer=layer: (torch.nn.Identity(), (layer,)))
        with pytest.raises(SourceError, match="cannot hold a linear classifier"):
            toy.whole(torch.ones(3, 64), torch.ones(3))


def test_the_image_size_in_the_arguments_of_a_folder_is_the_cards(tmp_path: Path) -> None:
    model = timm.create_model("test_vit", img_size=64, num_classes=2)
    save_folder(
        tmp_path / "vit", model, "test_vit", model_args={"img_size": 64}, pretrained_cfg={"input_size": [3, 160, 160]}
    )
    assert open_source(str(tmp_path / "vit")).card.input_size == (3, 64, 64)
