"""Where Q/DQ pairs go: which nodes compute in int8, and which of their inputs and outputs are quantized.
Pure.

``tensors`` placement (CPU families): weighted nodes are the seeds; nodes that an int8 chain can pass through
(pooling, concat, add, reshape …) join where their neighbours are quantized, so that the chain is not broken.
Nodes that only move or pick values share one scale with their input, so that the runtime drops the Q/DQ
around them.

``everything`` placement (DLA): each tensor of each layer that DLA runs (:mod:`edgectl.builder.int8.dla`).

Outputs of the graph are float, also where a layer inside reads them: that layer reads the pair beside.

``inputs`` placement (TensorRT): every input of a weighted node; of a residual add only the branch that does
not come from a convolution, because convolution + add fuses and takes its int8 type from the skip branch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from edgectl.builder.graph import GraphIndex, attribute, reads
from edgectl.builder.int8.calibrate import TensorRange
from edgectl.builder.int8.dla import refusal
from edgectl.builder.int8.families import Family

__all__ = [
    "KEPT",
    "MOVES",
    "WEIGHTED",
    "Placement",
    "depthwise",
    "fewest_channels",
    "heads",
    "place",
    "plain_matmul",
    "weight_axis",
    "weighted_nodes",
]

KEPT = "kept in float, as asked"
"""Why a layer that the user named is float (:mod:`edgectl.builder.int8.keep_float`)."""
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
MOVES = (
    "MaxPool",
    "Reshape",
    "Transpose",
    "Gather",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Slice",
    "Split",
    "Identity",
    "DepthToSpace",
    "SpaceToDepth",
    "Expand",
    "Tile",
    "Resize",
)
"""Their output holds only values of their first input: same scale, same zero point."""
_JOINS = (
    "Add",
    "Mul",
    "Concat",
    "AveragePool",
    "GlobalAveragePool",
    "Sigmoid",
    "LeakyRelu",
    "HardSwish",
    "HardSigmoid",
    "Pad",
)
_ALIKE = 4.0
"""Inputs of a concat share one scale if the widest range is at most this many times the narrowest: two of
eight bits."""
_ACTIVATIONS = ("Relu", "Clip")
"""Absorbed into the quantization of their output when they follow a quantized node."""


@dataclass(frozen=True)
class Placement:
    """``nodes`` compute in int8. ``tensors`` get a Q/DQ pair, in graph order; ``edges`` (node name, input)
    read through it.

    ``edges`` None: every reader of such a tensor reads through it. ``root`` maps a tensor to the one whose
    scale it shares. ``reasons``: why a weighted node stayed float, or what else the user keeps so.
    """

    nodes: frozenset[str]
    tensors: tuple[str, ...]
    edges: frozenset[tuple[str, int]] | None
    root: dict[str, str]
    reasons: dict[str, str]


def weighted_nodes(index: GraphIndex) -> list[NodeProto]:
    """Nodes with a constant weight, in graph order."""
    return [
        n
        for n in index.nodes
        if n.op_type in WEIGHTED and len(n.input) > 1 and n.input[1] in index.initializers
    ]


def weight_axis(node: NodeProto) -> int:
    """The output-channel axis of a weighted node's weight."""
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB") else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": -1}[node.op_type]


def heads(index: GraphIndex) -> frozenset[str]:
    """The last weighted nodes: those from which a graph output is reached through no other weighted node."""
    weighted = {n.name for n in weighted_nodes(index)}
    found, seen, todo = set(), set(), list(index.outputs)
    while todo:
        node = index.producer.get(todo.pop())
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        if node.name in weighted:
            found.add(node.name)
        else:
            todo.extend(reads(node))
    return frozenset(found)


def depthwise(index: GraphIndex) -> frozenset[str]:
    """Convolutions that mix no channels: a few weights each, that share one scale or rule one channel alone."""
    return frozenset(
        n.name
        for n in weighted_nodes(index)
        if n.op_type == "Conv"
        and attribute(n, "group", 1) > 1
        and index.initializers[n.input[1]].dims[1] == 1
    )


def place(
    index: GraphIndex,
    family: Family,
    *,
    ranges: Mapping[str, TensorRange],
    exclude: Collection[str] = (),
    kept: Collection[str] = (),
    chains: bool = True,
) -> Placement:
    """Decide the placement. ``exclude``: node names that this graph keeps float; ``kept``: those that every
    graph does, because the user says so. ``chains`` False: weighted nodes only (``conv-only``)."""
    # what chains pass through is told, too, where the user names it
    reasons = {n.name: KEPT for n in index.nodes if n.name in kept and n.op_type in _JOINS}
    seeds = []
    for n in weighted_nodes(index):
        reason = KEPT if n.name in kept else ""
        reason = reason or ("excluded" if n.name in exclude else _unfit(index, n, family, ranges))
        if reason:
            reasons[n.name] = reason
        else:
            seeds.append(n)
    left_out = {*exclude, *kept}
    if family.placement == "inputs":
        return _by_inputs(index, seeds, family, ranges, reasons, left_out)
    if family.placement == "everything":
        return _by_everything(index, seeds, ranges, reasons, left_out)
    return _by_tensors(index, seeds, ranges, reasons, left_out, chains)


