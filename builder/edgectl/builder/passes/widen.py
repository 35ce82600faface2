"""Float16, bfloat16 and float64 models become float32: what calibration, quantization and every decoder read.
Inputs and outputs, too.

Weights keep their values (float64 ones are rounded). How the model came is kept beside it where it was
float16 (:func:`as_given`): in that precision it is a candidate of its own.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, TensorProto, TypeProto, helper, numpy_helper

from edgectl.builder.graph import all_graphs
from edgectl.builder.passes.base import Pass
from edgectl.core.errors import ModelError

__all__ = ["Widen", "as_received", "other_floats"]

_HALVES = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"}
_FLOATS = {**_HALVES, TensorProto.DOUBLE: "float64"}
_TYPE_ATTRIBUTES = (
    "to",
    "dtype",
    "output_datatype",
    "output_dtype",
    "stash_type",
    "softmax_precision",
    "precision",
)
"""Attributes that hold a tensor type, in every operator that has one of these."""


def other_floats(model: ModelProto) -> tuple[str, ...]:
    """The float types, other than float32, that a model computes in; empty for one that stays as it is.

    A float32 model that works something out in float64 on the way stays as it is.
    """
    ends = [i.type.tensor_type.elem_type for i in (*model.graph.input, *model.graph.output)]
    stored = [t.data_type for g in all_graphs(model.graph) for t in g.initializer]
    cast = [
        a.i
        for g in all_graphs(model.graph)
        for n in g.node
        for a in n.attribute
        if a.name in _TYPE_ATTRIBUTES
    ]
    constant = [
        a.t.data_type for g in all_graphs(model.graph) for n in g.node for a in n.attribute if a.HasField("t")
    ]
    weights = [t.data_type for t in model.graph.initializer if len(t.dims) > 1]
    found = {t for t in (*ends, *stored, *cast, *constant) if t in _HALVES}
    found |= {t for t in (*ends, *weights) if t == TensorProto.DOUBLE}
    return tuple(_FLOATS[t] for t in sorted(found))


class Widen(Pass):
    """Every float tensor of the graph, and of those inside it, in float32."""

    name = "widen"

    def requires(self, model: ModelProto) -> None:
        if model.functions:
            raise ModelError("functions were not inlined")

    def run(self, model: ModelProto) -> tuple[ModelProto, bool]:
        wide = ModelProto()
        wide.CopyFrom(model)
        for graph in all_graphs(wide.graph):
            for tensor in graph.initializer:
                _widen(tensor)
            for info in (*graph.input, *graph.output):
                _widen_type(info.type)
            del graph.value_info[:]
            for node in graph.node:
                for a in node.attribute:
                    if a.name in _TYPE_ATTRIBUTES and a.i in _FLOATS:
                        a.i = TensorProto.FLOAT
                    if a.HasField("t"):
                        _widen(a.t)
                    for t in a.tensors:
                        _widen(t)
        return wide, True

    def ensures(self, model: ModelProto) -> None:
        if left := other_floats(model):
            raise ModelError(f"something in it is still {left[0]}")


def as_received(model: ModelProto) -> ModelProto | None:
    """A float16 model as it came, behind inputs and outputs of float32; None for one in another precision.

    ``model`` was ingested. What it computes is what it computed before.
    """
    if other_floats(model) != ("float16",):
        return None
    received = ModelProto()
    received.CopyFrom(model)
    graph = received.graph
    front = [_cast(i, graph, TensorProto.FLOAT16) for i in graph.input if _is_half(i)]
    back = [_cast(o, graph, TensorProto.FLOAT) for o in graph.output if _is_half(o)]
    nodes = [*front, *graph.node, *back]
    del graph.node[:]
    graph.node.extend(nodes)
    for info in (*graph.input, *graph.output):
        _widen_type(info.type)
    return received


def _is_half(info: onnx.ValueInfoProto) -> bool:
    return bool(info.type.tensor_type.elem_type == TensorProto.FLOAT16)


def _cast(end: onnx.ValueInfoProto, graph: GraphProto, to: int) -> onnx.NodeProto:
    """The cast between an input or output of the graph and what is inside, which gets another name."""
    inner = _fresh(graph, f"{end.name}_inner")
    _rename(graph, end.name, inner)
    ends = (end.name, inner) if to == TensorProto.FLOAT16 else (inner, end.name)
    return helper.make_node("Cast", ends[:1], ends[1:], name=_fresh(graph, f"{inner}_Cast"), to=to)


def _rename(graph: GraphProto, old: str, new: str) -> None:
    for one in all_graphs(graph):
        for node in one.node:
            node.input[:] = [new if i == old else i for i in node.input]
            node.output[:] = [new if o == old else o for o in node.output]
        if one is not graph:
            for o in one.output:
                o.name = new if o.name == old else o.name
    for tensor in graph.initializer:
        tensor.name = new if tensor.name == old else tensor.name


def _fresh(graph: GraphProto, name: str) -> str:
    taken = {
        n for one in all_graphs(graph) for node in one.node for n in (node.name, *node.input, *node.output)
    }
    while name in taken:
        name += "_"
    return name


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type not in _FLOATS:
        return
    value = np.asarray(numpy_helper.to_array(tensor))
    with np.errstate(over="ignore"):
        wide = value.astype(np.float32)
    if not np.array_equal(np.isfinite(wide), np.isfinite(value.astype(np.float64))):
        raise ModelError(
            f"constant {tensor.name or 'of a node'} holds values beyond float32",
            hint="export the model in float32",
        )
    tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))


def _widen_type(kind: TypeProto) -> None:
    """Of a tensor, or what a sequence, a map or an optional holds."""
    which = kind.WhichOneof("value")
    if which in ("tensor_type", "sparse_tensor_type"):
        held = getattr(kind, which)
        held.elem_type = TensorProto.FLOAT if held.elem_type in _FLOATS else held.elem_type
    elif which in ("sequence_type", "optional_type"):
        _widen_type(getattr(kind, which).elem_type)
    elif which == "map_type":
        _widen_type(kind.map_type.value_type)
