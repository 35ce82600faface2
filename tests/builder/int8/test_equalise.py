"""Cross-layer equalisation: the function stays, the imbalance goes."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper, numpy_helper
from support.builder.nets import images

from edgectl.builder.graph import GraphIndex
from edgectl.builder.int8.basis import _peaks
from edgectl.builder.int8.equalise import Equalise, chains
from edgectl.builder.int8.sensitivity import outputs_of


def chain_net(seed: int, between: str, *, depthwise: bool, spread: float, branch: bool = False) -> ModelProto:
    """image → Conv → ``between`` → Conv (depthwise or not) → Relu → pool → Flatten → Gemm → out, channels
    up to ``spread`` apart."""
    rng = np.random.default_rng(seed)
    c = 8
    imbalance = np.geomspace(1, spread, c)
    w1 = rng.standard_normal((c, 3, 3, 3)) * 0.3 * imbalance[:, None, None, None]
    w2 = rng.standard_normal((c, 1, 3, 3) if depthwise else (c, c, 3, 3)) / imbalance.reshape(
        (c, 1, 1, 1) if depthwise else (1, c, 1, 1)
    )
    values = {
        "w1": w1,
        "b1": np.abs(rng.standard_normal(c)) * imbalance,
        "w2": w2,
        "b2": rng.standard_normal(c),
        "w3": rng.standard_normal((4, c)),
        "b3": rng.standard_normal(4),
    }
    nodes = [helper.make_node("Conv", ["image", "w1", "b1"], ["t"], name="one")]
    if between:
        attributes = (
            {"kernel_shape": [2, 2]}
            if between == "MaxPool"
            else {"alpha": 0.1}
            if between == "LeakyRelu"
            else {}
        )
        nodes.append(helper.make_node(between, ["t"], ["u"], name="between", **attributes))
    nodes += [
        helper.make_node(
            "Conv", ["u" if between else "t", "w2", "b2"], ["v"], name="two", group=c if depthwise else 1
        ),
        helper.make_node("Relu", ["v"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["out"], name="three", transB=1),
    ]
    outputs = [helper.make_tensor_value_info("out", 1, [1, 4])]
    if branch:
        nodes.append(helper.make_node("Neg", ["t"], ["also"], name="neg"))
        outputs.append(helper.make_tensor_value_info("also", 1, None))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", 1, [1, 3, 32, 32])],
        outputs,
        [numpy_helper.from_array(v.astype(np.float32), n) for n, v in values.items()],
    )
    return onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    )


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from(["", "Relu", "MaxPool", "LeakyRelu"]),
    st.booleans(),
    st.floats(1, 1000),
)
def test_the_function_is_preserved(seed: int, between: str, depthwise: bool, spread: float) -> None:
    model = chain_net(seed, between, depthwise=depthwise, spread=spread)
    samples = images(2, seed=seed)
    changed, _ = Equalise(_peaks(model, samples)).run(model)
    for a, b in zip(outputs_of(model, samples), outputs_of(changed, samples), strict=True):
        np.testing.assert_allclose(a["out"], b["out"], rtol=2e-3, atol=2e-3 * float(np.abs(a["out"]).max()))


def test_a_depthwise_reader_gets_channels_of_one_size() -> None:
    model = chain_net(0, "Relu", depthwise=True, spread=50)
    changed, modified = Equalise(_peaks(model, images(4))).run(model)
    assert modified
    before, after = _peaks(model, images(4))["t"], _peaks(changed, images(4))["t"]
    assert before.max() / before.min() > 10
    assert after.max() / after.min() < 1.01


@pytest.mark.parametrize(("between", "branch"), [("Sigmoid", False), ("Relu", True)])
def test_what_does_not_commute_or_is_read_elsewhere_is_left_alone(between: str, branch: bool) -> None:
    model = chain_net(0, between, depthwise=False, spread=10, branch=branch)
    assert "t" not in {c.tensor for c in chains(GraphIndex(model))}


def test_a_weight_that_is_an_output_of_the_graph_keeps_its_values() -> None:
    model = chain_net(0, "Relu", depthwise=True, spread=50)
    model.graph.output.append(helper.make_tensor_value_info("w1", 1, [8, 3, 3, 3]))
    changed, _ = Equalise(_peaks(model, images(4))).run(model)
    for a, b in zip(outputs_of(model, images(1)), outputs_of(changed, images(1)), strict=True):
        np.testing.assert_array_equal(a["w1"], b["w1"])
        np.testing.assert_allclose(a["out"], b["out"], rtol=2e-3, atol=2e-3 * float(np.abs(a["out"]).max()))
