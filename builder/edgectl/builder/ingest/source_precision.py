"""A model that came quantized: told by its operators. It ships as what it is, and nothing is quantized
once more. Pure."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto

from edgectl.builder.graph import GraphIndex, all_nodes, is_quantized
from edgectl.core.bundle import Precision

__all__ = ["AS_RECEIVED", "source_precision", "unfit_for_tensorrt"]

AS_RECEIVED = "as-received"
"""Recipe family, and name among the candidates, of a model in the form that it came in."""
_PAIR = ("QuantizeLinear", "DequantizeLinear")


def source_precision(model: ModelProto) -> Precision:
    """``int8`` for a model with quantized operators, whatever else is in it; ``float32`` for any other
    (they were widened)."""
    return "int8" if any(is_quantized(n) for n in all_nodes(model.graph)) else "float32"


def unfit_for_tensorrt(model: ModelProto) -> str:
    """What TensorRT does not take of a model, with the node or output; empty if there is nothing to say
    before it is compiled.

    TensorRT reads Q/DQ pairs of int8 codes with zero point 0, and no integer operators.
    """
    index = GraphIndex(model)
    for o in model.graph.output:
        if not index.is_tensor(o.name) or o.type.tensor_type.elem_type == TensorProto.STRING:
            return f"the output {o.name}, which is no tensor of numbers"
    for n in all_nodes(model.graph):
        if n.op_type not in _PAIR and is_quantized(n):
            return f"{n.op_type} (node {n.name})"
        if n.op_type not in _PAIR:
            continue
        zero = index.weights(n.input[2]) if len(n.input) > 2 and n.input[2] else None
        made = index.weights(n.input[0])
        if zero is None and (made is None or made.dtype != np.int8):
            if n.op_type == "QuantizeLinear":
                return f"codes of uint8 (node {n.name})"
        elif zero is not None and (zero.dtype not in (np.int8, np.int32) or np.any(zero)):
            return f"codes of {zero.dtype} with zero point {int(np.asarray(zero).ravel()[0])} (node {n.name})"
    return ""
