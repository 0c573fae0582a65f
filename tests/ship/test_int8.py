"""int8: rounding the weights moves no channel in the mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import helper, numpy_helper  # noqa: E402 - there may be none

from headstart.ship._int8 import _balance, _error, quantised  # noqa: E402 - of no use without them


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
    given = helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, [1, None, None, 3])
    made = helper.make_tensor_value_info(f"x{len(weights)}", onnx.TensorProto.FLOAT, [1, None, None, None])
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(helper.make_graph(nodes, "g", [given], [made], arrays), opset_imports=opset, ir_version=8)
    onnx.checker.check_model(model)
    return model


def filters(outs: int, ins: int, side: int = 3) -> np.ndarray:
    """Filters for edges: they add up to nothing but for their rounding."""
    found = np.random.default_rng(outs).normal(0, 1, (outs, ins, side, side))
    return (found - found.mean((1, 2, 3), keepdims=True)).astype(np.float32)


def smooth(n: int) -> list[np.ndarray]:
    """Bright pictures of several sizes in which little changes."""
    rng = np.random.default_rng(n)
    return [(rng.integers(150, 250) + rng.normal(0, 2, (20 + k, 30, 3))).astype(np.uint8) for k in range(n)]


def computed(model: Any, pictures: list[np.ndarray], *, rounded: bool) -> np.ndarray:
    """The mean of the last layer by channel, with the weights as they are or rounded as int8 has them."""
    arrays = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
    means = []
    for picture in pictures:
        x = torch.from_numpy(picture.astype(np.float64)).permute(2, 0, 1)[None]
        for node in (n for n in model.graph.node if n.op_type == "Conv"):
            weight = arrays[node.input[1]]
            weight = weight + _error(weight) if rounded else weight
            bias = torch.from_numpy(arrays[node.input[2]]) if len(node.input) > 2 else None
            group = next(a.i for a in node.attribute if a.name == "group")
            x = functional.conv2d(x, torch.from_numpy(weight), bias, groups=group)
        means.append(x.mean((0, 2, 3)).numpy())
    return np.mean(means, axis=0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("weights", "groups"),
    [([filters(8, 3)], [1]), ([filters(6, 3, 1) + 1, filters(6, 1)], [1, 6]), ([filters(4, 3), filters(8, 2)], [1, 2])],
)
def test_rounded_weights_move_no_channel_in_the_mean(weights: list[np.ndarray], groups: list[int], bias: bool) -> None:
    model, pictures = graph(weights, groups=groups, bias=bias), smooth(5)
    wanted, off = (computed(model, pictures, rounded=rounded) for rounded in (False, True))
    assert np.abs(off - wanted).max() > 1, "these weights need no shift"
    _balance(model, pictures)
    onnx.checker.check_model(model)
    assert np.abs(computed(model, pictures, rounded=True) - wanted).max() < 0.02 * np.abs(off - wanted).max()


def test_a_bias_that_two_layers_share_becomes_two() -> None:
    model = graph([filters(6, 3, 1), filters(6, 1)], groups=[1, 6], bias=True, shared=True)
    before = computed(model, smooth(3), rounded=False)
    _balance(model, smooth(3))
    first, second = (node.input[2] for node in model.graph.node if node.op_type == "Conv")
    assert first != second
    assert np.abs(computed(model, smooth(3), rounded=True) - before).max() < 0.1


def test_a_channel_of_zeros_stays_one() -> None:
    weight = filters(4, 3)
    weight[1] = 0
    assert not _error(weight.astype(np.float64))[1].any()
    assert len(quantised(graph([weight], groups=[1], bias=False).SerializeToString(), smooth(2))) > 0
