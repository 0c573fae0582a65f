"""Where a data set stands: how much of it there is, how like the source's own data, and what that suggests. No torch.

| | similar | different |
| --- | --- | --- |
| large | fine-tune the top | train all layers from the pretrained start |
| small | frozen features and a head | train more than the top, with augmentation |

The size-similarity rule of transfer learning (Yosinski et al. 2014, "How transferable are features in deep neural
networks?"; Marcelino 2018, "Transfer learning from pre-trained models"). It is a prior and never the verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from headstart.records import Block
from headstart.transfer.strategy import SMALL_PER_CLASS

__all__ = ["BORDER", "advice"]

BORDER = 0.05
"""A similarity this near its threshold may stand on either side of it."""

_STRATEGIES = {
    ("small", "similar"): "frozen",
    ("small", "different"): "partial",
    ("large", "similar"): "partial",
    ("large", "different"): "full",
}
_WHY = {
    ("small", "similar"): "the features fit as they are: a regularised head on them overfits least and costs one pass "
    "over the data",
    ("small", "different"): "the lower layers (edges, colours, textures) carry over, the upper ones serve what the "
    "source was trained for: train more than the top, with augmentation and few epochs",
    ("large", "similar"): "the lower layers fit as they are, and there is enough to adapt the top without overfitting",
    ("large", "different"): "there is enough to train all layers, and pretrained weights are still the better start",
}
_NAMES = {"frozen": "frozen features and a head", "full": "all layers"}
_DEEPER = 2 / 3  # share of the blocks that is trained on few and different images; partial's own share is a third


def advice(
    n_train: int, n_classes: int, *, similarity: Mapping[str, Any], blocks: Sequence[Block] = ()
) -> dict[str, Any]:
    """The quadrant of a data set, the strategy that it suggests, why, and what would change it.

    `similarity` is {value, level, threshold, measure} as `transfer.similarity` gives it. With the source's `blocks`
    the partial strategy names how many are trained. Gives {images_per_class, size, similarity, quadrant, strategy,
    options, reasons, would_change}; `options` are keywords of `fit`.
    """
    per_class = n_train / max(1, n_classes)
    size, level = "small" if per_class < SMALL_PER_CLASS else "large", str(similarity["level"])
    options = _options(size, level, blocks)
    value, threshold = float(similarity["value"]), float(similarity["threshold"])
    few = f"few (under {SMALL_PER_CLASS:,})" if size == "small" else f"many ({SMALL_PER_CLASS:,} or more)"
    side = "at least" if level == "similar" else "under"
    reasons = [
        f"{per_class:,.0f} training images a class are {few}",
        f"{similarity['measure']} is {value:.2f}, {side} {threshold:.2f}: the data are {level} to the source's",
        _WHY[size, level],
    ]
    if abs(value - threshold) < BORDER:
        reasons.append("the similarity is near its threshold: both neighbours are worth a trial")
    return {
        "images_per_class": round(per_class, 1),
        "size": size,
        "similarity": dict(similarity),
        "quadrant": f"{size} and {level}",
        "strategy": options["strategy"],
        "options": options,
        "reasons": reasons,
        "would_change": _would_change(n_train, n_classes, size, similarity),
    }


def _would_change(n_train: int, n_classes: int, size: str, similarity: Mapping[str, Any]) -> list[str]:
    """What would put the data set into another quadrant with another strategy, in words."""
    level, threshold = str(similarity["level"]), float(similarity["threshold"])
    other = {"small": "large", "large": "small", "similar": "different", "different": "similar"}
    classes = max(1, n_classes)
    if size == "small":
        missing = math.ceil(SMALL_PER_CLASS - n_train / classes)
        told = f"with {missing:,} more images a class ({missing * classes:,} in all) the set would be large"
    else:
        told = f"with under {SMALL_PER_CLASS:,} images a class the set would be small"
    side = "under" if level == "similar" else "at least"
    return [
        f"{told}: then {_named(other[size], level)}",
        f"if {similarity['measure']} were {side} {threshold:.2f} the set would count as {other[level]}: "
        f"then {_named(size, other[level])}",
        "a race on this data, which measures what this only expects: it decides",
    ]


def _options(size: str, level: str, blocks: Sequence[Block]) -> dict[str, Any]:
    """Keywords of `fit` that do what a quadrant suggests."""
    options: dict[str, Any] = {"strategy": _STRATEGIES[size, level]}
    trained = sum(1 for block in blocks if block.parameters)
    if trained and (size, level) == ("small", "different"):
        options["train_last"] = max(1, round(_DEEPER * trained))
    return options


def _named(size: str, level: str) -> str:
    strategy = _STRATEGIES[size, level]
    depth = "two thirds of the blocks" if size == "small" else "the top third of the blocks"
    return f"{strategy} ({_NAMES.get(strategy, depth)})"
