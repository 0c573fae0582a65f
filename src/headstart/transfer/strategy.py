"""Which way of transferring, as pure functions: counts, blocks and settings in, Plan out. No torch.

The rule for `auto` follows the two questions of transfer learning, how much data there is and what training costs on
this machine. It is a prior: `headstart compare` measures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from headstart.errors import SettingsError, did_you_mean
from headstart.records import Block, Plan
from headstart.settings import Settings, bytes_of

__all__ = [
    "FEW_FOR_VIEWS",
    "MOST_VIEWS",
    "SMALL_PER_CLASS",
    "Situation",
    "choose",
    "cut_index",
    "frozen_blocks",
    "plan",
    "rates",
    "with_rate",
    "with_views",
]

SMALL_PER_CLASS = 1000
"""Under this many training images a class a data set counts as small."""

FEW_FOR_VIEWS = 1_000
"""Above so many training images a pass costs more than augmented views bring a head on frozen features."""

MOST_VIEWS = 8
"""So many augmented views of a training image are kept at a cut: more bring no more (see docs/training.md)."""

_ROOM = 10_000_000_000  # bytes that are kept by default

FULL_RATE = {"adamw": 3e-4, "sgd": 2e-3}
BACKBONE_RATE = {"adamw": 1e-4, "sgd": 2e-3}  # of discriminative, whose head learns HEAD_FACTOR times as fast
SCRATCH_RATE = {"adamw": 1e-3, "sgd": 5e-2}
WEIGHT_DECAY = {"adamw": 0.05, "sgd": 5e-4}
HEAD_FACTOR = 10.0
_FEWEST_STEPS = 100  # so many optimiser steps at least, where few images make short epochs


@dataclass(frozen=True, slots=True)
class Situation:
    """What the rule looks at: training items, classes, the source's blocks, and whether a GPU is there."""

    n_train: int
    n_classes: int
    blocks: tuple[Block, ...]
    has_gpu: bool = False


def choose(situation: Situation) -> tuple[str, str]:
    """The strategy for `auto` and the reason for it, in words."""
    per_class = situation.n_train / max(1, situation.n_classes)
    if per_class < SMALL_PER_CLASS:
        return "frozen", (
            f"{per_class:.0f} training images a class are few (under {SMALL_PER_CLASS}): frozen features with a "
            "regularised head overfit least"
        )
    if not situation.has_gpu:
        return "frozen", (
            f"{per_class:.0f} training images a class would carry a fine-tuning, but there is no GPU: frozen features "
            "cost one pass over the data"
        )
    return "discriminative", (
        f"{per_class:.0f} training images a class and a GPU: all layers are trained, the lower ones slowly"
    )


def plan(settings: Settings, situation: Situation) -> Plan:
    """Turn settings and situation into a Plan, with a reason for each choice.

    Raises SettingsError when the cut names no block.
    """
    reasons: list[str] = []
    strategy = settings.strategy
    if strategy == "auto":
        if settings.cut is not None or settings.train_last is not None:
            strategy, why = "partial", "a cut was given"
        elif settings.head in ("svm", "ridge", "knn"):
            strategy, why = "frozen", f"the head {settings.head} works on frozen features"
        else:
            strategy, why = choose(situation)
        reasons.append(f"strategy {strategy}: {why}")
    else:
        reasons.append(f"strategy {strategy}: as asked")
    head = "linear" if settings.head == "auto" else settings.head
    if settings.head == "auto":
        reasons.append("head linear: the strongest simple baseline on pretrained features")
    index = _frozen_count(strategy, settings, situation.blocks)
    cut = _cut_name(strategy, index, situation.blocks)
    epochs = _epochs(strategy, settings, situation, reasons)
    return Plan(
        strategy=strategy,
        start="random" if strategy == "scratch" else "pretrained",
        cut=cut,
        head=head,
        pooling=settings.pooling,
        epochs=epochs,
        rates=_rates(strategy, settings, situation.blocks, index, reasons),
        schedule=_schedule(strategy, settings, epochs, situation.n_train),
        probe_first=settings.probe_first and strategy not in ("scratch", "frozen"),
        reasons=tuple(reasons),
    )


def frozen_blocks(plan: Plan, blocks: Sequence[Block]) -> int:
    """How many blocks lie below the plan's cut."""
    if plan.cut == "input":
        return 0
    names = [block.name for block in blocks]
    return names.index(plan.cut) if plan.cut in names else len(blocks)


