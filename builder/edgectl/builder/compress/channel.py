"""Structured pruning: whole channels go, so every runtime gets faster. At ONNX level, no training library.

A convolution's channels can go where everything that they reach, up to the next convolutions or matrix products, treats channels
one by one. Where they meet other branches (residual adds, concats, splits) or leave the graph, the convolution stays whole and
the report says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgectl.builder.compress.weights import Floats, Weight, replace_weights, weights_of
from edgectl.builder.graph import GraphIndex, attribute
from edgectl.core.bundle import SessionSettings
from edgectl.engines.open import open_model
from edgectl.engines.timing import interleave, paired_ratio

__all__ = ["Group", "channel_step", "groups_of", "prune_channels"]

_EACH = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSwish", "HardSigmoid", "Tanh", "Elu", "Softplus", "Identity", "MaxPool", "AveragePool", "GlobalAveragePool")  # fmt: skip
"""They compute each channel of their first input for itself."""
_STEPS = (1, 2, 4, 8, 16)
_TOLERANCE = 1.10  # latency per MAC against full vectors


@dataclass
class Group:
    """Channels that live and die together: made by ``conv``, carried by ``depthwise``, read by ``consumers``."""

    conv: Weight
    depthwise: list[NodeProto] = field(default_factory=list)
    consumers: list[tuple[Weight, int]] = field(default_factory=list)
    """Weight and how many consecutive entries of its input axis one channel is (1; H·W after a flatten)."""

    @property
    def channels(self) -> int:
        return int(self.conv.value.shape[0])


def groups_of(model: ModelProto) -> tuple[list[Group], dict[str, str]]:
    """What can be pruned, and for every other convolution the reason why not."""
    index = GraphIndex(model)
    weights = {w.node.name: w for w in weights_of(index)}
    groups, reasons = [], {}
    for w in weights.values():
        if w.node.op_type != "Conv" or attribute(w.node, "group", 1) != 1:
            continue
        group = Group(w)
        reason = _follow(index, weights, group)
        if reason is None:
            groups.append(group)
        else:
            reasons[w.node.name] = reason
    return groups, reasons


def _follow(index: GraphIndex, weights: Mapping[str, Weight], group: Group) -> str | None:
    """Fill the group; None if its channels reach nothing but what can follow their removal."""
    entries: dict[str, int] = {group.conv.node.output[0]: 1}  # tensor → entries a channel
    queue, products = list(entries), []
    while queue:
        tensor = queue.pop()
        if tensor in index.outputs or tensor in index.captured:
            return "its channels are an output of the graph"
        for node, slot in index.readers[tensor]:
            out, times = node.output[0], entries[tensor]
            if node.op_type == "Mul":
                products.append(node)
            elif node.op_type == "Conv" and slot == 0 and times == 1:
                w = weights.get(node.name)
                if w is None:
                    return f"{node.name} shares its weight or computes it"
                if attribute(node, "group", 1) == 1:
                    group.consumers.append((w, 1))
                    continue
                if w.value.shape[:2] != (group.channels, 1):
                    return f"{node.name} is a grouped convolution"
                group.depthwise.append(node)
            elif node.op_type in ("Gemm", "MatMul") and slot == 0 and node.name in weights and not attribute(node, "transA"):
                w = weights[node.name]
                if w.value.ndim != 2 or w.value.shape[w.input_axis] != group.channels * times:
                    return f"{node.name} does not read channels along its input axis"
                group.consumers.append((w, times))
                continue
            elif node.op_type in ("Flatten", "Reshape") and slot == 0:
                before, after = index.shape(tensor), index.shape(out)
                if node.op_type == "Reshape" or before is None or after is None or len(after) != 2 or after[0] != before[0]:
                    return f"its channels meet {node.op_type} ({node.name})"
                times = after[1] // group.channels
            elif node.op_type not in _EACH or slot != 0:
                return f"its channels meet {node.op_type} ({node.name})"
            if out not in entries:
                entries[out] = times
                queue.append(out)
    if any(i not in entries for node in products for i in node.input):
        return f"its channels meet those of another branch at {products[0].name}"
    return None if group.consumers else "nothing reads its channels"


def prune_channels(
    model: ModelProto, share: float, step: int, norms: Mapping[str, NDArray[np.float64]] | None,
    scores: Mapping[str, NDArray[np.float64]] | None = None,
) -> tuple[ModelProto, dict[str, tuple[int, int]], dict[str, str]]:  # fmt: skip
    """Remove the least important ``share`` of the channels of every group; what stays is a multiple of ``step``.

    ``norms``: of the channels that each weight reads (:func:`~edgectl.builder.compress.importance.input_norms`), or None for plain
    magnitude; ``scores``: convolution name → importance of its channels, instead. Returns the graph, convolution → channels before
    and after, and convolution → why it stayed whole.
    """
    groups, reasons = groups_of(model)
    values: dict[str, Floats] = {}
    index = GraphIndex(model)
    done: dict[str, tuple[int, int]] = {}

    def current(name: str) -> Floats:
        return values.get(name, np.asarray(index.weights(name), np.float32))

    for g in groups:
        keep = max(step, round(g.channels * (1 - share) / step) * step)
        if keep >= g.channels:
            reasons[g.conv.node.name] = f"{g.channels} channels do not shrink by {share:g} in steps of {step}"
            continue
        score = scores[g.conv.node.name] if scores and g.conv.node.name in scores else _score(g, norms)
        kept = np.sort(np.argsort(-score, kind="stable")[:keep])
        for node in (g.conv.node, *g.depthwise):
            for name in node.input[1:]:
                values[name] = current(name)[kept]
        for w, times in g.consumers:
            rows = (kept[:, None] * times + np.arange(times)).ravel()
            values[w.name] = np.take(current(w.name), rows, axis=w.input_axis)
        done[g.conv.node.name] = (g.channels, keep)
    pruned = replace_weights(model, values)
    for node in pruned.graph.node:  # a depthwise convolution has as many groups as channels
        if any(node.name == d.name for g in groups if g.conv.node.name in done for d in g.depthwise):
            channels = values[node.input[1]].shape[0]
            next(a for a in node.attribute if a.name == "group").i = channels
    del pruned.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(pruned, data_prop=True), done, reasons


def _score(g: Group, norms: Mapping[str, NDArray[np.float64]] | None) -> NDArray[np.float64]:
    """How strongly each channel reaches what reads it: its filter's norm, or the norm of what it was seen to carry."""
    made = np.sqrt(np.square(g.conv.value.astype(np.float64)).reshape(g.channels, -1).sum(1))
    total = np.zeros(g.channels)
    for w, times in g.consumers:
        square = np.square(np.moveaxis(w.value.astype(np.float64), w.input_axis, 0)).reshape(g.channels * times, -1).sum(1)
        if norms is None:
            total += square.reshape(g.channels, times).sum(1) * np.square(made)
        else:
            total += (square * np.square(norms[w.name])).reshape(g.channels, times).sum(1)
    return np.asarray(np.sqrt(total), np.float64)


def channel_step(*, seconds: float = 1.5, steps: Sequence[int] = _STEPS) -> int:
    """The smallest step at which this machine's convolutions lose nothing to half-full vectors, by micro-benchmark.

    A 3×3 convolution of 64 + step channels must cost per MAC at most a tenth more than one of 64 and one of 96 channels.
    """
    base = 64
    engines = {c: open_model(_conv(c), SessionSettings()) for c in (base, *(base + s for s in steps), 96)}
    feeds = {c: {"x": np.zeros((1, c, 28, 28), np.float32)} for c in engines}
    times = interleave({str(c): partial(e.run, feeds[c]) for c, e in engines.items()}, seconds=seconds, min_rounds=30)
    for e in engines.values():
        e.close()

    def per_mac(c: int) -> float:
        return paired_ratio(times[str(c)], times[str(base)]).median * (base / c) ** 2

    full = max(1.0, per_mac(96))
    return next((s for s in steps if per_mac(base + s) <= full * _TOLERANCE), steps[-1])


def _conv(channels: int) -> bytes:
    weight = np.random.default_rng(0).standard_normal((channels, channels, 3, 3)).astype(np.float32)
    shape = [1, channels, 28, 28]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])], "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)], [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())
