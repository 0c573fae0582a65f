"""Which engine computes what lies below the cut: the fastest exact one, chosen by a short measured trial.

A Runner maps uint8 images to float32 rows. `pick_runner` chooses between torch, onnxruntime and OpenVINO by what they
really take for a batch of real images and by how many items are left; an engine is used only after its rows were
compared with torch's. `reopen_runner` opens the engine of rows that are kept already.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headstart.errors import MissingExtraError, SettingsError
from headstart.records import Card
from headstart.transfer import _runner_onnx as onnx
from headstart.transfer._runner_trial import (
    FASTER,
    FEW,
    FOLDED,
    FOLDING,
    WORTH,
    WORTH_ANOTHER,
    Candidate,
    Trial,
    choose,
)
from headstart.transfer.memory import halved, ran_out

__all__ = ["Runner", "RunnerChoice", "check_engine", "filled", "pick_runner", "reopen_runner", "untried"]


_SEEN_AGAIN = 2  # images that a reopened engine is compared on


@dataclass(frozen=True, slots=True)
class RunnerChoice:
    """What is asked for: an engine ("auto" chooses), the number format, and what an engine may use.

    `key` stands for the module (weights below the cut, pooling, cut): an exported network is kept under it, and an
    empty one keeps nothing. `threads` are those of onnxruntime and OpenVINO; 0 means as many as torch uses. `bound` is
    how much may be kept on disk in all (None: the default).
    """

    engine: str = "auto"
    precision: str = "fp32"
    device: str = "cpu"
    key: str = ""
    threads: int = 0
    bound: str | int | None = None


class Runner:
    """Computes rows; `identity` says with what, for the key of kept rows, and `facts` what the trial found.

    Batches are always full: fewer images are filled up with copies, more are taken in turns, so that a row does not
    depend on how many others there are. Of `facts`, `note` is for the user where it is not empty. Where memory runs out
    torch goes on with half of the `batch_size`, which may change last digits; SettingsError where one is too many.
    """

    def __init__(self, chosen: Candidate, facts: Mapping[str, Any]) -> None:
        self.name, self.precision, self.identity = chosen.name, chosen.precision, chosen.identity
        self.batch_size, self.facts = chosen.batch_size, facts
        self._compute = chosen.compute

    def __call__(self, images: Tensor) -> np.ndarray:
        """uint8 images (n, 3, h, w), n at least 1, to float32 rows (n, width)."""
        while True:
            try:
                return self._rows(images)
            except (RuntimeError, MemoryError) as error:
                if not ran_out(error) or self.name != "torch":  # the others' files are for one size of batch
                    raise
            self.batch_size = halved(self.batch_size)  # out of the handler, which holds what filled the memory

    def _rows(self, images: Tensor) -> np.ndarray:
        size = self.batch_size
        if len(images) == size:
            return self._compute(images)
        turns = [images[start : start + size] for start in range(0, len(images), size)]
        return np.concatenate([self._compute(filled(turn, size))[: len(turn)] for turn in turns])


def check_engine(how: RunnerChoice) -> None:
    """Raise MissingExtraError where the engine asked for is not installed, SettingsError where it cannot be used.

    Nothing is imported, so it can be asked before any work is done; `pick_runner` asks too.
    """
    if how.engine in ("auto", "torch"):
        return
    if missing := onnx.missing(how.engine):
        raise MissingExtraError(missing, onnx.EXTRAS[how.engine], f"the engine {how.engine}")
    if torch.device(how.device).type != "cpu":
        raise SettingsError(
            f"the engine {how.engine} computes on the CPU, and the device is {how.device}",
            remedy="Use --engine auto or torch, or --device cpu.",
        )
    if how.engine == "onnxruntime" and how.precision == "bf16":
        raise SettingsError("the engine onnxruntime computes in fp32 only", remedy="Use --engine openvino or torch.")


def pick_runner(module: nn.Module, card: Card, *, images: Tensor, left: int, how: RunnerChoice) -> Runner:
    """The engine for `left` more items, chosen on one full batch of real items.

    `module` maps normalised float32 images (batch, 3, h, w) to rows (batch, width) and is left as it is; `images` is
    uint8 (batch, 3, h, w). An engine that fails or whose rows are too far from torch's (TOLERANCE) is passed over and
    named in `facts["note"]`; one that was asked for by name raises SettingsError then, and MissingExtraError when it is
    not installed.
    """
    check_engine(how)
    trial, start = _trial(module, card, images=images, how=how), time.perf_counter()
    with torch.inference_mode(False), torch.no_grad():  # tensors of inference mode cannot be exported
        if how.engine in onnx.ENGINES:
            chosen, reason = _asked_for(trial, how.engine), "it was asked for"
        elif left <= len(images):
            chosen, reason = trial.torch(), "only one batch is left"
        else:
            chosen, reason = _fastest_in_memory(trial, left, others=how.engine == "auto" and _on_cpu(how))
    facts = trial.facts(chosen, reason=reason, left=left)
    return Runner(chosen, {**facts, "trial_seconds": round(time.perf_counter() - start, 3)})


def reopen_runner(module: nn.Module, card: Card, *, identity: str, images: Tensor, how: RunnerChoice) -> Runner | None:
    """The engine called `identity` again, without a trial.

    None where it is not what is asked for now, is not installed, has another version, or does not agree with torch any
    more (two images are compared): `pick_runner` then finds another.
    """
    name = identity.partition("-")[0]
    if not identity.endswith(f"/{how.precision}") or how.engine not in ("auto", name):
        return None
    trial = _trial(module, card, images=images, how=how)
    with torch.inference_mode(False), torch.no_grad():
        chosen = _again(trial, name, identity, others=_on_cpu(how))
    if chosen is None or chosen.identity != identity:
        return None
    return Runner(chosen, trial.facts(chosen, reason="it computed the rows that are kept", left=0))


def untried(identity: str) -> bool:
    """Whether an identity is that of plain torch, which computes small jobs without a trial."""
    return identity.startswith("torch-") and FOLDED not in identity


def _again(trial: Trial, name: str, identity: str, *, others: bool) -> Candidate | None:
    """What may be the engine called `identity`; nothing is computed for another version."""
    if name == "torch":
        plain = trial.torch()
        if identity != f"torch-{plain.version}-{FOLDED}/{plain.precision}":
            return plain
        trial.compare(_SEEN_AGAIN)
        return trial.folded(timed=False)
    if name not in onnx.ENGINES or not others or onnx.missing(name):
        return None
    if not identity.startswith(f"{name}-{onnx.version_of(name)}/"):
        return None
    trial.compare(_SEEN_AGAIN)
    return trial.engine(name, timed=False)


def _trial(module: nn.Module, card: Card, *, images: Tensor, how: RunnerChoice) -> Trial:
    threads = how.threads or torch.get_num_threads()
    return Trial(
        module, card, images, device=how.device, precision=how.precision, threads=threads, key=how.key, bound=how.bound
    )


def _on_cpu(how: RunnerChoice) -> bool:
    return torch.device(how.device).type == "cpu"


def _asked_for(trial: Trial, name: str) -> Candidate:
    trial.compare(FEW)
    found = trial.engine(name)
    if found is None:
        raise SettingsError(
            f"the engine {name} cannot compute this source: {trial.refused[name]}", remedy="Use --engine auto or torch."
        )
    return found


def _fastest_in_memory(trial: Trial, left: int, *, others: bool) -> tuple[Candidate, str]:
    """The engine for so many items, and why; plain torch, which can take fewer at once, where that finds no room."""
    try:
        return _fastest(trial, left, others=others)
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
    return trial.torch(), "memory ran out in the trial"


def _fastest(trial: Trial, left: int, *, others: bool) -> tuple[Candidate, str]:
    """The engine for so many items, and why."""
    plain = trial.look()
    if not np.isfinite(trial.reference).all():
        return plain, "the source gives values that are not finite"
    if plain.seconds(left) < WORTH:
        return plain, f"torch needs less than {WORTH:g} s for what is left"
    found: list[Candidate] = []
    for name in onnx.ENGINES if others else ():
        if found and choose(found).seconds(left) < WORTH_ANOTHER:
            trial.refused[name] = f"{found[0].name} needs less than {WORTH_ANOTHER:g} s for what is left"
        elif (candidate := trial.engine(name)) is not None:
            found.append(candidate)
    if not found or choose(found).rate < FOLDING * plain.rate:
        found.append(trial.folded() or trial.timed(plain))
    rates = ", ".join(f"{one.name} {one.rate:.0f}" for one in found)
    return choose(found), f"the fastest by trial, a less preferred one by {FASTER} (images/s: {rates})"


def filled(images: Tensor, size: int) -> Tensor:
    """At most `size` images (n, ...), filled up with copies of the first."""
    if len(images) == size:
        return images
    return torch.cat([images, images[:1].expand(size - len(images), -1, -1, -1)])
