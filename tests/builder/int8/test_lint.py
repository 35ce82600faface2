"""Each rule fires on a graph that breaks it, and nothing that the writers make breaks one."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, helper, numpy_helper
from support.builder.generated import cnns, mlp
from support.builder.nets import images, residual_net

from edgectl.builder.graph import GraphIndex
from edgectl.builder.int8.calibrate import calibrate
from edgectl.builder.int8.families import FAMILIES, QDQ
from edgectl.builder.int8.lint import check, lint
from edgectl.builder.int8.matmul import rewrite_matmuls
from edgectl.builder.int8.placement import WEIGHTED
from edgectl.builder.int8.quantize import quantize
from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import ModelError
from edgectl.engines.finalise.open import open_model

DATA = "sha256:" + "0" * 64


def written(family: str) -> ModelProto:
    model = residual_net(channels=32)
    if FAMILIES[family].placement == "matmul":
        return rewrite_matmuls(mlp(2), family, FAMILIES["x86-vnni"]).model  # type: ignore[arg-type]
    return quantize(model, calibrate(model, images(4), data_digest=DATA), FAMILIES[family]).model


def node(model: ModelProto, name: str) -> NodeProto:
    return next(n for n in model.graph.node if n.name == name)


def store(model: ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    t = next(t for t in model.graph.initializer if t.name == name)
    t.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(t)), name))


def pair(model: ModelProto, source: str, reader: str, position: int, like: str = "r2") -> None:
    """Put a Q/DQ pair with the scale of ``like`` on one edge."""
    codes, back = (
        helper.make_node(
            "QuantizeLinear", [source, f"{like}_scale", f"{like}_zero"], ["new_q"], name="new_quantize"
        ),
        helper.make_node(
            "DequantizeLinear", ["new_q", f"{like}_scale", f"{like}_zero"], ["new_dq"], name="new_dequantize"
        ),
    )
    at = next(i for i, n in enumerate(model.graph.node) if n.name == reader)
    model.graph.node.insert(at, codes)
    model.graph.node.insert(at + 1, back)
    node(model, reader).input[position] = "new_dq"


def old_opset(m: ModelProto) -> None:
    m.opset_import[0].version = 12


def zero_scale(m: ModelProto) -> None:
    store(m, "r2_scale", lambda v: v * 0)


def weight_at_load(m: ModelProto) -> None:
    m.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "plain"))
    m.graph.node.append(
        helper.make_node("QuantizeLinear", ["plain", "r2_scale", "r2_zero"], ["plain_q"], name="late")
    )


def signed_activations(m: ModelProto) -> None:
    store(m, "r2_zero", lambda v: v.astype(np.int8))


def shifted_zero(m: ModelProto) -> None:
    store(m, "r2_zero", lambda v: v + np.int8(3))


def reads_codes(m: ModelProto) -> None:
    m.graph.node.append(helper.make_node("Cast", ["r2_q"], ["peek"], name="peek", to=1))


def no_codes(m: ModelProto) -> None:
    node(m, "r2_DequantizeLinear").input[0] = "r2"


def two_scales(m: ModelProto) -> None:
    m.graph.initializer.append(numpy_helper.from_array(np.float32(9), "other_scale"))
    node(m, "r2_DequantizeLinear").input[1] = "other_scale"


def float_data(m: ModelProto) -> None:
    node(m, "depth").input[0] = "r2"


def wide_codes(m: ModelProto) -> None:
    store(m, "point_weight_q", lambda v: np.full_like(v, 127))


def unsigned_codes(m: ModelProto) -> None:
    store(m, "point_weight_q", lambda v: (v.astype(np.int16) + 128).astype(np.uint8))


def one_scale(m: ModelProto) -> None:
    store(m, "point_weight_scale", lambda v: v[:1])


def int_bias(m: ModelProto) -> None:
    node(m, "point").input[2] = "point_weight_dq"


def narrow(m: ModelProto) -> None:
    store(m, "point_weight_q", lambda v: v[:8])
    store(m, "point_weight_scale", lambda v: v[:8])


def before_relu(m: ModelProto) -> None:
    pair(m, "c2", "relu2", 0)


def rescaled_move(m: ModelProto) -> None:
    at = next(i for i, n in enumerate(m.graph.node) if n.name == "p_QuantizeLinear")
    m.graph.initializer.append(numpy_helper.from_array(np.float32(9), "other_scale"))
    m.graph.node[at].input[1] = "other_scale"


def both_branches(m: ModelProto) -> None:
    pair(m, "c3", "add", 0)


def unequal_concat(m: ModelProto) -> None:
    m.graph.initializer.append(numpy_helper.from_array(np.float32(9), "new_scale"))
    m.graph.initializer.append(
        numpy_helper.from_array(
            next(numpy_helper.to_array(t) for t in m.graph.initializer if t.name == "r2_zero"), "new_zero"
        )
    )
    pair(m, "a", "cat", 0, like="new")
    node(m, "cat").input[1] = "r2_dq"


def quantized_output(m: ModelProto) -> None:
    head = node(m, "head")
    head.output[0] = "raw"
    m.graph.node.append(
        helper.make_node("QuantizeLinear", ["raw", "r2_scale", "r2_zero"], ["out_q"], name="out_quantize")
    )
    m.graph.node.append(
        helper.make_node("DequantizeLinear", ["out_q", "r2_scale", "r2_zero"], ["out"], name="out_dequantize")
    )


def int8_head(m: ModelProto) -> None:
    pair(m, "p", "head", 0)
    codes = np.ones((8, 64, 1, 1), np.int8)
    m.graph.initializer.extend(
        [
            numpy_helper.from_array(codes, "head_q"),
            numpy_helper.from_array(np.ones(8, np.float32), "head_scale"),
        ]
    )
    weight = helper.make_node(
        "DequantizeLinear", ["head_q", "head_scale"], ["head_dq"], name="head_weight", axis=0
    )
    m.graph.node.insert(0, weight)
    node(m, "head").input[1] = "head_dq"


def conv_integer(m: ModelProto) -> None:
    m.graph.node.append(helper.make_node("ConvInteger", ["r2_q", "point_weight_q"], ["sum"], name="integer"))


def float_accumulation(m: ModelProto) -> None:
    del next(n for n in m.graph.node if n.op_type == "MatMulNBits").attribute[:]


def wide_product(m: ModelProto) -> None:
    store(
        m,
        next(n for n in m.graph.node if n.op_type == "MatMulInteger").input[1],
        lambda v: np.full_like(v, -128),
    )


def calibrated_scale(m: ModelProto) -> None:
    m.graph.node.append(helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], name="static"))


def no_products(m: ModelProto) -> None:
    del m.graph.node[:]


@pytest.mark.parametrize(
    ("family", "breaks", "says"),
    [
        ("x86-vnni", old_opset, "graph: opset 12 has no scale per channel"),
        ("arm64", zero_scale, "r2_QuantizeLinear: its scale is not a positive constant"),
        ("trt-gpu", weight_at_load, "late: a weight is shipped as float"),
        ("x86-vnni", signed_activations, "r2_QuantizeLinear: activations are not uint8"),
        ("trt-gpu", shifted_zero, "r2_QuantizeLinear: zero point is not 0"),
        ("x86-vnni", reads_codes, "r2_QuantizeLinear: an operator reads codes directly"),
        ("trt-gpu", no_codes, "r2_DequantizeLinear: what it reads are no codes"),
        ("arm64", two_scales, "r2_DequantizeLinear: another scale or zero point than r2_QuantizeLinear has"),
        ("x86-vnni", float_data, "depth: int8 weights but float data"),
        ("x86-avx2", wide_codes, "point: weight codes exceed ±63"),
        ("arm64", unsigned_codes, "point: its weight codes are not int8"),
        ("openvino", one_scale, "point: its weight has no scale for each output channel"),
        ("trt-gpu", int_bias, "point: its bias is not float"),
        ("trt-gpu", narrow, "point: fewer than 16 channels in int8"),
        ("x86-vnni", before_relu, "relu2: a quantization lies between it and point"),
        ("x86-vnni", rescaled_move, "pool: its output has another scale than its input"),
        ("trt-gpu", both_branches, "add: both branches of an add are quantized"),
        ("openvino", unequal_concat, "cat: its int8 inputs have different scales"),
        ("trt-gpu", quantized_output, "out_dequantize: a graph output is quantized"),
        ("openvino", int8_head, "head: a head in int8"),
        ("x86-vnni", conv_integer, "integer: convolutions quantized at run time"),
        ("weights-4", float_accumulation, "matmul0: accumulates in float"),
        ("dynamic", wide_product, "matmul0: weight codes exceed ±127"),
        ("dynamic", calibrated_scale, "static: a dynamic graph has no calibrated scales"),
        ("weights-8", no_products, "graph: nothing in it has low-bit weights"),
    ],
)
def test_a_broken_graph_is_named_with_its_node(
    family: str, breaks: Callable[[ModelProto], None], says: str
) -> None:
    model = written(family)
    assert lint(model, FAMILIES[family]) == []
    breaks(model)
    assert any(p.startswith(says) for p in lint(model, FAMILIES[family])), lint(model, FAMILIES[family])
    with pytest.raises(ModelError, match="placement rules"):
        check(model, FAMILIES[family])


def test_tensorrt_has_no_matrix_vector_product_in_int8() -> None:
    model = mlp(1, width=32)
    table = calibrate(model, [{"x": np.ones((1, 32), np.float32)}], data_digest=DATA)
    found = lint(quantize(model, table, FAMILIES["openvino"]).model, FAMILIES["trt-gpu"])
    assert any("a matrix-vector product in int8" in p for p in found)


@settings(max_examples=60, deadline=None)
@given(cnns(), st.sampled_from(sorted(QDQ)), st.booleans(), st.sets(st.integers(0, 12), max_size=3))
def test_whatever_is_written_is_clean_runs_and_carries_int8(
    model: ModelProto, family: str, chains: bool, kept: set[int]
) -> None:
    spec = FAMILIES[family]
    rng = np.random.default_rng(0)
    feeds = [{"image": rng.random((1, 3, 8, 8), np.float32)} for _ in range(2)]
    exclude = [n.name for i, n in enumerate(model.graph.node) if i in kept and n.op_type in WEIGHTED]
    q = quantize(model, calibrate(model, feeds, data_digest=DATA), spec, exclude=exclude, chains=chains)
    assert lint(q.model, spec) == []
    onnx.checker.check_model(q.model)
    engine = open_model(q.model.SerializeToString(), SessionSettings())
    assert all(np.isfinite(v).all() for v in engine.run(feeds[0]).values())
    engine.close()
    index = GraphIndex(q.model)
    stored = {t.name for t in q.model.graph.initializer}
    for name in (r.node for r in q.layers if r.precision == "int8" and r.op in ("Conv", "Gemm")):
        weight = next(n for n in GraphIndex(model).nodes if n.name == name).input[1]
        assert weight not in stored
        codes = index.weights(
            index.producer[next(n for n in index.nodes if n.name == name).input[1]].input[0]
        )
        assert codes is not None
        assert codes.dtype == np.int8
