"""Every option of a run, once: the command line's flags, the Python keywords and the recorded configuration.

The command line is generated from these fields, so a flag cannot exist without its keyword. Standard library only.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints

from headstart.errors import SettingsError, did_you_mean

__all__ = [
    "HEADS",
    "POOLINGS",
    "STRATEGIES",
    "Settings",
    "bytes_of",
    "of_strategy",
    "option",
    "seconds_of",
    "sources_of",
]

STRATEGIES = ("scratch", "full", "discriminative", "partial", "frozen")
HEADS = ("linear", "mlp", "svm", "ridge", "knn")
POOLINGS = ("native", "avg", "flatten", "avgmax")

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i)?)?b?", re.IGNORECASE)
_TIME = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s?)?", re.IGNORECASE)

DEFAULT_SOURCE = "timm:mobilenetv3_large_100.ra_in1k"


def option(
    default: Any,
    text: str,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    panel: str = "Run",
    above: bool = False,
) -> Any:
    """A field with its help text, allowed choices or range (`above`: `low` itself is not allowed) and help panel."""
    facts = {"help": text, "choices": choices, "low": low, "high": high, "panel": panel, "above": above}
    return dataclasses.field(default=default, metadata=facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of a run. `Settings.of(**options)` checks names, types, choices and ranges, all at once."""

    # what to transfer and how
    source: str = option(
        DEFAULT_SOURCE,
        "Pretrained network: timm:NAME, torchvision:NAME, random:NAME, toy, or a local folder; several with commas "
        "between them, or all (those on this machine): the best is chosen.",
        panel="Source",
    )
    weights: str | None = option(
        None, "Weight file (.safetensors or .pth) for the architecture of --source.", panel="Source"
    )
    image_size: int | None = option(
        None, "Side of the input in pixels; default: the source's own.", low=16, panel="Source"
    )
    strategy: str = option("auto", "Way of transferring.", choices=("auto", *STRATEGIES), panel="Strategy")
    cut: str | None = option(None, "partial: name of the first block that is trained.", panel="Strategy")
    train_last: int | None = option(None, "partial: train the last K blocks.", low=1, panel="Strategy")
    head: str = option("auto", "What turns features into classes.", choices=("auto", *HEADS), panel="Strategy")
    pooling: str = option("native", "How the feature map becomes one vector.", choices=POOLINGS, panel="Strategy")
    probe_first: bool = option(True, "Start fine-tunings from the head fitted on frozen features.", panel="Strategy")
    scratch: bool | None = option(
        None,
        "Also train the same network from random weights, as a baseline; default: with --strategy auto, within a share "
        "of the budget.",
        panel="Strategy",
    )
    budget: str | None = option(
        None,
        "Time that the automatic choice and the training may take, for example 90s, 10m or 1h30m; default: 10m with "
        "--strategy auto, no limit else.",
        panel="Strategy",
    )
    interpolate: bool = option(
        True,
        "Move a fine-tuned network part of the way back to its start where that lowers the validation loss.",
        panel="Training",
    )
    repeats: int = option(
        1, "Train the chosen plan with so many seeds and tell how far their scores spread.", low=1, panel="Strategy"
    )
    error_rate: float | None = option(
        None,
        "Answer unknown where needed, so that at most this share of the answers given is wrong, for example 0.05.",
        low=0,
        high=0.5,
        above=True,
        panel="Strategy",
    )
    foreign: str | None = option(
        None, "Pictures of none of the classes, to measure how many of them get an answer.", panel="Data"
    )

    # training above the cut
    epochs: int | None = option(None, "Epochs of training; default: from the amount of data.", low=1, panel="Training")
    lr: str | None = option(None, "Learning rate above the cut, or 'find' for a range test.", panel="Training")
    backbone_lr: float | None = option(None, "Learning rate of the backbone.", low=0, panel="Training")
    head_lr: float | None = option(
        None, "Learning rate of the head; default: 10 x the backbone's.", low=0, panel="Training"
    )
    layer_decay: float | None = option(
        None, "Each block's rate is this times the next higher one's.", low=0, high=1, above=True, panel="Training"
    )
    optimizer: str = option("adamw", "Optimiser.", choices=("adamw", "sgd"), panel="Training")
    momentum: float = option(0.9, "Momentum of sgd.", low=0, high=1, panel="Training")
    weight_decay: float | None = option(
        None, "Weight decay (not on norms and biases); default 0.05 adamw, 5e-4 sgd.", low=0, panel="Training"
    )
    schedule: str = option(
        "cosine", "Learning rate after the warm-up.", choices=("cosine", "constant"), panel="Training"
    )
    warmup: float = option(0.1, "Share of the steps spent warming up.", low=0, high=1, panel="Training")
    batch_size: int = option(32, "Images in one step over all processes.", low=1, panel="Training")
    accumulate: int = option(1, "Micro-batches a step is split into.", low=1, panel="Training")
    label_smoothing: float = option(0.0, "Label smoothing.", low=0, high=1, panel="Training")
    mixup: float = option(0.0, "Mixup's alpha; 0 is off.", low=0, panel="Training")
    class_weights: str = option(
        "auto",
        "Weight classes by their rarity; auto: when the largest is over 1.5 x the smallest.",
        choices=("auto", "none", "balanced"),
        panel="Training",
    )
    patience: int | None = option(
        None,
        "Stop after this many epochs without a better validation loss; default: half of the epochs, 3 at least.",
        low=1,
        panel="Training",
    )
    ema: float = option(
        0.0, "Decay of an exponential average of the weights; 0 is off.", low=0, high=1, panel="Training"
    )
    norm_stats: str = option(
        "updated",
        "BatchNorm statistics: updated with the training images, or frozen as the source brought them.",
        choices=("updated", "frozen"),
        panel="Training",
    )
    clip: float = option(1.0, "Largest norm of the gradient; 0 is off.", low=0, panel="Training")

    # augmentation
    augment: bool = option(True, "Augment the training images.", panel="Augmentation")
    crop_scale: float = option(
        0.35,
        "Smallest share of the picture a random resized crop keeps; 1 turns it off.",
        low=0,
        high=1,
        above=True,
        panel="Augmentation",
    )
    hflip: bool = option(True, "Flip half of the training images left to right.", panel="Augmentation")
    vflip: bool = option(False, "Flip half of the training images upside down.", panel="Augmentation")

    views: int | None = option(
        None,
        "Augmented views of each training image that are computed once. frozen: offered to the head, default 2 for at "
        "most 1,000 training images, else 0. partial: kept at the cut, default one an epoch and 8 at most; 0 draws "
        "new ones and computes the frozen part in every epoch.",
        low=0,
        panel="Augmentation",
    )

    # data
    group: str | None = option(
        None,
        "Column of the manifest whose items must stay on one side (patient, video, place); default: group, where it "
        "is there. For folders 'folder': pictures in DIR/CLASS/NAME/ belong to the group NAME.",
        panel="Data",
    )
    val_fraction: float = option(
        0.2,
        "Share of the training items held back for choices where no val split is given.",
        low=0,
        high=0.9,
        above=True,
        panel="Data",
    )
    test_fraction: float = option(
        0.2,
        "Share of the items sealed as test where no split is given; 0: none, and the score comes from repeated nested "
        "cross-validation.",
        low=0,
        high=0.9,
        panel="Data",
    )
    folds: int = option(5, "Folds of cross-validation on frozen features.", low=2, panel="Data")
    refit: bool = option(True, "Fit the final head on train and val together (frozen features only).", panel="Data")

    # the machine
    seed: int = option(0, "Seed of every random choice.", low=0, panel="Machine")
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps.", panel="Machine")
    precision: str = option(
        "auto",
        "Number format of training; auto: bf16 where it is fast and a check finds no harm. bf16: what is frozen too.",
        choices=("auto", "fp32", "bf16"),
        panel="Machine",
    )
    engine: str = option(
        "auto",
        "What computes frozen layers; auto: the fastest exact one by a short trial.",
        choices=("auto", "torch", "onnxruntime", "openvino"),
        panel="Machine",
    )
    workers: int | None = option(
        None, "Decoding threads; 0 decodes in the main thread; default: from the cores.", low=0, panel="Machine"
    )
    threads: int | None = option(None, "Compute threads; default: cores / processes.", low=1, panel="Machine")
    cache: bool = option(True, "Keep features for later runs.", panel="Machine")
    cache_size: str | None = option(
        None,
        "How much may be kept in all, for example 20GB; default: 10GB, at most a quarter of the free disk.",
        panel="Machine",
    )

    @classmethod
    def of(cls, **options: Any) -> Settings:
        """Check and store options; raise one SettingsError that lists every mistake."""
        known = {f.name: f for f in dataclasses.fields(cls)}
        hints = get_type_hints(cls)
        mistakes: list[str] = []
        clean: dict[str, Any] = {}
        for name, value in options.items():
            if name not in known:
                mistakes.append(f"unknown option {name!r}. {did_you_mean(name, list(known))}")
                continue
            try:
                clean[name] = _coerced(name, value, hints[name], known[name].metadata)
            except SettingsError as error:
                mistakes.append(error.what)
        mistakes += _contradictions({f.name: clean.get(f.name, f.default) for f in known.values()})
        if mistakes:
            raise SettingsError("; ".join(mistakes))
        return cls(**clean)

    def changed(self, **options: Any) -> Settings:
        """The same settings with some options changed, checked again."""
        return Settings.of(**{**dataclasses.asdict(self), **options})

    def non_default(self) -> dict[str, Any]:
        """The options that differ from their defaults: what a command line needs to repeat the run."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default}

    def flags(self) -> list[str]:
        """The command-line flags that give these settings."""
        words: list[str] = []
        for name, value in self.non_default().items():
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                words += [f"--{flag}", str(value)]
        return words


def of_strategy(settings: Settings, name: str) -> Settings:
    """The settings of a run for another strategy: what belongs to one strategy alone is left to its default."""
    own: dict[str, Any] = {"strategy": name}
    if name != "partial":
        own.update(cut=None, train_last=None)
    if name != "frozen" and settings.head in ("svm", "ridge", "knn"):
        own["head"] = "linear"
    if name == "scratch":  # rates meant for pretrained weights would make it a poor baseline
        own.update(lr=None, backbone_lr=None, head_lr=None, layer_decay=None)
    return settings.changed(**own)


def bytes_of(size: str | int) -> int:
    """A size such as "20GB", "500 MiB" or a plain number, in bytes. Raises SettingsError for anything else."""
    found = _SIZE.fullmatch(str(size).strip())
    if found is None:
        raise SettingsError(f"a size must be like 20GB, 500MB or a number of bytes, got {str(size)!r}")
    number, letter, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** " kmgt".index((letter or " ").lower()))


def seconds_of(duration: str | float) -> float:
    """A duration such as "90", "90s", "10m", "1h30m" in seconds. Raises SettingsError for anything else."""
    words = str(duration).replace(" ", "")
    found = _TIME.fullmatch(words)
    if not words or found is None or not any(found.groups()):
        raise SettingsError(f"a time must be like 90s, 10m or 1h30m, got {str(duration)!r}")
    return sum(float(part or 0) * unit for part, unit in zip(found.groups(), (3600, 60, 1), strict=True))


def sources_of(source: str) -> tuple[str, ...]:
    """The addresses in a source option, in their order; ("all",) stands for those on this machine."""
    return tuple(dict.fromkeys(part.strip() for part in source.split(",") if part.strip())) or (source,)


def _coerced(name: str, value: Any, hint: Any, facts: Mapping[str, Any]) -> Any:
    """`value` as the field's type, within its choices and range."""
    optional = type(None) in get_args(hint)
    if value is None:
        if optional:
            return None
        raise SettingsError(f"{name} must not be None")
    wanted = next((t for t in get_args(hint) if t is not type(None)), hint) if get_args(hint) else hint
    value = _typed(name, value, get_origin(wanted) or wanted)
    if facts["choices"] and value not in facts["choices"]:
        raise SettingsError(f"{name} must be one of {', '.join(facts['choices'])}, got {value!r}")
    low, high = facts["low"], facts["high"]
    if low is not None and (value <= low if facts["above"] else value < low):
        raise SettingsError(f"{name} must be {'above' if facts['above'] else 'at least'} {low}, got {value}")
    if high is not None and value > high:
        raise SettingsError(f"{name} must be at most {high}, got {value}")
    return value


