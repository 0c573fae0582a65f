"""An exported file that answers like the Model it was made from. No torch, but for a program of torch.

A folder of an export holds the file and certificate.json, which names it with its sha256. Pictures are decoded whole,
never drafted, and computed one at a time: an answer depends on its own picture alone.
"""

from __future__ import annotations

import importlib.util
import io
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart import files
from headstart.data import decode
from headstart.data.cores import cores, default_workers
from headstart.errors import HeadstartError, MissingExtraError, ModelError, UnreadableImage
from headstart.judge.calibration import softmax
from headstart.progress import Reporter, Silent
from headstart.records import SCHEMA, Card, Item, Skipped
from headstart.ship._record import check_classes
from headstart.ship._screen import screen_onnx, screen_openvino
from headstart.ship.answers import Answers, Prediction, items_of, predictions
from headstart.transfer._onnxruntime import session

__all__ = [
    "CERTIFICATE",
    "OUTPUTS",
    "PAYLOAD",
    "PRECISIONS",
    "ExportedModel",
    "Outputs",
    "decoded",
    "find_export",
    "open_export",
    "open_payload",
    "read_certificate",
    "screen",
    "threads",
]

CERTIFICATE = "certificate.json"
PAYLOAD = ("model.onnx", "model.xml", "model.bin", "model.pt2")
"""The files that stand beside a certificate, one kind or another of them."""

OUTPUTS = ("probabilities", "label", "unknown", "view")
"""What every export gives, by name."""

PRECISIONS = ("fp32", "fp16", "int8")
"""Number formats of weights, the most exact first."""

_AGAIN = "Export the model again."
_TRUST = "Answer with the model it was made from, or open it yourself where you trust whoever made it."
_WORDS = 300  # letters of an engine's message

Compute = Callable[[npt.NDArray[np.uint8]], Sequence[npt.NDArray[Any]]]


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the file gives for n pictures: probabilities float32 (n, k), label int64 (n), unknown bool (n), and the
    pixels that the network saw, uint8 (n, 3, h, w)."""

    probabilities: npt.NDArray[np.float32]
    label: npt.NDArray[np.int64]
    unknown: npt.NDArray[np.bool_]
    view: npt.NDArray[np.uint8]


class ExportedModel:
    """An opened export. `engine` is what computes it: "onnxruntime", "openvino" or "torch"."""

    def __init__(self, compute: Compute, classes: Sequence[str], *, card: Card, engine: str, precision: str) -> None:
        self._compute, self.classes, self.card = compute, tuple(classes), card
        self.engine, self.precision = engine, precision

    def outputs(self, images: npt.NDArray[np.uint8]) -> Outputs:
        """What the file gives for pictures of one size, uint8 (n, height, width, 3)."""
        try:
            found = [np.asarray(part) for part in self._compute(np.ascontiguousarray(images))]
            fits = _fits(found, len(images), len(self.classes))
        except HeadstartError:
            raise
        except Exception as error:  # whatever the engine says
            raise _unusable(error) from error
        if not fits:
            raise ModelError("the export gives something else than answers", remedy=_AGAIN)
        probabilities, label, unknown, view = found
        return Outputs(probabilities.astype(np.float32), label.astype(np.int64), unknown.astype(bool), view)

    def answers(self, items: Sequence[Item], *, reporter: Reporter | None = None) -> Answers:
        """Calibrated log probabilities of items, and which of them get a label; see Model.answers."""
        known = np.ones(len(items), dtype=bool)
        table = np.full((len(items), len(self.classes)), np.nan, dtype=np.float32)
        skipped: list[Skipped] = []
        with (reporter or Silent()).progress("Predicting", len(items)) as bar:
            for place, pixels in enumerate(decoded(items)):
                if isinstance(pixels, UnreadableImage):
                    skipped.append(Skipped(pixels.name, pixels.reason))
                else:
                    found = self.outputs(pixels[None])
                    table[place], known[place] = np.log(np.maximum(found.probabilities[0], 1e-38)), ~found.unknown[0]
                bar.advance()
        return Answers(table, known, tuple(skipped))

    def predict(self, inputs: Any, *, reporter: Reporter | None = None) -> list[Prediction]:
        """Answers for files, folders, PIL images or arrays (one or a list); see Model.predict."""
        items = items_of(inputs)
        return predictions(items, self.answers(items, reporter=reporter), self.classes)

    def predict_proba(self, inputs: Any, *, reporter: Reporter | None = None) -> npt.NDArray[np.float64]:
        """Probabilities (n, classes), columns as in `classes`; rows of NaN for inputs that cannot be read."""
        return softmax(self.answers(items_of(inputs), reporter=reporter).logits)


def _fits(found: Sequence[npt.NDArray[Any]], n: int, classes: int) -> bool:
    """Whether these are probabilities, labels, whether each is unknown, and views, of n pictures."""
    probabilities, label, unknown, view = found
    shapes = (probabilities.shape, label.shape, unknown.shape) == ((n, classes), (n,), (n,))
    kinds = [part.dtype.kind in known for part, known in zip(found, ("f", "i", "bu", "u"), strict=True)]
    seen = view.ndim == 4 and view.shape[:2] == (n, 3)
    return bool(shapes and all(kinds) and seen and np.isfinite(probabilities).all() and (label >= 0).all()
                and (label < classes).all())  # fmt: skip


def _unusable(error: Exception) -> ModelError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:_WORDS]
    return ModelError(f"the export cannot be computed: {reason}", remedy=_AGAIN)


def decoded(items: Sequence[Item]) -> Iterator[npt.NDArray[np.uint8] | UnreadableImage]:
    """The pixels of items in their order, or why there are none; decoded ahead by threads."""
    if len(items) == 1:
        yield _pixels(items[0])
        return
    source = iter(items)
    waiting: deque[Future[npt.NDArray[np.uint8] | UnreadableImage]] = deque()
    workers = default_workers()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            while True:
                waiting.extend(pool.submit(_pixels, item) for item in islice(source, 2 * workers - len(waiting)))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _pixels(item: Item) -> npt.NDArray[np.uint8] | UnreadableImage:
    try:
        return decode.load(item)
    except UnreadableImage as error:
        return error


# --- engines ------------------------------------------------------------------------------------------------------


def threads() -> int:
    """The threads an engine computes with: OMP_NUM_THREADS, which torch obeys too, else one a core."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) else cores()


