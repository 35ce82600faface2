"""Small models with the shapes that matter: chains, residual adds, concats, depthwise convolutions, an old
opset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

Save = Callable[[ModelProto], Path]


def residual_net(*, channels: int = 16, seed: int = 0, opset: int = 17, batch: int | str = 1) -> ModelProto:
    """image → Conv → Relu → [Conv → Relu → depthwise Conv → Add skip] → Concat → MaxPool → Conv (head) →
    out."""
    rng = np.random.default_rng(seed)
    c = channels
    weights = {
        "w1": rng.standard_normal((c, 3, 3, 3)) * 0.3,
        "w2": rng.standard_normal((c, c, 1, 1)) * 0.3,
        "w3": rng.standard_normal((c, 1, 3, 3)) * 0.4,
        "w4": rng.standard_normal((8, 2 * c, 1, 1)) * 0.2,
        "b1": rng.standard_normal(c) * 0.1,
        "b2": rng.standard_normal(c) * 0.1,
        "b3": rng.standard_normal(c) * 0.1,
        "b4": rng.standard_normal(8) * 0.1,
    }
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], name="first", **pads),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], name="point"),
        helper.make_node("Relu", ["c2"], ["r2"], name="relu2"),
        helper.make_node("Conv", ["r2", "w3", "b3"], ["c3"], name="depth", group=c, **pads),
        helper.make_node("Add", ["c3", "r1"], ["a"], name="add"),
        helper.make_node("Concat", ["a", "r2"], ["cat"], name="cat", axis=1),
        helper.make_node("MaxPool", ["cat"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p", "w4", "b4"], ["out"], name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 32, 32])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch, 8, 16, 16])],
        [numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    return onnx.shape_inference.infer_shapes(model)


def nms_net(*, seed: int = 0) -> ModelProto:
    """image [1, 3, 16, 16] → Conv → 64 boxes (relative corners) and 2 class scores each →
    NonMaxSuppression → indices."""
    rng = np.random.default_rng(seed)
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["c1"], name="body", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="corner"),
        helper.make_node("Sigmoid", ["c2"], ["s2"], name="unit"),
        helper.make_node("Reshape", ["s2", "flat4"], ["b4"], name="flatten"),
        helper.make_node("Transpose", ["b4"], ["boxes"], name="turn", perm=[0, 2, 1]),
        helper.make_node("Conv", ["r1", "w3"], ["c3"], name="class"),
        helper.make_node("Sigmoid", ["c3"], ["s3"], name="probability"),
        helper.make_node("Reshape", ["s3", "flat2"], ["classes"], name="flatten_classes"),
        helper.make_node(
            "NonMaxSuppression", ["boxes", "classes", "many", "iou", "score"], ["picked"], name="nms"
        ),
    ]
    weights = {
        "w1": rng.standard_normal((16, 3, 3, 3)) * 0.3,
        "w2": rng.standard_normal((4, 16, 1, 1)) * 0.3,
        "w3": rng.standard_normal((2, 16, 1, 1)) * 0.3,
        "iou": np.asarray([0.5]),
        "score": np.asarray([0.3]),
    }
    constants = [numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()]
    constants += [
        numpy_helper.from_array(np.asarray(v, np.int64), n)
        for n, v in (("flat4", [1, 4, 64]), ("flat2", [1, 2, 64]), ("many", [100]))
    ]
    graph = helper.make_graph(
        nodes,
        "nms",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("picked", TensorProto.INT64, ["k", 3])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def images(count: int, *, seed: int = 3, size: int = 32) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"image": rng.random((1, 3, size, size)).astype(np.float32)} for _ in range(count)]
