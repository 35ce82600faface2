"""Graphs that int8 does not like, drawn from a seed: SiLU chains, matrix-vector products, tiny channels,
one channel 100 × the others, depth-wise convolutions. Every graph takes ``image`` [1, 3, size, size] and
has one output."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

__all__ = ["BLOCKS", "adversarial", "pictures"]

BLOCKS = ("silu", "tiny", "loud", "depthwise", "residual")


class _Net:
    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []

    def op(self, kind: str, inputs: list[str], **attributes: object) -> str:
        out = f"t{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(kind, inputs, [out], name=f"{kind.lower()}{len(self.nodes)}", **attributes)
        )
        return out

    def const(self, value: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(value.astype(np.float32), f"w{len(self.weights)}"))
        return self.weights[-1].name

    def conv(
        self, x: str, inputs: int, outputs: int, *, k: int = 3, group: int = 1, loud: bool = False
    ) -> str:
        weight = (
            self.rng.standard_normal((outputs, inputs // group, k, k))
            * (2 / (inputs // group * k * k)) ** 0.5
        )
        if loud:
            weight[self.rng.integers(outputs)] *= 100
        bias = self.rng.standard_normal(outputs) * 0.1
        return self.op("Conv", [x, self.const(weight), self.const(bias)], pads=[k // 2] * 4, group=group)

    def silu(self, x: str) -> str:
        return self.op("Mul", [x, self.op("Sigmoid", [x])])


def adversarial(seed: int, *, size: int = 12, channels: int = 16) -> ModelProto:
    """Two to five blocks in any order, then a head: a convolution, or a matrix product with one row."""
    rng = np.random.default_rng(seed)
    n, x, c = _Net(rng), "image", 3
    for block in rng.choice(BLOCKS, rng.integers(2, 6)):
        if block == "silu":
            x, c = n.silu(n.conv(x, c, channels)), channels
        elif block == "tiny":
            x, c = n.op("Relu", [n.conv(x, c, 2, k=1)]), 2
        elif block == "loud":
            x, c = n.op("Relu", [n.conv(x, c, channels, loud=True)]), channels
        elif block == "depthwise":
            x = n.op("Relu", [n.conv(x, c, c, group=c)])
        else:
            x = n.op("Add", [n.conv(n.op("Relu", [n.conv(x, c, c)]), c, c, k=1), x])
    if rng.random() < 0.5:
        x, shape = n.conv(x, c, 8, k=1), [1, 8, size, size]
    else:
        x = n.op("Flatten", [n.op("GlobalAveragePool", [x])])
        x, shape = n.op("MatMul", [x, n.const(rng.standard_normal((c, 10)) / c**0.5)]), [1, 10]
    graph = helper.make_graph(
        n.nodes,
        f"adversarial{seed}",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, shape)],
        n.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return onnx.shape_inference.infer_shapes(model)


def pictures(count: int, *, seed: int = 0, size: int = 12) -> list[np.ndarray]:
    """Smooth gradients with noise, [1, 3, size, size] in 0..1: neighbouring pixels are alike, as in a
    photo."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 1, size, dtype=np.float32)
    made = []
    for _ in range(count):
        a, b = rng.random((2, 1, 3, 1, 1))
        made.append(
            np.clip(
                a * ramp[:, None] + b * ramp + 0.1 * rng.standard_normal((1, 3, size, size)), 0, 1
            ).astype(np.float32)
        )
    return made
