"""Models in float16, bfloat16 and float64: float32 from the first pass on, and float16 ones as they came,
too."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from support.builder.nets import Save, images, residual_net

from edgectl.builder.graph import GraphIndex
from edgectl.builder.ingest.canonical import canonical, float16_as_received, prepare
from edgectl.builder.int8.placement import weighted_nodes
from edgectl.builder.passes.widen import Widen, other_floats
from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import ModelError
from edgectl.core.task import TaskSpec, TensorInput
from edgectl.engines.finalise.golden import measure
from edgectl.engines.finalise.open import open_model

TENSOR = TaskSpec(name="tensor", input=TensorInput())
KINDS = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16, "float64": TensorProto.DOUBLE}


def run(model: ModelProto) -> np.ndarray:
    return open_model(model.SerializeToString(), SessionSettings()).run(images(1)[0])["out"]


def in_kind(kind: str) -> ModelProto:
    """The residual net with weights, input and output in another float type."""
    model = residual_net()
    for t in model.graph.initializer:
        value = numpy_helper.to_array(t)
        t.CopyFrom(helper.make_tensor(t.name, KINDS[kind], value.shape, value.ravel().tolist()))
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.elem_type = KINDS[kind]
    del model.graph.value_info[:]
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_every_float_type_becomes_float32_and_computes_the_same(save: Save, kind: str) -> None:
    graph, inputs, log = prepare(save(in_kind(kind)), TENSOR)
    assert [i.dtype for i in inputs] == ["float32"]
    assert {t.data_type for t in graph.graph.initializer} == {TensorProto.FLOAT}
    assert "widen" in log.ran
    assert any(kind in note for note in log.notes)
    assert len(weighted_nodes(GraphIndex(graph))) == 4
    want = run(residual_net())
    assert measure(want.ravel().astype(float), run(graph).ravel().astype(float)).cosine > 0.9999


def test_a_float32_model_stays_byte_for_byte_what_it_was(save: Save) -> None:
    assert other_floats(residual_net()) == ()
    _, _, log = prepare(save(residual_net()), TENSOR)
    assert "widen" not in log.ran
    assert log.notes == []


def test_casts_and_subgraphs_are_widened_too(save: Save) -> None:
    half = TensorProto.FLOAT16
    branches = [
        helper.make_graph(
            [helper.make_node(op, ["h"], [op])], op, [], [helper.make_tensor_value_info(op, half, None)]
        )
        for op in ("Relu", "Neg")
    ]
    nodes = [
        helper.make_node("Cast", ["image"], ["h"], to=half),
        helper.make_node("ReduceMax", ["h"], ["most"], keepdims=0),
        helper.make_node(
            "Constant", [], ["limit"], value=numpy_helper.from_array(np.asarray(0.5, np.float16))
        ),
        helper.make_node("Greater", ["most", "limit"], ["bright"]),
        helper.make_node("If", ["bright"], ["y"], then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("Cast", ["y"], ["out"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 3, 32, 32])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    widened, _, _ = prepare(save(model), TENSOR)
    assert other_floats(widened) == ()
    np.testing.assert_allclose(run(widened), images(1)[0]["image"], atol=1e-6)


def test_a_constant_beyond_float32_is_named() -> None:
    model = in_kind("float64")
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((16, 3, 3, 3), 1e300), "w1"))
    with pytest.raises(ModelError, match="constant w1 holds values beyond float32"):
        Widen().run(model)


def test_a_float16_model_is_kept_as_it_came_behind_float32_ends() -> None:
    model = in_kind("float16")
    graph, inputs, _ = canonical(model, TENSOR)
    notes: list[str] = []
    data = float16_as_received(model, inputs, notes)
    assert data is not None
    assert notes == []
    given = onnx.load_from_string(data)
    assert {t.data_type for t in given.graph.initializer} == {TensorProto.FLOAT16}
    assert [i.type.tensor_type.elem_type for i in (*given.graph.input, *given.graph.output)] == [
        TensorProto.FLOAT
    ] * 2
    assert measure(run(graph).ravel().astype(float), run(given).ravel().astype(float)).cosine > 0.9999
    assert float16_as_received(residual_net(), inputs, notes) is None
