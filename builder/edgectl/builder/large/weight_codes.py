"""The weight-only forms of a large model: its matrix products in 8 or 4 bits (``com.microsoft::MatMulNBits``), written one
weight at a time. Activations stay float32, so nothing is calibrated."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from edgectl.builder.graph import GraphIndex, all_graphs, attribute
from edgectl.builder.int8.matmul import BLOCK, block_codes, block_product
from edgectl.builder.int8.placement import KEPT, plain_matmul, weighted_nodes
from edgectl.builder.large.engine_file import WeightSource, stored
from edgectl.builder.large.weights import StoredWeight
from edgectl.core.bundle import LayerReport

__all__ = ["FORMS", "CodedGraph", "Form", "coded"]

Form = Literal["weights-8", "weights-4"]
FORMS: tuple[Form, ...] = get_args(Form)
_AT_ONCE = 4 << 20
"""Values that are coded in one go: what that takes beside the weight itself."""


@dataclass(frozen=True)
class CodedGraph:
    """``graph``: hollow; ``sources``: what fills it."""

    graph: ModelProto
    sources: Mapping[str, WeightSource]
    layers: tuple[LayerReport, ...]
    excluded: tuple[str, ...]
    """Weighted nodes that stay float."""


def coded(
    model: ModelProto, weights: Mapping[str, StoredWeight], form: Form, *, kept: Collection[str] = ()
) -> CodedGraph | None:
    """Every plain product of a hollow float graph with a large weight in ``form``; ``kept`` nodes and all else float. None
    where there is no such product."""
    bits = 8 if form == "weights-8" else 4
    index = GraphIndex(model)
    sources: dict[str, WeightSource] = {**stored(weights)}
    changed = ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    del graph.node[:]
    reports = []
    weighted = {n.name for n in weighted_nodes(index)}
    for n in index.nodes:
        why = _why_not(n, index, weights, kept) if n.name in weighted else ""
        if n.name not in weighted or why:
            graph.node.append(n)
            if why:
                reports.append(LayerReport(node=n.name, op=n.op_type, precision="float32", reason=why))
            continue
        reports.append(LayerReport(node=n.name, op=n.op_type, precision="int8"))
        turned = n.op_type == "Gemm" and bool(attribute(n, "transB"))
        weight = weights[n.input[1]]
        inputs, outputs = reversed(weight.shape) if turned else weight.shape
        # products that share a weight share its codes
        names = tuple(f"{n.input[1]}_{part}{'_t' if turned else ''}" for part in ("codes", "scale"))
        if names[0] not in sources:
            codes = _Codes(weight, turned, bits)
            sources |= {names[0]: codes.codes, names[1]: codes.scales}
            blocks = -(-inputs // BLOCK)
            for name, kind, dims in (
                (names[0], TensorProto.UINT8, (outputs, blocks, BLOCK * bits // 8)),
                (names[1], TensorProto.FLOAT, (outputs * blocks,)),
            ):
                t = graph.initializer.add(name=name, data_type=kind, dims=dims)
                t.data_location = TensorProto.EXTERNAL
        graph.node.extend(block_product(n, (names[0], names[1]), (inputs, outputs), bits))
    if all(r.precision == "float32" for r in reports):
        return None
    read = {i for g in all_graphs(graph) for n in g.node for i in n.input} | {o.name for o in graph.output}
    left = [t for t in graph.initializer if t.name in read]
    del graph.initializer[:]
    graph.initializer.extend(left)
    if not any(o.domain == "com.microsoft" for o in changed.opset_import):
        changed.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    excluded = tuple(sorted(r.node for r in reports if r.precision == "float32"))
    return CodedGraph(changed, sources, tuple(reports), excluded)


class _Codes:
    """Codes and scales of one weight. They are asked for one after the other, and made once."""

    def __init__(self, weight: StoredWeight, turned: bool, bits: int) -> None:
        self._weight, self._turned, self._bits = weight, turned, bits
        self._scales: list[NDArray[np.float32]] = []

    def codes(self, kind: int) -> Iterator[memoryview]:
        values = self._weight.values()
        if self._turned:
            values = values.T
        self._scales = []
        step = max(1, _AT_ONCE // max(1, values.shape[0]))
        for start in range(0, values.shape[1], step):
            codes, scale = block_codes(values[:, start : start + step], self._bits)
            self._scales.append(scale)
            yield codes.data.cast("B")

    def scales(self, kind: int) -> Iterator[memoryview]:
        found, self._scales = self._scales, []
        for scale in found:
            yield scale.data.cast("B")


def _why_not(
    n: NodeProto, index: GraphIndex, weights: Mapping[str, StoredWeight], kept: Collection[str]
) -> str:
    """Why a node with a constant weight stays float; empty if it is coded."""
    weight = weights.get(n.input[1])
    if n.name in kept:
        return KEPT
    if n.op_type not in ("Gemm", "MatMul") or n.input[0] in index.initializers:
        return "not a matrix product"
    if weight is None:
        return "its weight is small"
    # of a weight that is elsewhere, only the shape is asked
    return plain_matmul(n, np.broadcast_to(np.float32(0), weight.shape))