def _onnx(payload: Mapping[str, bytes]) -> Compute:
    """Compute model.onnx with onnxruntime on the CPU."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise MissingExtraError("onnxruntime", "onnx", "computing an ONNX export")
    ready = session(payload["model.onnx"], threads=threads())

    def compute(images: npt.NDArray[np.uint8]) -> Sequence[npt.NDArray[Any]]:
        found: Sequence[npt.NDArray[Any]] = ready.run(list(OUTPUTS), {"images": images})
        return found

    return compute


def _openvino(payload: Mapping[str, bytes]) -> Compute:
    """Compute model.xml and model.bin with OpenVINO on the CPU, in fp32 wherever the weights are."""
    if importlib.util.find_spec("openvino") is None:
        raise MissingExtraError("openvino", "openvino", "computing an OpenVINO export")
    from headstart.transfer._runner_onnx import own_signal_stack

    with own_signal_stack():
        import openvino

        core = openvino.Core()
        weights = openvino.Tensor(np.frombuffer(payload["model.bin"], np.uint8))
        options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads(),
            "ENABLE_CPU_PINNING": False,  # pinned threads of two processes would share one core
        }
        compiled = core.compile_model(core.read_model(payload["model.xml"], weights), "CPU", options)
    request = compiled.create_infer_request()

    def compute(images: npt.NDArray[np.uint8]) -> Sequence[npt.NDArray[Any]]:
        found = request.infer([images])
        return [np.array(found[name]) for name in OUTPUTS]

    return compute


def _torch(payload: Mapping[str, bytes]) -> Compute:
    """Compute model.pt2 with torch."""
    import torch

    program = torch.export.load(io.BytesIO(payload["model.pt2"])).module()

    def compute(images: npt.NDArray[np.uint8]) -> Sequence[npt.NDArray[Any]]:
        with torch.inference_mode():
            return [part.numpy() for part in program(torch.from_numpy(images))]

    return compute


ENGINES: dict[str, tuple[str, Callable[[Mapping[str, bytes]], Compute]]] = {
    "onnx": ("onnxruntime", _onnx), "openvino": ("openvino", _openvino), "torch": ("torch", _torch),
}  # fmt: skip
"""For each kind of export: what computes it, and how it is opened."""


# --- folders ------------------------------------------------------------------------------------------------------


def open_payload(
    payload: Mapping[str, bytes], classes: Sequence[str], *, card: Card, to: str, precision: str
) -> ExportedModel:
    """An export from its files' bytes by name. Raises MissingExtraError where the engine is not installed."""
    engine, opened = ENGINES[to]
    return ExportedModel(opened(payload), classes, card=card, engine=engine, precision=precision)


def screen(payload: Mapping[str, bytes], to: str) -> None:
    """Raise ValueError where a file that may be anyone's could do more than compute answers from a picture."""
    if to == "torch":
        raise ValueError("torch runs what a program's file says, so headstart opens none")
    if to == "onnx":
        screen_onnx(payload["model.onnx"])
    else:
        screen_openvino(payload["model.xml"], len(payload["model.bin"]))


