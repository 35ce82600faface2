"""Pixels that are moved into channels in front of a convolution."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgectl.builder.graph import GraphIndex
from edgectl.builder.passes.base import FloatReference, run_passes
from edgectl.builder.passes.space_to_depth import FoldSpaceToDepth

_SHAPE = (1, 3, 12, 16)
_FOCUS = ((0, 0), (1, 0), (0, 1), (1, 1))
"""YOLOX's order of rows and columns."""


def _model(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], outputs: tuple[str, ...] = ("y",)
) -> ModelProto:
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((8, 12, 3, 3)), "b": rng.standard_normal(8)}
    stored = {**constants, **{n: w.astype(np.float32) for n, w in weights.items()}}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, _SHAPE)],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
        [numpy_helper.from_array(v, n) for n, v in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _slice(
    at: tuple[int, int], source: str, made: str, constants: dict[str, np.ndarray], axes: tuple[int, int]
) -> onnx.NodeProto:
    names = [f"{made}_{part}" for part in ("starts", "ends", "axes", "steps")]
    values = (at, (2**63 - 1,) * 2, axes, (2, 2))
    constants.update({n: np.asarray(v, np.int64) for n, v in zip(names, values, strict=True)})
    return helper.make_node("Slice", [source, *names], [made], name=made)


def _focus(
    *, axes: tuple[int, int] = (2, 3), origins: tuple[tuple[int, int], ...] = _FOCUS, **conv: object
) -> ModelProto:
    constants: dict[str, np.ndarray] = {}
    slices = [_slice(o, "x", f"s{i}", constants, axes) for i, o in enumerate(origins)]
    nodes = [
        *slices,
        helper.make_node("Concat", [f"s{i}" for i in range(4)], ["joined"], name="joined", axis=1),
        helper.make_node("Conv", ["joined", "w", "b"], ["y"], name="conv", **conv),
    ]
    return _model(nodes, constants)


def _folded(model: ModelProto) -> ModelProto:
    """Checked to compute what it did."""
    feeds = {"x": np.random.default_rng(1).standard_normal(_SHAPE).astype(np.float32)}
    reference = FloatReference.record(model.SerializeToString(), feeds)
    return run_passes(model, [FoldSpaceToDepth()], reference)[0]


@pytest.mark.parametrize(
    "conv",
    [
        {"pads": [1, 1, 1, 1]},
        {"pads": [1, 0, 2, 1], "strides": [2, 1]},
        {"auto_pad": "VALID"},
        {},
    ],
    ids=["same", "other sides and strides", "valid", "none"],
)
@pytest.mark.parametrize("axes", [(2, 3), (-2, -1)])
def test_four_slices_of_every_second_pixel_become_one_convolution(
    conv: dict[str, object], axes: tuple[int, int]
) -> None:
    folded = _folded(_focus(axes=axes, **conv))
    assert [n.op_type for n in folded.graph.node] == ["Conv"]
    assert {t.name: tuple(t.dims) for t in folded.graph.initializer} == {"w_whole": (8, 3, 6, 6), "b": (8,)}


def test_slices_of_rows_and_then_of_columns_are_followed() -> None:
    constants: dict[str, np.ndarray] = {}
    nodes = []
    for axis, sources in ((2, ("x",)), (3, ("r0", "r1"))):
        for source in sources:
            for start in (0, 1):
                made = f"r{start}" if axis == 2 else f"{source}c{start}"
                names = [f"{made}_{part}" for part in ("starts", "ends", "axes", "steps")]
                values = ([start], [2**31 - 1], [axis], [2])
                constants.update({n: np.asarray(v, np.int64) for n, v in zip(names, values, strict=True)})
                nodes.append(helper.make_node("Slice", [source, *names], [made], name=made))
    joined = ["r0c0", "r1c0", "r0c1", "r1c1"]
    nodes.append(helper.make_node("Concat", joined, ["joined"], name="joined", axis=1))
    nodes.append(helper.make_node("Conv", ["joined", "w", "b"], ["y"], name="conv", pads=[1, 1, 1, 1]))
    assert [n.op_type for n in _folded(_model(nodes, constants)).graph.node] == ["Conv"]


def test_the_operator_of_onnx_is_followed_too() -> None:
    nodes = [
        helper.make_node("SpaceToDepth", ["x"], ["joined"], name="move", blocksize=2),
        helper.make_node("Conv", ["joined", "w", "b"], ["y"], name="conv", pads=[1, 1, 1, 1]),
    ]
    assert [n.op_type for n in _folded(_model(nodes, {})).graph.node] == ["Conv"]


def test_what_something_else_reads_stays() -> None:
    model = _focus(pads=[1, 1, 1, 1])
    model.graph.node.append(helper.make_node("Relu", ["joined"], ["z"], name="relu"))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    assert Counter(n.op_type for n in _folded(model).graph.node)["Slice"] == 4


def test_slices_that_leave_pixels_out_or_take_them_twice_stay() -> None:
    twice = _focus(origins=((0, 0), (1, 0), (0, 1), (0, 1)), pads=[1, 1, 1, 1])
    assert Counter(n.op_type for n in _folded(twice).graph.node)["Slice"] == 4
    cut = _focus(pads=[1, 1, 1, 1])
    for t in cut.graph.initializer:
        if t.name.endswith("_ends"):
            t.CopyFrom(numpy_helper.from_array(np.asarray([10, 14]), t.name))
    del cut.graph.value_info[:]
    cut = onnx.shape_inference.infer_shapes(cut, data_prop=True)
    assert Counter(n.op_type for n in _folded(cut).graph.node)["Slice"] == 4


def test_a_convolution_with_holes_stays() -> None:
    model = _focus(pads=[2, 2, 2, 2], dilations=[2, 2])
    assert Counter(n.op_type for n in _folded(model).graph.node)["Slice"] == 4


def test_shapes_that_only_the_data_tell_are_no_obstacle() -> None:
    """The heads of detectors of two stages convolve as many regions as were found."""
    model = _focus(pads=[1, 1, 1, 1])
    taken = [
        helper.make_node("NonZero", ["x"], ["nonzero"], name="nonzero"),
        helper.make_node("Slice", ["nonzero", "zero", "one", "zero"], ["row"], name="row"),
        helper.make_node("Squeeze", ["row", "zero"], ["which"], name="which"),
        helper.make_node("Gather", ["y", "which"], ["regions"], name="regions", axis=0),
        helper.make_node("Conv", ["regions", "v"], ["z"], name="head"),
    ]
    model.graph.node.extend(taken)
    head = np.random.default_rng(2).standard_normal((1, 8, 1, 1)).astype(np.float32)
    constants = {"zero": np.asarray([0]), "one": np.asarray([1]), "v": head}
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in constants.items())
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    folded = _folded(onnx.shape_inference.infer_shapes(model, data_prop=True))
    assert Counter(n.op_type for n in folded.graph.node)["Concat"] == 0
    index = GraphIndex(folded)
    assert index.shape("y") == (1, 8, 6, 8)
    assert index.shape("z") is None


def test_two_convolutions_that_share_a_weight_each_get_their_own() -> None:
    constants: dict[str, np.ndarray] = {}
    nodes = []
    for made, origins in (("y", _FOCUS), ("z", ((0, 0), (0, 1), (1, 0), (1, 1)))):
        nodes += [_slice(o, "x", f"{made}{i}", constants, (2, 3)) for i, o in enumerate(origins)]
        nodes += [
            helper.make_node(
                "Concat", [f"{made}{i}" for i in range(4)], [f"{made}c"], name=f"{made}c", axis=1
            ),
            helper.make_node("Conv", [f"{made}c", "w", "b"], [made], name=f"conv_{made}"),
        ]
    folded = _folded(_model(nodes, constants, ("y", "z")))
    assert [n.op_type for n in folded.graph.node] == ["Conv", "Conv"]
    assert {t.name for t in folded.graph.initializer} == {"w_whole", "w_whole_", "b"}
