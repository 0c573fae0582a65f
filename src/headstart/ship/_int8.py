"""Smaller number formats for an ONNX file: weights in half precision, or the network in 8-bit whole numbers.

The preprocessing, the head, the probabilities and "unknown" stay as they are: they take no room.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ITEMS", "halved", "narrowed", "quantised"]

ITEMS = 64
"""Training pictures that the ranges of an int8 network are measured on, at most."""

_LEAST = 256  # numbers in an array that is worth halving
_NETWORK = "/source/"  # where the nodes of the network stand in the graph


def narrowed(data: bytes) -> bytes:
    """The same graph with float64 constants that float32 holds exactly kept so, and widened when it is opened."""
    import onnx

    made = onnx.load_from_string(data)
    return _kept(made, [t for t in made.graph.initializer if t.data_type == onnx.TensorProto.DOUBLE], np.float32)


def halved(data: bytes) -> bytes:
    """The same graph with its network's weights kept in float16 and widened when it is opened: half the size.

    Computed in float32, so every engine and processor gives the same answers as fast as before.
    """
    import onnx

    made = onnx.load_from_string(data)
    used = {name for node in made.graph.node if _NETWORK in node.name for name in node.input}
    wide = [t for t in made.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and t.name in used]
    return _kept(made, wide, np.float16)


def _kept(made: Any, tensors: Iterable[Any], narrow: type) -> bytes:
    """The graph with some of its arrays in another type, and a cast back to their own before all else.

    float32 is taken for exact values alone; small arrays stay as they are.
    """
    import onnx
    from onnx import helper, numpy_helper

    for tensor in tensors:
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            smaller: npt.NDArray[Any] = values.astype(narrow)
        if values.size < _LEAST or (narrow is np.float32 and not np.array_equal(smaller, values)):
            continue
        name, kept = tensor.name, f"{tensor.name}.kept"
        cast = helper.make_node("Cast", [kept], [name], name=f"/kept/{name}", to=tensor.data_type)
        tensor.CopyFrom(numpy_helper.from_array(smaller, kept))
        made.graph.node.insert(0, cast)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


def quantised(data: bytes, pictures: Sequence[npt.NDArray[np.uint8]]) -> bytes:
    """The graph with its network in int8: static, weights by channel, ranges measured on decoded pictures (h, w, 3).

    Before that the biases are shifted by what the rounding of the weights does in the mean: see `_balance`.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    made = onnx.load_from_string(data)
    _balance(made, pictures)
    network = [node.name for node in made.graph.node if _NETWORK in node.name]
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")
        target = Path(place) / "int8.onnx"
        quantize_static(
            made, target, _Reader(pictures), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax, nodes_to_quantize=network,
        )  # fmt: skip
        smaller = onnx.load(target)
    facts = {entry.key: entry.value for entry in made.metadata_props}
    onnx.helper.set_model_props(smaller, facts)
    return bytes(smaller.SerializeToString())


def _balance(made: Any, pictures: Sequence[npt.NDArray[np.uint8]]) -> None:
    """Shift the convolutions' biases, so that no channel moves in the mean when the weights are rounded; in place.

    The shift is the weights' error times the mean of what they read, on `pictures` (Nagel et al. 2019, "Data-free
    quantization through weight equalization and bias correction", section 4.2). A filter for edges adds up to nothing
    on a smooth picture, and its rounded weights do not: MobileNetV2 0.35 lost 16 points on pictures of 32 pixels blown
    up to 224, and one with this.
    """
    from onnx import numpy_helper

    arrays = {tensor.name: tensor for tensor in made.graph.initializer}
    nodes = [n for n in made.graph.node if n.op_type == "Conv" and _NETWORK in n.name and n.input[1] in arrays]
    means = _means(made, [node.input[0] for node in nodes], pictures)
    for node in nodes:
        weight = numpy_helper.to_array(arrays[node.input[1]]).astype(np.float64)
        outs, places = len(weight), tuple(range(2, weight.ndim))
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        error = _error(weight).sum(places).reshape(groups, outs // groups, -1)
        shift = np.einsum("goc,gc->go", error, means[node.input[0]].reshape(groups, -1)).reshape(-1)
        before = numpy_helper.to_array(arrays[node.input[2]]) if len(node.input) > 2 else np.zeros(outs)
        name = f"{node.name}.bias"  # of its own: two may share one
        made.graph.initializer.append(numpy_helper.from_array((before - shift).astype(np.float32), name))
        del node.input[2:]
        node.input.append(name)


def _error(weight: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What rounding to int8, symmetric and with a scale for each output channel, adds to a layer's weights."""
    most = np.abs(weight).reshape(len(weight), -1).max(1)
    scale = np.where(most > 0, most, 1.0).reshape(-1, *[1] * (weight.ndim - 1)) / 127
    error: npt.NDArray[np.float64] = np.round(weight / scale) * scale - weight
    return error


def _means(
    made: Any, names: Iterable[str], pictures: Sequence[npt.NDArray[np.uint8]]
) -> dict[str, npt.NDArray[np.float64]]:
    """The mean of some tensors (1, channels, ...) by channel, over pictures."""
    import onnx
    import onnxruntime

    watched, asked = onnx.ModelProto(), list(dict.fromkeys(names))
    watched.CopyFrom(made)
    told = {output.name for output in made.graph.output}
    watched.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in asked if name not in told
    )
    how = onnxruntime.SessionOptions()
    how.log_severity_level = 3
    session = onnxruntime.InferenceSession(watched.SerializeToString(), how, providers=["CPUExecutionProvider"])
    total: dict[str, npt.NDArray[np.float64]] = {}
    for picture in pictures if asked else ():
        for name, value in zip(asked, session.run(asked, {"images": picture[None]}), strict=True):
            mean = value.mean(axis=(0, *range(2, value.ndim)), dtype=np.float64)
            total[name] = total[name] + mean if name in total else mean
    return {name: value / len(pictures) for name, value in total.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime's advice on preparing a file is not for our users."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


class _Reader:
    """Hands pictures to the calibration, one at a time: they have many sizes."""

    def __init__(self, pictures: Iterable[npt.NDArray[np.uint8]]) -> None:
        self._left = iter(pictures)

    def get_next(self) -> dict[str, Any] | None:
        """The next input, None after the last."""
        found = next(self._left, None)
        return None if found is None else {"images": found[None]}
