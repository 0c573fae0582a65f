"""Every engine computes the rows of every family, or is left out with its reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from source_families import BUILDERS
from torch import Tensor, nn

from headstart.sources.base import Source
from headstart.transfer._runner_trial import TOLERANCE, Trial

torch.set_num_threads(1)
UNEXPORTABLE = {"timm:vgg11_bn": "adaptive_avg_pool2d"}  # at this small size its pooling enlarges the map


class Features(nn.Module):
    """A source as what lies below the cut."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.source = source

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images to native features."""
        return self.source(images)


@pytest.mark.parametrize(("name", "build"), BUILDERS.items(), ids=BUILDERS)
def test_engines_agree_with_torch_or_say_why_not(name: str, build: Callable[[], Source]) -> None:
    source = build()
    images = torch.randint(0, 256, (2, *source.card.input_size), dtype=torch.uint8)
    trial = Trial(Features(source), source.card, images, device="cpu", precision="fp32", threads=1)
    with torch.no_grad():
        trial.look()
        for engine in ("openvino", "onnxruntime"):
            found = trial.engine(engine, timed=False)
            if name in UNEXPORTABLE:
                assert found is None
                assert UNEXPORTABLE[name] in trial.refused[engine]
            else:
                assert found is not None, trial.refused
                assert found.difference is not None
                assert found.difference <= TOLERANCE["fp32"] / 10  # they differ by rounding alone
        folded = trial.folded(timed=False)
    norms = any(isinstance(part, nn.BatchNorm2d) for part in source.network.modules())
    assert (folded is not None) == norms, trial.refused
