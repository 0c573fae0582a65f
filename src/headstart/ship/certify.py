"""The certificate of an export: how far it answers as the model does, judged on pictures that training never saw.

Two ways are told apart. The network's: both get the very pixels that the export made of a picture. The whole one, which
users go: the model reads a file through headstart's loader, the export decodes it whole and prepares it in its graph.
They differ where the loader decodes a large JPEG at a fraction of its size.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from headstart.data import decode
from headstart.data.augment import center_view, draft_side
from headstart.data.cores import processor
from headstart.errors import DataError, UnreadableImage
from headstart.judge.calibration import softmax
from headstart.judge.intervals import paired_bootstrap
from headstart.progress import Reporter
from headstart.records import Item
from headstart.ship.exported import ExportedModel, decoded, threads
from headstart.ship.model import Model

__all__ = ["TOLERANCE", "certify", "latency", "machine", "reasons"]

TOLERANCE = 1e-4
"""The largest difference of a probability that an fp32 export may show on the same pixels."""

_BATCH = 32
_ROUNDS = {1: 9, _BATCH: 3}  # timed calls, of which the median is told
_SIDE = 640  # pixels of the longer side of the picture that is timed, about
_NAMED = 10  # files that a refusal names
_SAID = 0.02  # engines of the frozen part move a probability far less than another picture does


@dataclass
class _Seen:
    """What both said of one picture that could be read."""

    place: int
    probabilities: np.ndarray  # of the export
    unknown: bool
    same_pixels: np.ndarray  # probabilities of the model on the export's own pixels
    levels: np.ndarray  # differences of the pixels, counted by size


def certify(
    model: Model,
    exported: ExportedModel,
    items: Sequence[Item],
    *,
    labels: np.ndarray,
    reporter: Reporter,
    said: np.ndarray | None = None,
) -> dict[str, Any]:
    """Measurements of `exported` beside `model` on labelled items: the parts of certificate.json that are measured.

    `said` are the probabilities [n, k] that the run wrote down for them. Raises DataError when no item can be read, or
    when the model says something else of one than the run did: then it is another picture.
    """
    whole = model.answers(items, reporter=reporter)
    _check_said(items, softmax(whole.logits), said)
    seen = list(_compared(model, exported, items, reporter))
    seen = [row for row in seen if not np.isnan(whole.logits[row.place]).any()]
    if not seen:
        raise DataError(
            "no picture can be read to judge the export on", remedy="Say with --data DATA where the run's data are."
        )
    places = np.array([row.place for row in seen])
    ours, theirs = softmax(whole.logits[places]), np.stack([row.probabilities for row in seen])
    same = np.stack([row.same_pixels for row in seen])
    first, second = ours.argmax(1), theirs.argmax(1)
    off = max(float(np.abs(theirs - same).max()), _together(model, exported))
    refused = ~whole.known[places], np.array([row.unknown for row in seen])
    flipped = (first != second) | (refused[0] != refused[1])
    change = paired_bootstrap(second == labels[places], first == labels[places])
    levels = np.stack([row.levels for row in seen])
    return {
        "n": len(seen),
        "skipped": len(items) - len(seen),
        "network": {
            "max_probability_difference": off,
            "flipped": int((second != same.argmax(1)).sum()),
        },
        "pixels": {
            "pictures_that_differ": int((levels[:, 1:].sum(1) > 0).sum()),
            "max_levels": int(np.flatnonzero(levels.sum(0)).max(initial=0)),
            "share_of_values": float(levels[:, 1:].sum() / max(1, levels.sum())),
        },
        "whole": {
            "max_probability_difference": float(np.abs(theirs - ours).max()),
            "flipped": [items[place].name for place in places[flipped]],
        },
        "accuracy": {
            "model": float((first == labels[places]).mean()),
            "export": float((second == labels[places]).mean()),
            "change_points": 100 * change.value,
            "interval_points": [100 * change.low, 100 * change.high],
        },
    }


def _check_said(items: Sequence[Item], now: np.ndarray, said: np.ndarray | None) -> None:
    """Refuse pictures that are no longer those that the run was judged on."""
    if said is None:
        return
    other = [item.name for item, off in zip(items, np.abs(now - said).max(axis=1), strict=True) if off > _SAID]
    if other:
        raise DataError(
            f"{len(other)} of {len(items)} pictures are not those that the run was judged on: {_some(other)}",
            remedy="Say with --data DATA where the run's data are.",
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


def _compared(model: Model, exported: ExportedModel, items: Sequence[Item], reporter: Reporter) -> Iterator[_Seen]:
    """Both on every picture that can be read whole."""
    with reporter.progress("Judging the export", len(items)) as bar:
        for place, pixels in enumerate(decoded(items)):
            bar.advance()
            if isinstance(pixels, UnreadableImage):
                continue
            found = exported.outputs(pixels[None])
            same = softmax(model._forward(torch.from_numpy(found.view.copy()))[0])[0]
            drafted = decode.load(items[place], draft=draft_side(model.card))
            own = center_view(drafted, model.card).numpy().astype(np.int16)
            apart = np.bincount(np.abs(own - found.view[0]).ravel(), minlength=256)
            yield _Seen(place, found.probabilities[0], bool(found.unknown[0]), same, apart)


def _together(model: Model, exported: ExportedModel) -> float:
    """The largest difference of a probability where drawn pictures of one size are answered at once."""
    height, width = model.card.input_size[1:]
    stack = np.random.default_rng(0).integers(0, 256, (_BATCH, height + 5, width + 3, 3), dtype=np.uint8)
    found = exported.outputs(stack)
    same = softmax(model._forward(torch.from_numpy(found.view.copy()))[0])
    return float(np.abs(found.probabilities - same).max())


def reasons(found: dict[str, Any], *, precision: str, max_drop: float | None) -> list[str]:
    """Why an export that measured so is refused; none where it passes.

    fp32 must give the model's probabilities on the same pixels within TOLERANCE, and no other answer on any file.
    With `max_drop` (percentage points of accuracy) other answers are allowed as long as no more accuracy is lost; the
    other precisions are judged by it alone, 1 point unless told otherwise.
    """
    refused = []
    off, flipped = found["network"]["max_probability_difference"], found["whole"]["flipped"]
    if precision == "fp32" and not off <= TOLERANCE:
        refused.append(f"on the same pixels a probability differs by {off:.2g}, more than {TOLERANCE:g}")
    if precision == "fp32" and max_drop is None:
        if flipped:
            refused.append(f"{len(flipped)} of {found['n']} pictures get another answer: {_some(flipped)}")
        return refused
    allowed = 1.0 if max_drop is None else max_drop
    lost = -found["accuracy"]["change_points"]
    if lost > allowed + 1e-9:
        low, high = found["accuracy"]["interval_points"]
        refused.append(
            f"{lost:.1f} points of accuracy are lost (95 % interval of the change {low:.1f} to {high:.1f}), "
            f"more than {allowed:g}; {len(flipped)} of {found['n']} pictures get another answer"
        )
    return refused


def latency(model: Model, exported: ExportedModel, item: Item) -> dict[str, Any]:
    """Milliseconds from decoded pixels to the answer, the two in turn: medians, and the least and most of each."""
    pixels = decode.load(item)
    step = max(1, max(pixels.shape[:2]) // _SIDE)  # a batch of large photos would not fit in memory
    pixels = np.ascontiguousarray(pixels[::step, ::step])
    found: dict[str, Any] = {
        "picture": [pixels.shape[1], pixels.shape[0]],
        "threads": {"torch": torch.get_num_threads(), "export": threads()},
    }
    for n, rounds in _ROUNDS.items():
        stack = np.repeat(pixels[None], n, axis=0)

        def ours(stack: np.ndarray = stack) -> object:
            return model._forward(torch.stack([center_view(picture, model.card) for picture in stack]))

        def theirs(stack: np.ndarray = stack) -> object:
            return exported.outputs(stack)

        ours(), theirs()
        times = np.array([[_seconds(ours), _seconds(theirs)] for _ in range(rounds)]) * 1000
        median, least, most = np.median(times, axis=0), times.min(axis=0), times.max(axis=0)
        found[f"batch_{n}"] = {
            "torch_ms": float(median[0]), "torch_range": [float(least[0]), float(most[0])],
            "export_ms": float(median[1]), "export_range": [float(least[1]), float(most[1])],
        }  # fmt: skip
    return found


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def machine() -> dict[str, Any]:
    """What it was measured with."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for package in ("torch", "numpy", "pillow", "onnx", "onnxruntime", "openvino"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"processor": processor(), "platform": platform.platform(), "versions": versions}
