"""Which channels go together, on generated graphs: a pruned graph computes what the whole one does if
nobody reads those channels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgectl.builder.compress.coupling import Coupling, couple, remove
from edgectl.builder.compress.weights import macs, replace_weights
from edgectl.core.bundle import SessionSettings
from edgectl.engines.finalise.open import open_model

SIZE = 6


class Net:
    """Grows a graph; ``self.channels[tensor]`` and ``self.sizes[tensor]`` are its channels and edge
    length."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        self.channels = {"x": 3}

    def const(self, value: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value), f"w{len(self.weights)}"))
        return self.weights[-1].name

    def op(
        self, kind: str, inputs: list[str], channels: int, outputs: int = 1, **attributes: object
    ) -> list[str]:
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(
            helper.make_node(kind, inputs, names, name=f"{kind}{len(self.nodes)}", **attributes)
        )
        self.channels |= dict.fromkeys(names, channels)
        return names

    def conv(self, x: str, out: int, k: int = 3, *, group: int = 1, bias: bool = True) -> str:
        weight = (
            self.rng.standard_normal((out, self.channels[x] // group, k, k))
            / (self.channels[x] // group) ** 0.5
            / k
        )
        inputs = [x, self.const(weight.astype(np.float32))]
        if bias:
            inputs.append(self.const(self.rng.standard_normal(out).astype(np.float32)))
        return self.op("Conv", inputs, out, pads=[k // 2] * 4, group=group)[0]

    def relu(self, x: str) -> str:
        return self.op("Relu", [x], self.channels[x])[0]

    def ints(self, *values: int) -> str:
        return self.const(np.array(values, np.int64))

    def model(self, x: str) -> ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
            [helper.make_tensor_value_info(x, TensorProto.FLOAT, None)],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        onnx.checker.check_model(model, full_check=True)
        return model


def residual(n: Net, x: str) -> str:
    y = n.conv(n.relu(n.conv(x, 8)), n.channels[x], 1)
    return n.relu(n.op("Add", [x, y], n.channels[x])[0])


def projected(n: Net, x: str) -> str:
    return n.op("Add", [n.conv(x, 8, 1), n.relu(n.conv(x, 8, bias=False))], 8)[0]


def depthwise(n: Net, x: str) -> str:
    return n.relu(n.conv(n.conv(x, n.channels[x], group=n.channels[x]), 12, 1))


def dense(n: Net, x: str) -> str:
    return n.op("Concat", [x, n.relu(n.conv(x, 4)), n.conv(x, 4, 1)], n.channels[x] + 8, axis=1)[0]


def split_half(n: Net, x: str) -> str:
    """C2f: a half goes through a block with a shortcut, and all parts are joined."""
    c = n.channels[x]
    y = n.conv(x, 12)
    a, b = n.op("Split", [y, n.ints(6, 6)], 6, 2, axis=1)
    z = n.op("Add", [b, n.relu(n.conv(b, 6))], 6)[0]
    return n.conv(n.op("Concat", [a, b, z], 18, axis=1)[0], c, 1)


def sliced(n: Net, x: str) -> str:
    y = n.conv(x, 10)
    front = n.op("Slice", [y, n.ints(0), n.ints(4), n.ints(1)], 4)[0]
    back = n.op("Slice", [y, n.ints(4), n.ints(2**31), n.ints(1)], 6)[0]
    return n.op("Concat", [n.op("Sigmoid", [back], 6)[0], front], 10, axis=1)[0]


def gated(n: Net, x: str) -> str:
    """Squeeze and excitation, its hidden layer as a matrix product."""
    y = n.conv(x, 8)
    flat = n.op("Flatten", [n.op("GlobalAveragePool", [y], 8)[0]], 8)[0]
    hidden = n.op(
        "Gemm",
        [flat, n.const(n.rng.standard_normal((4, 8)).astype(np.float32)), n.const(np.ones(4, np.float32))],
        4,
        transB=1,
    )[0]
    gate = n.op("MatMul", [n.relu(hidden), n.const(n.rng.standard_normal((4, 8)).astype(np.float32))], 8)[0]
    gate = n.op("Reshape", [n.op("Sigmoid", [gate], 8)[0], n.ints(1, 8, 1, 1)], 8)[0]
    return n.op("Mul", [y, gate], 8)[0]


def scaled(n: Net, x: str) -> str:
    """A batch norm that was not folded, a constant operand of one value a channel, an upsampling that
    names its size."""
    y = n.conv(x, 8)
    parts = [n.const(n.rng.random(8).astype(np.float32) + 0.5) for _ in range(4)]
    y = n.op("BatchNormalization", [y, *parts], 8)[0]
    y = n.op("Add", [n.const(n.rng.standard_normal((8, 1, 1)).astype(np.float32)), y], 8)[0]
    y = n.op("MaxPool", [y], 8, kernel_shape=[2, 2], strides=[2, 2])[0]
    return n.op(
        "Resize",
        [y, "", "", n.ints(1, 8, SIZE, SIZE)],
        8,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )[0]


BLOCKS: list[Callable[[Net, str], str]] = [
    residual,
    projected,
    depthwise,
    dense,
    split_half,
    sliced,
    gated,
    scaled,
]


def flat_head(n: Net, x: str) -> str:
    flat = n.op("Flatten", [x], n.channels[x] * SIZE * SIZE)[0]
    return n.op(
        "MatMul", [flat, n.const(n.rng.standard_normal((n.channels[flat], 5)).astype(np.float32))], 5
    )[0]


def run(model: ModelProto) -> np.ndarray:
    engine = open_model(model.SerializeToString(), SessionSettings())
    [out] = engine.run(
        {"x": np.random.default_rng(1).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)}
    ).values()
    engine.close()
    return out


def unread(model: ModelProto, coupling: Coupling, gone: set[int]) -> ModelProto:
    """The whole graph, every weight that reads one of these channels set to zero."""
    values = {}
    for r in coupling.readers:
        weight = np.moveaxis(r.weight.value.copy(), r.weight.input_axis, 0)
        weight[np.isin(r.channels, list(gone))] = 0
        values[r.weight.name] = np.moveaxis(weight, 0, r.weight.input_axis)
    return replace_weights(model, values)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=4), st.booleans(), st.integers(0, 2**20), st.data()
)
def test_removing_channels_is_not_reading_them(
    blocks: list[Callable[[Net, str], str]], flat: bool, seed: int, data: st.DataObject
) -> None:
    n = Net(seed)
    x = n.relu(n.conv("x", 8))
    for block in blocks:
        x = block(n, x)
    model = n.model(flat_head(n, x) if flat else n.conv(x, 5, 1))
    coupling = couple(model)
    assert coupling.groups
    gone: set[int] = set()
    for g in coupling.groups:
        gone |= set(g.channels[: data.draw(st.integers(0, len(g.channels) - 1))].tolist())
    pruned = remove(model, coupling, gone)
    onnx.checker.check_model(pruned, full_check=True)
    assert (macs(pruned) < macs(model)) == bool(gone)
    want = run(unread(model, coupling, gone))
    np.testing.assert_allclose(run(pruned), want, atol=1e-4 * max(1.0, float(np.abs(want).max())))


def test_what_a_residual_add_joins_is_one_group() -> None:
    n = Net(0)
    x = n.conv("x", 8)
    n.conv(residual(n, residual(n, x)), 5)
    model = n.model(n.nodes[-1].output[0])
    coupling = couple(model)
    shared = [g for g in coupling.groups if len(g.makers) > 1]
    assert [len(g.makers) for g in shared] == [3]
    assert len(coupling.groups) == 3
    assert list(coupling.reasons.values()) == ["its channels are an output of the graph"]


def shuffled(n: Net, x: str) -> str:
    y = n.op("Reshape", [x, n.ints(1, 2, 4, SIZE, SIZE)], 8)[0]
    return n.op("Reshape", [n.op("Transpose", [y], 8, perm=[0, 2, 1, 3, 4])[0], n.ints(1, 8, SIZE, SIZE)], 8)[
        0
    ]


@pytest.mark.parametrize(
    ("block", "says"),
    [
        (shuffled, "Reshape"),
        (lambda n, x: n.conv(x, 8, group=2), "grouped convolution"),
        (lambda n, x: n.op("Softmax", [x], 8, axis=1)[0], "Softmax"),
        (lambda n, x: n.op("DepthToSpace", [x], 2, blocksize=2)[0], "DepthToSpace"),
    ],
)
def test_what_cannot_be_followed_stays_whole_and_is_named(
    block: Callable[[Net, str], str], says: str
) -> None:
    n = Net(0)
    first = n.conv("x", 8)
    n.conv(block(n, first), 5, 1)
    coupling = couple(n.model(n.nodes[-1].output[0]))
    assert not coupling.groups
    assert says in coupling.reasons[n.nodes[0].name]


def test_a_picture_that_is_joined_with_channels_keeps_its_own() -> None:
    n = Net(0)
    x = n.op("Concat", ["x", n.conv("x", 8)], 11, axis=1)[0]
    n.conv(x, 5)
    model = n.model(n.nodes[-1].output[0])
    coupling = couple(model)
    [group] = coupling.groups
    assert len(group.channels) == 8
    pruned = remove(model, coupling, set(group.channels[:3].tolist()))
    np.testing.assert_allclose(
        run(pruned), run(unread(model, coupling, set(group.channels[:3].tolist()))), atol=1e-4
    )


def test_two_layers_with_one_weight_stay_whole() -> None:
    n = Net(0)
    first = n.conv("x", 8)
    shared = n.const(np.ones((8, 8, 1, 1), np.float32))
    a = n.op("Conv", [first, shared], 8)[0]
    n.conv(n.op("Conv", [a, shared], 8)[0], 5)
    coupling = couple(n.model(n.nodes[-1].output[0]))
    assert not coupling.groups
    assert "shares its weight" in coupling.reasons[n.nodes[0].name]