def with_rate(plan: Plan, rate: float) -> Plan:
    """The same plan with its rates scaled so that the head's is `rate` (the finding of a range test)."""
    factor = rate / plan.rates["head"]
    reasons = (*plan.reasons, f"learning rate {rate:.1e} for the head: found by a range test")
    return replace(plan, rates={name: value * factor for name, value in plan.rates.items()}, reasons=reasons)


def with_views(plan: Plan, settings: Settings, *, n_train: int, n_items: int, width: int, why_not: str = "") -> Plan:
    """The same plan with the number of views of each training image that are computed once up to the cut and kept.

    `width` is how many numbers an image has there; 0 where the network cannot be divided at the cut, for the reason
    `why_not`. The rule: one view an epoch, `MOST_VIEWS` at most, as many as fit into half of what may be kept on disk;
    0 views: what is frozen is computed in every epoch, from an augmented view that is drawn anew.
    """
    centre, one = 4 * n_items * width, 2 * n_train * width  # bytes: float32, and float16
    room = (bytes_of(settings.cache_size) if settings.cache_size is not None else _ROOM) // 2 or _ROOM // 2
    fitting = (room - centre) // max(1, one)
    views = min(plan.epochs, MOST_VIEWS, fitting) if settings.augment else min(1, fitting)
    if settings.views is not None:
        views = settings.views if settings.augment else min(1, settings.views)
        kept = f"augmented views of each training image that are kept at the cut: {views}"
        reason = f"{kept if views else 'what is frozen is computed in every epoch'}, as asked"
    elif not width:
        views, reason = 0, f"what is frozen is computed in every epoch: {why_not}"
    elif views < min(plan.epochs, 2 if settings.augment else 1):
        reason = (
            f"what is frozen is computed in every epoch: two views of all images would take {_told(centre + 2 * one)}"
        )
        views = 0
    elif settings.augment:
        reason = f"augmented views of each training image that are computed once up to the cut: {views}"
        reason += f" ({_told(centre + views * one)} with the centre views)"
    else:
        reason = f"every image is computed once up to the cut ({_told(centre)})"
    return replace(plan, schedule={**plan.schedule, "views": views}, reasons=(*plan.reasons, reason))


