"""The int8 writer: one calibration table, every family's rules, and arithmetic that can be checked by
hand."""

import collections
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from support.builder.kernels import needs_dot_products
from support.builder.nets import images, residual_net

from edgectl.builder.graph import GraphIndex
from edgectl.builder.int8 import lint
from edgectl.builder.int8.calibrate import CalibrationTable, calibrate
from edgectl.builder.int8.families import FAMILIES, QDQ
from edgectl.builder.int8.placement import heads, place
from edgectl.builder.int8.quantize import activation_params, quantize, weight_codes
from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import ModelError
from edgectl.engines.finalise.golden import measure
from edgectl.engines.runtimes.onnxruntime import OnnxRuntimeEngine

DATA = "sha256:" + "0" * 64


def table(model: onnx.ModelProto) -> CalibrationTable:
    return calibrate(model, images(8), data_digest=DATA)


def outputs(model: onnx.ModelProto, **settings: object) -> np.ndarray:
    engine = OnnxRuntimeEngine(model.SerializeToString(), SessionSettings.model_validate(settings))
    return np.concatenate([engine.run(f)["out"].ravel() for f in images(4, seed=9)]).astype(np.float64)


@pytest.mark.parametrize("family", QDQ)
def test_each_family_is_clean_close_to_float_and_small(family: str) -> None:
    model = residual_net()
    spec = FAMILIES[family]
    q = quantize(model, table(model), spec)
    onnx.checker.check_model(q.model)
    assert lint.lint(q.model, spec) == []
    assert measure(outputs(model), outputs(q.model, optimization="disabled")).cosine > 0.995
    index = GraphIndex(q.model)
    chosen = [n.node for n in q.layers if n.precision == "int8" and n.op == "Conv"]
    assert chosen
    for name in chosen:
        node = next(n for n in index.nodes if n.name == name)
        codes = index.weights(index.producer[node.input[1]].input[0])
        assert codes is not None
        assert codes.dtype == np.int8
        assert abs(codes.astype(int)).max() == spec.weight_max
    float_weights = {n.input[1] for n in GraphIndex(model).nodes if n.name in chosen}
    assert not float_weights & {t.name for t in q.model.graph.initializer}


def test_the_same_arguments_give_the_same_bytes() -> None:
    model = residual_net()
    a, b = (
        quantize(model, table(model), FAMILIES["x86-vnni"]).model.SerializeToString(deterministic=True)
        for _ in range(2)
    )
    assert a == b
    assert table(model).digest == table(model).digest


def test_onnxruntime_fuses_every_operator_of_the_chain(tmp_path: Path) -> None:
    model = residual_net()
    q = quantize(model, table(model), FAMILIES["x86-vnni"], exclude=["head"])
    saved = tmp_path / "optimised.onnx"
    OnnxRuntimeEngine(q.model.SerializeToString(), SessionSettings(), save_optimised=saved)
    counts = collections.Counter(n.op_type for n in onnx.load(saved).graph.node)
    assert counts["QLinearConv"] == 3
    assert counts["QLinearAdd"] == 1
    assert counts["QLinearConcat"] == 1
    assert counts["Relu"] == 0
    assert counts["Conv"] == 1
    assert counts["QuantizeLinear"] == 1
    assert counts["DequantizeLinear"] == 1


@needs_dot_products
def test_what_a_recipe_keeps_float_stays_float_in_onnxruntime() -> None:
    # ONNX Runtime 1.20+ quantizes such weights itself, per tensor, unless it is told not to.
    model = residual_net()
    w = next(t for t in model.graph.initializer if t.name == "w2")
    uneven = numpy_helper.to_array(w) * np.geomspace(0.01, 30, 16).reshape(-1, 1, 1, 1).astype(np.float32)
    w.CopyFrom(numpy_helper.from_array(uneven.astype(np.float32), "w2"))
    q = quantize(model, table(model), FAMILIES["x86-vnni"], exclude=["point"])
    np.testing.assert_allclose(
        outputs(q.model), outputs(q.model, optimization="disabled"), atol=0.05 * abs(outputs(model)).max()
    )
    assert "w2" in {t.name for t in q.model.graph.initializer}


