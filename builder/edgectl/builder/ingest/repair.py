"""Forms of ONNX that are valid and that some runtime or tool refuses, written in the one that all of them
read. Nothing is computed anew.

Functions of the model's own are inlined, sparse constants are made dense, node names become unique, a loop
that only counts gets the condition that is always true, the operator domain ``ai.onnx`` gets its short name. Left out: old opsets and nameless nodes
(:mod:`edgectl.builder.passes.upgrade`), which change what is computed with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx
import onnx.inliner
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    numpy_helper,
)

from edgectl.builder.graph import all_graphs, all_nodes, subgraphs
from edgectl.core.errors import ModelError

__all__ = ["check_size", "repaired"]

MAX_DENSE_BYTES = 1 << 30


def check_size(model: ModelProto, name: str, most: int) -> None:
    """Refuse a graph with more than ``most`` nodes, those of its functions counted as often as they are
    called.

    Raises :class:`ModelError`, also for a function that calls itself.
    """
    sizes: dict[tuple[str, str], int] = {}
    functions = {(f.domain, f.name): f for f in model.functions}

    def size(nodes: Iterator[NodeProto], within: tuple[tuple[str, str], ...]) -> int:
        total = 0
        for n in nodes:
            key = (n.domain, n.op_type)
            if key in within:
                raise ModelError(
                    f"function {n.op_type} of {name} calls itself", hint="export the model without recursion"
                )
            if key in functions and key not in sizes:
                sizes[key] = size(_nodes_of(functions[key]), (*within, key))
            total += sizes.get(key, 1)
            if total > most:
                raise ModelError(
                    f"{name} has more than {most} nodes with its functions inlined",
                    hint="export a smaller part of the model, or without unrolled loops",
                )
        return total

    size(all_nodes(model.graph), ())


def repaired(model: ModelProto, name: str) -> ModelProto:
    """A copy of ``model``, which the ONNX checker has passed, that computes the same. Raises
    :class:`ModelError` where that cannot be."""
    made = _inlined(model, name) if model.functions else model
    copy = ModelProto()
    copy.CopyFrom(made)
    for opset in copy.opset_import:
        opset.domain = "" if opset.domain == "ai.onnx" else opset.domain
    left = MAX_DENSE_BYTES
    for graph in all_graphs(copy.graph):
        for node in graph.node:
            node.domain = "" if node.domain == "ai.onnx" else node.domain
            if node.op_type == "STFT" and not any(a.name == "onesided" for a in node.attribute):
                # the default; ONNX's shape inference takes another
                node.attribute.append(onnx.helper.make_attribute("onesided", 1))
            for a in node.attribute:
                if a.type == AttributeProto.SPARSE_TENSOR:
                    dense = _dense(a.sparse_tensor, node.name or node.op_type, left)
                    left -= len(dense.raw_data)
                    a.CopyFrom(onnx.helper.make_attribute("value", dense))
        for sparse in graph.sparse_initializer:
            dense = _dense(sparse, sparse.values.name, left)
            left -= len(dense.raw_data)
            graph.initializer.append(dense)
        del graph.sparse_initializer[:]
        _name_once(graph)
    _give_conditions(copy)
    return copy


def _nodes_of(function: FunctionProto) -> Iterator[NodeProto]:
    for n in function.node:
        yield n
        for sub in subgraphs(n):
            yield from all_nodes(sub)


def _inlined(model: ModelProto, name: str) -> ModelProto:
    """Every call replaced by the body of its function."""
    try:
        inlined = onnx.inliner.inline_local_functions(model, True)
    except Exception as e:
        # the inliner is C++ and raises RuntimeError and others
        raise ModelError(
            f"the functions of {name} cannot be inlined: {_line(e)}",
            hint="export the model without functions",
        ) from e
    own = {(f.domain, f.name) for f in model.functions}
    if left := sorted({n.op_type for n in all_nodes(inlined.graph) if (n.domain, n.op_type) in own}):
        raise ModelError(
            f"function {left[0]} of {name} is written for another opset than the model and cannot be inlined",
            hint="export the model without functions",
        )
    del inlined.functions[:]
    used = {n.domain for n in all_nodes(inlined.graph)} | {"", "ai.onnx"}
    kept = [o for o in inlined.opset_import if o.domain in used]
    del inlined.opset_import[:]
    inlined.opset_import.extend(kept)
    return inlined


def _dense(sparse: SparseTensorProto, name: str, max_bytes: int) -> TensorProto:
    """``sparse`` with all its zeros. Its indices count values, row by row, or are coordinates, one row
    each."""
    values = numpy_helper.to_array(sparse.values).ravel()
    shape = tuple(sparse.dims)
    size = math.prod(shape)
    if size * values.itemsize > max_bytes:
        raise ModelError(
            f"the sparse constant {name} has {size} values: made dense, the model would exceed {MAX_DENSE_BYTES >> 20} MiB",
            hint="export the model with dense weights, or with smaller ones",
        )
    indices = np.asarray(numpy_helper.to_array(sparse.indices), np.int64)
    if (
        indices.ndim == 2
        and indices.shape[1] == len(shape)
        and np.all((indices >= 0) & (indices < np.asarray(shape)))
    ):
        indices = np.asarray(np.ravel_multi_index(tuple(indices.T), shape), np.int64)
    if indices.ndim != 1 or indices.size != values.size or np.any((indices < 0) | (indices >= size)):
        raise ModelError(
            f"the sparse constant {name} has values outside its shape {list(shape)}",
            hint="export the model again",
        )
    dense = np.zeros(size, values.dtype)
    dense[indices] = values
    return numpy_helper.from_array(dense.reshape(shape), sparse.values.name)


def _give_conditions(model: ModelProto) -> None:
    """TensorRT reads the condition of a Loop, which may be left out where its number of turns is given."""
    bare = [
        n
        for n in all_nodes(model.graph)
        if n.op_type == "Loop" and not n.domain and not (len(n.input) > 1 and n.input[1]) and _only_counts(n)
    ]
    if not bare:
        return
    taken = {n for g in all_graphs(model.graph) for n in _names(g)}
    name = next(n for i in range(len(taken) + 1) if (n := f"always{'_' * i}") not in taken)
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(True), name))
    for n in bare:
        n.input[:] = [n.input[0], name, *n.input[2:]]


def _only_counts(loop: NodeProto) -> bool:
    """Whether the condition that a body hands on is the one that it got."""
    body = next(subgraphs(loop))
    made = {o: n for n in body.node for o in n.output}
    name = body.output[0].name
    while name in made and made[name].op_type == "Identity":
        name = made[name].input[0]
    return bool(loop.input) and name == body.input[1].name


def _names(graph: GraphProto) -> Iterator[str]:
    for values in (graph.input, graph.output, graph.initializer):
        yield from (v.name for v in values)
    for n in graph.node:
        yield from (*n.input, *n.output)


def _name_once(graph: GraphProto) -> None:
    """The first node of a name keeps it, the others get a number behind it. Nameless ones stay so."""
    taken = {n.name for n in graph.node}
    seen: set[str] = set()
    for node in graph.node:
        if node.name in seen:
            node.name = next(
                new for i in range(2, len(taken) + 3) if (new := f"{node.name}_{i}") not in taken
            )
            taken.add(node.name)
        if node.name:
            seen.add(node.name)


def _line(e: Exception) -> str:
    return (str(e).strip() or type(e).__name__).splitlines()[0][:200]
