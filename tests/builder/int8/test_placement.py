"""Where pairs go at the ends of a graph: outputs stay float, whoever else reads them; what the rules say,
the writer does."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from support.builder.kernels import DOT_PRODUCTS, needs_dot_products
from support.builder.nets import images
from support.builder.older_runtime import OLDER_RUNTIME

from edgectl.builder.graph import GraphIndex, reads
from edgectl.builder.int8 import lint
from edgectl.builder.int8.calibrate import calibrate
from edgectl.builder.int8.families import FAMILIES, QDQ
from edgectl.builder.int8.quantize import quantize
from edgectl.builder.int8.reconstruct import reconstruct
from edgectl.builder.int8.sensitivity import outputs_of, sqnr_db

DATA = "sha256:" + "0" * 64


def net(nodes: list[NodeProto], outputs: list[str], **weights: tuple[int, ...]) -> ModelProto:
    """image [1, 3, 32, 32] → nodes → outputs; ``weights``: name → shape, filled with noise."""
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
        [
            numpy_helper.from_array((rng.standard_normal(s) * 0.3).astype(np.float32), n)
            for n, s in weights.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def written(model: ModelProto, family: str, **options: bool) -> ModelProto:
    table = calibrate(model, images(6), data_digest=DATA)
    quantized = quantize(model, table, FAMILIES[family], **options)
    lint.check(quantized.model, FAMILIES[family])
    onnx.checker.check_model(quantized.model)
    least = 15 if DOT_PRODUCTS else 8  # where sums of products saturate
    assert sqnr_db(outputs_of(model, images(2)), outputs_of(quantized.model, images(2))) > least
    return quantized.model


def made_by(model: ModelProto, tensor: str) -> str:
    return GraphIndex(model).producer[tensor].op_type


@pytest.mark.parametrize("family", QDQ)
@pytest.mark.parametrize("activation", ["Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSwish", "Tanh"])
def test_a_layer_and_its_activation_end_the_graph(family: str, activation: str) -> None:
    model = net(
        [
            helper.make_node("Conv", ["image", "w"], ["c"], name="conv"),
            helper.make_node(activation, ["c"], ["out"], name="act"),
        ],
        ["out"],
        w=(16, 3, 3, 3),
    )
    made = written(model, family)
    # there outputs are quantized, too, and handed over behind their scale
    if family != "trt-dla":
        assert made_by(made, "out") == activation


@pytest.mark.parametrize("family", QDQ)
@pytest.mark.parametrize("tensor", ["c1", "r1"])
def test_a_tensor_inside_a_fused_block_is_an_output_too(family: str, tensor: str) -> None:
    model = net(
        [
            helper.make_node("Conv", ["image", "w1"], ["c1"], name="one"),
            helper.make_node("Relu", ["c1"], ["r1"], name="relu"),
            helper.make_node("Conv", ["r1", "w2"], ["c2"], name="two"),
            helper.make_node("Relu", ["c2"], ["r2"], name="relu2"),
            helper.make_node("Conv", ["r2", "w2"], ["out"], name="three"),
        ],
        ["out", tensor],
        w1=(16, 3, 3, 3),
        w2=(16, 16, 3, 3),
    )
    made = written(model, family)
    index = GraphIndex(made)
    if family != "trt-dla":
        assert made_by(made, tensor) in ("Conv", "Relu")
    (two,) = (n for n in index.nodes if n.name == "two")
    # the layer inside reads codes all the same
    assert index.producer[two.input[0]].op_type == "DequantizeLinear"


@needs_dot_products
def test_an_input_that_is_an_output_keeps_its_values() -> None:
    model = net([helper.make_node("Conv", ["image", "w"], ["out"], name="conv")], ["out"], w=(16, 3, 3, 3))
    model.graph.output.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32]))
    for family in QDQ:
        made = written(model, family)
        np.testing.assert_array_equal(outputs_of(made, images(1))[0]["image"], images(1)[0]["image"])


@pytest.mark.parametrize("channels", [8, 16])
@pytest.mark.parametrize("family", ["trt-gpu", "trt-dla"])
def test_the_writer_and_the_rule_count_the_channels_of_transposed_convolutions_alike(
    family: str, channels: int
) -> None:
    model = net(
        [
            helper.make_node("Conv", ["image", "w1"], ["c1"], name="conv", pads=[1] * 4),
            helper.make_node("Relu", ["c1"], ["r1"], name="relu"),
            helper.make_node("ConvTranspose", ["r1", "w2"], ["t"], name="up", strides=[2, 2]),
            helper.make_node("Relu", ["t"], ["r2"], name="relu2"),
            helper.make_node("Conv", ["r2", "w3"], ["out"], name="head"),
        ],
        ["out"],
        w1=(32, 3, 3, 3),
        w2=(32, channels, 2, 2),
        w3=(4, channels, 1, 1),
    )
    made = written(model, family)
    index = GraphIndex(made)
    (up,) = (n for n in index.nodes if n.op_type == "ConvTranspose")
    assert (up.input[1] in index.initializers) == (family == "trt-gpu" and channels < 16)


def test_a_layer_that_a_subgraph_reads_keeps_its_float_result_and_is_reconstructed() -> None:
    branches = [
        helper.make_graph(
            [helper.make_node(op, ["c"], [op])],
            op,
            [],
            [helper.make_tensor_value_info(op, TensorProto.FLOAT, None)],
        )
        for op in ("Neg", "Abs")
    ]
    model = net(
        [
            helper.make_node("Conv", ["image", "w1"], ["c"], name="one"),
            helper.make_node("Relu", ["c"], ["r"], name="relu"),
            helper.make_node("ReduceMax", ["image"], ["most"], name="most", keepdims=0),
            helper.make_node("Cast", ["most"], ["bright"], name="cast", to=TensorProto.BOOL),
            helper.make_node(
                "If", ["bright"], ["i"], name="if", then_branch=branches[0], else_branch=branches[1]
            ),
            helper.make_node("Conv", ["i", "w2"], ["out"], name="two"),
        ],
        ["out", "r"],
        w1=(16, 3, 3, 3),
        w2=(16, 16, 1, 1),
    )
    table = calibrate(model, images(6), data_digest=DATA)
    for family in ("x86-vnni", "trt-gpu"):
        plain = quantize(model, table, FAMILIES[family])
        lint.check(plain.model, FAMILIES[family])
        rebuilt = reconstruct(plain, model, FAMILIES[family], images(4), rows=512)
        assert sqnr_db(outputs_of(model, images(2)), outputs_of(rebuilt.model, images(2))) > 15
    assert "c" in reads(model.graph.node[4])


def test_layers_that_share_a_float_bias_are_reconstructed_each_with_its_own() -> None:
    model = net(
        [
            helper.make_node("Conv", ["image", "w0"], ["x"], name="zero"),
            helper.make_node("Conv", ["x", "w1", "b"], ["a"], name="one"),
            helper.make_node("Conv", ["x", "w2", "b"], ["c"], name="two"),
            helper.make_node("Add", ["a", "c"], ["s"], name="sum"),
            helper.make_node("Conv", ["s", "w1"], ["out"], name="head"),
        ],
        ["out"],
        w0=(16, 3, 3, 3),
        w1=(16, 16, 1, 1),
        w2=(16, 16, 1, 1),
        b=(16,),
    )
    table = calibrate(model, images(6), data_digest=DATA)
    rebuilt = reconstruct(
        quantize(model, table, FAMILIES["trt-gpu"]), model, FAMILIES["trt-gpu"], images(4), rows=512
    )
    biases = [n.input[2] for n in rebuilt.model.graph.node if n.name in ("one", "two")]
    assert len(set(biases)) == 2


def test_a_layer_whose_bias_is_computed_stays_float_and_its_bias_too() -> None:
    model = net(
        [
            helper.make_node("GlobalAveragePool", ["image"], ["p"], name="pool"),
            helper.make_node("Flatten", ["p"], ["f"], name="flat"),
            helper.make_node("MatMul", ["f", "wf"], ["m"], name="product"),
            helper.make_node("Flatten", ["m"], ["v"], name="vector", axis=0),
            helper.make_node("Squeeze", ["v"], ["b"], name="bias"),
            helper.make_node("Conv", ["image", "w1", "b"], ["c"], name="one"),
            helper.make_node("Relu", ["c"], ["r"], name="relu"),
            helper.make_node("Conv", ["r", "w2", "b"], ["out"], name="two"),
        ],
        ["out"],
        wf=(3, 16),
        w1=(16, 3, 3, 3),
        w2=(16, 16, 1, 1),
    )
    table = calibrate(model, images(6), data_digest=DATA)
    for family in QDQ:
        quantized = quantize(model, table, FAMILIES[family])
        lint.check(quantized.model, FAMILIES[family])
        assert {n: quantized.placement.reasons[n] for n in ("one", "two")} == dict.fromkeys(
            ("one", "two"), "its bias is computed"
        )
        rebuilt = reconstruct(quantized, model, FAMILIES[family], images(4), rows=256)
        assert sqnr_db(outputs_of(model, images(2)), outputs_of(rebuilt.model, images(2))) > 15


@pytest.mark.skipif(
    OLDER_RUNTIME,
    reason="the last ONNX Runtime for Python 3.10 refuses a convolution without output channels",
)
def test_outputs_and_weights_without_values_are_no_fault() -> None:
    model = net(
        [
            helper.make_node("Conv", ["image", "w1"], ["c"], name="conv"),
            helper.make_node("Conv", ["image", "w0"], ["nothing"], name="none"),
            helper.make_node("Relu", ["c"], ["r"], name="relu"),
            helper.make_node("Conv", ["r", "w2"], ["out"], name="head"),
        ],
        ["out", "nothing"],
        w1=(16, 3, 3, 3),
        w0=(0, 3, 3, 3),
        w2=(16, 16, 1, 1),
    )
    for family in QDQ:
        written(model, family)