def test_tensorrt_placement_quantizes_the_skip_branch_only_and_no_head() -> None:
    model = residual_net()
    placement = place(GraphIndex(model), FAMILIES["trt-gpu"], ranges=table(model).ranges)
    assert placement.edges == {("point", 0), ("depth", 0), ("add", 1)}
    assert placement.reasons == {"first": "fewer than 16 channels", "head": "fewer than 16 channels"}
    assert heads(GraphIndex(model)) == {"head"}
    index = GraphIndex(quantize(model, table(model), FAMILIES["trt-gpu"]).model)
    add = next(n for n in index.nodes if n.name == "add")
    assert [index.producer[i].op_type for i in add.input] == ["Conv", "DequantizeLinear"]
    assert index.producer["out"].op_type == "Conv"
    assert index.weights(next(n for n in index.nodes if n.name == "depth").input[2]).dtype == np.float32


def test_moves_share_the_scale_of_their_input() -> None:
    model = residual_net()
    q = quantize(model, table(model), FAMILIES["x86-vnni"])
    index = GraphIndex(q.model)
    scale = {n.input[0]: index.weights(n.input[1]) for n in index.nodes if n.op_type == "QuantizeLinear"}
    assert scale["p"] == scale["cat"]


def test_the_linter_finds_what_it_is_for() -> None:
    model = residual_net()
    trt = FAMILIES["trt-gpu"]
    asymmetric = quantize(model, table(model), FAMILIES["x86-vnni"]).model
    found = " ".join(lint.lint(asymmetric, trt))
    assert "activations are not int8" in found
    assert "bias is not float" in found
    assert "both branches" in found
    saturating = quantize(model, table(model), FAMILIES["x86-vnni"]).model
    assert "exceed ±63" in " ".join(lint.lint(saturating, FAMILIES["x86-avx2"]))
    shipped_as_float = residual_net()
    shipped_as_float.graph.initializer.extend(
        [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.int8(0), "z")]
    )
    shipped_as_float.graph.node.extend(
        [helper.make_node("QuantizeLinear", ["w1", "s", "z"], ["wq"], name="q")]
    )
    assert "a weight is shipped as float" in " ".join(lint.lint(shipped_as_float, trt))
    with pytest.raises(ModelError, match="breaks"):
        lint.check(asymmetric, trt)


@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=50),
    st.sampled_from(sorted(QDQ)),
)
def test_zero_is_exact_and_every_seen_value_is_within_half_a_step(values: list[float], family: str) -> None:
    spec = FAMILIES[family]
    scale, zero = activation_params(min(values), max(values), spec)
    info = np.iinfo(spec.activation)
    assert info.min <= zero <= info.max
    codes = np.clip(np.rint(np.asarray(values) / float(scale)) + zero, info.min, info.max)
    assert np.all(np.abs((codes - zero) * float(scale) - values) <= 1.01 * float(scale))
    if spec.symmetric:
        assert zero == 0


@given(st.integers(0, 10_000), st.sampled_from([0, 1, -1]), st.sampled_from(sorted(QDQ)))
def test_weight_codes_are_within_half_a_step_of_their_channel(seed: int, axis: int, family: str) -> None:
    weight = np.random.default_rng(seed).standard_normal((5, 7)).astype(np.float32)
    codes, scale = weight_codes(weight, axis, FAMILIES[family])
    along = [1, 1]
    along[axis] = -1
    assert np.all(np.abs(codes * scale.reshape(along) - weight) <= 0.5001 * scale.reshape(along))


def test_a_tiny_weight_with_a_large_bias_keeps_its_bias() -> None:
    model = residual_net()
    for t in model.graph.initializer:
        if t.name == "w2":
            t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t) * np.float32(1e-9), "w2"))
        if t.name == "b2":
            t.CopyFrom(numpy_helper.from_array(np.full(16, 5.0, np.float32), "b2"))
    q = quantize(model, table(model), FAMILIES["x86-vnni"])
    assert measure(outputs(model), outputs(q.model, optimization="disabled")).cosine > 0.99