def _unfit(index: GraphIndex, n: NodeProto, family: Family, ranges: Mapping[str, TensorRange]) -> str:
    """Why a weighted node cannot or should not be quantized in this family; empty if it should."""
    weight = index.weights(n.input[1])
    assert weight is not None
    if weight.dtype != "float32" or n.input[0] not in ranges or n.input[0] in index.initializers:
        return "its input was not calibrated or its weight is not float32"
    if not weight.size:
        return "it has no weights"
    if len(n.input) > 2 and n.input[2] and n.input[2] not in index.initializers:
        return "its bias is computed"
    if n.op_type in ("Gemm", "MatMul"):
        if reason := plain_matmul(n, weight):
            return reason
        shape = index.shape(n.input[0])
        if not family.quantize_gemv and (
            shape is None or shape[-2:][0] == 1 or min(weight.shape) < family.min_channels
        ):
            return "matrix-vector product"
        return ""
    if n.op_type == "ConvTranspose" and attribute(n, "group", 1) > 1:
        return "grouped transposed convolution"
    if fewest_channels(n, weight.shape) < family.min_channels:
        return f"fewer than {family.min_channels} channels"
    return ""


def fewest_channels(n: NodeProto, weight: Sequence[int]) -> int:
    """Input or output channels of a convolution, transposed or not, or rows or columns of a product: the
    fewer of the two.

    ``weight``: its shape. A depthwise convolution counts its groups.
    """
    group = attribute(n, "group", 1)
    if n.op_type == "Conv":
        return min(weight[0], weight[1] * group)
    return min(weight[0], weight[1] * group) if n.op_type == "ConvTranspose" else min(weight[:2])


def plain_matmul(n: NodeProto, weight: NDArray[np.generic]) -> str:
    """Why a MatMul or Gemm is more than x · w + b; empty if it is just that."""
    if weight.ndim != 2 or attribute(n, "transA"):
        return "not a plain matrix product"
    if any(a.name in ("alpha", "beta") and a.f != 1.0 for a in n.attribute):
        return "scaled matrix product"
    return ""


def _by_inputs(
    index: GraphIndex,
    seeds: list[NodeProto],
    family: Family,
    ranges: Mapping[str, TensorRange],
    reasons: dict[str, str],
    exclude: Collection[str],
) -> Placement:
    for name in heads(index) & {n.name for n in seeds}:
        reasons[name] = "head: its output is the graph's"
    seeds = [n for n in seeds if n.name not in reasons]
    chosen = {n.name for n in seeds}
    edges = {(n.name, 0) for n in seeds}
    convs = {o for n in seeds if n.op_type in ("Conv", "ConvTranspose") for o in n.output}
    for n in index.nodes:
        if n.op_type != "Add" or n.name in exclude or any(i in index.initializers for i in n.input):
            continue
        fused = [i for i in range(2) if n.input[i] in convs and index.only_reader(n.input[i]) is not None]
        skip = 1 - fused[0] if fused else None
        if skip is not None and n.input[skip] in ranges:
            edges.add((n.name, skip))
            chosen.add(n.name)
    by_name = {n.name: n for n in index.nodes}
    read = {by_name[name].input[i] for name, i in edges}
    order = [*index.inputs, *(o for n in index.nodes for o in n.output)]
    return Placement(frozenset(chosen), tuple(t for t in order if t in read), frozenset(edges), {}, reasons)


def _by_everything(
    index: GraphIndex,
    seeds: list[NodeProto],
    ranges: Mapping[str, TensorRange],
    reasons: dict[str, str],
    exclude: Collection[str],
) -> Placement:
    """Every layer that DLA runs, with each tensor it reads or makes, graph outputs too. A concat shares
    one scale, and so does what only moves values."""
    fit = {n.name for n in seeds}
    chosen: set[str] = set()
    tensors: set[str] = set()
    root: dict[str, str] = {}

    def top(t: str) -> str:
        while t in root:
            t = root[t]
        return t

    def share(first: str, *others: str) -> None:
        for t in others:
            if top(t) != top(first):
                root[top(t)] = top(first)

    for n in index.nodes:
        data = [i for i in n.input if i and i not in index.initializers]
        weighted = n.op_type in WEIGHTED and n.name not in fit
        if n.name in exclude or weighted or not data or any(t not in ranges for t in (*data, *n.output)):
            continue
        if why := refusal(index, n):
            if n.name in fit:
                reasons[n.name] = f"{why}: the GPU runs it"
            continue
        chosen.add(n.name)
        tensors.update((*data, *n.output))
        if n.op_type == "Concat":
            share(*data, *n.output)
    for n in index.nodes:
        if n.op_type in MOVES and _plain_move(n) and {n.input[0], *n.output} <= tensors:
            # also where the GPU moves them between two layers of DLA
            share(n.input[0], *n.output)
    order = [*index.inputs, *(o for n in index.nodes for o in n.output)]
    flat = {t: top(t) for t in tensors if top(t) != t}
    return Placement(frozenset(chosen), tuple(t for t in order if t in tensors), None, flat, reasons)


