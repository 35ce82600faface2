"""Float16 written into a graph: what may be halved is, what may not stays float32, and the numbers follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from support.builder.nets import images, residual_net

from edgectl.builder.graph import GraphIndex
from edgectl.builder.int8.calibrate import calibrate
from edgectl.builder.int8.families import FAMILIES
from edgectl.builder.int8.float16 import to_float16
from edgectl.builder.int8.quantize import quantize
from edgectl.core.bundle import SessionSettings
from edgectl.engines.finalise.golden import measure
from edgectl.engines.finalise.rtx import accept, has_compiler
from edgectl.engines.runtimes.onnxruntime import OnnxRuntimeEngine

DATA = "sha256:" + "0" * 64


def seen(model: ModelProto) -> dict[str, float]:
    return {n: max(-r.low, r.high) for n, r in calibrate(model, images(4), data_digest=DATA).ranges.items()}


def run(model: ModelProto, optimization: str = "disabled") -> dict[str, np.ndarray]:
    onnx.checker.check_model(model, full_check=True)
    settings = SessionSettings.model_validate({"optimization": optimization})
    return OnnxRuntimeEngine(model.SerializeToString(), settings).run(images(1, seed=9)[0])


def types(model: ModelProto) -> dict[str, int]:
    """Tensor → element type, of all that nodes make."""
    return {v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info, *model.graph.output)}


def net(*nodes: onnx.NodeProto, **constants: np.ndarray) -> ModelProto:
    """image [1, 3, 32, 32] → nodes → out."""
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, n) for n, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize("optimization", ["all", "disabled"])
def test_a_float_graph_computes_in_float16_behind_unchanged_edges(optimization: str) -> None:
    model = residual_net(channels=32)
    halved, chosen = to_float16(model, seen(model))
    assert chosen == {n.name for n in model.graph.node}
    assert {i.data_type for i in halved.graph.initializer} == {TensorProto.FLOAT16}
    got, want = run(halved, optimization), run(model, optimization)
    assert got["out"].dtype == np.float32
    assert measure(want["out"].ravel().astype(float), got["out"].ravel().astype(float)).cosine > 0.99999
    assert not np.array_equal(got["out"], want["out"])  # it really is float16
    assert len(halved.SerializeToString()) < 0.6 * len(model.SerializeToString())


def test_a_convolution_in_int8_has_float16_scales_and_the_same_codes() -> None:
    model = residual_net(channels=32)
    q = quantize(model, calibrate(model, images(4), data_digest=DATA), FAMILIES["trt-gpu"]).model
    halved, _ = to_float16(q, seen(model))
    before, after = GraphIndex(q), GraphIndex(halved)
    pairs = [n for n in after.nodes if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for n in pairs:
        scale = after.weights(n.input[1])
        assert scale is not None
        assert scale.dtype == np.float16
    # a reader has its DequantizeLinear directly before it: with a cast between them nothing fuses
    for n in pairs:
        if n.op_type == "DequantizeLinear":
            assert {r.op_type for r, _ in after.readers[n.output[0]]} <= {"Conv", "Add"}
    codes = {
        n
        for n, t in before.initializers.items()
        if t.data_type == TensorProto.INT8 and n.endswith("_weight_q")
    }
    assert codes
    for n in codes:
        assert after.initializers[n].raw_data == before.initializers[n].raw_data
    a, b = run(q)["out"].ravel().astype(float), run(halved)["out"].ravel().astype(float)
    # older ONNX Runtimes divide by the scale in float16: some codes differ by one
    assert measure(a, b).cosine > 0.9995


def test_large_values_and_what_was_never_seen_stay_float32() -> None:
    large = net(
        helper.make_node("Mul", ["image", "k"], ["m"], name="grow"),
        helper.make_node("Relu", ["m"], ["r"], name="relu"),
        helper.make_node("Mul", ["r", "back"], ["out"], name="shrink"),
        k=np.float32([700.0]),
        back=np.float32([1 / 700]),
    )
    assert to_float16(large, seen(large))[1] == frozenset()
    small = net(helper.make_node("Relu", ["image"], ["out"], name="relu"))
    assert to_float16(small, {})[1] == frozenset()
    assert to_float16(small, {"image": 1.0, "out": 1.0})[1] == {"relu"}


def test_a_constant_outside_float16_keeps_its_node_in_float32() -> None:
    model = net(helper.make_node("Min", ["image", "cap"], ["out"], name="cap"), cap=np.float32([1e6]))
    halved, chosen = to_float16(model, seen(model))
    assert chosen == frozenset()
    np.testing.assert_array_equal(run(halved)["out"], run(model)["out"])


def test_softmax_and_reductions_stay_float32_between_halved_neighbours() -> None:
    model = net(
        helper.make_node("Relu", ["image"], ["a"], name="before"),
        helper.make_node("Softmax", ["a"], ["b"], name="soft", axis=1),
        helper.make_node("ReduceMean", ["b"], ["c"], name="mean", axes=[2, 3], keepdims=1),
        helper.make_node("Add", ["c", "one"], ["out"], name="after"),
        one=np.float32([1.0]),
    )
    halved, chosen = to_float16(model, seen(model))
    assert chosen == {"before", "after"}
    kinds = types(halved)
    assert kinds["b"] == kinds["c"] == TensorProto.FLOAT
    assert kinds["a"] == TensorProto.FLOAT16
    np.testing.assert_allclose(run(halved)["out"], run(model)["out"], rtol=2e-3)


def test_resize_keeps_its_scales_in_float32() -> None:
    model = net(
        helper.make_node("Resize", ["image", "", "s"], ["out"], name="up", mode="nearest"),
        s=np.float32([1, 1, 2, 2]),
    )
    halved, chosen = to_float16(model, seen(model))
    assert chosen == {"up"}
    assert {t.name: t.data_type for t in halved.graph.initializer} == {"s": TensorProto.FLOAT}
    np.testing.assert_allclose(run(halved)["out"], run(model)["out"], rtol=1e-3)


def test_scales_too_small_for_float16_keep_their_convolution_in_float32() -> None:
    model = residual_net(channels=32)
    for t in model.graph.initializer:
        if t.name == "w2":
            t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t) * np.float32(1e-4), "w2"))
    q = quantize(model, calibrate(model, images(4), data_digest=DATA), FAMILIES["trt-gpu"]).model
    halved, chosen = to_float16(q, seen(model))
    assert "point" not in chosen
    assert "depth" in chosen
    index = GraphIndex(halved)
    point = next(n for n in index.nodes if n.name == "point")
    assert [index.producer[i].op_type for i in point.input[:2]] == ["DequantizeLinear", "DequantizeLinear"]
    assert (
        measure(run(q)["out"].ravel().astype(float), run(halved)["out"].ravel().astype(float)).cosine > 0.9995
    )


def test_the_same_arguments_give_the_same_bytes() -> None:
    model = residual_net()
    largest = seen(model)
    a, b = (to_float16(model, largest)[0].SerializeToString(deterministic=True) for _ in range(2))
    assert a == b


def recurrent_net(kind: str = "LSTM") -> ModelProto:
    """image [1, 3, 32, 32] → Conv, Relu → 32 steps of 16 values → two recurrent layers of 24 → MatMul, as
    PyTorch writes it."""
    rng = np.random.default_rng(0)
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind] * 24
    shapes = {
        "wc": (16, 3, 32, 1),
        "w1": (1, gates, 16),
        "r1": (1, gates, 24),
        "w2": (1, gates, 24),
        "r2": (1, gates, 24),
        "wm": (24, 8),
    }
    weights = {n: (0.2 * rng.standard_normal(s)).astype(np.float32) for n, s in shapes.items()}
    integers = {"rows": np.asarray([2]), "second": np.asarray([1])}
    return net(
        helper.make_node("Conv", ["image", "wc"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Squeeze", ["r", "rows"], ["s"], name="squeeze"),
        helper.make_node("Transpose", ["s"], ["t"], name="transpose", perm=[2, 0, 1]),
        helper.make_node(kind, ["t", "w1", "r1"], ["h1"], name="first", hidden_size=24),
        helper.make_node("Squeeze", ["h1", "second"], ["s1"], name="between"),
        helper.make_node(kind, ["s1", "w2", "r2"], ["h2"], name="second", hidden_size=24),
        helper.make_node("Squeeze", ["h2", "second"], ["s2"], name="behind"),
        helper.make_node("MatMul", ["s2", "wm"], ["out"], name="head"),
        **weights,
        **integers,
    )


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_no_cast_comes_last_before_a_recurrent_layer(kind: str) -> None:
    """TensorRT takes such a cast, and moves behind it, into the loop, and refuses the graph."""
    model = recurrent_net(kind)
    halved, chosen = to_float16(model, seen(model))
    assert chosen == {"conv", "behind", "head"}
    index = GraphIndex(halved)
    for layer in (n for n in index.nodes if n.op_type == kind):
        made = index.producer.get(layer.input[0])
        while made is not None and made.op_type in ("Squeeze", "Transpose"):
            made = index.producer.get(made.input[0])
        assert made is not None
        assert made.op_type in ("Relu", kind)
    want, got = run(model)["out"], run(halved)["out"]
    assert measure(want.ravel().astype(float), got.ravel().astype(float)).cosine > 0.9999


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.skipif(not has_compiler(), reason="NVIDIA's compiler is for x86-64 alone")
def test_the_compiler_of_nvidia_takes_two_recurrent_layers_in_float16(kind: str, tmp_path: Path) -> None:
    """What the rule before is about."""
    model = recurrent_net(kind)
    path = tmp_path / "model.onnx"
    path.write_bytes(to_float16(model, seen(model))[0].SerializeToString())
    verdict = accept(path)
    assert verdict.accepted, verdict.told()


def test_what_makes_a_sequence_stays_float32() -> None:
    model = net(
        helper.make_node("Conv", ["image", "w"], ["out"], name="conv"),
        helper.make_node("SplitToSequence", ["out"], ["parts"], name="parts", axis=1),
        w=np.ones((16, 3, 1, 1), np.float32),
    )
    sequence = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    model.graph.output.append(helper.make_value_info("parts", sequence))
    halved, chosen = to_float16(model, seen(model))
    assert chosen == {"conv"}
    assert run(halved)["out"].dtype == np.float32


def test_what_comes_out_of_a_sequence_has_the_type_that_went_in() -> None:
    model = net(
        helper.make_node("Conv", ["image", "w"], ["c"], name="conv"),
        helper.make_node("SequenceConstruct", ["c", "c"], ["s"], name="both"),
        helper.make_node("SequenceAt", ["s", "at"], ["q"], name="one"),
        helper.make_node("Conv", ["q", "w2"], ["out"], name="last"),
        w=np.full((4, 3, 1, 1), 0.1, np.float32),
        w2=np.full((4, 4, 1, 1), 0.1, np.float32),
        at=np.asarray(1),
    )
    mixed, chosen = to_float16(model, dict.fromkeys(("image", "c", "q", "out"), 1.0))
    assert chosen == {"conv", "last"}
    assert np.allclose(run(model)["out"], run(mixed)["out"], atol=0.01)
