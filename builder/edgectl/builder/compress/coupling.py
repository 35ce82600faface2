"""Which channels of a graph live and die together, and every constant that has to lose entries when they go.
Pure.

Each channel that a layer makes gets a number. Walking the graph, an operator passes the numbers on, in its
way: element by element (activations, pooling), joined pairwise (residual adds, gates, depthwise
convolutions), side by side (concat), in part (split, slice), repeated (flatten). Numbers that were joined are
one channel: they are removed everywhere or nowhere. What the walk cannot follow is fixed, and the reason is
kept. (The idea of a dependency graph: Fang et al., *DepGraph*, 2023.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, NodeProto, helper, numpy_helper

from edgectl.builder.compress.weights import Floats, Weight, replace_weights, weights_of
from edgectl.builder.graph import GraphIndex, attribute
from edgectl.builder.int8.placement import WEIGHTED, weight_axis

__all__ = ["Coupling", "Group", "Reader", "couple", "remove"]

Numbers = NDArray[np.int64]

_EACH = (
    "Relu",
    "Clip",
    "LeakyRelu",
    "Sigmoid",
    "HardSwish",
    "HardSigmoid",
    "Tanh",
    "Elu",
    "Softplus",
    "Exp",
    "Sqrt",
    "Neg",
    "Abs",
    "Erf",
    "Identity",
)
"""They compute each value of their first input for itself."""
_POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
_PAIRS = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "PRelu")


@dataclass(frozen=True)
class Reader:
    """A weight that multiplies channels: entry ``i`` along ``weight.input_axis`` belongs to channel
    ``channels[i]``."""

    weight: Weight
    channels: Numbers


@dataclass(frozen=True)
class Group:
    """Channels that are found in the same tensors: one choice of how many of them stay. ``makers``: layers
    that make them."""

    channels: Numbers
    makers: tuple[str, ...]


@dataclass(frozen=True)
class Coupling:
    """``groups``: what can be removed. ``made``: layer → channels of its output, in order; ``passed``: the
    same of depthwise convolutions, which make none. ``reasons``: layer → why it stays whole."""

    groups: tuple[Group, ...]
    readers: tuple[Reader, ...]
    made: Mapping[str, Numbers]
    passed: Mapping[str, Numbers]
    reasons: Mapping[str, str]
    tensors: Mapping[str, tuple[int, Numbers]]
    """Tensor → the axis of its channels and which they are."""
    constants: Mapping[tuple[str, int], Numbers]
    """(initializer, axis) → the channels of its entries."""
    weights: Mapping[str, Weight]
    """Initializer → the layer weight that it is."""


def couple(model: ModelProto) -> Coupling:
    """Follow every channel of a graph whose shapes are static and whose constants are initializers."""
    return _CouplingWalk(model).result()


def remove(model: ModelProto, coupling: Coupling, gone: Collection[int]) -> ModelProto:
    """A copy without these channels, which must be whole groups' members. Shapes inside are inferred anew."""
    index = GraphIndex(model)
    dead = np.fromiter(gone, np.int64, len(gone))
    values: dict[str, Floats] = {}
    for (name, axis), channels in coupling.constants.items():
        stay = ~np.isin(channels, dead)
        if not stay.all():
            whole = values.get(name, np.asarray(index.weights(name), np.float32))
            values[name] = np.compress(stay, whole, axis=axis)
    copy = replace_weights(model, values)

    def left(tensor: str) -> Numbers:
        return np.flatnonzero(~np.isin(coupling.tensors[tensor][1], dead))

    for node in copy.graph.node:
        tracked = [t for t in (*node.input[:1], *node.output) if t in coupling.tensors]
        if any(len(left(t)) != len(coupling.tensors[t][1]) for t in tracked):
            _adjust(copy, index, node, coupling.tensors, left)
    del copy.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(copy, data_prop=True)


