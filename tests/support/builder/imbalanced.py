"""A trained classifier whose channels are far apart, without a training library: random convolutions, read
out by least squares.

scikit-learn's digits (1 797 pictures of 8 × 8). The convolutions are drawn, only the last layer is fitted, in
closed form. Then channels are scaled apart, maker up and reader down: float computes the same, int8 with one
scale per tensor does not.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

from edgectl.core.bundle import SessionSettings
from edgectl.engines.base import Feeds
from edgectl.engines.finalise.open import open_model

__all__ = ["SPREAD", "imbalance", "readout_net", "top1"]

SPREAD = 300.0
"""Largest channel factor over the smallest."""
_CHANNELS, _TRAIN, _RIDGE = 24, 1200, 3.0


def readout_net(*, seed: int = 2) -> tuple[ModelProto, list[Feeds], list[Feeds], np.ndarray]:
    """The model (input ``x`` [1, 1, 8, 8], output ``y`` [1, 10]), its training inputs, the test inputs and
    the test labels."""
    x, labels = load_digits(return_X_y=True)
    pictures = (x / 16).astype(np.float32).reshape(-1, 1, 1, 8, 8)
    order = np.random.default_rng(0).permutation(len(pictures))
    pictures, labels = pictures[order], labels[order]
    model = _convolutions(seed)
    train, test = ([{"x": p} for p in part] for part in (pictures[:_TRAIN], pictures[_TRAIN:]))
    features = _features(model, train)
    centre = features.mean(axis=0)
    a = features - centre
    wanted = np.eye(10)[labels[:_TRAIN]] - 0.1
    weight = np.linalg.solve(a.T @ a + _RIDGE * np.eye(a.shape[1]), a.T @ wanted)
    stored = {t.name: t for t in model.graph.initializer}
    stored["w4"].CopyFrom(numpy_helper.from_array(weight.T.astype(np.float32), "w4"))
    stored["b4"].CopyFrom(numpy_helper.from_array((0.1 - centre @ weight).astype(np.float32), "b4"))
    return model, train, test, labels[_TRAIN:]


def imbalance(model: ModelProto, spread: float = SPREAD) -> ModelProto:
    """The same function: each channel behind the first two convolutions is multiplied, and divided again
    by who reads it."""
    changed = ModelProto()
    changed.CopyFrom(model)
    stored = {t.name: t for t in changed.graph.initializer}
    rng = np.random.default_rng(0)
    for maker, reader in (("1", "2"), ("2", "3")):
        factor = rng.permutation(np.geomspace(spread**-0.5, spread**0.5, _CHANNELS)).astype(np.float32)
        depthwise = reader == "2"
        scaled = {
            f"w{maker}": factor.reshape(-1, 1, 1, 1),
            f"b{maker}": factor,
            f"w{reader}": 1 / (factor.reshape(-1, 1, 1, 1) if depthwise else factor.reshape(1, -1, 1, 1)),
        }
        for name, s in scaled.items():
            stored[name].CopyFrom(
                numpy_helper.from_array((numpy_helper.to_array(stored[name]) * s).astype(np.float32), name)
            )
    return changed


def top1(model: ModelProto, feeds: list[Feeds], labels: np.ndarray) -> float:
    engine = open_model(model.SerializeToString(), SessionSettings())
    got = [int(np.argmax(engine.run(f)["y"])) for f in feeds]
    engine.close()
    return float(np.mean(np.array(got) == labels))


def _convolutions(seed: int) -> ModelProto:
    """x → Conv → Relu → depthwise Conv → Relu → 1×1 Conv → Relu → MaxPool → Flatten → Gemm → y; the Gemm
    still zero."""
    rng = np.random.default_rng(seed)
    c, wide = _CHANNELS, 2 * _CHANNELS
    shapes = {"w1": (c, 1, 3, 3), "w2": (c, 1, 3, 3), "w3": (wide, c, 1, 1), "w4": (10, wide * 16)}
    values = {n: rng.standard_normal(s) * (2 / np.prod(s[1:])) ** 0.5 for n, s in shapes.items()}
    values |= {f"b{n[1]}": 0.1 * rng.standard_normal(s[0]) for n, s in shapes.items()}
    values["w4"] *= 0
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="first", **pads),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], name="depth", group=c, **pads),
        helper.make_node("Relu", ["c2"], ["r2"], name="relu2"),
        helper.make_node("Conv", ["r2", "w3", "b3"], ["c3"], name="point"),
        helper.make_node("Relu", ["c3"], ["r3"], name="relu3"),
        helper.make_node("MaxPool", ["r3"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "w4", "b4"], ["y"], name="head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(v.astype(np.float32), n) for n, v in values.items()],
    )
    return onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    )


def _features(model: ModelProto, feeds: list[Feeds]) -> np.ndarray:
    """What the last layer reads, one row per picture."""
    watched = ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend([helper.make_tensor_value_info("f", TensorProto.FLOAT, None)])
    engine = open_model(watched.SerializeToString(), SessionSettings())
    rows = [engine.run(f)["f"][0] for f in feeds]
    engine.close()
    return np.asarray(rows, np.float64)
