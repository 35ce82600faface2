"""Rounding against the layer's output: closer to float than rounding to nearest, and the same graph."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.builder.kernels import DOT_PRODUCTS
from support.builder.nets import images, residual_net

from edgectl.builder.int8 import lint
from edgectl.builder.int8.calibrate import calibrate
from edgectl.builder.int8.families import FAMILIES, QDQ
from edgectl.builder.int8.quantize import quantize
from edgectl.builder.int8.reconstruct import reconstruct
from edgectl.builder.int8.sensitivity import outputs_of, rank_runs, sqnr_db

DATA = "sha256:" + "0" * 64


@pytest.mark.parametrize("family", sorted(QDQ))
def test_held_out_outputs_are_closer_to_float(family: str) -> None:
    if family == "x86-vnni" and not DOT_PRODUCTS:
        pytest.skip("its products of 8 bits saturate on this processor")
    model = residual_net(channels=32)
    spec = FAMILIES[family]
    held_out = images(8, seed=9)
    plain = quantize(model, calibrate(model, images(16), data_digest=DATA), spec)
    rebuilt = reconstruct(plain, model, spec, images(16))
    want = outputs_of(model, held_out)
    # DLA: the output itself is int8, whose rounding nothing can undo
    gain = 0.2 if spec.placement == "everything" else 0.5
    assert (
        sqnr_db(want, outputs_of(rebuilt.model, held_out))
        > sqnr_db(want, outputs_of(plain.model, held_out)) + gain
    )
    assert lint.lint(rebuilt.model, spec) == []
    assert [n.op_type for n in rebuilt.model.graph.node] == [n.op_type for n in plain.model.graph.node]
    assert len(rebuilt.model.SerializeToString()) == len(plain.model.SerializeToString())


def test_the_mean_of_every_channel_is_restored() -> None:
    model = residual_net(channels=32)
    stored = {t.name: t for t in model.graph.initializer}
    b2, head = (numpy_helper.to_array(stored[n]).copy() for n in ("b2", "w4"))
    # a channel that is always 0, read with weights that leave no codes for the others
    b2[0], head[:, 32] = -1000.0, 100.0
    stored["b2"].CopyFrom(numpy_helper.from_array(b2, "b2"))
    stored["w4"].CopyFrom(numpy_helper.from_array(head, "w4"))
    table, family = calibrate(model, images(8), data_digest=DATA), FAMILIES["x86-vnni"]
    parts = rank_runs(
        model, lambda kept: quantize(model, table, family, exclude=kept), images(4), timed=False
    )
    assert sorted(n for p in parts for n in p.nodes) == ["depth", "first", "head", "point"]
    assert sum(p.work for p in parts) == pytest.approx(1.0)
    assert parts[0].nodes == ("head",)
    assert parts[0].noise > 10 * sum(p.noise for p in parts[1:])


def test_a_split_whose_parts_are_needed_at_different_times() -> None:
    """One half feeds a layer, both are joined behind it (C2f of the YOLO family)."""
    rng = np.random.default_rng(0)
    weights = {"w1": (16, 3, 3, 3), "w2": (8, 8, 3, 3), "w3": (5, 24, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["c1"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu"),
        helper.make_node("Split", ["r1", "halves"], ["left", "right"], name="split", axis=1),
        helper.make_node("Conv", ["right", "w2"], ["c2"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("Concat", ["left", "right", "c2"], ["all"], name="join", axis=1),
        helper.make_node("Conv", ["all", "w3"], ["out"], name="head"),
    ]
    constants = [
        numpy_helper.from_array((rng.standard_normal(shape) * 0.3).astype(np.float32), n)
        for n, shape in weights.items()
    ]
    graph = helper.make_graph(
        nodes,
        "c2f",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 5, 32, 32])],
        [*constants, numpy_helper.from_array(np.asarray([8, 8], np.int64), "halves")],
    )
    model = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    )
    family = FAMILIES["x86-vnni"]
    plain = quantize(model, calibrate(model, images(8), data_digest=DATA), family)
    rebuilt = reconstruct(plain, model, family, images(8))
    want = outputs_of(model, images(4, seed=9))
    assert (
        sqnr_db(want, outputs_of(rebuilt.model, images(4, seed=9)))
        > sqnr_db(want, outputs_of(plain.model, images(4, seed=9))) - 0.5
    )
