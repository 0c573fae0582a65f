"""onnxruntime computes with the threads that it is told, and the same graph either way."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from headstart.transfer._onnxruntime import session  # noqa: E402 - of no use without them


@pytest.mark.parametrize("optimised", [True, False])
def test_a_session_computes_with_the_threads_it_is_told(optimised: bool) -> None:
    told = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None]) for name in "xy"]
    nodes = [onnx.helper.make_node("Neg", ["x"], ["z"]), onnx.helper.make_node("Neg", ["z"], ["y"])]
    opset = [onnx.helper.make_opsetid("", 17)]
    graph = onnx.helper.make_graph(nodes, "g", told[:1], told[1:])
    made = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    ready = session(made.SerializeToString(), threads=3, optimised=optimised)
    assert ready.get_session_options().intra_op_num_threads == 3
    given = np.array([1.0, -2.0], np.float32)
    assert np.array_equal(ready.run(None, {"x": given})[0], given)
