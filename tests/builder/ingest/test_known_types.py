"""Types of tensors that ONNX's inference leaves open."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from support.builder.older_runtime import OLDER_RUNTIME

from edgectl.builder.graph import GraphIndex
from edgectl.builder.ingest.canonical import canonical
from edgectl.builder.int8.float16 import to_float16
from edgectl.core.bundle import SessionSettings
from edgectl.core.task import TaskSpec, TensorInput
from edgectl.engines.finalise.open import open_model

_TASK = TaskSpec(name="tensor", input=TensorInput())


def _model(node: onnx.NodeProto, *, opset: int, constants: dict[str, np.ndarray]) -> ModelProto:
    """Conv, ``node`` from ``c`` to ``n``, Sigmoid, Conv."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": 0.2 * rng.standard_normal((16, 3, 3, 3)),
        "w2": 0.2 * rng.standard_normal((16, 16, 1, 1)),
        **constants,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"], name="first", pads=[1] * 4),
        node,
        helper.make_node("Sigmoid", ["n"], ["s"], name="gate"),
        helper.make_node("Conv", ["s", "w2"], ["y"], name="last"),
    ]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for n, s in (("x", [1, 3, 8, 8]), ("y", [1, 16, 8, 8]))
    ]
    stored = [numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _group_norm() -> ModelProto:
    node = helper.make_node("GroupNormalization", ["c", "g", "b"], ["n"], name="norm", num_groups=4)
    return _model(node, opset=21, constants={"g": np.ones(16), "b": np.zeros(16)})


def _of_microsoft() -> ModelProto:
    return _model(
        helper.make_node("QuickGelu", ["c"], ["n"], name="gelu", domain="com.microsoft"),
        opset=17,
        constants={},
    )


@pytest.mark.parametrize("make", [_group_norm, _of_microsoft])
def test_what_comes_after_an_operator_that_inference_does_not_know_has_a_type_and_a_shape(make):
    graph, _, _ = canonical(make(), _TASK)
    index = GraphIndex(graph)
    for node in index.nodes:
        assert index.is_float(node.output[0]), node.op_type
        if not (OLDER_RUNTIME and make is _group_norm):  # it knows the type only
            assert index.shape(node.output[0]) == (1, 16, 8, 8)


@pytest.mark.parametrize("make", [_group_norm, _of_microsoft])
def test_a_graph_with_such_an_operator_can_be_written_in_float16_and_runs(make):
    graph, _, _ = canonical(make(), _TASK)
    index = GraphIndex(graph)
    mixed, chosen = to_float16(graph, {t: 1.0 for n in index.nodes for t in (*n.input, *n.output)})
    assert chosen == {index.producer[t].name for t in ("c", "s", "y")}
    feeds = {"x": np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)}
    want, got = (open_model(m.SerializeToString(), SessionSettings()).run(feeds)["y"] for m in (graph, mixed))
    assert np.allclose(want, got, atol=0.01)


def test_what_has_no_known_type_stays_float32():
    model = _of_microsoft()
    mixed, chosen = to_float16(model, {t: 1.0 for n in model.graph.node for t in (*n.input, *n.output)})
    assert chosen == {"first"}
    open_model(mixed.SerializeToString(), SessionSettings())
