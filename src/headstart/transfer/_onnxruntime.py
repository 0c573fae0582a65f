"""How onnxruntime is asked to compute a graph: on the processor, with as many threads as it is told."""

from __future__ import annotations

from typing import Any

__all__ = ["session"]


def session(data: bytes, *, threads: int, optimised: bool = True) -> Any:
    """A session of onnxruntime; not `optimised`: node by node, as the graph stands."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the decoders want the cores meanwhile
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