def read_certificate(folder: str | Path) -> dict[str, Any]:
    """certificate.json of an export's folder. Raises ModelError when it is missing, torn or of a newer format."""
    file = Path(folder).expanduser() / CERTIFICATE
    try:
        found: dict[str, Any] = files.read_json(file)
        if (schema := int(found["schema"])) > SCHEMA:
            raise ModelError(
                f"the export has format {schema}, this headstart reads up to {SCHEMA}",
                where=file,
                remedy=f"Install headstart {str(found.get('headstart', 'a newer version'))[:40]} or newer.",
            )
        _check_told(found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        what = f"no export with a certificate: {type(error).__name__}: {str(error)[:_WORDS]}"
        raise ModelError(what, where=file, remedy=_AGAIN) from error
    return found


_FILES = {"onnx": ("model.onnx",), "openvino": ("model.xml", "model.bin"), "torch": ("model.pt2",)}


def _check_told(found: Mapping[str, Any]) -> None:
    """Raise an error where a certificate does not say what is needed to open what lies beside it."""
    export, latency = found["export"], found.get("latency") or {}
    if set(export["files"]) != set(_FILES.get(export["to"], ())) or export["precision"] not in PRECISIONS:
        raise ValueError("it names no export of ours")
    if not all(isinstance(told["sha256"], str) for told in export["files"].values()):
        raise TypeError("a file has no sha256")
    if not isinstance(found["model"], dict) or not isinstance(latency.get("batch_1") or {}, dict):
        raise TypeError("a part is of another kind")
    check_classes(found["classes"])
    _card_of(found)


def _card_of(told: Mapping[str, Any]) -> Card:
    facts: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in told["card"].items()}
    return Card(**facts)


def open_export(folder: str | Path) -> ExportedModel:
    """The export in a folder, whose files must be those that were certified.

    Whoever makes a folder can certify it, so its graph is looked at before an engine gets it. Raises ModelError when a
    file is missing, changed or asks for more than answers, MissingExtraError where the engine is not installed.
    """
    place, told = Path(folder).expanduser(), read_certificate(folder)
    payload = {name: _certified(place / name, wanted["sha256"]) for name, wanted in told["export"]["files"].items()}
    to, precision = told["export"]["to"], told["export"]["precision"]
    try:
        screen(payload, to)
    except ValueError as error:
        raise ModelError(f"the export is not opened: {error}", where=place, remedy=_TRUST) from error
    try:
        return open_payload(payload, told["classes"], card=_card_of(told), to=to, precision=precision)
    except MissingExtraError:
        raise
    except Exception as error:  # whatever the engine says
        raise _unusable(error) from error


def _certified(file: Path, sha256: str) -> bytes:
    """A file with these bytes, also where the process that wrote it was killed before it had its name."""
    data = file.read_bytes() if file.is_file() else b""
    if files.hash_bytes(data) != sha256 and files.finish(file, sha256):
        data = file.read_bytes()
    if not file.is_file():
        raise ModelError("a file of the export is missing", where=file, remedy=_AGAIN)
    if files.hash_bytes(data) != sha256:
        raise ModelError("the file is not the one that was certified", where=file, remedy=_AGAIN)
    return data


def find_export(run: str | Path, to: str | None = None) -> Path | None:
    """The export of a run's model to answer with, or None.

    `run` may be an export's own folder. With `to` it is the most exact certified export of that kind. Without, it is
    the ONNX fp32 one, if its certificate says that it answers faster than torch and ONNX Runtime is installed. An
    export of another model than the one that stands in the run now is none.
    """
    place = Path(run).expanduser()
    if (place / CERTIFICATE).is_file():
        return place
    if place.name == "model" and (place.parent / "run.json").is_file():
        place = place.parent
    wanted = [f"{to}-{precision}" for precision in PRECISIONS] if to else ["onnx-fp32"]
    now = _model_hash(place)
    for folder in (place / "exports" / name for name in wanted if now):
        if not (folder / CERTIFICATE).is_file():
            continue
        told = read_certificate(folder)
        if told["model"].get("sha256") == now and (to or _default(told)):
            return folder
    return None


def _default(told: Mapping[str, Any]) -> bool:
    """Whether an export may answer without being asked for: it is installed, and faster here than torch."""
    installed = importlib.util.find_spec("onnxruntime") is not None
    one = (told.get("latency") or {}).get("batch_1") or {}
    ours, theirs = one.get("export_ms"), one.get("torch_ms")
    return installed and isinstance(ours, (int, float)) and isinstance(theirs, (int, float)) and ours < theirs


def _model_hash(place: Path) -> str:
    """The sha256 that the model in a run or model folder gives itself; "" where there is none."""
    for file in (place / "headstart.json", place / "model" / "headstart.json"):
        try:
            return str(files.read_json(file)["sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return ""
