"""An index over an ONNX graph: who makes a tensor, who reads it, what shape it has. Built anew after every change."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

__all__ = ["GraphIndex", "attribute", "np_dtype", "shape_of", "subgraphs"]


class GraphIndex:
    """Look-ups over the top-level graph. A tensor that a subgraph captures counts as read there (``captured``)."""

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self.model = model
        self.nodes: list[NodeProto] = list(graph.node)
        self.initializers: dict[str, TensorProto] = {t.name: t for t in graph.initializer}
        self.inputs = [i.name for i in graph.input if i.name not in self.initializers]
        self.outputs = [o.name for o in graph.output]
        self.producer: dict[str, NodeProto] = {o: n for n in graph.node for o in n.output if o}
        self.readers: dict[str, list[tuple[NodeProto, int]]] = defaultdict(list)
        for n in graph.node:
            for i, name in enumerate(n.input):
                if name:
                    self.readers[name].append((n, i))
        self.captured = {name for n in graph.node for sub in subgraphs(n) for name in _reads(sub)}
        self._info = {v.name: v for v in (*graph.value_info, *graph.input, *graph.output)}

    def weights(self, name: str) -> NDArray[np.generic] | None:
        """The value of an initializer; None if the tensor is not one."""
        tensor = self.initializers.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Static shape of a tensor; None if it is not known."""
        if name in self.initializers:
            return tuple(self.initializers[name].dims)
        return shape_of(self._info[name]) if name in self._info else None

    def is_float(self, name: str) -> bool:
        """Whether a tensor that a node makes or the graph is given is float32 (unknown types are not)."""
        info = self._info.get(name)
        return info is not None and info.type.tensor_type.elem_type == TensorProto.FLOAT


def shape_of(info: ValueInfoProto) -> tuple[int, ...] | None:
    """The static shape of a declared value; None where a dimension or the whole shape is open."""
    if not info.type.tensor_type.HasField("shape"):
        return None
    dims = info.type.tensor_type.shape.dim
    return tuple(d.dim_value for d in dims) if all(d.HasField("dim_value") for d in dims) else None


def np_dtype(info: ValueInfoProto) -> np.dtype[np.generic]:
    return np.dtype(helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type))


def attribute(node: NodeProto, name: str, default: int = 0) -> int:
    """An integer attribute of a node."""
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The bodies of If, Loop and Scan."""
    for a in node.attribute:
        if a.type == onnx.AttributeProto.GRAPH:
            yield a.g
        yield from a.graphs


def _reads(graph: GraphProto) -> Iterator[str]:
    """Names that a subgraph reads, its own ones included (harmless: they are never outer names)."""
    for n in graph.node:
        yield from n.input
        for sub in subgraphs(n):
            yield from _reads(sub)
    yield from (o.name for o in graph.output)
