"""A rearrangement of pixels into channels becomes part of the convolution that reads it.

YOLOX and the first YOLOv5 begin with it (*Focus*): four slices of every second pixel, joined along the channels. A k × k
convolution behind it is a convolution of ``block`` × k with ``block`` times the stride over the picture itself, with the
same weights in another order, so that no pixel is copied (ultralytics/yolov5, release 6.0, made the same change by
hand). OpenVINO takes 2 ms for such slices where the convolution takes one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from edgectl.builder.graph import GraphIndex, attribute, reads
from edgectl.builder.passes.base import Pass
from edgectl.core.errors import ModelError

__all__ = ["FoldSpaceToDepth"]

_SPATIAL = (2, 3)
# a slice that ends there ends with its axis
_TO_THE_END = 1 << 30
_LARGEST_KERNEL = 16


@dataclass(frozen=True)
class _Rearranged:
    """``source``: the tensor before. ``origins``: per group of its channels, in the order of the result, the first
    row and column that is taken. ``nodes`` make it."""

    source: str
    block: int
    origins: tuple[tuple[int, int], ...]
    nodes: tuple[NodeProto, ...]


class FoldSpaceToDepth(Pass):
    name = "fold-space-to-depth"

    def requires(self, model: ModelProto) -> None:
        return None

    def run(self, model: ModelProto) -> tuple[ModelProto, bool]:
        folded = ModelProto()
        folded.CopyFrom(model)
        index = GraphIndex(folded)
        modified = False
        for n in index.nodes:
            rearranged = _rearranged(index, n)
            conv = index.only_reader(n.output[0]) if rearranged is not None else None
            if rearranged is None or conv is None or not _foldable(index, conv, rearranged):
                continue
            _fold(folded, index, conv, rearranged)
            modified = True
        if not modified:
            return model, False
        # what a convolution makes has the shape that it had
        _drop_unread(folded)
        return folded, True

    def ensures(self, model: ModelProto) -> None:
        index = GraphIndex(model)
        made = {*index.inputs, *index.initializers, *index.producer}
        for n in index.nodes:
            if gone := [t for t in reads(n) if t not in made]:
                raise ModelError(f"{n.name} reads {gone[0]}, which nothing makes any more")


def _rearranged(index: GraphIndex, n: NodeProto) -> _Rearranged | None:
    if n.op_type == "SpaceToDepth":
        block = attribute(n, "blocksize", 1)
        every = tuple((y, x) for y in range(block) for x in range(block))
        return _Rearranged(n.input[0], block, every, (n,))
    shape = index.shape(n.input[0]) if n.op_type == "Concat" else None
    if shape is None or len(shape) != 4 or attribute(n, "axis", 0) % 4 != 1:
        return None
    picks = [_pick(index, t) for t in n.input]
    if any(p is None for p in picks):
        return None
    sources = {p.source for p in picks if p is not None}
    blocks = {p.block for p in picks if p is not None}
    origins = tuple(p.origins[0] for p in picks if p is not None)
    [block, *others] = blocks
    complete = sorted(origins) == [(y, x) for y in range(block) for x in range(block)]
    if others or len(sources) != 1 or block < 2 or not complete:
        return None
    slices = {s.name: s for p in picks if p is not None for s in p.nodes}
    return _Rearranged(sources.pop(), block, origins, (*slices.values(), n))


def _pick(index: GraphIndex, tensor: str) -> _Rearranged | None:
    """What a chain of slices takes: of each spatial axis every ``block``-th value from an origin on."""
    origin, step, nodes = {2: 0, 3: 0}, {2: 1, 3: 1}, []
    node = index.producer.get(tensor)
    while node is not None and node.op_type == "Slice" and len(node.input) >= 5:
        starts, ends, axes, steps = (index.weights(i) for i in node.input[1:5])
        if any(v is None for v in (starts, ends, axes, steps)):
            return None
        for start, end, named, by in zip(
            *(np.asarray(v, np.int64).ravel().tolist() for v in (starts, ends, axes, steps)), strict=True
        ):
            shape, axis = index.shape(node.input[0]), named % 4
            if axis not in _SPATIAL or shape is None or step[axis] != 1 or not 0 <= start < by:
                return None
            if end < min(shape[axis], _TO_THE_END):
                return None
            origin[axis], step[axis] = start, by
        nodes.append(node)
        tensor = node.input[0]
        node = index.producer.get(tensor)
    if not nodes or step[2] != step[3]:
        return None
    return _Rearranged(tensor, step[2], ((origin[2], origin[3]),), tuple(nodes))


def _foldable(index: GraphIndex, conv: NodeProto, r: _Rearranged) -> bool:
    weight = index.weights(conv.input[1]) if conv.op_type == "Conv" else None
    source = index.shape(r.source)
    return (
        weight is not None
        and weight.ndim == 4
        and weight.dtype == np.float32
        and conv.input[0] not in index.outputs
        and max(weight.shape[2:]) * r.block <= _LARGEST_KERNEL
        and source is not None
        and len(source) == 4
        and not any(source[a] % r.block for a in _SPATIAL)
        and source[1] * r.block**2 == weight.shape[1]
        and attribute(conv, "group", 1) == 1
        and all(d == 1 for d in _ints(conv, "dilations", (1, 1)))
        and all(a.s in (b"NOTSET", b"VALID") for a in conv.attribute if a.name == "auto_pad")
    )


def _fold(model: ModelProto, index: GraphIndex, conv: NodeProto, r: _Rearranged) -> None:
    weight = np.asarray(index.weights(conv.input[1]), np.float32)
    outputs, _, height, width = weight.shape
    channels = weight.shape[1] // len(r.origins)
    whole = np.zeros((outputs, channels, height * r.block, width * r.block), np.float32)
    for i, (y, x) in enumerate(r.origins):
        whole[:, :, y :: r.block, x :: r.block] = weight[:, i * channels : (i + 1) * channels]
    # asked anew: the weight of two convolutions is folded twice
    taken = {t.name for t in model.graph.initializer} | index.producer.keys() | set(index.inputs)
    name = f"{conv.input[1]}_whole"
    while name in taken:
        name += "_"
    model.graph.initializer.append(numpy_helper.from_array(whole, name))
    conv.input[0], conv.input[1] = r.source, name
    sizes = {
        "kernel_shape": whole.shape[2:],
        "strides": [s * r.block for s in _ints(conv, "strides", (1, 1))],
        "pads": [p * r.block for p in _ints(conv, "pads", (0, 0, 0, 0))],
    }
    kept = [a for a in conv.attribute if a.name not in (*sizes, "auto_pad")]
    del conv.attribute[:]
    conv.attribute.extend([*kept, *(helper.make_attribute(k, list(v)) for k, v in sizes.items())])


def _ints(n: NodeProto, name: str, default: Sequence[int]) -> list[int]:
    return next((list(a.ints) for a in n.attribute if a.name == name), list(default))


def _drop_unread(model: ModelProto) -> None:
    """Nodes and constants that nobody reads any more."""
    while True:
        index = GraphIndex(model)
        read = {i for n in model.graph.node for i in n.input} | index.captured | set(index.outputs)
        dead = [n for n in model.graph.node if not read.intersection(n.output)]
        if not dead:
            break
        for n in dead:
            model.graph.node.remove(n)
    kept = [t for t in model.graph.initializer if t.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    known = [v for v in model.graph.value_info if v.name in index.producer]
    del model.graph.value_info[:]
    model.graph.value_info.extend(known)
