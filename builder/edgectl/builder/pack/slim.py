"""The same graph in fewer bytes: short names for what nobody refers to, and no shapes that a runtime infers
by itself.

Of a small int8 model a tenth is names: every Q/DQ pair carries that of its tensor six times. Kept: names of
inputs, outputs and of the nodes that reports speak of. Pure.
"""

from __future__ import annotations

from onnx import GraphProto, ModelProto

from edgectl.builder.graph import GraphIndex, subgraphs

__all__ = ["slim"]

_PAIR = ("QuantizeLinear", "DequantizeLinear")


def slim(model: ModelProto) -> ModelProto:
    """A copy that computes the same, byte for byte the same for the same model. Graphs with subgraphs keep
    their names: they read outer ones."""
    small = ModelProto()
    small.CopyFrom(model)
    graph = small.graph
    del graph.value_info[:]
    graph.doc_string = small.doc_string = ""
    nested = any(True for n in graph.node for _ in subgraphs(n))
    fixed = {*(i.name for i in graph.input), *(o.name for o in graph.output), *GraphIndex(model).captured}
    names = {} if nested else _short(GraphIndex(model), fixed)
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
        tensor.doc_string = ""
    for node in graph.node:
        node.doc_string = ""
        if node.op_type in _PAIR:
            node.name = ""
        _rename(node.input, names)
        _rename(node.output, names)
    _merge_equal(graph, fixed)
    return small


def _short(index: GraphIndex, fixed: set[str]) -> dict[str, str]:
    made = [n for n in (*index.initializers, *index.producer) if n not in fixed]
    free = (name for i in range(len(made) + len(fixed)) if (name := _digits(i)) not in fixed)
    return dict(zip(made, free, strict=False))


def _digits(i: int) -> str:
    """0 → a, 25 → z, 26 → aa …"""
    name = ""
    while i >= 0:
        name, i = chr(ord("a") + i % 26) + name, i // 26 - 1
    return name


def _rename(names: object, short: dict[str, str]) -> None:
    names[:] = [short.get(n, n) for n in names]  # type: ignore[index,attr-defined]


def _merge_equal(graph: GraphProto, fixed: set[str]) -> None:
    """One initializer for all that are equal: zero points, scales that tensors share."""
    first: dict[bytes, str] = {}
    same: dict[str, str] = {}
    for tensor in graph.initializer:
        if tensor.name in fixed:
            continue
        key = tensor.data_type.to_bytes(4, "little") + repr(tuple(tensor.dims)).encode() + tensor.raw_data
        if tensor.raw_data and first.setdefault(key, tensor.name) != tensor.name:
            same[tensor.name] = first[key]
    kept = [t for t in graph.initializer if t.name not in same]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for node in graph.node:
        _rename(node.input, same)