def _adjust(
    copy: ModelProto,
    index: GraphIndex,
    node: NodeProto,
    tensors: Mapping[str, tuple[int, Numbers]],
    left: Callable[[str], Numbers],
) -> None:
    """Correct what a node says about sizes: groups of a depthwise convolution, parts of a split, ends of a
    slice, shapes."""

    def constant(slot: int, value: Iterable[int]) -> None:
        name = f"{node.name}_{slot}_pruned"
        copy.graph.initializer.append(numpy_helper.from_array(np.asarray(list(value), np.int64), name))
        node.input.extend([""] * (slot + 1 - len(node.input)))
        node.input[slot] = name

    out = node.output[0]
    if node.op_type == "Conv" and attribute(node, "group", 1) > 1:
        next(a for a in node.attribute if a.name == "group").i = len(left(out))
    elif node.op_type == "Split" and len(left(out)) != len(left(node.input[0])):
        kept = [a for a in node.attribute if a.name not in ("num_outputs", "split")]
        del node.attribute[:]
        node.attribute.extend(kept)
        constant(1, (len(left(o)) for o in node.output))
    elif node.op_type == "Slice":
        axis, channels = tensors[node.input[0]]
        axes = _axes(index, node, 3, len(index.shape(node.input[0]) or ()))
        if axis not in axes:
            return
        at = axes.index(axis)
        starts, ends = (np.array(index.weights(node.input[i]), np.int64) for i in (1, 2))
        first, last, _ = slice(int(starts[at]), int(ends[at])).indices(len(channels))
        stay = left(node.input[0])
        starts[at], ends[at] = np.searchsorted(stay, [first, last])
        constant(1, starts)
        constant(2, ends)
    elif node.op_type == "Reshape" and out in tensors:
        shape = np.array(index.weights(node.input[1]), np.int64)
        axis = tensors[out][0]
        if shape[axis] > 0:
            shape[axis] = len(left(out))
            constant(1, shape)
    elif node.op_type == "Resize" and len(node.input) > 3 and node.input[3]:
        sizes = np.array(index.weights(node.input[3]), np.int64)
        sizes[tensors[out][0]] = len(left(out))
        constant(3, sizes)