def _told(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"


def cut_index(blocks: Sequence[Block], *, cut: str | None = None, train_last: int | None = None) -> int:
    """The number of blocks that stay frozen: blocks[index:] are trained.

    `cut` names the first trained block ("input": all are trained, "head": none), or a module in it, whose whole block
    is then trained; `train_last` counts trained blocks from the head, those without weights left out. Raises
    SettingsError for an unknown name, a count out of range, both or neither.
    """
    if (cut is None) == (train_last is None):
        raise SettingsError("give cut or train_last, one of the two")
    if cut is None:
        return _last(blocks, int(train_last or 0))
    names = [block.name for block in blocks]
    ends = {"input": 0, "head": len(names)}
    if cut in ends:
        return ends[cut]
    if cut in names:
        return names.index(cut)
    for index, block in enumerate(blocks):
        if any(cut and (name == cut or name.startswith(f"{cut}.")) for name in (*block.modules, *block.entries)):
            return index
    near = did_you_mean(cut, names)
    listed = "" if near.startswith("Known") and len(names) <= 12 else f" Blocks: {', '.join(names)}"
    raise SettingsError(f"the source has no block or module {cut!r}", remedy=f"{near}{listed}, or input, or head")


def rates(
    blocks: Sequence[Block], index: int, *, backbone_lr: float, head_lr: float, layer_decay: float | None = None
) -> dict[str, float]:
    """A learning rate for each trained block, from input to head, and for "head".

    Without `layer_decay` two groups: `backbone_lr` for blocks[index:] and `head_lr`. With it the last block has
    `backbone_lr` and each one below `layer_decay` times the rate of the next above (ULMFiT 2018, BEiT 2021); blocks
    without weights are no rung of the ladder.
    """
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise SettingsError(f"layer_decay must be above 0 and at most 1, got {layer_decay}")
    found: dict[str, float] = {}
    rungs = 0
    for block in reversed(blocks[index:]):
        found[block.name] = backbone_lr * (layer_decay or 1.0) ** rungs
        rungs += bool(block.parameters)
    return {**dict(reversed(found.items())), "head": head_lr}


def _frozen_count(strategy: str, settings: Settings, blocks: Sequence[Block]) -> int:
    """How many blocks a strategy freezes; partial without a cut trains a third of those with weights."""
    if strategy != "partial":
        return len(blocks) if strategy == "frozen" else 0
    if settings.cut is None and settings.train_last is None:
        return cut_index(blocks, train_last=max(1, _with_weights(blocks) // 3))
    return cut_index(blocks, cut=settings.cut, train_last=settings.train_last)


def _with_weights(blocks: Sequence[Block]) -> int:
    return sum(1 for block in blocks if block.parameters)


def _last(blocks: Sequence[Block], wanted: int) -> int:
    """The index above which `wanted` blocks have weights."""
    with_weights = [index for index, block in enumerate(blocks) if block.parameters]
    if not 0 <= wanted <= len(with_weights):
        raise SettingsError(
            f"train_last must be between 0 and {len(with_weights)}, the source's blocks with weights, got {wanted}",
            remedy="Choose a smaller train_last, or the strategy full.",
        )
    return with_weights[-wanted] if wanted else len(blocks)


def _cut_name(strategy: str, index: int, blocks: Sequence[Block]) -> str:
    if strategy == "frozen" or index >= len(blocks):
        return "head"
    return "input" if index == 0 else blocks[index].name


def _epochs(strategy: str, settings: Settings, situation: Situation, reasons: list[str]) -> int:
    if strategy == "frozen":
        return 0
    if settings.epochs is not None:
        return settings.epochs
    n = situation.n_train
    epochs = 15 if n < 1_000 else 10 if n < 10_000 else 5
    steps, most = _FEWEST_STEPS, 40
    if strategy == "scratch":  # an honest baseline gets the time that random weights need
        epochs, steps, most = 2 * epochs, 4 * _FEWEST_STEPS, 150
    needed = math.ceil(steps / math.ceil(max(1, n) / settings.batch_size))
    epochs = max(epochs, min(needed, most))
    start = " from random weights" if strategy == "scratch" else ""
    reasons.append(f"{epochs} epochs: {n:,} training images{start}")
    return epochs


def _rates(
    strategy: str, settings: Settings, blocks: Sequence[Block], index: int, reasons: list[str]
) -> dict[str, float]:
    """Learning rate of every block above the cut, and of the head."""
    if strategy == "frozen":
        return {}
    given = float(settings.lr) if settings.lr not in (None, "find") else None
    base = settings.backbone_lr
    if base is None:
        usual = {"scratch": SCRATCH_RATE, "discriminative": BACKBONE_RATE}.get(strategy, FULL_RATE)
        base = given if given is not None else usual[settings.optimizer]
    if settings.head_lr is not None:
        head = settings.head_lr
    elif strategy == "discriminative" and settings.layer_decay is None:
        head = base * HEAD_FACTOR
        reasons.append(f"head rate {HEAD_FACTOR:g} x the backbone's: the head is new, the backbone is not")
    else:
        head = base
    top = base
    if settings.layer_decay is not None:
        reasons.append(f"each block learns at {settings.layer_decay:g} x the rate of the one above it")
        if settings.backbone_lr is None:  # the head stands on the ladder's first rung
            top = base * settings.layer_decay
    return rates(blocks, index, backbone_lr=top, head_lr=head, layer_decay=settings.layer_decay)


def _views(settings: Settings, n_train: int) -> int:
    """How many augmented views of a training image a head on frozen features is offered."""
    if not settings.augment:
        return 0
    if settings.views is not None:
        return settings.views
    return 2 if n_train <= FEW_FOR_VIEWS else 0


def _schedule(strategy: str, settings: Settings, epochs: int, n_train: int) -> dict[str, Any]:
    """The facts of the training loop; for frozen features the number of views that the head is offered."""
    if strategy == "frozen":
        return {"views": _views(settings, n_train)}
    decay = settings.weight_decay if settings.weight_decay is not None else WEIGHT_DECAY[settings.optimizer]
    patience = settings.patience if settings.patience is not None else max(3, epochs // 2)
    names = (
        "optimizer", "momentum", "schedule", "warmup", "batch_size", "accumulate", "label_smoothing", "mixup",
        "class_weights", "ema", "norm_stats", "clip", "augment", "crop_scale", "hflip", "vflip",
    )  # fmt: skip
    return {**{name: getattr(settings, name) for name in names}, "weight_decay": decay, "patience": patience}
