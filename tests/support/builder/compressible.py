"""A small network with channels to prune, its inputs, and a judge."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgectl.builder.ingest.samples import Sample
from edgectl.builder.judge.accuracy import Judge
from edgectl.core.bundle import SessionSettings
from edgectl.core.task import TaskSpec, TensorInput
from edgectl.engines.finalise.open import open_model

__all__ = ["TOP1", "chain_net", "inputs", "judge_of", "run"]

TOP1 = TaskSpec(name="digits", input=TensorInput(), metric="top1")


def chain_net(*, channels: int = 16, dead: int = 0, seed: int = 0) -> ModelProto:
    """x → Conv → Relu → depthwise Conv → Sigmoid·x (SiLU) → Conv → MaxPool → Flatten → Gemm → y. ``dead``
    channels do nothing."""
    rng = np.random.default_rng(seed)
    c = channels
    w = {
        "w1": rng.standard_normal((c, 3, 3, 3)) * 0.3,
        "b1": rng.standard_normal(c) * 0.1,
        "wd": rng.standard_normal((c, 1, 3, 3)) * 0.4,
        "bd": rng.standard_normal(c) * 0.1,
        "w2": rng.standard_normal((c, c, 3, 3)) * 0.2,
        "b2": rng.standard_normal(c) * 0.1,
        "wg": rng.standard_normal((5, c * 16)) * 0.1,
        "bg": rng.standard_normal(5),
    }
    if dead:
        w["w2"][:, :dead] = 0
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="first", **pads),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu"),
        helper.make_node("Conv", ["r1", "wd", "bd"], ["d"], name="depth", group=c, **pads),
        helper.make_node("Sigmoid", ["d"], ["s"], name="sigmoid"),
        helper.make_node("Mul", ["d", "s"], ["m"], name="silu"),
        helper.make_node("Conv", ["m", "w2", "b2"], ["c2"], name="second", **pads),
        helper.make_node("MaxPool", ["c2"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "wg", "bg"], ["y"], name="head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        [numpy_helper.from_array(v.astype(np.float32), n) for n, v in w.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return onnx.shape_inference.infer_shapes(model)


def run(model: ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    engine = open_model(model.SerializeToString(), SessionSettings())
    [out] = engine.run(feeds).values()
    engine.close()
    return out


def inputs(count: int = 4, seed: int = 1) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


def judge_of(model: ModelProto, feeds: list[dict[str, np.ndarray]]) -> Judge:
    engine = open_model(model.SerializeToString(), SessionSettings())
    judge = Judge(TOP1, [Sample(f) for f in feeds], engine)
    engine.close()
    return judge