def _by_tensors(
    index: GraphIndex,
    seeds: list[NodeProto],
    ranges: Mapping[str, TensorRange],
    reasons: dict[str, str],
    exclude: Collection[str],
    chains: bool,
) -> Placement:
    chosen = {n.name for n in seeds}
    outputs = set(index.outputs)

    def quantized(tensor: str) -> bool:
        """Whether the tensor is made by an int8 node (through an absorbed activation too)."""
        node = index.producer.get(tensor)
        return node is not None and node.name in chosen and tensor not in outputs

    if chains:
        # graph order: producers are decided before their readers
        for n in index.nodes:
            if n.name in exclude or not all(o in ranges for o in n.output):
                continue
            data = [i for i in n.input if i and i not in index.initializers and i in ranges]
            if n.op_type in _ACTIVATIONS:
                join = len(data) == 1 and quantized(data[0])
            elif n.op_type in MOVES:
                join = _plain_move(n) and bool(data) and n.input[0] in data and quantized(n.input[0])
            elif n.op_type in _JOINS:
                join = (
                    bool(data)
                    and any(quantized(i) for i in data)
                    and all(i in ranges or i not in index.producer for i in n.input if i)
                )
                join = join and _joinable(index, n)
            else:
                join = False
            if join and not any(o in outputs for o in n.output):
                chosen.add(n.name)
    else:
        chosen |= {
            n.name
            for n in index.nodes
            if n.op_type in _ACTIVATIONS and quantized(n.input[0]) and n.output[0] in ranges
        }

    tensors = []
    for t in [*index.inputs, *(o for n in index.nodes for o in n.output)]:
        if t not in ranges:
            continue
        made = quantized(t)
        only = index.only_reader(t)
        if made and only is not None and only.op_type in _ACTIVATIONS:
            # the pair goes behind the activation; if that makes an output of the graph, there is none
            continue
        if made or any(n.name in chosen and n.op_type not in _ACTIVATIONS for n, _ in index.readers[t]):
            tensors.append(t)
    return Placement(
        frozenset(chosen), tuple(tensors), None, _shared_scales(index, chosen, tensors, ranges), reasons
    )


def _shared_scales(
    index: GraphIndex, chosen: Collection[str], tensors: Sequence[str], ranges: Mapping[str, TensorRange]
) -> dict[str, str]:
    """Tensor → the one whose scale it shares: moves with their input; a concat with its inputs, if their
    ranges are alike.

    A concat of different scales rounds every value once more; in a ShuffleNet that adds up from block to
    block.
    """
    parent: dict[str, str] = {}

    def root(t: str) -> str:
        while t in parent:
            t = parent[t]
        return t

    known = set(tensors)
    for n in index.nodes:
        if n.op_type in MOVES and _plain_move(n) and (n.name in chosen or {n.input[0], *n.output} <= known):
            # the same values, whether it runs on codes or between two pairs
            joined = [n.input[0], *n.output]
        elif (
            n.op_type == "Concat" and n.name in chosen and _alike([ranges[i] for i in n.input if i in known])
        ):
            joined = [n.output[0], *(i for i in n.input if i in known)]
        else:
            continue
        first = root(joined[0])
        for t in joined[1:]:
            if root(t) != first:
                parent[root(t)] = first
    return {t: root(t) for t in parent}


def _alike(ranges: Sequence[TensorRange]) -> bool:
    """A rectified tensor never shares with a signed one: its zero point must stay the lowest code, or its
    Relu is not absorbed."""
    widths = [r.high - r.low for r in ranges]
    return len({r.low >= 0 for r in ranges}) == 1 and max(widths) <= _ALIKE * min(widths)


def _plain_move(n: NodeProto) -> bool:
    """Moves whose output really holds nothing new: cubic Resize overshoots."""
    return not any(a.name == "mode" and a.s == b"cubic" for a in n.attribute) and len(n.output) >= 1


def _joinable(index: GraphIndex, n: NodeProto) -> bool:
    """Joins that ONNX Runtime has int8 kernels for."""
    if n.op_type == "Pad":
        mode = next((a.s for a in n.attribute if a.name == "mode"), b"constant")
        return mode == b"constant" and len(n.input) < 3
    return True
