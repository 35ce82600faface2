"""Rounding against the layer's output: closer to float than rounding to nearest, and the same graph."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tests.builder.conftest import images, residual_net

from edgectl.builder import lint
from edgectl.builder.calibrate import calibrate
from edgectl.builder.families import FAMILIES
from edgectl.builder.quantize import quantize
from edgectl.builder.reconstruct import reconstruct
from edgectl.builder.sensitivity import outputs_of, rank_parts, sqnr_db

DATA = "sha256:" + "0" * 64


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_held_out_outputs_are_closer_to_float(family: str) -> None:
    model = residual_net(channels=32)
    spec = FAMILIES[family]
    held_out = images(8, seed=9)
    plain = quantize(model, calibrate(model, images(16), data_digest=DATA), spec)
    rebuilt = reconstruct(plain, model, spec, images(16))
    want = outputs_of(model, held_out)
    assert sqnr_db(want, outputs_of(rebuilt.model, held_out)) > sqnr_db(want, outputs_of(plain.model, held_out)) + 0.5
    assert lint.lint(rebuilt.model, spec) == []
    assert [n.op_type for n in rebuilt.model.graph.node] == [n.op_type for n in plain.model.graph.node]
    assert len(rebuilt.model.SerializeToString()) == len(plain.model.SerializeToString())


def test_the_mean_of_every_channel_is_restored() -> None:
    model = residual_net(channels=32)
    w = next(t for t in model.graph.initializer if t.name == "w3")
    coarse = np.round(numpy_helper.to_array(w) * 2) / 2 + 0.06  # rounding errors that do not cancel
    w.CopyFrom(numpy_helper.from_array(coarse.astype(np.float32), "w3"))
    spec = FAMILIES["x86-vnni"]
    plain = quantize(model, calibrate(model, images(16), data_digest=DATA), spec, ranges="typical")
    rebuilt = reconstruct(plain, model, spec, images(16))
    want = outputs_of(model, images(8, seed=9))

    def shift(q: onnx.ModelProto) -> float:
        pairs = zip(want, outputs_of(q, images(8, seed=9)), strict=True)
        return float(np.abs(np.mean([(a["out"] - b["out"]).mean(axis=(0, 2, 3)) for a, b in pairs], axis=0)).max())

    assert shift(rebuilt.model) < shift(plain.model)


@pytest.mark.parametrize(
    ("attributes", "shape"),
    [
        ({"strides": [2, 2], "pads": [1, 0, 1, 2]}, (16, 16, 3, 3)),
        ({"dilations": [2, 2], "pads": [2, 2, 2, 2]}, (16, 16, 3, 3)),
        ({"group": 4, "pads": [0, 1, 0, 1]}, (32, 4, 1, 3)),
        ({"group": 16}, (32, 1, 3, 3)),
    ],
)
def test_every_kind_of_convolution_is_cut_into_the_right_patches(attributes: dict, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    first = rng.standard_normal((16, 3, 3, 3)).astype(np.float32) * 0.3
    second = rng.standard_normal(shape).astype(np.float32) * 0.3
    bias = [rng.standard_normal(n).astype(np.float32) for n in (16, shape[0])]
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Conv", ["image", "w1", "b1"], ["a"], name="one"),
                helper.make_node("Conv", ["a", "w2", "b2"], ["out"], name="two", **attributes),
            ],
            "g",
            [helper.make_tensor_value_info("image", 1, [1, 3, 32, 32])],
            [helper.make_tensor_value_info("out", 1, None)],
            [numpy_helper.from_array(v, n) for n, v in (("w1", first), ("w2", second), ("b1", bias[0]), ("b2", bias[1]))],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    model = onnx.shape_inference.infer_shapes(model)
    spec = FAMILIES["x86-vnni"]
    plain = quantize(model, calibrate(model, images(16), data_digest=DATA), spec)
    rebuilt = reconstruct(plain, model, spec, images(16))
    want = outputs_of(model, images(8, seed=9))
    got, before = (sqnr_db(want, outputs_of(q.model, images(8, seed=9))) for q in (rebuilt, plain))
    assert got > before - 0.3  # wrong patches would give noise


def test_parts_cover_every_quantizable_node_once_and_a_bad_one_comes_first() -> None:
    model = residual_net(channels=32)
    w = next(t for t in model.graph.initializer if t.name == "w3")
    spoiled = numpy_helper.to_array(w).copy()
    spoiled[:, :, 0, 0] *= 0.001
    spoiled[:, :, 1, 1] *= 60
    w.CopyFrom(numpy_helper.from_array(spoiled, "w3"))
    parts = rank_parts(model, calibrate(model, images(8), data_digest=DATA), FAMILIES["x86-vnni"], images(4))
    assert sorted(n for p in parts for n in p.nodes) == ["depth", "first", "head", "point"]
    assert sum(p.work for p in parts) == pytest.approx(1.0)
    assert all(0 < p.sqnr_db < 120 for p in parts)
