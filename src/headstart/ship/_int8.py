"""Smaller number formats for an ONNX file: weights in half precision, or the network in 8-bit whole numbers.

The preprocessing, the head, the probabilities and "unknown" stay as they are: they take no room.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.ship.exported import threads
from headstart.transfer._onnxruntime import session

__all__ = ["ITEMS", "halved", "narrowed", "quantised"]

ITEMS = 64
"""Training pictures that the ranges of an int8 network are measured on, at most."""

_LEAST = 256  # numbers in an array that is worth halving
_NETWORK = "/source/"  # where the nodes of the network stand in the graph
_PICTURE = "images"  # the graph's input

Pixels = npt.NDArray[np.uint8]
Wide = npt.NDArray[np.float64]


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


def quantised(data: bytes, pictures: Sequence[Pixels]) -> bytes:
    """The graph with its network in int8: static, weights by channel, ranges measured on decoded pictures (h, w, 3).

    Afterwards the biases of the convolutions are shifted by what int8 does to them in the mean: see `_correct`.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    made = onnx.load_from_string(data)
    _bias_each(made)
    means = _means(made, pictures)
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
    _correct(smaller, means, pictures)
    facts = {entry.key: entry.value for entry in made.metadata_props}
    onnx.helper.set_model_props(smaller, facts)
    return bytes(smaller.SerializeToString())


def _layers(made: Any) -> list[Any]:
    """The convolutions of the network, in the order of the graph."""
    return [node for node in made.graph.node if node.op_type == "Conv" and _NETWORK in node.name]


def _bias_each(made: Any) -> None:
    """Give every convolution a bias of its own, zeros where it has none: a place for its correction; in place."""
    from onnx import numpy_helper

    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    readers = Counter(name for node in made.graph.node for name in node.input)
    for node in _layers(made):
        weight, bias = arrays.get(node.input[1]), "".join(node.input[2:])
        if weight is None or (bias and (bias not in arrays or readers[bias] == 1)):
            continue  # computed in the graph, or its own already
        name = f"{node.name}.bias"
        values = arrays[bias] if bias else np.zeros(len(weight), np.float32)
        made.graph.initializer.append(numpy_helper.from_array(values, name))
        readers[bias] -= 1
        del node.input[2:]
        node.input.append(name)


def _means(made: Any, pictures: Sequence[Pixels]) -> dict[str, Wide]:
    """The mean over pictures and places of what each convolution gives (channels,), by the convolution's name."""
    import onnx

    layers, watched = _layers(made), onnx.ModelProto()
    if not layers:
        return {}
    watched.CopyFrom(made)
    told = {output.name for output in made.graph.output}
    names = [node.output[0] for node in layers]
    watched.graph.output.extend(_told(name) for name in names if name not in told)
    ready = session(watched.SerializeToString(), threads=threads())
    total = {node.name: np.zeros(1) for node in layers}
    for picture in pictures:
        for node, value in zip(layers, ready.run(names, {_PICTURE: picture[None]}), strict=True):
            total[node.name] = total[node.name] + _mean(value) / len(pictures)
    return total


def _correct(made: Any, means: dict[str, Wide], pictures: Sequence[Pixels]) -> None:
    """Shift the biases of an int8 graph, so that on `pictures` no channel is off in the mean; in place.

    Layer by layer, each on what the corrected ones before it give (Nagel et al. 2019, "Data-free quantization through
    weight equalization and bias correction", appendix D). A filter for edges adds up to nothing on a smooth picture,
    its rounded weights do not: MobileNetV2 0.35 lost 16 points on pictures of 32 pixels blown up to 224.

    Every layer is run once: what it gives is kept until the last that reads it, moved as its bias is.
    """
    from onnx import numpy_helper

    arrays = {tensor.name: tensor for tensor in made.graph.initializer}
    makers = {name: node for node in made.graph.node for name in node.output}
    layers = [n for n in _layers(made) if n.name in means and _is_rounded(n, makers)]
    ends = {_PICTURE, *(layer.output[0] for layer in layers)}
    parts = [_part(made, layer.output[0], ends, arrays, makers) for layer in layers]
    reads = [[given.name for given in part.graph.input] for part in parts]
    known: dict[str, list[npt.NDArray[Any]]] = {_PICTURE: [picture[None] for picture in pictures]}
    for n, (layer, part) in enumerate(zip(layers, parts, strict=True)):
        ready = session(part.SerializeToString(), threads=threads(), optimised=False)
        given = [[known[name][k] for name in reads[n]] for k in range(len(pictures))]
        found = [ready.run(None, dict(zip(reads[n], values, strict=True)))[0] for values in given]
        off = sum(_mean(value) for value in found) / len(found) - means[layer.name]
        kept, size = (arrays[name] for name in makers[layer.input[2]].input[:2])
        step = numpy_helper.to_array(size).astype(np.float64)
        before, bounds = numpy_helper.to_array(kept).astype(np.float64), np.iinfo(np.int32)
        after = np.clip(np.round(before - off / step), bounds.min, bounds.max)
        kept.CopyFrom(numpy_helper.from_array(after.astype(np.int32), kept.name))
        moved = ((after - before) * step).astype(np.float32)
        known[layer.output[0]] = [value + moved.reshape(-1, *[1] * (value.ndim - 2)) for value in found]
        wanted = {name for later in reads[n + 1 :] for name in later}
        known = {name: values for name, values in known.items() if name in wanted}


def _is_rounded(layer: Any, makers: dict[str, Any]) -> bool:
    """Whether a convolution has a bias in whole numbers."""
    maker = makers.get(layer.input[2]) if len(layer.input) > 2 else None
    return maker is not None and maker.op_type == "DequantizeLinear"


def _part(made: Any, output: str, known: set[str], arrays: dict[str, Any], makers: dict[str, Any]) -> Any:
    """The part of a graph that computes one tensor from others that are known, or from the graph's `arrays`."""
    from onnx import TensorProto, helper

    nodes, given, fixed = set[str](), set[str](), set[str]()  # a node by its first output
    left = [output]
    while left:
        name = left.pop()
        if name in arrays:
            fixed.add(name)
        elif name in known and name != output:
            given.add(name)
        elif name and makers[name].output[0] not in nodes:
            nodes.add(makers[name].output[0])
            left += makers[name].input
    inputs = [_told(name, TensorProto.UINT8 if name == _PICTURE else TensorProto.FLOAT) for name in sorted(given)]
    graph = helper.make_graph(
        [node for node in made.graph.node if node.output[0] in nodes], "part", inputs, [_told(output)],
        [arrays[name] for name in sorted(fixed)],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=made.opset_import, ir_version=made.ir_version)


def _told(name: str, kind: int = 1) -> Any:
    """The entry of an input or output of any shape, float32 unless told otherwise."""
    from onnx import helper

    return helper.make_tensor_value_info(name, kind, None)


def _mean(value: npt.NDArray[Any]) -> Wide:
    """The mean of (n, channels, ...) by channel."""
    found: Wide = value.mean(axis=(0, *range(2, value.ndim)), dtype=np.float64)
    return found


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

    def __init__(self, pictures: Iterable[Pixels]) -> None:
        self._left = iter(pictures)

    def get_next(self) -> dict[str, Any] | None:
        """The next input, None after the last."""
        found = next(self._left, None)
        return None if found is None else {_PICTURE: found[None]}
