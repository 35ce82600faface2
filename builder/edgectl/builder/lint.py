"""Check a written Q/DQ graph against the rules of its family: what slipped through the placement is found here, not on a device."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto
from onnx.shape_inference import infer_shapes

from edgectl.builder.dla import refusal
from edgectl.builder.families import Family
from edgectl.builder.graph import GraphIndex
from edgectl.builder.placement import WEIGHTED
from edgectl.core.errors import ModelError

__all__ = ["check", "lint"]

_PAIR = ("QuantizeLinear", "DequantizeLinear")


def lint(model: ModelProto, family: Family) -> list[str]:
    """Every broken rule as ``node: what is wrong``. An empty list is a clean graph."""
    index = GraphIndex(infer_shapes(model) if family.placement == "everything" else model)
    problems = []
    for n in index.nodes:
        if n.op_type in _PAIR:
            scale = index.weights(n.input[1])
            if scale is None or not np.all(np.isfinite(np.asarray(scale, np.float64))) or not np.all(np.asarray(scale) > 0):
                problems.append(f"{n.name}: its scale is not a positive constant")
        if n.op_type == "QuantizeLinear":
            problems += _quantize(index, n.name, n.input[0], n.input[2], n.output[0], family)
        if n.op_type in WEIGHTED and len(n.input) > 1:
            problems += _weighted(index, n.name, list(n.input), family)
        if family.placement == "inputs" and n.op_type == "Add":
            made = [index.producer.get(i) for i in n.input]
            if sum(m is not None and m.op_type == "DequantizeLinear" for m in made) == 2:
                problems.append(f"{n.name}: both branches of an add are quantized; it cannot fuse with its convolution")
        if family.placement == "everything" and n.op_type not in _PAIR and not refusal(index, n):
            problems += _everything(index, n)
    for o in index.outputs:
        made_by = index.producer.get(o)
        if made_by is not None and made_by.op_type == "DequantizeLinear" and family.placement == "inputs":
            problems.append(f"{made_by.name}: a graph output is quantized")
    return problems


def _everything(index: GraphIndex, n: NodeProto) -> list[str]:
    """DLA: a layer that reads one scaled tensor reads nothing else, and what it makes has a scale."""
    if n.op_type in WEIGHTED and n.input[1] in index.initializers:
        return []  # kept float
    makers = [index.producer.get(i) for i in n.input if i and i not in index.initializers]
    scaled = [m is not None and m.op_type == "DequantizeLinear" for m in makers]
    if not any(scaled):
        return []
    readers = [r.op_type for o in n.output for r, _ in index.readers[o]]
    problems = [] if all(scaled) else [f"{n.name}: one of its inputs has no scale"]
    return problems if readers and set(readers) == {"QuantizeLinear"} else [*problems, f"{n.name}: what it makes has no scale"]


def check(model: ModelProto, family: Family) -> None:
    """Raise :class:`ModelError` with the first broken rules."""
    if problems := lint(model, family):
        raise ModelError(f"the {family.name} graph breaks {len(problems)} placement rules: {'; '.join(problems[:3])}")


def _quantize(index: GraphIndex, name: str, source: str, zero: str, output: str, family: Family) -> list[str]:
    problems = []
    if source in index.initializers:
        problems.append(f"{name}: a weight is shipped as float and quantized at load")
    zero_point = index.weights(zero)
    if zero_point is None or zero_point.dtype != family.activation:
        problems.append(f"{name}: activations are not {family.activation}")
    elif family.symmetric and np.any(zero_point):
        problems.append(f"{name}: zero point is not 0")
    if any(r.op_type != "DequantizeLinear" for r, _ in index.readers[output]):
        problems.append(f"{name}: an operator reads codes directly")
    return problems


def _weighted(index: GraphIndex, name: str, inputs: list[str], family: Family) -> list[str]:
    """A weighted node is float throughout, or reads int8 data and int8 weights."""
    data, weight = index.producer.get(inputs[0]), index.producer.get(inputs[1])
    has_weight = weight is not None and weight.op_type == "DequantizeLinear"
    has_data = data is not None and data.op_type == "DequantizeLinear"
    if not has_weight:
        return []
    problems = [] if has_data else [f"{name}: int8 weights but float data"]
    assert weight is not None
    codes = index.weights(weight.input[0])
    if codes is None or codes.dtype != np.int8:
        problems.append(f"{name}: its weight codes are not int8")
    elif np.abs(codes.astype(np.int16)).max(initial=0) > family.weight_max:
        problems.append(f"{name}: weight codes exceed ±{family.weight_max}")
    if len(inputs) > 2 and inputs[2] in index.producer and not family.int32_bias:
        problems.append(f"{name}: its bias is not float")
    return problems
