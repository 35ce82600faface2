"""What the methods share: constant weights of convolutions and matrix products, their MACs, and reading
and writing them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from edgectl.builder.graph import GraphIndex, attribute
from edgectl.builder.int8.placement import weighted_nodes

__all__ = ["Floats", "Weight", "macs", "replace_weights", "weight_regions", "weights_of"]

Floats = NDArray[np.float32]
_REGION = 256  # bytes from which a codebook can pay


@dataclass(frozen=True)
class Weight:
    """A float weight that one node alone reads. ``input_axis``: the axis along which its input channels
    lie."""

    node: NodeProto
    name: str
    value: Floats
    input_axis: int


def weights_of(index: GraphIndex) -> list[Weight]:
    """In graph order. Weights that several nodes share are left out: changing them for one changes the
    other."""
    found = []
    for node in weighted_nodes(index):
        name = node.input[1]
        value = index.weights(name)
        if (
            value is None
            or value.dtype != np.float32
            or value.ndim < 2
            or len(index.readers[name]) != 1
            or name in index.captured
        ):
            continue
        transposed = node.op_type == "Gemm" and attribute(node, "transB")
        axis = {"Conv": 1, "ConvTranspose": 0, "Gemm": 1 if transposed else 0, "MatMul": value.ndim - 2}[
            node.op_type
        ]
        found.append(Weight(node, name, np.asarray(value, np.float32), axis))
    return found


def replace_weights(model: ModelProto, values: Mapping[str, Floats]) -> ModelProto:
    """A copy with these initializers; shapes inside the graph are inferred anew."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[tensor.name]), tensor.name))
    del copy.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(copy, data_prop=True)


def weight_regions(model: ModelProto) -> list[bytes]:
    """The pieces of the serialised model that the weight-sharing codec looks at."""
    return [t.raw_data for t in model.graph.initializer if len(t.raw_data) >= _REGION]


def macs(model: ModelProto) -> int:
    """Multiply-accumulates of one inference in convolutions and matrix products with constant weights."""
    index = GraphIndex(model)
    total = 0
    for node in weighted_nodes(index):
        weight = index.shape(node.input[1])
        across = index.shape(node.input[0] if node.op_type == "ConvTranspose" else node.output[0])
        if weight is None or across is None:
            continue
        if node.op_type in ("Conv", "ConvTranspose"):
            total += math.prod(weight) * math.prod(across[2:]) * across[0]
        else:
            total += math.prod(weight[-2:]) * math.prod(across[:-1])
    return total
