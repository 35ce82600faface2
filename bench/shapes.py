"""ResNet50-, MobileNetV2- and YOLO-shaped graphs with seeded weights: the shapes that users bring, where real
weights may not be shipped.

Speed is that of the real thing; accuracy on such a graph says only how well a quantizer follows the float
graph. Weights are drawn so that activations keep their variance (batch norms are folded away, as after an
export).
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

__all__ = ["SHAPES", "mobilenet_v2", "resnet50", "yolo"]


class _Net:
    def __init__(self, name: str, size: int, seed: int) -> None:
        self.name, self.size = name, size
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        self.channels = {"image": 3}

    def op(self, kind: str, inputs: list[str], channels: int, **attributes: object) -> str:
        out = f"t{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(kind, inputs, [out], name=f"{kind.lower()}{len(self.nodes)}", **attributes)
        )
        self.channels[out] = channels
        return out

    def const(self, value: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def conv(
        self, x: str, out: int, k: int = 1, stride: int = 1, *, group: int = 1, gain: float = 2.0
    ) -> str:
        fan = self.channels[x] // group * k * k
        weight = self.rng.standard_normal((out, self.channels[x] // group, k, k)) * (gain / fan) ** 0.5
        inputs = [
            x,
            self.const(weight.astype(np.float32)),
            self.const((self.rng.standard_normal(out) * 0.05).astype(np.float32)),
        ]
        return self.op("Conv", inputs, out, pads=[k // 2] * 4, strides=[stride] * 2, group=group)

    def relu(self, x: str) -> str:
        return self.op("Relu", [x], self.channels[x])

    def relu6(self, x: str) -> str:
        bounds = [self.const(np.float32(0)), self.const(np.float32(6))]
        return self.op("Clip", [x, *bounds], self.channels[x])

    def silu(self, x: str) -> str:
        return self.op("Mul", [x, self.op("Sigmoid", [x], self.channels[x])], self.channels[x])

    def classifier(self, x: str, classes: int) -> str:
        c = self.channels[x]
        flat = self.op("Flatten", [self.op("GlobalAveragePool", [x], c)], c)
        weight = self.const((self.rng.standard_normal((classes, c)) / c**0.5).astype(np.float32))
        return self.op("Gemm", [flat, weight, self.const(np.zeros(classes, np.float32))], classes, transB=1)

    def model(self, outputs: list[str]) -> ModelProto:
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, self.size, self.size])],
            [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        onnx.checker.check_model(model, full_check=True)
        return model


def resnet50(size: int = 224, seed: int = 0) -> ModelProto:
    """Bottlenecks [3, 4, 6, 3]; 25.5 M weights, 4.1 GMAC at 224."""
    n = _Net("resnet50", size, seed)
    x = n.op(
        "MaxPool",
        [n.relu(n.conv("image", 64, 7, 2))],
        64,
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1, 1, 1, 1],
    )
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            y = n.relu(n.conv(n.relu(n.conv(x, width)), width, 3, stride))
            y = n.conv(y, 4 * width, gain=0.3)
            skip = x if block else n.conv(x, 4 * width, 1, stride, gain=1.0)
            x = n.relu(n.op("Add", [y, skip], 4 * width))
    return n.model([n.classifier(x, 1000)])


def mobilenet_v2(size: int = 224, seed: int = 0) -> ModelProto:
    """Inverted residuals with ReLU6; 3.5 M weights, 0.3 GMAC at 224."""
    n = _Net("mobilenet_v2", size, seed)
    x = n.relu6(n.conv("image", 32, 3, 2))
    for expand, out, blocks, first in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for block in range(blocks):
            stride, hidden = (first if not block else 1), expand * n.channels[x]
            y = n.relu6(n.conv(x, hidden)) if expand > 1 else x
            y = n.conv(n.relu6(n.conv(y, hidden, 3, stride, group=hidden)), out, gain=1.0)
            x = n.op("Add", [x, y], out) if stride == 1 and n.channels[x] == out else y
    return n.model([n.classifier(n.relu6(n.conv(x, 1280)), 1000)])


def yolo(size: int = 320, seed: int = 0) -> ModelProto:
    """YOLOv8n-shaped: SiLU, split-and-concat blocks, pyramid, three output maps of 64 box and 80 class
    channels (not decoded)."""
    n = _Net("yolo", size, seed)

    def cbs(x: str, out: int, k: int = 1, stride: int = 1) -> str:
        return n.silu(n.conv(x, out, k, stride, gain=2.8))

    def c2f(x: str, out: int, blocks: int, shortcut: bool) -> str:
        half = out // 2
        y = cbs(x, out)
        sizes = n.const(np.array([half, half], np.int64))
        a, b = f"{y}a", f"{y}b"
        n.nodes.append(helper.make_node("Split", [y, sizes], [a, b], name=f"split{len(n.nodes)}", axis=1))
        n.channels[a] = n.channels[b] = half
        parts = [a, b]
        for _ in range(blocks):
            z = cbs(cbs(parts[-1], half, 3), half, 3)
            parts.append(n.op("Add", [parts[-1], z], half) if shortcut else z)
        return cbs(n.op("Concat", parts, half * len(parts), axis=1), out)

    def join(x: str, y: str) -> str:
        scales = n.const(np.array([1, 1, 2, 2], np.float32))
        up = n.op(
            "Resize",
            [x, "", scales],
            n.channels[x],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
        return n.op("Concat", [up, y], n.channels[x] + n.channels[y], axis=1)

    x = cbs(cbs("image", 16, 3, 2), 32, 3, 2)
    p3 = c2f(cbs(c2f(x, 32, 1, True), 64, 3, 2), 64, 2, True)
    p4 = c2f(cbs(p3, 128, 3, 2), 128, 2, True)
    p5 = cbs(c2f(cbs(p4, 256, 3, 2), 256, 1, True), 128)
    pools = [p5]
    for _ in range(3):
        pools.append(
            n.op("MaxPool", [pools[-1]], 128, kernel_shape=[5, 5], strides=[1, 1], pads=[2, 2, 2, 2])
        )
    p5 = cbs(n.op("Concat", pools, 512, axis=1), 256)
    n4 = c2f(join(p5, p4), 128, 1, False)
    n3 = c2f(join(n4, p3), 64, 1, False)
    m4 = c2f(n.op("Concat", [cbs(n3, 64, 3, 2), n4], 192, axis=1), 128, 1, False)
    m5 = c2f(n.op("Concat", [cbs(m4, 128, 3, 2), p5], 384, axis=1), 256, 1, False)
    outputs = []
    for level in (n3, m4, m5):
        box = n.conv(cbs(cbs(level, 64, 3), 64, 3), 64, gain=1.0)
        classes = n.conv(cbs(cbs(level, 80, 3), 80, 3), 80, gain=1.0)
        outputs.append(n.op("Concat", [box, classes], 144, axis=1))
    return n.model(outputs)


SHAPES = {"resnet50": resnet50, "mobilenet_v2": mobilenet_v2, "yolo": yolo}
