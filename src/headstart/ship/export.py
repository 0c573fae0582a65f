"""A model as one file for other programs, judged before it is written.

| --to     | file                   | --precision      | computed by                      |
| -------- | ---------------------- | ---------------- | -------------------------------- |
| onnx     | model.onnx             | fp32, fp16, int8 | ONNX Runtime, anywhere           |
| openvino | model.xml, model.bin   | fp32, fp16, int8 | OpenVINO                         |
| torch    | model.pt2              | fp32             | torch.export's program, in torch |

Beside it lies certificate.json: what was measured, and the sha256 of every file.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headstart import __version__, files
from headstart.errors import ExportError, MissingExtraError, OutputError, SettingsError, UnreadableImage, did_you_mean
from headstart.progress import Reporter
from headstart.records import SCHEMA, Item, plain
from headstart.ship._graph import Answering, metadata, to_onnx, to_program
from headstart.ship._int8 import ITEMS, halved, quantised
from headstart.ship.certify import TOLERANCE, certify, latency, machine, reasons
from headstart.ship.exported import CERTIFICATE, OUTPUTS, PAYLOAD, decoded, open_payload, screen
from headstart.ship.model import Model

__all__ = ["ITEMS", "KINDS", "Judged", "check_kind", "export_model", "write_export"]

KINDS: Mapping[str, tuple[str, ...]] = {
    "onnx": ("fp32", "fp16", "int8"), "openvino": ("fp32", "fp16", "int8"), "torch": ("fp32",),
}  # fmt: skip
"""The kinds of export, and what each can be written in."""

_NEEDED = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino"), "torch": ()}


@dataclass(frozen=True)
class Judged:
    """Items with their classes [n], by which an export is judged, and what the run said of them where that is known."""

    items: Sequence[Item]
    labels: np.ndarray
    said: np.ndarray | None = None


def check_kind(to: str, precision: str) -> None:
    """Raise SettingsError for a kind that does not exist, MissingExtraError where a package is not installed."""
    if to not in KINDS:
        raise SettingsError(f"--to {to} is no kind of export", remedy=did_you_mean(to, list(KINDS)))
    if precision not in KINDS[to]:
        raise SettingsError(f"--to {to} has no precision {precision!r}", remedy=f"Known: {', '.join(KINDS[to])}")
    for package in (*_NEEDED[to], *(("onnxruntime",) if precision == "int8" else ())):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "openvino" if package == "openvino" else "onnx", f"--to {to}")


def export_model(
    model: Model, judged: Judged, *, to: str, precision: str, training: Sequence[Item], max_drop: float | None,
    reporter: Reporter,
) -> tuple[dict[str, bytes], dict[str, Any]]:  # fmt: skip
    """The files of an export by name, and its certificate. Nothing is written.

    `training` items set the ranges of int8. Raises ExportError when it cannot be made or does not answer as the model
    does (see certify.reasons), SettingsError and MissingExtraError as `check_kind` does.
    """
    check_kind(to, precision)
    with reporter.stage(f"Writing {to} {precision}"):
        payload = _payload(model, to=to, precision=precision, training=training)
    if to != "torch":  # it is opened by nobody but who made it: see exported.screen
        try:
            screen(payload, to)
        except ValueError as error:
            raise ExportError(
                f"the network cannot be written so: {error}", remedy="Try another kind with --to."
            ) from error
    exported = open_payload(payload, model.classes, card=model.card, to=to, precision=precision)
    found = certify(model, exported, judged.items, labels=judged.labels, said=judged.said, reporter=reporter)
    refused = reasons(found, precision=precision, max_drop=max_drop)
    if refused:
        remedy = "Allow a loss of accuracy with --max-drop POINTS." if max_drop is None else "Take a higher precision."
        raise ExportError(f"the export does not answer as the model does: {'; '.join(refused)}", remedy=remedy)
    with reporter.stage("Measuring how fast it is"):
        found["latency"] = latency(model, exported, _readable(judged.items))
    certificate = {
        "schema": SCHEMA,
        "headstart": __version__,
        "export": {
            "to": to, "precision": precision,
            "files": {n: {"sha256": files.hash_bytes(data), "bytes": len(data)} for n, data in payload.items()},
            "input": "images: uint8 (n, height, width, 3), RGB, upright, of one size",
            "outputs": OUTPUTS,
        },
        "tolerance": {
            "probability_on_same_pixels": TOLERANCE if precision == "fp32" else None,
            "other_answers": 0 if precision == "fp32" and max_drop is None else None,
            "accuracy_points": max_drop if precision == "fp32" or max_drop is not None else 1.0,
        },
        "classes": model.classes,
        "card": model.card,
        **found,
        "machine": machine(),
    }  # fmt: skip
    return payload, plain(certificate)


def _readable(items: Sequence[Item]) -> Item:
    """The first item that can be decoded."""
    for item, pixels in zip(items, decoded(items), strict=False):
        if not isinstance(pixels, UnreadableImage):
            return item
    raise AssertionError("certify has read one")


def _payload(model: Model, *, to: str, precision: str, training: Sequence[Item]) -> dict[str, bytes]:
    facts, answering = metadata(model), Answering(model)
    if to == "torch":
        return {"model.pt2": to_program(answering, facts)}
    data = to_onnx(answering, facts)
    if precision == "int8":
        pictures = [found for found in decoded(training) if not isinstance(found, UnreadableImage)]
        if not pictures:
            raise ExportError("int8 needs training pictures to measure ranges on", remedy="Say where with --data DATA.")
        data = quantised(data, pictures)
    if to == "openvino":
        return _openvino(data, facts, half=precision == "fp16")
    return {"model.onnx": halved(data) if precision == "fp16" else data}


def _openvino(data: bytes, facts: Mapping[str, str], *, half: bool) -> dict[str, bytes]:
    """The ONNX file as OpenVINO's own two."""
    import openvino

    made = openvino.Core().read_model(data)
    for name, value in facts.items():
        made.set_rt_info(value, ["headstart", name])
    with tempfile.TemporaryDirectory() as place:
        openvino.save_model(made, Path(place) / "model.xml", compress_to_fp16=half)
        return {name: (Path(place) / name).read_bytes() for name in ("model.xml", "model.bin")}


def write_export(folder: Path, payload: Mapping[str, bytes], certificate: Mapping[str, Any]) -> None:
    """Write an export's folder; one that stood there is replaced by the whole new one, or stays as it is.

    Raises OutputError when something else stands there.
    """
    if folder.exists():
        others = (
            {entry.name for entry in folder.iterdir()} - {CERTIFICATE, *PAYLOAD} if folder.is_dir() else {folder.name}
        )
        if others:
            raise OutputError(
                f"something else stands there: {min(others)}", where=folder, remedy="Choose another --out."
            )
    told = files.text_bytes(files.json_text(certificate))
    files.write_together(folder, {CERTIFICATE: told, **payload})  # first what holds the hashes: see files.finish
    for name in PAYLOAD:
        if name not in payload:
            (folder / name).unlink(missing_ok=True)  # of the export that stood here
