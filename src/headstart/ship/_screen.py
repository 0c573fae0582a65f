"""Exported graphs of unknown hands, read before an engine gets them. No torch, no onnx.

An engine does what a graph says. Our graphs compute from one picture straight to its answers: no loop, no branch, no
file beside them, no operator but the standard ones. What is none of this is refused. The ONNX file is read as the
protocol buffer that it is (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto), OpenVINO's as XML.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.parsers import expat

__all__ = ["screen_onnx", "screen_openvino"]

_REFUSED = ("Loop", "Scan", "If", "SequenceMap")
_STANDARD = ("", "ai.onnx")
_MOST = 200_000  # nodes, tensors and attributes of a graph; the largest networks have some ten thousand
_DEEPEST = 16

# Field numbers of onnx.proto; those that lead to what is looked at.
_MODEL_GRAPH, _MODEL_FUNCTIONS, _MODEL_TRAINING = 7, 25, 20
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_SPARSE_TENSORS = (1, 2)


def screen_onnx(data: bytes) -> None:
    """Raise ValueError for an ONNX file with a loop, a branch, data in other files or operators of others' making."""
    _Onnx().model(memoryview(data))


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Numbers and values of a message's fields. Raises ValueError where the bytes are no message."""
    at, end = 0, len(data)
    while at < end:
        key, at = _number(data, at)
        field, kind = key >> 3, key & 7
        value: memoryview | int
        if kind == 0:
            value, at = _number(data, at)
        elif kind == 2:
            size, at = _number(data, at)
            value, at = data[at : at + size], at + size
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = data[at : at + size], at + size
        else:
            raise ValueError("the graph is damaged")
        if at > end or not field:
            raise ValueError("the graph is damaged")
        yield field, value


def _number(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
        if byte < 128:
            return value & (1 << 64) - 1, at
    raise ValueError("the graph is damaged")


class _Onnx:
    """Looks at every part of a model, and counts them."""

    def __init__(self) -> None:
        self.seen = 0

    def _parts(self, data: memoryview | int) -> Iterator[tuple[int, memoryview | int]]:
        self.seen += 1
        if self.seen > _MOST:
            raise ValueError(f"the graph has more than {_MOST} parts")
        if isinstance(data, int):
            raise ValueError("the graph is damaged")
        yield from _fields(data)

    def model(self, data: memoryview) -> None:
        graphs = 0
        for field, value in self._parts(data):
            if field in (_MODEL_FUNCTIONS, _MODEL_TRAINING):
                raise ValueError("the graph brings operators of its own")
            if field == _MODEL_GRAPH:
                self._graph(value)
                graphs += 1
        if graphs != 1:
            raise ValueError("the file holds no graph" if not graphs else "the file holds two graphs")

    def _graph(self, data: memoryview | int) -> None:
        for field, value in self._parts(data):
            if field == _GRAPH_NODE:
                self._node(value)
            elif field == _GRAPH_INITIALIZER:
                self._tensor(value)
            elif field == _GRAPH_SPARSE:
                self._sparse(value)

    def _node(self, data: memoryview | int) -> None:
        kind, domain = "", ""
        for field, value in self._parts(data):
            if field == _NODE_TYPE and not isinstance(value, int):
                kind = bytes(value[:80]).decode("utf-8", "replace")
            elif field == _NODE_DOMAIN and not isinstance(value, int):
                domain = bytes(value[:80]).decode("utf-8", "replace")
            elif field == _NODE_ATTRIBUTE:
                self._attribute(value)
        if kind in _REFUSED:
            raise ValueError(f"the graph has a {kind}")
        if domain not in _STANDARD:
            raise ValueError(f"the graph has an operator {kind!r} of {domain!r}")

    def _attribute(self, data: memoryview | int) -> None:
        for field, value in self._parts(data):
            if field in _ATTRIBUTE_GRAPHS:
                raise ValueError("the graph holds another graph")
            if field in _ATTRIBUTE_TENSORS:
                self._tensor(value)
            elif field in _ATTRIBUTE_SPARSE:
                self._sparse(value)

    def _sparse(self, data: memoryview | int) -> None:
        for field, value in self._parts(data):
            if field in _SPARSE_TENSORS:
                self._tensor(value)

    def _tensor(self, data: memoryview | int) -> None:
        for field, value in self._parts(data):
            if field == _TENSOR_EXTERNAL or (field == _TENSOR_LOCATION and value):
                raise ValueError("the graph takes data from other files")


# --- OpenVINO -----------------------------------------------------------------------------------------------------

_LAYERS = ("Loop", "TensorIterator", "If")


def screen_openvino(xml: bytes, weights: int) -> None:
    """Raise ValueError for OpenVINO XML with a loop, a branch, others' operators or data beyond `weights` bytes."""
    path: list[str] = []

    def start(name: str, words: dict[str, str]) -> None:
        path.append(name)
        if len(path) == 1 and name != "net":
            raise ValueError("the file is no network of OpenVINO")
        if len(path) > _DEEPEST:
            raise ValueError("the network is nested too deeply")
        if name == "layer":
            if words.get("type") in _LAYERS:
                raise ValueError(f"the network has a {words['type']}")
            if not re.fullmatch(r"opset\d{1,2}", words.get("version", "opset1")):
                raise ValueError(f"the network has an operator of {words['version'][:80]!r}")
        if name == "data" and path[-2:-1] == ["layer"] and ("offset" in words or "size" in words):
            place = [words.get(key, "") for key in ("offset", "size")]
            if not all(re.fullmatch(r"\d{1,18}", value) for value in place) or sum(map(int, place)) > weights:
                raise ValueError("the network takes data from outside of its weights")

    def refuse(*_: object) -> None:
        raise ValueError("the network's file defines entities")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, lambda _: path.pop()
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        parser.Parse(xml, True)
    except expat.ExpatError as error:
        raise ValueError(f"the network's file is no XML: {error}") from error
