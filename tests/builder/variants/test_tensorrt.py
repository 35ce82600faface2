"""TensorRT-bound graphs whose float16 form cannot be had."""

from __future__ import annotations

from types import SimpleNamespace

import onnx
from onnx import TensorProto, helper

from edgectl.builder.budget import Budget
from edgectl.builder.monitor import BuildMonitor
from edgectl.builder.variants import tensorrt
from edgectl.builder.variants.draft import VariantDraft
from edgectl.core.bundle import Recipe, SessionSettings


def test_a_graph_that_cannot_be_raised_to_the_opset_of_float16_stays_float32_with_a_note() -> None:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("x", "y")]
    nodes = [helper.make_node("Relu", ["nowhere"], ["y"], name="relu")]
    graph = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 17)]
    )
    plain = VariantDraft(
        profile="jetson-orin",
        variant="tensorrt-float32",
        runtime="tensorrt",
        requires=(),
        model=graph.SerializeToString(),
        recipe=Recipe(family="float", precision="float32", plan="on-device"),
        precision="float32",
        session=SessionSettings(),
    )
    monitor = BuildMonitor(Budget())
    trial, table = SimpleNamespace(monitor=monitor), SimpleNamespace(ranges={})
    found = tensorrt._with_float16(
        SimpleNamespace(), trial, plain, onnx.ModelProto.FromString(plain.model), table
    )
    assert found is None
    (note,) = monitor.notes
    assert note.startswith("jetson-orin: float16 cannot be written into the graph: ")
    assert note.endswith("what is not int8 stays float32")
    assert "nowhere" in note
