"""An index over an ONNX graph: who makes a tensor, who reads it, what shape it has. Built anew after every
change."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

__all__ = [
    "QDQ_PAIR",
    "GraphIndex",
    "all_graphs",
    "all_nodes",
    "attribute",
    "has_type",
    "is_quantized",
    "np_dtype",
    "reads",
    "real_inputs",
    "shape_of",
    "subgraphs",
]

QDQ_PAIR = ("QuantizeLinear", "DequantizeLinear")
_INTEGER = (
    "ConvInteger",
    "MatMulInteger",
    "DynamicQuantizeLinear",
    "QGemm",
    "QAttention",
    "QMoE",
    "MatMulNBits",
    "MatMulBnb4",
    "MatMulIntegerToFloat",
    "GatherBlockQuantized",
)
_INTEGER_PREFIXES = ("QLinear", "DynamicQuantize", "QEmbed")


class GraphIndex:
    """Look-ups over the top-level graph. A tensor that a subgraph captures counts as read there
    (``captured``)."""

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self.model = model
        self.nodes: list[NodeProto] = list(graph.node)
        self.initializers: dict[str, TensorProto] = {t.name: t for t in graph.initializer}
        self.inputs = [i.name for i in real_inputs(model)]
        self.outputs = [o.name for o in graph.output]
        self.producer: dict[str, NodeProto] = {o: n for n in graph.node for o in n.output if o}
        self.readers: dict[str, list[tuple[NodeProto, int]]] = defaultdict(list)
        for n in graph.node:
            for i, name in enumerate(n.input):
                if name:
                    self.readers[name].append((n, i))
        self.captured = {name for n in graph.node for sub in subgraphs(n) for name in _outer_reads(sub)}
        self._kept = frozenset(self.outputs)
        self._info = {v.name: v for v in (*graph.value_info, *graph.input, *graph.output)}

    def only_reader(self, name: str) -> NodeProto | None:
        """The one node that reads a tensor, once; None if something else needs it, too: another node, a
        subgraph, the outside."""
        readers = self.readers.get(name, [])
        alone = len(readers) == 1 and name not in self.captured and name not in self._kept
        return readers[0][0] if alone else None

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
        """Whether a tensor that a node makes or the graph takes is float32 (unknown types are not)."""
        info = self._info.get(name)
        return info is not None and info.type.tensor_type.elem_type == TensorProto.FLOAT

    def is_known(self, name: str) -> bool:
        """Whether the type of a tensor is known: a constant's, an input's, or what inference tells."""
        return name in self.initializers or (name in self._info and has_type(self._info[name]))

    def is_tensor(self, name: str) -> bool:
        """Whether a value is known to be a tensor, and no sequence, map or optional."""
        info = self._info.get(name)
        return info is not None and info.type.HasField("tensor_type")


def has_type(info: ValueInfoProto) -> bool:
    """Whether a declaration says a type: inference leaves some that say nothing, or only that there is a
    tensor."""
    kind = info.type.WhichOneof("value")
    return kind is not None and (kind != "tensor_type" or bool(info.type.tensor_type.elem_type))


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


def real_inputs(model: ModelProto) -> list[ValueInfoProto]:
    """Without the initializers that old exporters list among the inputs."""
    initializers = {t.name for t in model.graph.initializer}
    return [i for i in model.graph.input if i.name not in initializers]


def all_graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and every one inside it."""
    yield graph
    for n in graph.node:
        for sub in subgraphs(n):
            yield from all_graphs(sub)


def all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """The nodes of a graph and of every one inside it."""
    for one in all_graphs(graph):
        yield from one.node


def reads(node: NodeProto) -> list[str]:
    """Every tensor that a node needs: its inputs, and what its subgraphs read from outside."""
    return [i for i in node.input if i] + [name for sub in subgraphs(node) for name in _outer_reads(sub)]


def _outer_reads(graph: GraphProto) -> list[str]:
    """Names that a subgraph reads and does not make; each once, in order."""
    own = (
        {i.name for i in graph.input}
        | {t.name for t in graph.initializer}
        | {o for n in graph.node for o in n.output}
    )
    read = [*(i for n in graph.node for i in reads(n)), *(o.name for o in graph.output)]
    return [name for name in dict.fromkeys(read) if name not in own]


def is_quantized(n: NodeProto) -> bool:
    """Whether a node quantizes, or computes on codes."""
    return n.op_type in QDQ_PAIR or n.op_type in _INTEGER or n.op_type.startswith(_INTEGER_PREFIXES)
