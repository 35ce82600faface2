"""Graphs drawn at random from the shapes that break quantizers: SiLU, residual adds, concats, depthwise
and tiny layers, products."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

__all__ = ["BLOCKS", "cnn", "cnns", "mlp"]

BLOCKS = ("plain", "silu", "residual", "concat", "depthwise", "tiny", "loud", "pool", "resize")
_SIZE = 8


def cnns() -> st.SearchStrategy[ModelProto]:
    return st.builds(
        cnn, st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=5), st.integers(0, 999), st.booleans()
    )


def cnn(blocks: list[str], seed: int, classifier: bool) -> ModelProto:
    """image [1, 3, 8, 8] → the blocks, 16 channels each → a map, or GlobalAveragePool → Gemm (a
    matrix-vector product) → out."""
    net = _Net(seed)
    x = net.relu(net.conv("image", 16, 3))
    for block in blocks:
        x = _block(net, block, x)
    if classifier:
        x = net.op("Flatten", [net.op("GlobalAveragePool", [x])])
        out = net.op("Gemm", [x, net.weight((5, 16)), net.weight((5,))], transB=1)
    else:
        out = net.conv(x, 5, 1)
    return net.model(out, "image", [1, 3, _SIZE, _SIZE])


def mlp(rows: int, *, width: int = 48, layers: int = 2, seed: int = 0) -> ModelProto:
    """x [rows, width] → layers of (MatMul, Relu, Gemm with a bias, residual Add) → out: what a
    transformer's feed-forward part does."""
    net = _Net(seed)
    x = "x"
    for _ in range(layers):
        hidden = net.op("Relu", [net.op("MatMul", [x, net.weight((width, 2 * width))])])
        x = net.op(
            "Add",
            [net.op("Gemm", [hidden, net.weight((width, 2 * width)), net.weight((width,))], transB=1), x],
        )
    return net.model(x, "x", [rows, width])


class _Net:
    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []

    def op(self, kind: str, inputs: list[str], **attributes: object) -> str:
        out = f"t{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(kind, inputs, [out], name=f"{kind.lower()}{len(self.nodes)}", **attributes)
        )
        return out

    def weight(self, shape: tuple[int, ...], gain: float = 1.0) -> str:
        fan = max(1, int(np.prod(shape[1:])))
        value = self.rng.standard_normal(shape) * gain * (2 / fan) ** 0.5
        return self.constant(value.astype(np.float32))

    def constant(self, value: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def conv(self, x: str, out: int, k: int, *, inputs: int = 16, group: int = 1, loud: bool = False) -> str:
        w = (
            self.rng.standard_normal((out, (3 if x == "image" else inputs) // group, k, k)).astype(np.float32)
            * 0.3
        )
        if loud:
            w[0] *= 100
        return self.op(
            "Conv", [x, self.constant(w), self.weight((out,), 0.1)], pads=[k // 2] * 4, group=group
        )

    def relu(self, x: str) -> str:
        return self.op("Relu", [x])

    def model(self, out: str, name: str, shape: list[int]) -> ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "generated",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def _block(net: _Net, block: str, x: str) -> str:
    if block == "silu":
        y = net.conv(x, 16, 1)
        return net.op("Mul", [y, net.op("Sigmoid", [y])])
    if block == "residual":
        return net.relu(net.op("Add", [net.conv(net.relu(net.conv(x, 16, 3)), 16, 1), x]))
    if block == "concat":
        y = net.op("Concat", [net.relu(net.conv(x, 16, 1)), x], axis=1)
        return net.relu(net.conv(y, 16, 1, inputs=32))
    if block == "depthwise":
        return net.conv(net.relu(net.conv(x, 16, 3, group=16)), 16, 1)
    if block == "tiny":
        return net.relu(net.conv(net.conv(x, 2, 1), 16, 1, inputs=2))
    if block == "loud":
        return net.relu(net.conv(net.relu(net.conv(x, 16, 1, loud=True)), 16, 1))
    if block == "pool":
        return net.op("MaxPool", [x], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    if block == "resize":
        scales = net.constant(np.array([1, 1, 2, 2], np.float32))
        return net.op(
            "MaxPool",
            [net.op("Resize", [x, "", scales], mode="nearest")],
            kernel_shape=[2, 2],
            strides=[2, 2],
        )
    return net.relu(net.conv(x, 16, 3))
