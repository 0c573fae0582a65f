"""The measured trial between the engines, on a batch of real items.

What a trial may cost is bounded by what it can save: nothing beyond a look at a few images where little is left, one
engine where seconds are left, the others where more is. Its images count neither as computed nor as kept.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headstart.data.augment import normalise
from headstart.records import Card
from headstart.transfer import _runner_onnx as onnx
from headstart.transfer._runner_torch import Compute, folded, prepared, torch_compute

__all__ = ["FOLDED", "TOLERANCE", "Candidate", "Trial", "choose", "difference"]

TOLERANCE = {"fp32": 1e-4, "bf16": 0.25}
"""The largest difference to torch's fp32 rows, over the largest value, that an engine may show.

fp32 engines differ by the order of their sums: 1e-7 to 5e-6 is usual, a wrong layer gives 1e-2 and more. bf16 has eight
bits: 0.4 to 7 % were measured, and 16 % in a narrow network; the bound catches only what is plainly broken.
"""
WORTH = 2.0
"""Seconds of work left with torch below which nothing is exported: an export and its check take about one."""
WORTH_ANOTHER = 5.0
"""The same for a further engine beside a first that works: it has cost half a second and gained a tenth at best."""
FASTER = 1.15
"""How much faster a less preferred engine must be: noise on a busy machine must not decide."""
FOLDING = 2.5
"""What folding and a warm start gain at most over the first look: a faster engine needs no such comparison."""
FEW = 8
"""Images of the first look, and of every batch that onnxruntime and OpenVINO take: as fast as larger ones, and an
export, its check and its timing then cost little."""
ADVISED = 10.0
"""Seconds of work left with torch from which a missing engine is named to the user."""
FOLDED = "folded1"
"""Part of the identity of torch with folded norms; raised when the folding changes."""

_SHORT = 0.02  # seconds of a turn that noise can double
_LONGEST = 200  # characters of a reason
_EXPORT = "the export to ONNX"
_ABSENT = " is not installed"
_clock = time.perf_counter
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Candidate:
    """An engine that works: what computes batches of which size, how fast (images a second), and how far off torch."""

    name: str
    version: str
    precision: str
    compute: Compute
    batch_size: int
    rate: float = math.inf
    difference: float | None = None

    @property
    def identity(self) -> str:
        """What kept rows are said to be computed with."""
        return f"{self.name}-{self.version}/{self.precision}"

    def seconds(self, left: int) -> float:
        """How long `left` items will take."""
        return left / self.rate


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """The engine to take of those in order of preference: a later one must be clearly faster."""
    best = candidates[0]
    for later in candidates[1:]:
        if later.rate > FASTER * best.rate:
            best = later
    return best


def difference(rows: np.ndarray, reference: np.ndarray) -> float:
    """The largest difference to the first rows of `reference`, over its largest value; infinite for another shape."""
    if rows.shape[1:] != reference.shape[1:] or len(rows) < len(reference):
        return float("inf")
    scale = float(np.abs(reference).max())
    worst = float(np.abs(rows[: len(reference)] - reference).max())
    return worst / scale if scale else worst


@dataclass(slots=True)
class Trial:
    """One module, one full batch of images, and what was found out about them."""

    module: nn.Module
    card: Card
    images: Tensor
    device: str
    precision: str
    threads: int
    key: str = ""
    bound: str | int | None = None
    reference: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))  # plain fp32 rows of the first images
    rates: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)  # engine → why it is not used
    failed: dict[str, str] = field(default_factory=dict)  # the same, of what is installed and should have worked
    export_seconds: float | None = None
    _plain: nn.Module | None = None
    _file: bytes | None = None

    @property
    def few(self) -> Tensor:
        """The images that are looked at."""
        return self.images[:FEW]

    @property
    def plain(self) -> nn.Module:
        """A copy of the module as it is."""
        if self._plain is None:
            self._plain = prepared(self.module, self.device)
        return self._plain

    # --- torch ----------------------------------------------------------------------------------------------------

    def torch(self) -> Candidate:
        """Plain torch, without a single image."""
        return self._torch(self.plain, _version())

    def _torch(self, module: nn.Module, version: str) -> Candidate:
        compute = torch_compute(module, self.card, device=self.device, precision=self.precision)
        return Candidate("torch", version, self.precision, compute, len(self.images))

    def look(self) -> Candidate:
        """Plain torch, timed on a few images."""
        found = self.torch()
        rows, found.rate = _timed(found.compute, self.few)
        self.rates["torch, first look"] = found.rate
        if self.precision == "fp32":
            self.reference = rows
        else:
            self.compare(FEW)
            found.difference = difference(rows, self.reference)
        return found

    def compare(self, n: int) -> None:
        """Let the first `n` images be what engines are compared on: plain torch computes them in fp32."""
        self.reference = torch_compute(self.plain, self.card, device=self.device, precision="fp32")(self.images[:n])

    def folded(self, *, timed: bool = True) -> Candidate | None:
        """Torch with folded norms; None, with the reason in `refused`, where that fails or there are none."""
        try:
            module = folded(self.plain, normalise(self.images[:1].to(self.device), self.card))
            if module is None:
                self.refused["torch, folded"] = "there are no norms to fold"
                return None
            return self._checked(self._torch(module, f"{_version()}-{FOLDED}"), "torch, folded", timed=timed)
        except Exception as error:  # whatever a network does with its norms: the plain one works
            self._fail("torch, folded", error)
            return None

    def timed(self, found: Candidate) -> Candidate:
        """Plain torch again, timed as the engines are."""
        self.rates["torch"] = found.rate = _rate(found.compute, self.few, found.rate)
        return found

    # --- the other engines ----------------------------------------------------------------------------------------

    def engine(self, name: str, *, timed: bool = True) -> Candidate | None:
        """An engine, opened, compared with torch and timed; None, with the reason in `refused`, where that fails."""
        if missing := onnx.missing(name):
            self.refused[name] = f"{missing}{_ABSENT}"
        elif self.precision not in onnx.PRECISIONS[name]:
            self.refused[name] = f"it does not compute in {self.precision}"
        elif (file := self._exported()) is None:
            self.refused[name] = self.failed[_EXPORT]
        else:
            try:
                compute = onnx.ENGINES[name](file, threads=self.threads, precision=self.precision)
                found = Candidate(name, onnx.version_of(name), self.precision, compute, len(self.few))
                return self._checked(found, name, timed=timed)
            except Exception as error:  # an optional engine that fails costs time, never the run
                self._fail(name, error)
        return None

    def _exported(self) -> bytes | None:
        """The ONNX file: kept by an earlier run, or made now; None where it cannot be made, which is tried once."""
        if self._file is None and _EXPORT not in self.failed:
            self._file, start = onnx.kept(self.key, self.card, self.few), _clock()
            if self._file is None:
                try:
                    self._file = onnx.export(self.plain, self.card, self.few)
                except Exception as error:  # an exporter knows some of the world's networks
                    self._fail(_EXPORT, error)
                    return None
                self.export_seconds = _clock() - start
                onnx.keep(self._file, self.key, self.card, self.few, bound=self.bound)
        return self._file

    # --- what holds for all ---------------------------------------------------------------------------------------

    def _checked(self, found: Candidate, label: str, *, timed: bool) -> Candidate:
        """`found`, compared and timed; raises ArithmeticError where its rows are too far from torch's."""
        rows, first = _timed(found.compute, self.few)
        found.difference, allowed = difference(rows, self.reference), TOLERANCE[self.precision]
        if not found.difference <= allowed:
            raise ArithmeticError(
                f"its rows differ from torch's by {found.difference:.2g} of the largest value (allowed: {allowed:.2g})"
            )
        if timed:
            self.rates[label] = found.rate = _rate(found.compute, self.few, first)
        return found

    def _fail(self, label: str, error: Exception) -> None:
        reason = " ".join(str(error).split()) or type(error).__name__
        self.refused[label] = self.failed[label] = reason if len(reason) <= _LONGEST else reason[:_LONGEST] + " …"
        log.info("%s fails below the cut", label, exc_info=error)

    def facts(self, chosen: Candidate, *, reason: str, left: int) -> dict[str, Any]:
        """What the trial found, in plain values."""
        return {
            "engine": chosen.name,
            "precision": chosen.precision,
            "images_per_second": {name: round(rate, 1) for name, rate in self.rates.items()},
            "export_seconds": None if self.export_seconds is None else round(self.export_seconds, 3),
            "max_relative_difference": chosen.difference,
            "tolerance": TOLERANCE[chosen.precision],
            "reason": reason,
            "refused": dict(self.refused),
            "note": self._note(chosen, left),
            "left": left,
        }

    def _note(self, chosen: Candidate, left: int) -> str:
        """What the user should know: engines that failed, or that would be worth installing."""
        if failures := "; ".join(f"{name}: {why}" for name, why in self.failed.items()):
            return f"{chosen.name} computes the frozen layers, for others failed ({failures})"
        absent = [name for name, why in self.refused.items() if why.endswith(_ABSENT)]
        if chosen.name != "torch" or not absent or not math.isfinite(chosen.rate) or chosen.seconds(left) < ADVISED:
            return ""
        return (
            f"the frozen layers will take about {chosen.seconds(left):.0f} s with torch, a few times less with "
            f"{' or '.join(absent)}: pip install 'headstart[fast]'"
        )


def _version() -> str:
    """torch's major.minor."""
    return onnx.short_version(torch.__version__)


def _timed(compute: Compute, images: Tensor) -> tuple[np.ndarray, float]:
    """Rows of `images`, and images a second."""
    start = _clock()
    rows = compute(images)
    return rows, len(images) / max(_clock() - start, 1e-9)


def _rate(compute: Compute, images: Tensor, first: float) -> float:
    """Images a second: the best of a first turn and another, and of three more where they are short."""
    best = max(first, _timed(compute, images)[1])
    short = len(images) / best < _SHORT
    return max(best, *(_timed(compute, images)[1] for _ in range(3))) if short else best
