"""Small graphs around everything that kernels fuse: each layer with each thing behind it, at each place where
a graph can be cut.

A :class:`Case` is a layer (``Conv``, ``Gemm`` …), what normalises it, what activates it, and a *place*:
whether the block ends the graph, is read twice, is used again with the same weights, has an inner tensor that
is an output of the graph, lies in front of a subgraph that captures it … :func:`cases` draws any number of
them, each pair of properties as early as can be; the same number gives the same cases.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import astuple, dataclass

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

__all__ = ["ACTIVATIONS", "LAYERS", "NORMS", "PLACES", "WIDTHS", "Case", "cases", "feeds_of", "make"]

LAYERS = (
    "conv",
    "pointwise",
    "depthwise",
    "grouped",
    "strided",
    "auto-pad",
    "conv1d",
    "transposed",
    "gemm",
    "gemm-untransposed",
    "matmul",
    "matmul-rows",
)
NORMS = ("none", "bias", "batchnorm", "add-constant", "mul-constant")
ACTIVATIONS = (
    "none",
    "Relu",
    "relu6",
    "clip-low",
    "LeakyRelu",
    "PRelu",
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "silu",
    "mish",
    "Tanh",
    "Elu",
    "gelu",
    "Softmax",
    "add-skip",
    "add-skip-relu",
    "mul-gate",
    "concat",
    "pool",
    "resize",
    "transpose",
    "reshape",
    "slice",
    "split",
    "pad",
)
PLACES = (
    "ends",
    "ends-twice",
    "in-the-middle",
    "branches",
    "reused",
    "layer-is-output",
    "norm-is-output",
    "all-are-outputs",
    "input-is-output",
    "weight-is-output",
    "captured",
    "captured-layer",
    "two-heads",
    "output-then-pool",
    "output-into-two-layers",
    "unused-input",
    "shares-weights",
)
WIDTHS = (4, 16, 24)
"""Channels: below and above what TensorRT takes in int8, and one that is no power of two."""
_SIZE = 6


@dataclass(frozen=True)
class Case:
    layer: str
    norm: str
    activation: str
    place: str
    width: int

    @property
    def name(self) -> str:
        return "-".join(map(str, astuple(self)))


def cases(count: int) -> list[Case]:
    """``count`` different cases: greedy from a seeded shuffle, so that every pair of values comes as soon
    as there is room for it."""
    rng = np.random.default_rng(0)
    every = [Case(*v) for v in itertools.product(LAYERS, NORMS, ACTIVATIONS, PLACES, WIDTHS)]
    order = iter([every[i] for i in rng.permutation(len(every))])
    seen: set[tuple[object, object]] = set()
    chosen: list[Case] = []
    late: list[Case] = []
    for case in order:
        if len(chosen) == count:
            break
        new = set(_pairs(case)) - seen
        if len(new) >= 4:
            seen |= new
            chosen.append(case)
        else:
            late.append(case)
    return [*chosen, *late[: count - len(chosen)]]


def _pairs(case: Case) -> Iterator[tuple[object, object]]:
    return itertools.combinations(enumerate(astuple(case)), 2)


def make(case: Case) -> ModelProto:
    """The graph: ``x`` → a layer with a Relu → the block in its place → outputs."""
    return _Net(case).model()


def feeds_of(model: ModelProto, count: int, *, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Normal noise for every input."""
    rng = np.random.default_rng(seed)
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
    return [{n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()} for _ in range(count)]


