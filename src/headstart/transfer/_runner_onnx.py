"""The engines beside torch: one ONNX file of the module, and onnxruntime or OpenVINO to compute it.

The file takes a whole batch of uint8 images: the batch size is part of it, for both engines plan better with fixed
shapes, and so is the normalisation. onnx is what torch's exporter writes with, so both engines need it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import inspect
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headstart import files
from headstart.data import cache
from headstart.data.augment import normalise
from headstart.errors import OutputError
from headstart.records import Card
from headstart.transfer._onnxruntime import session
from headstart.transfer._runner_torch import Compute

__all__ = [
    "ENGINES", "EXTRAS", "PRECISIONS", "export", "keep", "kept", "missing", "own_signal_stack", "short_version",
    "silent_output", "version_of",
]  # fmt: skip

_FORMAT = 1
_OPSET = 17  # the first with LayerNormalization, and read by every version of the engines that we allow

EXTRAS = {"openvino": "openvino", "onnxruntime": "onnx"}
"""Which of our extras brings an engine."""
PRECISIONS = {"openvino": ("fp32", "bf16"), "onnxruntime": ("fp32",)}
"""What an engine can compute in; OpenVINO in bf16 only where the processor has it."""


def missing(engine: str) -> str | None:
    """The package that is missing for `engine`, or None; nothing is imported."""
    return next((name for name in ("onnx", engine) if importlib.util.find_spec(name) is None), None)


def short_version(text: str) -> str:
    """major.minor of a version."""
    found = re.match(r"\d+\.\d+", text)
    return found.group() if found else text.replace("/", "_")


def version_of(engine: str) -> str:
    """major.minor of an engine that is installed."""
    return short_version(str(getattr(importlib.import_module(engine), "__version__", "unknown")))


# --- the file ---------------------------------------------------------------------------------------------------------


def export(module: nn.Module, card: Card, images: Tensor) -> bytes:
    """`module` behind its normalisation as an ONNX file for batches like `images`. Raises what the exporter raises.

    The older exporter is asked (`dynamo=False`), as long as torch has it: it takes a third of the time and the engines
    compute its files as fast.
    """
    whole, file = _Normalised(module, card).eval(), io.BytesIO()  # the exporter gives all parts the mode of the whole
    example = (images.clone(memory_format=torch.channels_last),)
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["rows"]}
    exporter: Callable[..., Any] = torch.onnx.export
    with silent_output(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter warns of its own age, and of every number it takes as fixed
        if "dynamo" not in inspect.signature(exporter).parameters:
            made: bytes = exporter(whole, example, **names).model_proto.SerializeToString()
            return made
        exporter(whole, example, file, dynamo=False, opset_version=_OPSET, **names)
    return file.getvalue()


@contextmanager
def silent_output() -> Iterator[None]:
    """Nothing reaches the process's standard output: where an export fails, torch's C++ prints the graph there."""
    try:
        sys.stdout.flush()
        kept = os.dup(1)
    except (OSError, ValueError, AttributeError):  # there is no standard output
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        _flush_libraries()
        os.dup2(null, 1)
        yield
    finally:
        _flush_libraries()
        os.dup2(kept, 1)
        os.close(kept)
        os.close(null)


def _flush_libraries() -> None:
    with suppress(OSError, AttributeError, TypeError):  # Windows has no one C library of the process
        ctypes.CDLL(None).fflush(None)


class _Normalised(nn.Module):
    """The module with the card's normalisation before it."""

    def __init__(self, module: nn.Module, card: Card) -> None:
        super().__init__()
        self.module, self.card = module, card

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (batch, 3, h, w) to float32 rows (batch, width)."""
        rows: Tensor = self.module(normalise(images, self.card))
        return rows


def _name(key: str, card: Card, images: Tensor) -> str:
    whole = [_FORMAT, key, card.mean, card.std, tuple(images.shape), _OPSET, short_version(torch.__version__)]
    return files.hash_json(whole)[:32]


def kept(key: str, card: Card, images: Tensor) -> bytes | None:
    """The file that an earlier run kept, or None; one whose bytes are not those of its name is removed."""
    folder = files.home() / "engines"
    for path in files.listed(folder, f"{_name(key, card, images)}-*.onnx") if key else ():
        with suppress(OSError):  # pruned by another process, or not ours to touch
            data = path.read_bytes()
            if path.stem.endswith(files.hash_bytes(data)[:32]):
                os.utime(path)  # what is used least recently is pruned first
                return data
            path.unlink(missing_ok=True)
    return None


def keep(data: bytes, key: str, card: Card, images: Tensor, *, bound: str | int | None = None) -> None:
    """Keep an exported file for later runs, its hash in its name; an empty key keeps nothing.

    `bound` is how much may be kept on disk in all (None: the default).
    """
    if key:
        name = f"{_name(key, card, images)}-{files.hash_bytes(data)[:32]}.onnx"
        with suppress(OutputError, OSError):  # the next run exports again; the store says what the disk refuses
            cache.make_room(len(data), limit=cache.limit_of(bound))
            files.write_bytes(files.home() / "engines" / name, data)


# --- the engines ------------------------------------------------------------------------------------------------------


class _SignalStack(ctypes.Structure):
    """stack_t of signal.h, as Linux has it."""

    _fields_ = (("at", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def own_signal_stack() -> Iterator[None]:
    """Let signals run on the stack on which they ran before the block.

    Where the processor has AMX, OpenVINO gives the thread a stack for signals that is too small for one: the first
    Ctrl-C after tiles were used would end the process by a segmentation fault.
    """
    if sys.platform != "linux":
        yield
        return
    before, libc = _SignalStack(), ctypes.CDLL(None)
    known = libc.sigaltstack(None, ctypes.byref(before)) == 0
    try:
        yield
    finally:
        if known:
            libc.sigaltstack(ctypes.byref(before), None)


def _openvino(data: bytes, *, threads: int, precision: str) -> Compute:
    """Compute an ONNX file with OpenVINO on the CPU, in exactly `precision`."""
    wanted = {"fp32": "f32", "bf16": "bf16"}[precision]
    options = {
        "INFERENCE_PRECISION_HINT": wanted,  # by itself it takes bf16 where the processor has it
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # pinned threads of two processes would share one core
    }
    with own_signal_stack():
        import openvino

        core = openvino.Core()
        compiled = core.compile_model(core.read_model(data), "CPU", options)
    taken = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if taken != wanted:
        raise RuntimeError(f"computes in {taken} and not in {wanted} on this processor")
    request = compiled.create_infer_request()

    def compute(images: Tensor) -> np.ndarray:
        rows = request.infer([images.contiguous().numpy()], share_inputs=True, share_outputs=True)[0]
        return np.array(rows, dtype=np.float32)

    return compute


def _onnxruntime(data: bytes, *, threads: int, precision: str) -> Compute:  # noqa: ARG001 - fp32 is all it has
    """Compute an ONNX file with onnxruntime on the CPU."""
    ready = session(data, threads=threads)

    def compute(images: Tensor) -> np.ndarray:
        rows = ready.run(None, {"images": images.contiguous().numpy()})[0]
        return np.asarray(rows, dtype=np.float32)

    return compute


ENGINES: dict[str, Callable[..., Compute]] = {"openvino": _openvino, "onnxruntime": _onnxruntime}
"""Engines by name, in the order of preference."""
