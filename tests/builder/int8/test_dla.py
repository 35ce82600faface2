"""What DLA runs, and the graph that gives each tensor of it a scale."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from support.builder.nets import images, residual_net

from edgectl.builder.graph import GraphIndex
from edgectl.builder.int8 import lint
from edgectl.builder.int8.calibrate import CalibrationTable, calibrate
from edgectl.builder.int8.dla import refusal
from edgectl.builder.int8.families import FAMILIES
from edgectl.builder.int8.quantize import quantize, symmetric_ranges
from edgectl.core.bundle import SessionSettings
from edgectl.engines.finalise.golden import measure
from edgectl.engines.runtimes.onnxruntime import OnnxRuntimeEngine

DLA = FAMILIES["trt-dla"]


def table(model: ModelProto) -> CalibrationTable:
    return calibrate(model, images(8), data_digest="sha256:" + "0" * 64)


def one(
    op: str,
    shape: tuple[int, ...] = (1, 3, 16, 16),
    weight: tuple[int, ...] | None = None,
    **attributes: object,
) -> str:
    """Why DLA refuses a single node."""
    inputs = ["x", "w"] if weight else ["x", "x"] if op == "Concat" else ["x"]
    constants = [numpy_helper.from_array(np.zeros(weight, np.float32), "w")] if weight else []
    graph = helper.make_graph(
        [helper.make_node(op, inputs, ["y"], name="n", **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    index = GraphIndex(onnx.shape_inference.infer_shapes(model))
    return refusal(index, index.nodes[0])


@pytest.mark.parametrize(
    ("why", "says"),
    [
        (one("Relu"), ""),
        (one("Conv", weight=(4, 3, 3, 3), pads=[1, 1, 1, 1]), ""),
        (one("Conv", (1, 3, 64, 64), weight=(4, 3, 33, 33)), "kernel above 32"),
        (one("Conv", weight=(4, 3, 3, 3), strides=[9, 9]), "stride above 8"),
        (one("ConvTranspose", weight=(3, 4, 2, 2), strides=[2, 2]), ""),
        (one("ConvTranspose", weight=(3, 4, 2, 2), strides=[2, 2], pads=[1, 1, 1, 1]), "padding"),
        (one("MaxPool", kernel_shape=[9, 9]), "window above 8"),
        (one("Concat", axis=1), ""),
        (one("Concat", axis=2), "another axis"),
        (one("Relu", (1, 9000)), "not four-dimensional"),
        (one("Relu", (1, 9000, 1, 1)), "above 8192"),
        (one("Erf"), "DLA has no Erf"),
    ],
)
def test_the_rules_of_the_accelerator(why: str, says: str) -> None:
    assert says in why
    assert bool(says) == bool(why)


def test_each_tensor_has_a_scale_outputs_too_and_concat_shares_one() -> None:
    model = residual_net()
    q = quantize(model, table(model), DLA).model
    onnx.checker.check_model(q, full_check=True)
    assert lint.lint(q, DLA) == []
    ranges = symmetric_ranges(q)
    tensors = {"image", *(o for n in model.graph.node for o in n.output)}
    assert ranges.keys() == tensors
    assert ranges["a"] == ranges["r2"] == ranges["cat"] == ranges["p"]
    runs = [
        OnnxRuntimeEngine(m.SerializeToString(), SessionSettings(optimization="disabled"))
        .run(images(1)[0])["out"]
        .ravel()
        .astype(float)
        for m in (model, q)
    ]
    assert measure(*runs).cosine > 0.99


def test_a_layer_kept_float_has_no_scales_of_its_own() -> None:
    model = residual_net()
    q = quantize(model, table(model), DLA, exclude=["head"]).model
    assert lint.lint(q, DLA) == []
    assert "out" not in symmetric_ranges(q)
    head = next(n for n in q.graph.node if n.name == "head")
    assert GraphIndex(q).producer[head.input[0]].op_type == "DequantizeLinear"  # what DLA hands over is int8
    assert head.input[1] in GraphIndex(q).initializers


def test_the_linter_finds_a_tensor_without_a_scale() -> None:
    model = residual_net()
    q = quantize(model, table(model), DLA).model
    # the second branch of the add reads past its pair
    for n in q.graph.node:
        if n.name == "add":
            n.input[1] = "r1"
    assert any("add: one of its inputs has no scale" in p for p in lint.lint(q, DLA))


def test_what_the_gpu_moves_between_two_layers_of_the_accelerator_keeps_its_scale() -> None:
    weight = np.random.default_rng(0).normal(size=(4, 4, 1, 1)).astype(np.float32)
    cut = {"starts": [0], "ends": [2], "axes": [1]}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], name="conv"),
            helper.make_node("Slice", ["a", *cut], ["b"], name="slice"),
            helper.make_node("Relu", ["b"], ["y"], name="relu"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4, 8, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 2, 8, 8))],
        [
            numpy_helper.from_array(weight, "w"),
            *(numpy_helper.from_array(np.asarray(v), n) for n, v in cut.items()),
        ],
    )
    model = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    )
    x = np.random.default_rng(1).normal(size=(4, 1, 4, 8, 8)).astype(np.float32)
    q = quantize(model, calibrate(model, [{"x": one} for one in x], data_digest="sha256:" + "0" * 64), DLA)
    assert refusal(GraphIndex(model), model.graph.node[1]) == "DLA has no Slice"
    assert lint.lint(q.model, DLA) == []
    assert symmetric_ranges(q.model)["a"] == symmetric_ranges(q.model)["b"]
