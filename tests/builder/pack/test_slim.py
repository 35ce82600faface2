"""Fewer bytes, the same computation, the names that others know."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from onnx import ModelProto, TensorProto, helper, numpy_helper
from support.builder.generated import cnns
from support.builder.nets import images, residual_net

from edgectl.builder.int8.calibrate import calibrate
from edgectl.builder.int8.families import FAMILIES
from edgectl.builder.int8.quantize import quantize
from edgectl.builder.pack.slim import slim
from edgectl.core.bundle import SessionSettings
from edgectl.engines.runtimes.onnxruntime import OnnxRuntimeEngine

DATA = "sha256:" + "0" * 64


def run(model: ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    onnx.checker.check_model(model)
    return OnnxRuntimeEngine(model.SerializeToString(), SessionSettings(optimization="disabled")).run(feeds)


@pytest.mark.parametrize("family", ["x86-vnni", "arm64", "trt-gpu"])
def test_an_int8_graph_shrinks_and_computes_bit_for_bit_the_same(family: str) -> None:
    model = residual_net()
    q = quantize(model, calibrate(model, images(4), data_digest=DATA), FAMILIES[family]).model
    before = q.SerializeToString()
    small = slim(q)
    assert q.SerializeToString() == before
    assert len(small.SerializeToString()) < 0.9 * len(before)
    np.testing.assert_array_equal(run(q, images(1)[0])["out"], run(small, images(1)[0])["out"])
    named = {n.name for n in small.graph.node if n.op_type not in ("QuantizeLinear", "DequantizeLinear")}
    assert named == {n.name for n in model.graph.node}
    assert ([i.name for i in small.graph.input], [o.name for o in small.graph.output]) == (["image"], ["out"])
    assert slim(q).SerializeToString(deterministic=True) == small.SerializeToString(deterministic=True)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cnns())
def test_any_generated_graph_computes_the_same(model: ModelProto) -> None:
    x = np.random.default_rng(0).random((1, 3, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(
        run(model, {"image": x})[
            "out" if "out" in [o.name for o in model.graph.output] else model.graph.output[0].name
        ],
        next(iter(run(slim(model), {"image": x}).values())),
    )


def test_names_that_the_graph_already_uses_at_its_edge_are_never_taken() -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["a"], ["inner"], name="r"),
            helper.make_node("Add", ["inner", "one"], ["b"], name="s"),
        ],
        "g",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.float32([1, 1]), "one")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    np.testing.assert_array_equal(run(slim(model), {"a": np.float32([-1, 2])})["b"], np.float32([1, 3]))


def test_a_graph_with_a_body_keeps_the_names_that_the_body_reads() -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["outer", "k"], ["y"])],
        "t",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["outer"], name="r"),
            helper.make_node("If", ["yes"], ["out"], name="if", then_branch=body, else_branch=body),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.asarray(True), "yes"), numpy_helper.from_array(np.float32([5, 5]), "k")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    np.testing.assert_array_equal(run(slim(model), {"x": np.float32([-1, 2])})["out"], np.float32([5, 7]))
