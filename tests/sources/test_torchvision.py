"""torchvision's networks: names, cards, blocks, and saving as timm's where both compute the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from source_families import images_for, lively, torchvision_source
from torch import nn

from headstart.errors import SourceError
from headstart.records import Card
from headstart.sources import _torchvision, build_whole, open_source
from headstart.sources._families import FAMILIES
from headstart.sources._torchvision import architecture_of_file
from headstart.transfer.strategy import cut_index

SMALL = "shufflenet_v2_x0_5"


def weights_of(name: str, file: Path, **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    network = lively(torchvision.models.get_model(name, weights=None, **arguments)).eval()
    torch.save(network.state_dict(), file)
    return network


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("resnet18-f37072fd.pth", "resnet18"),
        ("vgg16_bn-6c64b313.pth", "vgg16_bn"),
        ("vgg16-397923af.pth", "vgg16"),
        ("inception_v3_google-0cc3c7bd.pth", "inception_v3"),
        ("efficientnet_b0_rwightman-7f5810bc.pth", "efficientnet_b0"),
        ("RESNET18.pt", "resnet18"),
        ("resnet180.pth", None),
        ("my_resnet18.pth", None),
        ("squeezenet1_1-b8a52dc0.pth", None),
    ],
)
def test_a_file_is_known_by_the_architecture_its_name_begins_with(file: str, name: str | None) -> None:
    assert architecture_of_file(Path(file)) == name


@pytest.mark.parametrize("how", ["named file", "weights"])
def test_a_local_file_opens_with_the_card_of_the_published_weights(tmp_path: Path, how: str) -> None:
    file = tmp_path / f"{SMALL}-mine.pth"
    network = weights_of(SMALL, file, num_classes=4)
    if how == "weights":
        source = open_source(f"torchvision:{SMALL}", weights=str(file), image_size=64)
    else:
        source = open_source(f"torchvision:{file}", image_size=64)
    assert source.card.architecture == f"torchvision/{SMALL}"
    assert source.card.input_size == (3, 64, 64)
    assert (source.card.mean, source.card.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (source.card.interpolation, source.card.crop_pct) == ("bilinear", 224 / 256)
    assert (source.card.classes, source.card.origin) == ((), file.name)
    images = images_for(source)
    with torch.no_grad():
        assert torch.allclose(network.fc(source(images)), network(images), atol=1e-5)  # type: ignore[operator]


def test_a_file_without_an_architecture_in_its_name_says_what_to_write(tmp_path: Path) -> None:
    (tmp_path / "mine.pth").write_bytes(b"")
    with pytest.raises(SourceError, match=r"begins with no torchvision architecture.*--weights"):
        open_source(f"torchvision:{tmp_path / 'mine.pth'}")


def test_inception_takes_its_own_normalisation_into_the_card_and_drops_what_only_training_used(tmp_path: Path) -> None:
    arguments = {"aux_logits": True, "transform_input": True, "init_weights": False}
    network = weights_of("inception_v3", tmp_path / "inception_v3.pth", **arguments)
    source = open_source(f"torchvision:{tmp_path / 'inception_v3.pth'}", image_size=75)
    assert (source.card.mean, source.card.std) == ((0.5,) * 3, (0.5,) * 3)
    assert not any("Aux" in name for name in source.network.state_dict())
    pixels = torch.rand(1, 3, 75, 75)
    usual = torchvision.transforms.functional.normalize(pixels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.no_grad():
        wanted = network(usual)
        assert torch.allclose(network.fc(source((pixels - 0.5) / 0.5)), wanted, atol=1e-3)  # type: ignore[operator]


def test_old_densenet_files_open_under_the_names_of_today() -> None:
    state = {"features.denseblock1.denselayer1.norm.1.weight": torch.ones(1), "features.norm0.weight": torch.ones(1)}
    names = _torchvision._modern("densenet121", state, Card("torchvision/densenet121"))
    assert list(names) == ["features.denseblock1.denselayer1.norm1.weight", "features.norm0.weight"]


@pytest.fixture
def small_vgg(monkeypatch: pytest.MonkeyPatch) -> None:
    """A VGG 11 with few channels in place of the real one, whose classifier alone holds 120 million numbers."""

    def build(name: str, *, weights: None, num_classes: int) -> nn.Module:
        layers = [4, "M", 4, "M", 8, 8, "M", 8, 8, "M", 8, 8, "M"]
        with torch.device("meta"):
            network = torchvision.models.VGG(nn.Sequential(), init_weights=False)
        network.features = torchvision.models.vgg.make_layers(layers, batch_norm=name.endswith("bn"))
        network.classifier = nn.Sequential(
            *(nn.Linear(8 * 49, 24), nn.ReLU(True), nn.Dropout()),
            *(nn.Linear(24, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, num_classes)),
        )
        return network

    monkeypatch.setattr(torchvision.models, "get_model", build)


def test_a_vgg_is_cut_at_every_layer_and_a_transfer_replaces_classifier_6_alone(small_vgg: None) -> None:
    source = torchvision_source("vgg11", 32)
    convolutions = [f"features.{i}" for i in (0, 3, 6, 8, 11, 13, 16, 18)]
    assert [block.name for block in source.blocks] == [*convolutions, "classifier.0", "classifier.3"]
    assert source.blocks[1].modules == ("features.3", "features.4", "features.5")
    assert source.blocks[-1].modules[:3] == ("classifier.3", "classifier.4", "classifier.5")
    assert source.width("native") == 16
    assert cut_index(source.blocks, cut="features.19") == cut_index(source.blocks, cut="features.18") == 7
    model = source.whole(torch.randn(3, 16))
    assert model.classifier[6].out_features == 3  # type: ignore[index,union-attr]
    changed = {
        n for n, v in model.state_dict().items() if not torch.equal(v, source.network.state_dict().get(n, v + 1))
    }
    assert changed == {"classifier.6.weight", "classifier.6.bias"}
    assert source.whole_architecture == "torchvision/vgg11"


def test_batch_norm_of_a_vgg_belongs_to_its_convolution(small_vgg: None) -> None:
    source = torchvision_source("vgg11_bn", 32)
    assert source.blocks[0].modules == ("features.0", "features.1", "features.2", "features.3")
    assert "features.1.running_mean" in source.blocks[0].entries


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("resnet18", ("resnet18", {})),
        ("mobilenet_v2", ("mobilenetv2_100", {})),
        ("mobilenet_v3_small", ("mobilenetv3_small_100", {"bn_eps": 1e-3})),
        (SMALL, (f"torchvision/{SMALL}", {})),
    ],
)
def test_a_network_that_timm_has_too_is_saved_as_timms(name: str, saved: tuple[str, dict[str, Any]]) -> None:
    source = torchvision_source(name, 32)
    assert (source.whole_architecture, source.whole_model_args) == saved
    weight = torch.randn(3, source.width("native"))
    model = source.whole(weight)
    assert type(model).__module__.startswith(saved[0].split("/")[0] if "/" in saved[0] else "timm.")
    again = build_whole(saved[0], 3, model_args=saved[1])
    again.load_state_dict(model.state_dict())
    images = images_for(source)
    with torch.no_grad():
        assert torch.allclose(again.eval()(images), source(images) @ weight.T, atol=1e-4)


def test_timms_twin_is_refused_where_it_computes_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    source = torchvision_source("mobilenet_v3_small", 32)
    other = {**source.library.family.__dict__, "timm": ((r"mobilenet_v3_small", "mobilenetv3_small_100", {}),)}  # type: ignore[attr-defined]
    source.library.family = type(source.library.family)(**other)  # type: ignore[attr-defined]
    assert source.whole_architecture == "torchvision/mobilenet_v3_small"
    other["timm"] = ((r".*", "resnet18", {}),)
    source = torchvision_source("mobilenet_v3_small", 32)
    source.library.family = type(source.library.family)(**other)  # type: ignore[attr-defined]
    assert source.whole_architecture == "torchvision/mobilenet_v3_small"


def test_a_saved_torchvision_network_opens_as_the_next_source(tmp_path: Path) -> None:
    source = torchvision_source(SMALL, 64)
    model = source.whole(torch.randn(2, 1024))
    config = {"architecture": source.whole_architecture, "num_classes": 2, "label_names": ["a", "b"]}
    config["pretrained_cfg"] = {"input_size": [3, 64, 64], "mean": [0.1, 0.1, 0.1]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    again = open_source(str(tmp_path))
    assert again.sha256() == source.sha256()
    assert (again.card.classes, again.card.mean) == (("a", "b"), (0.1, 0.1, 0.1))


def test_a_vit_takes_another_image_size_with_resampled_positions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def build(name: str, *, weights: None, num_classes: int, image_size: int = 224) -> nn.Module:
        return torchvision.models.VisionTransformer(image_size, 16, 2, 2, 32, 64, num_classes=num_classes)

    monkeypatch.setattr(torchvision.models, "get_model", build)
    weights_of("vit_b_16", tmp_path / "vit_b_16.pth", num_classes=5)
    source = open_source(f"torchvision:{tmp_path / 'vit_b_16.pth'}", image_size=64)
    assert source.network.encoder.pos_embedding.shape == (1, 17, 32)  # type: ignore[union-attr]
    assert [block.name for block in source.blocks] == ["stem", "encoder.layers.0", "encoder.layers.1", "encoder.ln"]
    assert source.blocks[0].entries[:2] == ("class_token", "conv_proj.weight")
    with torch.no_grad():
        tokens = source.feature_map(images_for(source))
        assert tokens.shape == (2, 17, 32)
        assert torch.equal(source.pooled(tokens, "native"), tokens[:, 0])


def test_every_rule_for_a_twin_names_an_architecture_that_timm_has() -> None:
    import re

    for name in torchvision.models.list_models(module=torchvision.models):
        for family in (family for family in FAMILIES if re.match(family.pattern, name)):
            rule = next((rule for rule in family.timm if re.fullmatch(rule[0], name)), None)
            if rule is not None and not name.startswith("resnext101_64x4d"):
                assert timm.is_model(re.sub(f"^{rule[0]}$", rule[1], name)), name


@pytest.mark.slow
def test_the_real_vgg11_is_saved_as_timms() -> None:
    source = torchvision_source("vgg11", 32)
    assert source.width("native") == 4096
    assert source.whole_architecture == "vgg11"
