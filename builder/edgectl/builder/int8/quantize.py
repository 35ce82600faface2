"""Write the int8 form of a graph for one kernel family: Q/DQ pairs, int8 weights stored as int8, biases.

Weights are int8 initializers with a DequantizeLinear each (per output channel, symmetric); never float
weights with a QuantizeLinear, which would ship four times the bytes. Left out: where pairs go
(:mod:`edgectl.builder.int8.placement`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from edgectl.builder.graph import GraphIndex
from edgectl.builder.int8.calibrate import CalibrationTable, RangeKind
from edgectl.builder.int8.families import Family
from edgectl.builder.int8.placement import Placement, place, weight_axis, weighted_nodes
from edgectl.core.bundle import LayerReport

__all__ = ["Quantized", "activation_params", "quantize", "symmetric_ranges", "weight_codes"]

_MIN_SCALE = 1e-8


@dataclass(frozen=True)
class Quantized:
    model: ModelProto
    placement: Placement
    layers: tuple[LayerReport, ...]
    family: Family
    """Whose kernels run it: not always the family that was asked for (OpenVINO's form, dynamic …)."""
    ranges: RangeKind | None = None
    rebuilt: bool = False
    """Whether codes and biases were reconstructed."""
    carried_over: bool = False
    """Whether they are those of an older release, moved (:mod:`edgectl.builder.int8.previous_release`)."""


def quantize(
    model: ModelProto,
    table: CalibrationTable,
    family: Family,
    *,
    exclude: Collection[str] = (),
    kept: Collection[str] = (),
    chains: bool = True,
    ranges: RangeKind = "minmax",
) -> Quantized:
    """Write the int8 form of a canonical float model. The same arguments give the same bytes. ``exclude``,
    ``kept``: nodes that stay float (:func:`~edgectl.builder.int8.placement.place`)."""
    index = GraphIndex(model)
    placement = place(index, family, ranges=table.ranges, exclude=exclude, kept=kept, chains=chains)
    writer = _QdqWriter(index, placement, table, family, ranges)
    return Quantized(writer.write(), placement, tuple(writer.reports), family, ranges)


def _hand_over(graph: onnx.GraphProto, output: str, dequantized: str) -> None:
    """A quantized graph output: its name goes to what its DequantizeLinear makes."""
    names = {output: f"{output}_value", dequantized: output}
    for node in graph.node:
        node.input[:] = [names.get(i, i) for i in node.input]
        node.output[:] = [names.get(o, o) for o in node.output]


def activation_params(low: float, high: float, family: Family) -> tuple[np.float32, int]:
    """Scale and zero point of a tensor with values in ``low``..``high``; zero is always exactly
    representable."""
    low, high = min(low, 0.0), max(high, 0.0)
    if family.symmetric:
        return np.float32(max(max(-low, high) / 127, _MIN_SCALE)), 0
    qmin = 0 if family.activation == "uint8" else -128
    scale = np.float32(max((high - low) / 255, _MIN_SCALE))
    return scale, int(np.clip(np.rint(qmin - low / float(scale)), qmin, qmin + 255))


def symmetric_ranges(model: ModelProto) -> dict[str, float]:
    """Tensor → largest magnitude that its int8 codes reach, of a graph with symmetric Q/DQ pairs."""
    index = GraphIndex(model)
    outputs = {f"{o}_value": o for o in index.outputs}
    pairs = [n for n in index.nodes if n.op_type == "QuantizeLinear"]
    return {
        outputs.get(n.input[0], n.input[0]): 127 * float(np.asarray(index.weights(n.input[1]))) for n in pairs
    }


def weight_codes(
    weight: NDArray[np.float32], axis: int, family: Family, *, floor: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 codes and one scale per channel of ``axis``. ``floor``: smallest scale allowed, per
    channel."""
    others = tuple(i for i in range(weight.ndim) if i != axis % weight.ndim)
    scale = np.abs(weight).max(axis=others).astype(np.float64) / family.weight_max
    scale = np.maximum(scale, _MIN_SCALE if floor is None else np.maximum(floor, _MIN_SCALE)).astype(
        np.float32
    )
    along = [1] * weight.ndim
    along[axis] = -1
    codes = np.clip(np.rint(weight / scale.reshape(along)), -family.weight_max, family.weight_max)
    return codes.astype(np.int8), scale


class _QdqWriter:
    def __init__(
        self,
        index: GraphIndex,
        placement: Placement,
        table: CalibrationTable,
        family: Family,
        ranges: RangeKind,
    ) -> None:
        self._index, self._placement, self._family = index, placement, family
        self._table, self._ranges = table, ranges
        self._constants: dict[str, onnx.TensorProto] = {}
        self._params = self._all_params()
        self.reports: list[LayerReport] = []
        taken = {*index.inputs, *index.initializers, *index.producer}
        self._mark = ""
        while any(
            self._made(t, what) in taken
            for t in (*index.inputs, *index.producer)
            for what in ("q", "dq", "scale", "zero")
        ):
            self._mark += "_"

    def write(self) -> ModelProto:
        index, wanted = self._index, set(self._placement.tensors)
        graph = onnx.GraphProto()
        graph.CopyFrom(index.model.graph)
        del graph.node[:], graph.initializer[:]
        weighted = {n.name for n in weighted_nodes(index)} & self._placement.nodes
        pairs: list[NodeProto] = []
        for t in index.inputs:
            if t in wanted:
                pairs.extend(self._pair(t))
        graph.node.extend(pairs)
        for source in index.nodes:
            node = NodeProto()
            node.CopyFrom(source)
            for i, name in enumerate(source.input):
                edges = self._placement.edges
                if name in wanted and (edges is None or (source.name, i) in edges):
                    node.input[i] = self._made(name, "dq")
            if source.name in weighted:
                graph.node.extend(self._weights(source, node))
            else:
                self._constant_operands(source, node, graph)
            graph.node.append(node)
            self._report(source, source.name in weighted)
            for t in source.output:
                if t in wanted:
                    graph.node.extend(self._pair(t))
        if self._family.placement == "everything":
            for o in wanted.intersection(index.outputs) - set(index.inputs):
                _hand_over(graph, o, self._made(o, "dq"))
        read = {i for n in graph.node for i in n.input} | index.captured | {o.name for o in graph.output}
        graph.initializer.extend(t for t in index.model.graph.initializer if t.name in read)
        graph.initializer.extend(t for n, t in self._constants.items() if n in read)
        model = ModelProto()
        model.CopyFrom(index.model)
        model.graph.CopyFrom(graph)
        return model

    def _all_params(self) -> dict[str, tuple[np.float32, int]]:
        """Scale and zero point per tensor; tensors that share a root share the widest range of them all."""
        ranges: dict[str, tuple[float, float]] = {}
        root = self._placement.root
        for t in self._placement.tensors:
            low, high = self._range(t)
            r = root.get(t, t)
            known = ranges.get(r, (low, high))
            ranges[r] = min(known[0], low), max(known[1], high)
        return {t: activation_params(*ranges[root.get(t, t)], self._family) for t in self._placement.tensors}

    def _range(self, tensor: str) -> tuple[float, float]:
        low, high = self._table.range(tensor, self._ranges)
        node = self._index.producer.get(tensor)
        if node is not None and node.op_type == "Relu":
            # so that the zero point is the lowest code and the runtime drops the Relu
            low = 0.0
        return low, high

    def _pair(self, tensor: str) -> tuple[NodeProto, NodeProto]:
        scale, zero = self._params[tensor]
        s = self._constant(self._made(tensor, "scale"), np.asarray(scale, np.float32))
        z = self._constant(self._made(tensor, "zero"), np.asarray(zero, self._family.activation))
        q, dq = self._made(tensor, "q"), self._made(tensor, "dq")
        return (
            helper.make_node("QuantizeLinear", [tensor, s, z], [q], name=f"{tensor}_QuantizeLinear"),
            helper.make_node("DequantizeLinear", [q, s, z], [dq], name=f"{tensor}_DequantizeLinear"),
        )

    def _made(self, tensor: str, what: str) -> str:
        """The name of a part of a tensor's pair: ``x_dq``, and with more underscores in a graph that has
        such a name already."""
        return f"{tensor}{self._mark}_{what}"

    def _weights(self, source: NodeProto, node: NodeProto) -> list[NodeProto]:
        """Weight and bias of one node: int8 (int32) initializers, each behind a DequantizeLinear."""
        weight = np.asarray(self._index.weights(source.input[1]), np.float32)
        axis = weight_axis(source) % weight.ndim
        bias = self._index.weights(source.input[2]) if len(source.input) > 2 and source.input[2] else None
        x_scale = float(self._params[source.input[0]][0])
        quantize_bias = bias is not None and self._family.int32_bias
        # A channel with a tiny weight and a large bias: its bias must still fit 32 bits.
        floor = np.abs(np.asarray(bias, np.float64)) / (x_scale * (2**31 - 1)) if quantize_bias else None
        if floor is not None and floor.shape != (weight.shape[axis],):
            quantize_bias, floor = False, None
        codes, scale = weight_codes(weight, axis, self._family, floor=floor)
        name = f"{source.name}_weight"
        added = [self._dequantize(name, codes, scale, axis)]
        node.input[1] = f"{name}_dq"
        if quantize_bias:
            bias_scale = (x_scale * scale.astype(np.float64)).astype(np.float32)
            bias_codes = np.clip(
                np.rint(np.asarray(bias, np.float64) / bias_scale), -(2**31), 2**31 - 1
            ).astype(np.int32)
            added.append(self._dequantize(f"{source.name}_bias", bias_codes, bias_scale, 0))
            node.input[2] = f"{source.name}_bias_dq"
        elif bias is not None and self._index.only_reader(source.input[2]) is None:
            # reconstruction shifts it, of this layer alone
            node.input[2] = self._constant(f"{source.name}_bias", bias)
        return added

    def _dequantize(
        self, name: str, codes: NDArray[np.generic], scale: NDArray[np.float32], axis: int
    ) -> NodeProto:
        q = self._constant(f"{name}_q", codes)
        s = self._constant(f"{name}_scale", scale)
        z = self._constant(f"{name}_zero", np.zeros(scale.shape, codes.dtype))
        return helper.make_node(
            "DequantizeLinear", [q, s, z], [f"{name}_dq"], name=f"{name}_DequantizeLinear", axis=axis
        )

    def _constant_operands(self, source: NodeProto, node: NodeProto, graph: onnx.GraphProto) -> None:
        """A constant operand of a quantized Add, Mul or Concat: stored in the family's activation type,
        per tensor."""
        if source.name not in self._placement.nodes or source.op_type not in ("Add", "Mul", "Concat"):
            return
        for i, operand in enumerate(source.input):
            value = self._index.weights(operand)
            if (
                value is None
                or value.dtype != np.float32
                or not value.size
                or self._family.placement == "inputs"
            ):
                continue
            scale, zero = activation_params(float(value.min()), float(value.max()), self._family)
            info = np.iinfo(self._family.activation)
            codes = np.clip(np.rint(value / scale) + zero, info.min, info.max).astype(self._family.activation)
            name = f"{source.name}_operand{i}"
            q = self._constant(f"{name}_q", codes)
            s = self._constant(f"{name}_scale", np.asarray(scale, np.float32))
            z = self._constant(f"{name}_zero", np.asarray(zero, self._family.activation))
            graph.node.append(
                helper.make_node(
                    "DequantizeLinear", [q, s, z], [f"{name}_dq"], name=f"{name}_DequantizeLinear"
                )
            )
            node.input[i] = f"{name}_dq"

    def _constant(self, name: str, value: NDArray[np.generic]) -> str:
        self._constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def _report(self, node: NodeProto, weighted: bool) -> None:
        placement = self._placement
        if node.name not in placement.nodes and node.name not in placement.reasons:
            return
        quantized = node.name in placement.nodes
        scale, zero = self._params.get(node.input[0], (None, None))
        self.reports.append(
            LayerReport(
                node=node.name,
                op=node.op_type,
                precision="int8" if quantized else "float32",
                reason=placement.reasons.get(node.name, "" if weighted else "joins its neighbours"),
                scale=float(scale) if quantized and scale is not None else None,
                zero_point=zero if quantized else None,
            )
        )