class _CouplingWalk:
    def __init__(self, model: ModelProto) -> None:
        self.index = GraphIndex(model)
        self._weights = {w.node.name: w for w in weights_of(self.index)}
        self._parent: list[int] = []
        self._fixed: dict[int, str] = {}
        self._tensors: dict[str, tuple[int, Numbers]] = {}
        self._constants: dict[tuple[str, int], Numbers] = {}
        self._used: dict[str, set[tuple[str, int]]] = defaultdict(set)
        self._made: dict[str, Numbers] = {}
        self._passed: dict[str, Numbers] = {}
        self._readers: list[Reader] = []
        self._whole: dict[str, str] = {}
        for node in self.index.nodes:
            self._visit(node)
        for tensor, (_, channels) in self._tensors.items():
            if tensor in self.index.outputs or tensor in self.index.captured:
                self._fix(
                    channels,
                    "its channels are an output of the graph"
                    if tensor in self.index.outputs
                    else "a subgraph reads its channels",
                )
        for (name, _), channels in self._constants.items():
            if len(self.index.readers[name]) != len(self._used[name]) or name in self.index.captured:
                self._fix(channels, f"another node reads {name}")

    def result(self) -> Coupling:
        root = np.asarray([self._root(i) for i in range(len(self._parent))], np.int64)
        fixed = {int(root[i]): reason for i, reason in self._fixed.items()}
        read = {int(c) for r in self._readers for c in root[r.channels]}
        places: dict[int, list[int]] = defaultdict(list)
        for t, (_, channels) in enumerate(self._tensors.values()):
            for c in np.unique(root[channels]):
                places[int(c)].append(t)
        makers: dict[int, list[str]] = defaultdict(list)
        for name, channels in self._made.items():
            for c in np.unique(root[channels]):
                makers[int(c)].append(name)
                if int(c) not in read:
                    fixed.setdefault(int(c), "nothing reads its channels")
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for c, where in places.items():
            if c not in fixed:
                groups[tuple(where)].append(c)
        return Coupling(
            groups=tuple(Group(np.asarray(m, np.int64), tuple(makers[m[0]])) for m in groups.values()),
            readers=tuple(Reader(r.weight, root[r.channels]) for r in self._readers),
            made={n: root[c] for n, c in self._made.items()},
            passed={n: root[c] for n, c in self._passed.items()},
            reasons=self._whole
            | {
                n: fixed[int(root[c[0]])]
                for n, c in self._made.items()
                if all(int(i) in fixed for i in root[c])
            },
            tensors={t: (axis, root[c]) for t, (axis, c) in self._tensors.items()},
            constants={k: root[c] for k, c in self._constants.items()},
            weights={w.name: w for w in self._weights.values()},
        )

    # the numbers

    def _root(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i

    def _new(self, count: int) -> Numbers:
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count, dtype=np.int64)

    def _join(self, a: Numbers, b: Numbers) -> None:
        for x, y in zip(a.tolist(), b.tolist(), strict=True):
            x, y = sorted((self._root(x), self._root(y)))
            self._parent[y] = x

    def _fix(self, channels: Numbers, reason: str) -> None:
        for c in channels.tolist():
            self._fixed.setdefault(c, reason)

    def _constant(self, node: NodeProto, slot: int, axis: int, channels: Numbers) -> None:
        name = node.input[slot]
        known = self._constants.setdefault((name, axis), channels)
        if known is not channels:
            self._join(known, channels)
        self._used[name].add((node.name, slot))

    # the graph

    def _visit(self, node: NodeProto) -> None:
        tracked = {i: self._tensors[t] for i, t in enumerate(node.input) if t in self._tensors}
        if node.op_type in WEIGHTED:
            out = self._weighted(node, tracked)
        elif not tracked:
            return
        elif node.op_type in _PAIRS:
            out = self._pairs(node, tracked)
        elif node.op_type == "Concat":
            out = self._concat(node, tracked)
        elif set(tracked) != {0}:
            out = None
        elif node.op_type == "Split":
            self._split(node, *tracked[0])
            return
        else:
            out = self._single(node, *tracked[0])
        if out is not None and len(node.output) == 1:
            self._tensors[node.output[0]] = out
            return
        weighted = node.op_type in WEIGHTED
        if weighted:
            self._whole[node.name] = self._why(node)
        for _, channels in tracked.values():
            self._fix(
                channels,
                f"{node.name}: {self._why(node)}"
                if weighted
                else f"its channels meet {node.op_type} ({node.name})",
            )

    def _why(self, node: NodeProto) -> str:
        """Why a layer cannot be pruned, nor what it reads."""
        if node.name not in self._weights:
            return "it shares its weight or computes it"
        return (
            "it is a grouped convolution"
            if attribute(node, "group", 1) > 1
            else "it does not read channels along its input axis"
        )

    def _weighted(
        self, node: NodeProto, tracked: dict[int, tuple[int, Numbers]]
    ) -> tuple[int, Numbers] | None:
        """A layer with a constant weight: it reads the channels of its input and makes new ones."""
        w = self._weights.get(node.name)
        if w is None or set(tracked) - {0} or attribute(node, "transA"):
            return None
        axis, channels = tracked.get(0, (0, np.zeros(0, np.int64)))
        if attribute(node, "group", 1) > 1:
            if node.op_type != "Conv" or not tracked or w.value.shape[:2] != (len(channels), 1) or axis != 1:
                return None
            self._layer_constants(node, w, 0, channels)
            self._passed[node.name] = channels
            return axis, channels
        convolution = node.op_type.startswith("Conv")
        rank = len(self.index.shape(node.input[0]) or ())
        along, out_axis = (1, 1) if convolution else (rank - 1, rank - 1)
        if w.value.ndim != 2 and not convolution:
            return None
        if tracked and axis != along:
            return (axis, channels) if node.op_type == "MatMul" else None
        if tracked:
            if w.value.shape[w.input_axis] != len(channels):
                return None
            self._constant(node, 1, w.input_axis, channels)
            self._readers.append(Reader(w, channels))
        at = weight_axis(node) % w.value.ndim
        made = self._new(w.value.shape[at])
        self._made[node.name] = made
        self._layer_constants(node, w, at, made)
        return out_axis, made

    def _layer_constants(self, node: NodeProto, w: Weight, axis: int, made: Numbers) -> None:
        self._constant(node, 1, axis, made)
        if len(node.input) > 2 and node.input[2]:
            shape = self.index.shape(node.input[2]) if node.input[2] in self.index.initializers else None
            if shape and shape[-1] == len(made):
                self._constant(node, 2, len(shape) - 1, made)
            else:
                self._fix(made, f"the bias of {node.name} is not a constant of one value a channel")

    def _pairs(self, node: NodeProto, tracked: dict[int, tuple[int, Numbers]]) -> tuple[int, Numbers] | None:
        """Element by element with broadcasting: what meets at the channel axis becomes one."""
        shape = self.index.shape(node.output[0])
        operands = [self.index.shape(t) for t in node.input]
        if shape is None or any(o is None for o in operands):
            return None
        from_end = {axis - len(operands[i] or ()) for i, (axis, _) in tracked.items()}
        if len(from_end) != 1:
            return None
        back = from_end.pop()
        count = shape[back]
        numbers = [c for _, c in tracked.values() if len(c) == count]
        for i, operand in enumerate(operands):
            assert operand is not None
            size = operand[back] if len(operand) >= -back else 1
            if i in tracked:
                if size != count:
                    return None
                self._join(numbers[0], tracked[i][1])
            elif size == count and count > 1:
                if node.input[i] not in self.index.initializers or not numbers:
                    return None
                self._constant(node, i, len(operand) + back, numbers[0])
        return len(shape) + back, numbers[0]

    def _concat(self, node: NodeProto, tracked: dict[int, tuple[int, Numbers]]) -> tuple[int, Numbers] | None:
        axes = {axis for axis, _ in tracked.values()}
        rank = len(self.index.shape(node.output[0]) or ())
        if len(axes) != 1 or not rank:
            return None
        [axis] = axes
        if attribute(node, "axis") % rank != axis:
            if len(tracked) != len(node.input):
                return None
            first, *others = (c for _, c in tracked.values())
            for other in others:
                self._join(first, other)
            return axis, first
        parts = []
        for i, name in enumerate(node.input):
            shape = self.index.shape(name)
            if shape is None:
                return None
            # what nobody made (the picture itself): numbered, and fixed
            if i not in tracked:
                fixed = self._new(shape[axis])
                self._fix(fixed, f"it is joined with an input of the graph at {node.name}")
                if name in self.index.initializers:
                    self._constant(node, i, axis, fixed)
            parts.append(tracked[i][1] if i in tracked else fixed)
        return axis, np.concatenate(parts)

    def _split(self, node: NodeProto, axis: int, channels: Numbers) -> None:
        sizes = [self.index.shape(o) for o in node.output]
        rank = len(self.index.shape(node.input[0]) or ())
        if any(s is None for s in sizes):
            self._fix(channels, f"its channels meet Split ({node.name})")
            return
        at = 0
        for name, shape in zip(node.output, sizes, strict=True):
            assert shape is not None
            if attribute(node, "axis") % rank != axis:
                self._tensors[name] = axis, channels
                continue
            self._tensors[name] = axis, channels[at : at + shape[axis]]
            at += shape[axis]

    def _single(self, node: NodeProto, axis: int, channels: Numbers) -> tuple[int, Numbers] | None:
        """Operators of one tensor."""
        before, after = self.index.shape(node.input[0]), self.index.shape(node.output[0])
        if before is None or after is None:
            return None
        op, rank = node.op_type, len(before)
        if op in _EACH or (op in _POOLS and axis == 1):
            return axis, channels
        if op in ("BatchNormalization", "InstanceNormalization") and axis == 1:
            if any(i not in self.index.initializers for i in node.input[1:]):
                return None
            for slot in range(1, len(node.input)):
                self._constant(node, slot, 0, channels)
            return axis, channels
        if op == "Softmax":
            return (axis, channels) if attribute(node, "axis", -1) % rank != axis else None
        if op in ("Pad", "Resize"):
            if any(a.name == "axes" for a in node.attribute):
                return None
            return (axis, channels) if before[axis] == after[axis] and self._constants_of(node) else None
        if op == "Transpose":
            perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), [*reversed(range(rank))])
            return perm.index(axis), channels
        if op in ("Flatten", "Reshape"):
            if before[:axis] != after[:axis] or len(after) <= axis or not self._constants_of(node):
                return None
            if after[axis] == before[axis]:
                return axis, channels
            return (
                (axis, np.repeat(channels, after[axis] // len(channels))) if len(after) == axis + 1 else None
            )
        if op in ("Squeeze", "Unsqueeze", "ReduceMean", "ReduceMax", "ReduceSum"):
            axes = _axes(self.index, node, 1, len(after) if op == "Unsqueeze" else rank)
            if op == "Unsqueeze":
                return [i for i in range(len(after)) if i not in axes][axis], channels
            if axis in axes:
                return None
            return axis - (0 if len(after) == rank else sum(a < axis for a in axes)), channels
        if op == "Slice":
            return self._slice(node, axis, channels, rank)
        return None

    def _slice(self, node: NodeProto, axis: int, channels: Numbers, rank: int) -> tuple[int, Numbers] | None:
        if not self._constants_of(node):
            return None
        axes = _axes(self.index, node, 3, rank)
        if axis not in axes:
            return axis, channels
        at = axes.index(axis)
        starts, ends, *rest = (
            np.asarray(self.index.weights(i), np.int64) for i in (*node.input[1:3], *node.input[4:5])
        )
        if rest and int(rest[0][at]) != 1:
            return None
        return axis, channels[int(starts[at]) : int(ends[at])]

    def _constants_of(self, node: NodeProto) -> bool:
        return all(i in self.index.initializers for i in node.input[1:] if i)


def _axes(index: GraphIndex, node: NodeProto, slot: int, rank: int) -> list[int]:
    """The axes that a node names, by attribute or as a constant; all of them if it names none."""
    named: AttributeProto | None = next((a for a in node.attribute if a.name == "axes"), None)
    if named is not None:
        return [int(a) % rank for a in helper.get_attribute_value(named)]
    value = index.weights(node.input[slot]) if len(node.input) > slot and node.input[slot] else None
    if value is None and slot == 3:
        return list(range(len(np.atleast_1d(np.asarray(index.weights(node.input[1]))))))
    return list(range(rank)) if value is None else [int(a) % rank for a in np.atleast_1d(np.asarray(value))]
