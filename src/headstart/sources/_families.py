"""How torchvision's networks run, one row a family: the way to the features, the last layer, blocks, timm's twin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["FAMILIES", "Family"]

_INCEPTION = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2"),
    *(f"Mixed_{name}" for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")),
)
_GOOGLENET = (
    *("conv1", "maxpool1", "conv2", "conv3", "maxpool2", "inception3a", "inception3b", "maxpool3"),
    *(f"inception4{letter}" for letter in "abcde"),
    *("maxpool4", "inception5a", "inception5b"),
)


@dataclass(frozen=True)
class Family:
    """How the networks of a family run: modules in order ("=..." is a function), from image to map to features."""

    pattern: str  # of the architecture's name
    body: tuple[str, ...]  # image → feature map
    neck: tuple[str, ...]  # feature map → native features (the last layer is an Identity)
    classifier: str  # the last layer, the only one that a transfer replaces
    blocks: tuple[
        tuple[str, str], ...
    ] = ()  # (regular expression, block name); empty: each convolution or linear layer
    timm: tuple[tuple[str, str, Mapping[str, Any]], ...] = ()  # (name, timm's name, arguments) of equal networks
    arguments: tuple[tuple[str, Any], ...] = ()
    aside: tuple[str, ...] = ()  # modules in published files that only training used
    prefix_tokens: int = 0


_NUMBERED = ((r"(features\.\d+)", r"\1"), (r"(classifier\.\d+)\.", r"\1"))
_POOL = ("avgpool", "=flatten")
_SAME: Mapping[str, Any] = {}
_EPS: Mapping[str, Any] = {"bn_eps": 1e-3}

FAMILIES = (
    Family(
        r"(wide_)?resne[x]?t\d+",
        ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"),
        (*_POOL, "fc"),
        "fc",
        ((r"(conv1|bn1)\.", "stem"), (r"(layer\d+)", r"\1")),
        ((r"(.*)", r"\1", _SAME),),
    ),
    Family(r"vgg\d+", ("features",), (*_POOL, "classifier"), "classifier.6", timm=((r"(.*)", r"\1", _SAME),)),
    Family(r"alexnet", ("features",), (*_POOL, "classifier"), "classifier.6"),
    Family(
        r"mobilenet_v2",
        ("features",),
        ("=pool", "=flatten", "classifier"),
        "classifier.1",
        _NUMBERED,
        ((r".*", "mobilenetv2_100", _SAME),),
    ),
    Family(
        r"mobilenet_v3",
        ("features",),
        (*_POOL, "classifier"),
        "classifier.3",
        _NUMBERED,
        ((r"mobilenet_v3_(.*)", r"mobilenetv3_\1_100", _EPS),),
    ),
    Family(
        r"efficientnet",
        ("features",),
        (*_POOL, "classifier"),
        "classifier.1",
        _NUMBERED,
        (
            (r"efficientnet_(b[0-4])", r"efficientnet_\1", _SAME),
            (r"efficientnet_(b[5-7])", r"efficientnet_\1", _EPS),
            (r"efficientnet_v2_(.*)", r"efficientnetv2_\1", _EPS),
        ),
    ),
    Family(
        r"convnext",
        ("features",),
        ("avgpool", "classifier"),
        "classifier.2",
        _NUMBERED,
        ((r"(.*)", r"\1", _SAME),),
    ),
    Family(
        r"densenet",
        ("features", "=relu"),
        ("=pool", "=flatten", "classifier"),
        "classifier",
        (
            (r"features\.(?:conv0|norm0)", "stem"),
            (r"features\.((?:denseblock|transition)\d+)", r"\1"),
            (r"features\.(norm5)", r"\1"),
        ),
        ((r"(.*)", r"\1", _SAME),),
    ),
    Family(
        r"inception_v3",
        _INCEPTION,
        ("avgpool", "dropout", "=flatten", "fc"),
        "fc",
        ((r"((?:Conv2d|Mixed)_\w+)", r"\1"),),
        ((r"(.*)", r"\1", _SAME),),
        (("aux_logits", False), ("transform_input", False), ("init_weights", True)),
        ("AuxLogits",),
    ),
    Family(
        r"googlenet",
        _GOOGLENET,
        ("avgpool", "=flatten", "dropout", "fc"),
        "fc",
        ((r"(conv\d)", r"\1"), (r"(inception\w+)", r"\1")),
        arguments=(("aux_logits", False), ("transform_input", False), ("init_weights", True)),
        aside=("aux1", "aux2"),
    ),
    Family(
        r"vit_",
        ("=tokens", "encoder"),
        ("=first", "heads"),
        "heads.head",
        (
            (r"class_token|conv_proj|encoder\.(?:pos_embedding|dropout)", "stem"),
            (r"(encoder\.layers)\.encoder_layer_(\d+)", r"\1.\2"),
            (r"(encoder\.ln)", r"\1"),
        ),
        (
            (r"vit_b_(\d+)", r"vit_base_patch\1_224", _SAME),
            (r"vit_l_(\d+)", r"vit_large_patch\1_224", _SAME),
        ),
        prefix_tokens=1,
    ),
    Family(
        r"swin_",
        ("features", "norm", "permute"),
        ("avgpool", "flatten", "head"),
        "head",
        ((r"(features\.\d+)", r"\1"), (r"(norm)\.", r"\1")),
    ),
    Family(
        r"regnet_",
        ("stem", "trunk_output"),
        (*_POOL, "fc"),
        "fc",
        ((r"stem", "stem"), (r"trunk_output\.(block\d+)", r"\1")),
    ),
    Family(
        r"shufflenet",
        ("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5"),
        ("=pool", "=flatten", "fc"),
        "fc",
        ((r"conv1", "stem"), (r"(stage\d|conv5)", r"\1")),
    ),
)
