"""int8: no channel of a convolution is off in the mean, whatever rounding does to weights and activations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import helper, numpy_helper  # noqa: E402 - there may be none

from headstart.ship import _int8  # noqa: E402 - of no use without them


def graph(weights: list[np.ndarray], *, groups: list[int], bias: bool, shared: bool = False) -> Any:
    """Convolutions without margins one after the other, the first of uint8 pictures, as the exports name them."""
    nodes = [
        helper.make_node("Cast", ["images"], ["wide"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Transpose", ["wide"], ["x0"], perm=[0, 3, 1, 2]),
    ]
    arrays = []
    for n, (weight, group) in enumerate(zip(weights, groups, strict=True)):
        arrays.append(numpy_helper.from_array(weight, f"w{n}"))
        reads = [f"x{n}", f"w{n}"]
        if bias:
            if not (shared and n):
                arrays.append(numpy_helper.from_array(np.linspace(-1, 1, len(weight), dtype=np.float32), f"b{n}"))
            reads.append("b0" if shared else f"b{n}")
        nodes.append(helper.make_node("Conv", reads, [f"x{n + 1}"], name=f"/source/conv{n}", group=group))
    return model(nodes, arrays, f"x{len(weights)}")


def model(nodes: list[Any], arrays: list[Any], output: str, dims: int = 4) -> Any:
    """A graph from pictures to one tensor, checked."""
    given = helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, [1, None, None, 3])
    made = helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, [None] * dims)
    opset = [helper.make_opsetid("", 17)]
    found = helper.make_model(helper.make_graph(nodes, "g", [given], [made], arrays), opset_imports=opset, ir_version=8)
    onnx.checker.check_model(found)
    return found


def filters(outs: int, ins: int, side: int = 3) -> np.ndarray:
    """Filters for edges: they add up to nothing but for their rounding."""
    found = np.random.default_rng(outs).normal(0, 1, (outs, ins, side, side))
    return (found - found.mean((1, 2, 3), keepdims=True)).astype(np.float32)


def smooth(n: int) -> list[np.ndarray]:
    """Bright pictures of several sizes in which little changes."""
    rng = np.random.default_rng(n)
    return [(rng.integers(150, 250) + rng.normal(0, 2, (20 + k, 30, 3))).astype(np.uint8) for k in range(n)]


def off(plain: Any, rounded: bytes, pictures: list[np.ndarray]) -> list[float]:
    """How far the channels of each convolution are off in the mean at most, in steps of the rounded bias.

    A channel can be put right to half a step; the rest is what the fast kernels round otherwise.
    """
    made = onnx.load_from_string(rounded)
    onnx.checker.check_model(made)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    makers = {name: node for node in made.graph.node for name in node.output}
    wanted, found = (_int8._means(graph, pictures) for graph in (plain, made))
    sizes = {n.name: arrays[makers[n.input[2]].input[1]] for n in _int8._layers(made)}
    assert wanted.keys() == found.keys() == sizes.keys() != set()
    return [float(np.abs((found[name] - wanted[name]) / sizes[name]).max()) for name in sizes]


CASES = [
    ([filters(8, 3)], [1]),
    ([filters(6, 3, 1) + 1, filters(6, 1)], [1, 6]),
    ([filters(4, 3), filters(8, 2)], [1, 2]),
]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("weights", "groups"), CASES)
def test_no_channel_is_off_in_the_mean(
    weights: list[np.ndarray], groups: list[int], bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, pictures = graph(weights, groups=groups, bias=bias), smooth(5)
    mended = _int8.quantised(plain.SerializeToString(), pictures)
    assert max(off(plain, mended, pictures)) < 1
    monkeypatch.setattr(_int8, "_correct", lambda *_: None)
    assert max(off(plain, _int8.quantised(plain.SerializeToString(), pictures), pictures)) > 20, "nothing to mend"


def test_a_layer_is_put_right_on_what_the_corrected_ones_before_it_give() -> None:
    """Two ways that meet, one of them past a layer: what the first gives is kept until the last has read it."""
    weights = {"w0": filters(8, 3), "w1": filters(8, 8, 1), "w2": filters(4, 8)}
    nodes = [
        helper.make_node("Cast", ["images"], ["wide"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Transpose", ["wide"], ["x0"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x0", "w0"], ["x1"], name="/source/first"),
        helper.make_node("Relu", ["x1"], ["x2"], name="/source/act"),
        helper.make_node("Conv", ["x2", "w1"], ["x3"], name="/source/second"),
        helper.make_node("Add", ["x1", "x3"], ["x4"], name="/source/add"),
        helper.make_node("Conv", ["x4", "w2"], ["x5"], name="/source/third"),
    ]
    plain = model(nodes, [numpy_helper.from_array(value, name) for name, value in weights.items()], "x5")
    pictures = smooth(6)
    assert max(off(plain, _int8.quantised(plain.SerializeToString(), pictures), pictures)) < 1


def test_it_holds_whatever_the_graph_does_with_what_a_layer_gives() -> None:
    """A convolution that is an output of the graph has its tensor renamed when it is rounded."""
    plain, pictures = graph([filters(6, 3, 1) + 1, filters(6, 1)], groups=[1, 6], bias=True), smooth(4)
    plain.graph.output.append(helper.make_tensor_value_info("x1", onnx.TensorProto.FLOAT, [None] * 4))
    assert max(off(plain, _int8.quantised(plain.SerializeToString(), pictures), pictures)) < 1


def test_a_bias_that_two_layers_share_becomes_two() -> None:
    plain, pictures = graph([filters(6, 3, 1), filters(6, 1)], groups=[1, 6], bias=True, shared=True), smooth(3)
    assert max(off(plain, _int8.quantised(plain.SerializeToString(), pictures), pictures)) < 1


def test_nothing_is_said_on_the_way(capfd: pytest.CaptureFixture[str]) -> None:
    """onnxruntime tells standard error of arrays that nobody reads."""
    for bias, shared in ((False, False), (True, False), (True, True)):
        made = graph([filters(6, 3, 1), filters(6, 1)], groups=[1, 6], bias=bias, shared=shared)
        _int8.quantised(made.SerializeToString(), smooth(2))
    assert capfd.readouterr() == ("", "")


def test_a_channel_of_zeros_stays_one() -> None:
    weight = filters(4, 3)
    weight[1] = 0
    made = _int8.quantised(graph([weight], groups=[1], bias=False).SerializeToString(), smooth(2))
    [found] = _int8._means(onnx.load_from_string(made), smooth(2)).values()
    assert abs(found[1]) < 0.05


def test_weights_that_the_graph_computes_stay_as_they_are() -> None:
    weight = filters(4, 3)
    nodes = [
        helper.make_node("Cast", ["images"], ["wide"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Transpose", ["wide"], ["x0"], perm=[0, 3, 1, 2]),
        helper.make_node("ReduceMean", ["wide"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["w0", "mean"], ["w"], name="/source/weigh"),
        helper.make_node("Conv", ["x0", "w"], ["x1"], name="/source/conv"),
    ]
    plain = model(nodes, [numpy_helper.from_array(weight, "w0")], "x1")
    made = onnx.load_from_string(_int8.quantised(plain.SerializeToString(), smooth(2)))
    [layer] = _int8._layers(made)
    assert len(layer.input) == 2
    assert _int8._means(made, smooth(2)).keys() == {"/source/conv"}


def test_a_network_without_convolutions_is_rounded_all_the_same() -> None:
    nodes = [
        helper.make_node("Cast", ["images"], ["wide"], to=onnx.TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["wide"], ["x0"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["x0", "w0"], ["x1"], name="/source/dense"),
    ]
    plain = model(nodes, [numpy_helper.from_array(filters(3, 8, 1)[:, :, 0, 0], "w0")], "x1", dims=2)
    made = onnx.load_from_string(_int8.quantised(plain.SerializeToString(), smooth(2)))
    assert "DequantizeLinear" in {node.op_type for node in made.graph.node}
