"""A model that came quantized is called what it is, keeps its codes, and goes to TensorRT only in the form
that TensorRT takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from support.builder.nets import Save, residual_net
from support.builder.older_runtime import OLDER_RUNTIME

from edgectl.builder.build import build_bundle
from edgectl.builder.compress.options import CompressOptions
from edgectl.builder.ingest.canonical import prepare
from edgectl.builder.ingest.source_precision import source_precision
from edgectl.builder.variants.tensorrt import unfit_for_tensorrt
from edgectl.core.bundle import LAYER_ENGINE, Bundle
from edgectl.core.errors import UsageError
from edgectl.core.task import TaskSpec, TensorInput

TENSOR = TaskSpec(name="tensor", input=TensorInput())


def quantized_net(
    activations: type[np.generic] = np.uint8, zero: int = 128, *, pairs: bool = True
) -> ModelProto:
    """image → Q/DQ → Conv with int8 weights → Relu → Q/DQ → out; without ``pairs`` only the weights are
    codes."""
    rng = np.random.default_rng(0)
    weights = {
        "codes": rng.integers(-127, 127, (16, 3, 3, 3)).astype(np.int8),
        "scales": np.full(16, 0.002, np.float32),
        "zeros": np.zeros(16, np.int8),
        "scale": np.asarray(0.02, np.float32),
        "zero": np.asarray(zero, activations),
    }

    def pair(x: str) -> list[NodeProto]:
        return [
            helper.make_node("QuantizeLinear", [x, "scale", "zero"], [f"{x}_q"], name=f"{x}_quantize"),
            helper.make_node(
                "DequantizeLinear", [f"{x}_q", "scale", "zero"], [f"{x}_d"], name=f"{x}_dequantize"
            ),
        ]

    nodes = [
        *(pair("image") if pairs else []),
        helper.make_node("DequantizeLinear", ["codes", "scales", "zeros"], ["w"], name="weight", axis=0),
        helper.make_node("Conv", ["image_d" if pairs else "image", "w"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        *(pair("r") if pairs else []),
    ]
    graph = helper.make_graph(
        nodes,
        "quantized",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("r_d" if pairs else "r", TensorProto.FLOAT, [1, 16, 30, 30])],
        [numpy_helper.from_array(v, n) for n, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def integer_net() -> ModelProto:
    """image → dynamic quantization → ConvInteger → Cast → out."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["image"], ["q", "s", "z"], name="dynamic"),
        helper.make_node("ConvInteger", ["q", "w", "z"], ["i"], name="conv"),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "integer",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 4, 32, 32])],
        [
            numpy_helper.from_array(
                np.random.default_rng(0).integers(-9, 9, (4, 3, 1, 1)).astype(np.int8), "w"
            )
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_the_operators_tell_the_precision() -> None:
    assert source_precision(residual_net()) == "float32"
    assert source_precision(quantized_net()) == "int8"
    assert source_precision(integer_net()) == "int8"


def test_codes_stay_codes_where_the_activations_are_codes_and_become_float_where_they_are_not(
    save: Save,
) -> None:
    kept, _, _ = prepare(save(quantized_net()), TENSOR)
    assert {t.data_type for t in kept.graph.initializer if len(t.dims) == 4} == {TensorProto.INT8}
    folded, _, _ = prepare(save(quantized_net(pairs=False)), TENSOR)
    assert [n.op_type for n in folded.graph.node] == ["Conv", "Relu"]
    assert source_precision(folded) == "float32"


def test_tensorrt_takes_pairs_of_int8_with_zero_point_nought() -> None:
    assert unfit_for_tensorrt(quantized_net(np.int8, 0)) == ""
    assert "uint8 with zero point 128 (node image_quantize)" in unfit_for_tensorrt(quantized_net())
    assert "int8 with zero point 3" in unfit_for_tensorrt(quantized_net(np.int8, 3))
    assert unfit_for_tensorrt(integer_net()) == "DynamicQuantizeLinear (node dynamic)"


@pytest.mark.parametrize(
    ("model", "tensorrt"),
    [(quantized_net(np.int8, 0), True), (quantized_net(), False), (integer_net(), False)],
)
def test_it_ships_as_int8_and_says_so(
    save: Save, npz: Path, tmp_path: Path, model: ModelProto, tensorrt: bool
) -> None:
    if OLDER_RUNTIME and any(n.op_type == "ConvInteger" for n in model.graph.node):
        pytest.skip("the last ONNX Runtime for Python 3.10 has no ConvInteger of these types")
    report = build_bundle(
        save(model),
        profiles=["cpu", "jetson-orin"],
        task=TENSOR,
        calibration=str(npz),
        out=tmp_path / "out",
        minutes=0.02,
    )
    assert {v.precision for v in report.variants} == {"int8"}
    assert {v.ratio_to_float for v in report.variants} == {None}
    names = {(v.profile, v.variant) for v in report.variants}
    assert {("cpu", "cpu-int8"), ("jetson-orin", "cpu-int8")} <= names
    assert (("jetson-orin", "tensorrt-int8") in names) == tensorrt
    assert any("the model came quantized" in note for note in report.notes)
    assert any("no TensorRT variant" in note for note in report.notes) != tensorrt
    for variant in Bundle(tmp_path / "out").variants:
        assert variant.config.recipe.family == "as-received"
        assert variant.config.recipe.precision == "int8"
        assert not variant.config.speed_only
        engine = onnx.load_from_string(variant.need(LAYER_ENGINE).read_bytes())
        assert any(t.data_type == TensorProto.INT8 and len(t.dims) == 4 for t in engine.graph.initializer)
        assert "float32" not in json.dumps([variant.config.variant, variant.config.recipe.model_dump()])


@pytest.mark.parametrize(
    "options", [CompressOptions(channel=0.3), CompressOptions(magnitude=0.5), CompressOptions(cluster=16)]
)
@pytest.mark.parametrize("kind", ["quantized", "no weights"])
def test_what_has_no_float_weights_is_not_compressed_and_says_so(
    save: Save, tmp_path: Path, options: CompressOptions, kind: str
) -> None:
    model = quantized_net()
    if kind == "no weights":
        del model.graph.node[:], model.graph.initializer[:], model.graph.output[:]
        model.graph.node.append(helper.make_node("Relu", ["image"], ["out"]))
        model.graph.output.append(helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 3, 32, 32]))
    with pytest.raises(
        UsageError, match="came quantized" if kind == "quantized" else "nothing to prune"
    ) as e:
        build_bundle(
            save(model),
            profiles=["cpu"],
            task=TENSOR,
            calibration=None,
            random_calibration=True,
            out=tmp_path / "out",
            minutes=0.05,
            compression=options,
        )
    assert "--prune" in (e.value.hint or "")
