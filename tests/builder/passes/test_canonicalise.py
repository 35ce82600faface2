"""Forms of a node that some runtime gets wrong."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgectl.builder.int8.calibrate import calibrate
from edgectl.builder.int8.families import FAMILIES
from edgectl.builder.int8.quantize import quantize
from edgectl.builder.passes.base import FloatReference, run_passes
from edgectl.builder.passes.canonicalise import Canonicalise
from edgectl.core.bundle import SessionSettings
from edgectl.engines.finalise.open import open_model


def _padded(*, value: bool) -> ModelProto:
    """Conv, Relu, MaxPool, Pad of the last two axes (left and top by one), Conv in groups."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": 0.2 * rng.standard_normal((16, 3, 3, 3)).astype(np.float32),
        "w2": 0.2 * rng.standard_normal((16, 4, 3, 3)).astype(np.float32),
        "sizes": np.asarray([1, 2, 0, 1]),
        "axes": np.asarray([-1, 2]),
        "nought": np.asarray(0, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"], name="first"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("MaxPool", ["r"], ["m"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Pad", ["m", "sizes", "nought" if value else "", "axes"], ["p"], name="pad"),
        helper.make_node("Conv", ["p", "w2"], ["y"], name="last", group=4),
    ]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for n, s in (("x", [1, 3, 18, 18]), ("y", None))
    ]
    stored = [numpy_helper.from_array(w, n) for n, w in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def test_a_pad_of_some_axes_is_written_for_all_of_them_and_its_chain_runs_in_int8() -> None:
    rng = np.random.default_rng(1)
    feeds = [{"x": rng.standard_normal((1, 3, 18, 18)).astype(np.float32)} for _ in range(4)]
    for value in (False, True):
        model = _padded(value=value)
        reference = FloatReference.record(model.SerializeToString(), feeds[0])
        plain, _ = run_passes(model, [Canonicalise()], reference)
        (pad,) = (n for n in plain.graph.node if n.op_type == "Pad")
        assert len(pad.input) == (3 if value else 2)
        sizes = next(t for t in plain.graph.initializer if t.name == pad.input[1])
        assert numpy_helper.to_array(sizes).tolist() == [0, 0, 2, 1, 0, 0, 1, 0]
        table = calibrate(plain, feeds, data_digest="sha256:" + "0" * 64)
        int8 = quantize(plain, table, FAMILIES["x86-vnni"], ranges="minmax").model
        got = open_model(int8.SerializeToString(), SessionSettings()).run(feeds[0])
        assert np.abs(got["y"] - reference.outputs["y"]).max() < 0.1 * np.abs(reference.outputs["y"]).max()