class _Net:
    def __init__(self, case: Case) -> None:
        self._case = case
        self._rng = np.random.default_rng(abs(hash_of(case.name)))
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.outputs: list[str] = []
        self._weights: dict[str, str] = {}
        self._count = itertools.count()
        self._flat = case.layer.startswith(("gemm", "matmul"))
        self._rows = 5 if case.layer == "matmul-rows" else 1

    def model(self) -> ModelProto:
        place = _PLACES[self._case.place]
        place(self)
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, self._input())]
        if self._case.place == "unused-input":
            inputs.append(helper.make_tensor_value_info("unused", TensorProto.FLOAT, [2]))
        graph = helper.make_graph(
            self.nodes,
            "generated",
            inputs,
            [
                helper.make_tensor_value_info(o, TensorProto.FLOAT, self._known(o))
                for o in dict.fromkeys(self.outputs)
            ],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)

    def _known(self, name: str) -> list[int] | None:
        """The shape of what inference does not tell: an input or a constant that is an output, too."""
        if name == "x":
            return self._input()
        return next((list(t.dims) for t in self.constants if t.name == name), None)

    def stem(self) -> str:
        """The first layer, so that the block reads something that another layer made."""
        layer = "gemm" if self._flat else "conv1d" if self._case.layer == "conv1d" else "conv"
        x = "x"
        if self._flat and self._rows > 1:
            return self.op(
                "Relu", [self.op("MatMul", [x, self.weight((self._case.width, self._case.width))])]
            )
        return self.op("Relu", [self.layer(x, layer, self._case.width)])

    def block(self, x: str, *, again: bool = False) -> tuple[str, str, str]:
        """What the layer makes, what its normalisation makes, and the end of the block. ``again``: with
        the weights of the last one."""
        made = self.layer(x, self._case.layer, self._case.width, share=again)
        normed = self.norm(made, again)
        return made, normed, self.activate(normed, x)

    def layer(self, x: str, kind: str, width: int, *, share: bool = False) -> str:
        inputs = 3 if x == "x" and not self._flat else width
        bias = [self.weight((width,), 0.1, "bias" if share else "")] if self._case.norm == "bias" else []
        key = "shared" if share else ""
        if kind in ("gemm", "gemm-untransposed"):
            return self.op(
                "Gemm", [x, self.weight((width, width), 1.0, key), *bias], transB=int(kind == "gemm")
            )
        if kind in ("matmul", "matmul-rows"):
            return self.op("MatMul", [x, self.weight((width, width), 1.0, key)])
        if kind == "conv1d":
            return self.op("Conv", [x, self.weight((width, inputs, 3), 1.0, key), *bias], pads=[1, 1])
        if kind == "transposed":
            w = self.weight((inputs, width, 2, 2), 1.0, key)
            return self.op("ConvTranspose", [x, w, *bias], strides=[2, 2])
        group = {"depthwise": width, "grouped": 2}.get(kind, 1)
        size = 1 if kind == "pointwise" else 3
        extra: dict[str, object] = (
            {"auto_pad": "SAME_UPPER"} if kind == "auto-pad" else {"pads": [size // 2] * 4}
        )
        if kind == "strided":
            extra["strides"] = [2, 2]
        return self.op(
            "Conv",
            [x, self.weight((width, inputs // group, size, size), 1.0, key), *bias],
            group=group,
            **extra,
        )

    def norm(self, x: str, again: bool) -> str:
        width, key = self._case.width, "norm" if again else ""
        along = (
            (width,) if self._flat else (1, width, 1) if self._case.layer == "conv1d" else (1, width, 1, 1)
        )
        if self._case.norm == "batchnorm" and not (self._flat and self._rows > 1):
            values = [
                self.weight((width,), 0.2, f"{key}{i}" if key else "", mean=m)
                for i, m in enumerate((1.0, 0.0, 0.0))
            ]
            spread = self.constant(np.abs(self._rng.standard_normal(width)).astype(np.float32) + 0.5)
            return self.op("BatchNormalization", [x, *values, spread])
        if self._case.norm == "add-constant":
            return self.op("Add", [x, self.weight(along, 0.3, key)])
        if self._case.norm == "mul-constant":
            return self.op("Mul", [self.weight(along, 0.3, key, mean=1.0), x])
        return x

    def activate(self, x: str, skip: str) -> str:
        kind = self._case.activation
        if kind == "none":
            return x
        if kind == "relu6":
            return self.op("Clip", [x, self.number(0.0), self.number(6.0)])
        if kind == "clip-low":
            return self.op("Clip", [x, self.number(-0.5)])
        if kind == "PRelu":
            return self.op("PRelu", [x, self.number(0.2)])
        if kind == "silu":
            return self.op("Mul", [x, self.op("Sigmoid", [x])])
        if kind == "mish":
            return self.op("Mul", [x, self.op("Tanh", [self.op("Softplus", [x])])])
        if kind == "gelu":
            erf = self.op("Erf", [self.op("Div", [x, self.number(2**0.5)])])
            return self.op(
                "Mul", [self.op("Mul", [x, self.op("Add", [erf, self.number(1.0)])]), self.number(0.5)]
            )
        if kind.startswith("add-skip"):
            added = self.op("Add", [x, self.beside(x, skip)])
            return self.op("Relu", [added]) if kind.endswith("relu") else added
        if kind == "mul-gate":
            return self.op(
                "Mul", [x, self.op("Sigmoid", [self.op("ReduceMean", [x], axes=[-1], keepdims=1)])]
            )
        if kind == "concat":
            # as wide as before, so that any layer may follow
            joined = self.op("Concat", [x, self.op("Relu", [x])], axis=-1)
            return self.op(
                "Slice",
                [joined, self.integers([1]), self.integers([1 + self.length(x)]), self.integers([-1])],
            )
        if kind == "pool":
            return (
                x
                if self._flat
                else self.op("MaxPool", [x], kernel_shape=[3] * self.axes, pads=[1] * 2 * self.axes)
            )
        if kind == "resize":
            return (
                x
                if self._flat
                else self.op("Resize", [x, "", self.floats([1.0, 1.0, *[2.0] * self.axes])], mode="nearest")
            )
        if kind == "transpose":
            return self.op("Transpose", [self.op("Transpose", [x])])
        if kind == "reshape":
            flat = self.op("Reshape", [x, self.integers([1, -1])])
            return self.op("Reshape", [self.op("Relu", [flat]), self.op("Shape", [x])])
        if kind == "slice":
            return self.op("Slice", [x, self.integers([0]), self.integers([1 << 30]), self.integers([1])])
        if kind == "split":
            parts = [self.fresh("half") for _ in range(2)]
            self.nodes.append(
                helper.make_node(
                    "Split", [x], parts, name=f"split{len(self.nodes)}", axis=1 if not self._flat else -1
                )
            )
            return self.op("Concat", parts[::-1], axis=1 if not self._flat else -1)
        if kind == "pad":
            edges = self.integers([0] * (2 * self.dims))
            return self.op("Pad", [x, edges], mode="constant")
        return self.op(kind, [x])

    def beside(self, x: str, skip: str) -> str:
        """Something of the shape of ``x`` that comes from before the layer, where that has this shape;
        else from the layer itself."""
        same = self._case.layer not in ("strided", "transposed") and skip != "x"
        return skip if same else self.op("Tanh", [x])

    def tail(self, x: str) -> str:
        """One more layer, so that ``x`` is inner."""
        kind = "conv1d" if self._case.layer == "conv1d" else "pointwise"
        return self.layer(
            x, ("matmul" if self._rows > 1 else "gemm") if self._flat else kind, self._case.width
        )

    @property
    def axes(self) -> int:
        return 1 if self._case.layer == "conv1d" else 2

    @property
    def dims(self) -> int:
        return (3 if self._rows > 1 else 2) if self._flat else 2 + self.axes

    def length(self, x: str) -> int:
        if self._flat:
            return self._case.width
        return {"strided": _SIZE // 2, "transposed": 2 * _SIZE}.get(self._case.layer, _SIZE)

    def op(self, kind: str, inputs: list[str], **attributes: object) -> str:
        out = self.fresh("t")
        self.nodes.append(
            helper.make_node(kind, inputs, [out], name=f"{kind.lower()}{len(self.nodes)}", **attributes)
        )
        return out

    def fresh(self, stem: str) -> str:
        return f"{stem}{next(self._count)}"

    def weight(self, shape: tuple[int, ...], gain: float = 1.0, key: str = "", *, mean: float = 0.0) -> str:
        """A new constant, or with a ``key`` the one that was made under it."""
        key = key and f"{key}{shape}"
        if key in self._weights:
            return self._weights[key]
        fan = max(1, int(np.prod(shape[1:]))) if len(shape) > 1 else 1
        made = self.constant((mean + self._rng.standard_normal(shape) * gain / fan**0.5).astype(np.float32))
        if key:
            self._weights[key] = made
        return made

    def number(self, value: float) -> str:
        return self.constant(np.asarray(value, np.float32))

    def floats(self, values: list[float]) -> str:
        return self.constant(np.asarray(values, np.float32))

    def integers(self, values: list[int]) -> str:
        return self.constant(np.asarray(values, np.int64))

    def constant(self, value: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(value, f"w{len(self.constants)}"))
        return self.constants[-1].name

    def _input(self) -> list[int]:
        if self._flat:
            return [1, self._rows, self._case.width] if self._rows > 1 else [1, self._case.width]
        return [1, 3, *[_SIZE] * self.axes]


def hash_of(text: str) -> int:
    """The same in every process."""
    return int.from_bytes(text.encode()[-8:], "big") ^ sum(i * b for i, b in enumerate(text.encode()))


def _ends(net: _Net) -> None:
    net.outputs.append(net.block(net.stem())[2])


def _ends_twice(net: _Net) -> None:
    """Two blocks behind each other."""
    x = net.stem()
    first = net.block(x)[2]
    net.outputs.append(net.activate(first, first))


def _middle(net: _Net) -> None:
    net.outputs.append(net.tail(net.block(net.stem())[2]))


def _branches(net: _Net) -> None:
    made, normed, end = net.block(net.stem())
    net.outputs += [net.tail(end), net.op("Relu", [made]), net.op("Sigmoid", [normed])]


def _reused(net: _Net) -> None:
    end = net.block(net.stem())[2]
    net.outputs.append(
        net.op("Concat", [net.tail(end), net.tail(end), net.op("Neg", [end])], axis=-1)
        if net._flat
        else net.op("Concat", [net.op("Relu", [net.tail(end)]), net.tail(end)], axis=1)
    )


def _layer_is_output(net: _Net) -> None:
    made, _, end = net.block(net.stem())
    net.outputs += [net.tail(end), made]


def _norm_is_output(net: _Net) -> None:
    _, normed, end = net.block(net.stem())
    net.outputs += [normed, net.op("Relu", [net.tail(end)])]


def _all_are_outputs(net: _Net) -> None:
    stem = net.stem()
    net.outputs += [stem, *net.block(stem)]
    net.outputs.append(net.tail(net.outputs[-1]))


def _input_is_output(net: _Net) -> None:
    net.outputs += ["x", net.tail(net.block(net.stem())[2])]


def _weight_is_output(net: _Net) -> None:
    net.outputs.append(net.tail(net.block(net.stem())[2]))
    net.outputs.append(
        next(n.input[1] for n in net.nodes if n.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"))
    )


def _captured_by(net: _Net, tensor: str) -> str:
    """An If on a sum, whose branches read ``tensor`` from outside."""
    total = net.op("ReduceSum", [net.op("Abs", [tensor])], keepdims=0)
    more = net.op("Greater", [total, net.number(0.0)])
    branches = []
    for kind in ("Relu", "Neg"):
        out = net.fresh(kind.lower())
        inner = [helper.make_node(kind, [tensor], [out], name=f"{out}_node")]
        branches.append(
            helper.make_graph(inner, out, [], [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)])
        )
    return net.op("If", [more], then_branch=branches[0], else_branch=branches[1])


def _captured(net: _Net) -> None:
    end = net.block(net.stem())[2]
    net.outputs.append(net.tail(_captured_by(net, net.op("Identity", [end]))))
    net.outputs.append(net.tail(end))


def _captured_layer(net: _Net) -> None:
    made, _, end = net.block(net.stem())
    net.outputs += [_captured_by(net, made), net.tail(end)]


def _two_heads(net: _Net) -> None:
    end = net.block(net.stem())[2]
    net.outputs += [net.activate(net.tail(end), end), net.op("Sigmoid", [net.tail(end)])]


def _output_then_pool(net: _Net) -> None:
    end = net.block(net.stem())[2]
    pooled = net.op("Identity", [end]) if net._flat else net.op("MaxPool", [end], kernel_shape=[2] * net.axes)
    net.outputs += [end, net.op("Relu", [net.tail(pooled)])]


def _output_into_two_layers(net: _Net) -> None:
    end = net.block(net.stem())[2]
    net.outputs += [
        end,
        net.op("Relu", [net.tail(end)]),
        net.op("Add", [net.tail(end), end]) if net._flat else net.tail(end),
    ]


def _unused_input(net: _Net) -> None:
    net.outputs.append(net.tail(net.block(net.stem())[2]))


def _shares_weights(net: _Net) -> None:
    """The block twice in a row, with the same weights."""
    x = net.stem()
    first = net.block(x, again=True)[2]
    net.outputs.append(net.block(first, again=True)[2])


_PLACES = {
    "ends": _ends,
    "ends-twice": _ends_twice,
    "in-the-middle": _middle,
    "branches": _branches,
    "reused": _reused,
    "layer-is-output": _layer_is_output,
    "norm-is-output": _norm_is_output,
    "all-are-outputs": _all_are_outputs,
    "input-is-output": _input_is_output,
    "weight-is-output": _weight_is_output,
    "captured": _captured,
    "captured-layer": _captured_layer,
    "two-heads": _two_heads,
    "output-then-pool": _output_then_pool,
    "output-into-two-layers": _output_into_two_layers,
    "unused-input": _unused_input,
    "shares-weights": _shares_weights,
}
