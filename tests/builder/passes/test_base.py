"""What counts as the same outputs: rounding is not a change, and a change near nought is one."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgectl.builder.passes.base import FloatReference
from edgectl.core.errors import ModelError

X = np.random.default_rng(0).random((1, 64)).astype(np.float32) + 0.5


def net(*nodes: onnx.NodeProto, **constants: float | np.ndarray) -> ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64])],
        [numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def difference(error: float | np.ndarray) -> ModelProto:
    """x - x · 1 + error: an output near nought of numbers near 1."""
    return net(
        helper.make_node("Mul", ["x", "one"], ["m"], name="mul"),
        helper.make_node("Sub", ["x", "m"], ["d"], name="sub"),
        helper.make_node("Add", ["d", "error"], ["y"], name="add"),
        one=1.0,
        error=error,
    )


def tiny(factor: float | np.ndarray) -> ModelProto:
    """x · factor: an output near nought that is exact all the same."""
    small = np.asarray(1e-7, np.float32)
    return net(
        helper.make_node("Mul", ["x", "small"], ["s"], name="mul"),
        helper.make_node("Mul", ["s", "factor"], ["y"], name="mul2"),
        small=small,
        factor=factor,
    )


def record(model: ModelProto) -> FloatReference:
    return FloatReference.record(model.SerializeToString(), {"x": X})


NOISE = np.random.default_rng(1).standard_normal((1, 64))


def test_rounding_of_an_output_near_nought_is_no_change() -> None:
    for before in (0.0, 1e-7 * NOISE):
        record(difference(before)).check(difference(1.8e-7 * np.sign(NOISE)))


def test_more_than_rounding_is_a_change() -> None:
    with pytest.raises(ModelError, match="output y is no longer what it was"):
        record(difference(0.0)).check(difference(8e-6 * np.sign(NOISE)))
    with pytest.raises(ModelError, match="output y is no longer what it was"):
        record(net(helper.make_node("Neg", ["x"], ["y"]))).check(net(helper.make_node("Abs", ["x"], ["y"])))
    record(tiny(1.0)).check(tiny(1.0 + 1e-6))
