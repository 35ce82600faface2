"""Names inside a graph that later steps can build on: none too long, and none that they would make
themselves.

A pair around tensor ``x`` is made of ``x_q``, ``x_dq``, ``x_scale`` …, and a weight's of ``NODE_weight_q`` …:
a graph that has ``x`` and ``x_scale`` already would hold that name twice. Names of inputs and outputs are the
user's and stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from onnx import GraphProto, ModelProto, helper

from edgectl.builder.graph import GraphIndex, subgraphs

__all__ = ["rename_reads", "settle_names"]

_LONG = 64
_DERIVED = re.compile(
    r"_(q|dq|scales?|zero|value|float16|float|inner|weight|bias|operand\d+|codes|x|integer|cast|product|again|planes|step|nought|gain|shift|scaled"
    r"|dequantized|Cast|Mul|Add|Bias|Scales|Transpose|(Dynamic)?QuantizeLinear|DequantizeLinear)(?=_|$)"
)


def settle_names(model: ModelProto) -> None:
    """Rename in place inner tensors and nodes with long names (converters write whole call stacks into
    them) or with clashing ones."""
    index = GraphIndex(model)
    fixed = {*index.inputs, *index.outputs}
    tensors = [*index.initializers, *index.producer]
    nodes = [n.name for n in model.graph.node]
    stems = {*fixed, *tensors, *nodes}
    of_ends = {stem for n in fixed for stem in _stems(n) if stem in stems}
    doomed = {n for n in stems - fixed if len(n) > _LONG or any(stem in stems for stem in _stems(n))} | (
        of_ends - fixed
    )
    taken = stems - doomed

    def fresh(name: str) -> str:
        while name in taken:
            name += "_"
        taken.add(name)
        return name

    new = {t: fresh(f"t{i}") for i, t in enumerate(tensors) if t in doomed}
    for tensor in model.graph.initializer:
        tensor.name = new.get(tensor.name, tensor.name)
    for i, node in enumerate(model.graph.node):
        if node.name in doomed or node.name in of_ends:
            node.name = fresh(f"{node.op_type}_{i}")
        node.output[:] = [new.get(o, o) for o in node.output]
    rename_reads(model.graph, new)
    for end in sorted(of_ends & fixed):
        _step_aside(
            model,
            end,
            fresh(f"{'input' if end in index.inputs else 'output'}{len(taken)}"),
            fresh(f"Identity_{len(taken)}"),
        )
    if new or of_ends:
        del model.graph.value_info[:]


def _stems(name: str) -> Iterator[str]:
    """What ``name`` may have been made from: ``x_scale`` from ``x``."""
    return (name[: m.start()] for m in _DERIVED.finditer(name) if m.start())


def _step_aside(model: ModelProto, end: str, inner: str, node: str) -> None:
    """An input or output that another one's name is made from: what is inside goes by another name."""
    graph = model.graph
    if end in GraphIndex(model).producer:
        for n in graph.node:
            n.output[:] = [inner if o == end else o for o in n.output]
        rename_reads(graph, {end: inner})
        graph.node.append(helper.make_node("Identity", [inner], [end], name=node))
    else:
        rename_reads(graph, {end: inner})
        graph.node.insert(0, helper.make_node("Identity", [end], [inner], name=node))


def rename_reads(graph: GraphProto, names: dict[str, str]) -> None:
    """In place: tensors that nodes read, in the graphs inside it, too (which hand some on as they are)."""
    for node in graph.node:
        node.input[:] = [names.get(i, i) for i in node.input]
        for sub in subgraphs(node):
            rename_reads(sub, names)
            for o in sub.output:
                o.name = names.get(o.name, o.name)
