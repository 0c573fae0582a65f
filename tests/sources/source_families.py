"""Small networks of every family, for the contract that each source must keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from headstart.records import Card
from headstart.sources import _torchvision
from headstart.sources._timm import Recipe, recipe_of, source_of
from headstart.sources.base import Source, seeded


def lively(network: nn.Module) -> nn.Module:
    """Give BatchNorm statistics and all scales values that a mistake would show."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, mean, spread in ((module.running_mean, 0.0, 0.3), (module.weight, 1.0, 0.2)):
                assert values is not None
                nn.init.normal_(values, mean, spread)
            assert module.running_var is not None
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network


def timm_source(name: str, image_size: int, **model_args: Any) -> Source:
    recipe: Recipe = recipe_of(name).with_arguments(model_args).sized(image_size)
    with seeded(1):
        network = lively(recipe.build())
    return source_of(recipe, network, address=f"random:{name}", origin="test").eval()


def torchvision_source(name: str, image_size: int) -> Source:
    card = Card(f"torchvision/{name}", input_size=(3, image_size, image_size))
    library = _torchvision.TorchvisionLibrary(name, card)
    with seeded(1):
        network = lively(library.build())
    blocks = _torchvision._blocks(network, library.family)
    return Source(network, library, address=f"torchvision:{name}", card=card, blocks=blocks).eval()


TIMM: dict[str, tuple[int, dict[str, Any]]] = {
    "test_resnet": (64, {}),
    "vgg11_bn": (32, {"mlp_ratio": 1 / 64}),
    "mobilenetv2_035": (32, {"pad_type": "same", "bn_eps": 1e-3}),
    "mobilenetv3_small_050": (64, {}),
    "inception_v3": (75, {}),
    "test_convnext": (64, {}),
    "test_efficientnet": (64, {}),
    "test_vit": (64, {}),
    "test_vit2": (64, {}),
    "deit_tiny_distilled_patch16_224": (32, {"depth": 2, "embed_dim": 48, "num_heads": 3}),
    "vit_base_patch32_clip_224": (32, {"depth": 2, "embed_dim": 48, "num_heads": 3, "patch_size": 8}),
    "swin_tiny_patch4_window7_224": (
        56,
        {"embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 2], "window_size": 7},
    ),
    "regnetx_002": (32, {}),
    "densenet121": (32, {"block_config": [1, 1, 1, 1], "growth_rate": 8}),
}
TORCHVISION = {
    "resnet18": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "shufflenet_v2_x0_5": 32,
    "googlenet": 32,
    "regnet_y_400mf": 32,
}
BUILDERS: dict[str, Callable[[], Source]] = {
    **{f"timm:{n}": (lambda n=n, s=s, a=a: timm_source(n, s, **a)) for n, (s, a) in TIMM.items()},  # type: ignore[misc]
    **{f"torchvision:{n}": (lambda n=n, s=s: torchvision_source(n, s)) for n, s in TORCHVISION.items()},  # type: ignore[misc]
}


def images_for(source: Source, n: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, *source.card.input_size, generator=torch.Generator().manual_seed(seed))