def _typed(name: str, value: Any, wanted: type) -> Any:
    if wanted is bool:
        if isinstance(value, bool):
            return value
    elif wanted is float:
        if isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    elif wanted is int:
        if isinstance(value, numbers.Integral) and not isinstance(value, bool):  # numpy's integers too
            return int(value)
    elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)  # a learning rate may come as a number
    elif hasattr(value, "__fspath__"):
        return str(value)
    raise SettingsError(f"{name} must be of type {wanted.__name__}, got {value!r}")


def _contradictions(values: Mapping[str, Any]) -> list[str]:
    """Options that cannot stand together."""
    found: list[str] = []
    if values["lr"] is not None and values["lr"] != "find":
        try:
            if not 0 < float(values["lr"]) < math.inf:
                raise ValueError
        except ValueError:
            found.append(f"lr must be a positive number or 'find', got {values['lr']!r}")
    if values["cache_size"] is not None:
        try:
            bytes_of(values["cache_size"])
        except SettingsError as error:
            found.append(error.what)
    if values["budget"] is not None:
        try:
            if seconds_of(values["budget"]) <= 0:
                found.append(f"budget must be above 0, got {values['budget']!r}")
        except SettingsError as error:
            found.append(error.what)
    if len(sources_of(values["source"])) > 1 and values["weights"] is not None:
        found.append("weights belong to one source: give one, or leave weights out")
    if values["lr"] is not None and values["backbone_lr"] is not None:
        found.append("give lr or backbone_lr, not both")
    if values["lr"] == "find" and values["head_lr"] is not None:
        found.append("lr find chooses the head's rate: leave head_lr out")
    if values["cut"] is not None and values["train_last"] is not None:
        found.append("give cut or train_last, not both")
    if (values["cut"] is not None or values["train_last"] is not None) and values["strategy"] not in (
        "auto",
        "partial",
    ):
        found.append(f"cut and train_last belong to the strategy partial, not to {values['strategy']}")
    if values["strategy"] not in ("auto", "frozen") and values["head"] in ("svm", "ridge", "knn"):
        found.append(
            f"the head {values['head']} has no gradient to fine-tune with: use linear or mlp, or the strategy frozen"
        )
    if values["engine"] == "onnxruntime" and values["precision"] == "bf16":
        found.append("the engine onnxruntime computes in fp32 only: for bf16 use openvino, torch or auto")
    if values["test_fraction"] + values["val_fraction"] >= 1:
        found.append("val_fraction + test_fraction must leave something to train on")
    if values["accumulate"] > values["batch_size"]:
        found.append("accumulate cannot be larger than batch_size")
    return found
