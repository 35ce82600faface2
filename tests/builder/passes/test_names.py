"""Names that the builder would make itself, odd ones and long ones: inputs and outputs keep theirs,
whatever is inside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from support.builder.every_family import through_every_family
from support.builder.nets import Save

from edgectl.builder.build import build_bundle
from edgectl.builder.ingest.canonical import canonical
from edgectl.core.bundle import LAYER_ENGINE, Bundle
from edgectl.core.task import TaskSpec, TensorInput
from edgectl.engines.finalise.golden import check_golden
from edgectl.engines.finalise.open import open_engine

TENSOR = TaskSpec(name="tensor", input=TensorInput())


def net(tensors: tuple[str, ...], nodes: tuple[str, str, str] = ("one", "relu", "two")) -> ModelProto:
    """x → Conv (w1) → c → Relu → r → Conv (w2) → y, by these names."""
    x, w1, c, r, w2, y = tensors
    rng = np.random.default_rng(0)
    weights = {w1: (16, 3, 3, 3), w2: (16, 16, 3, 3)}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", [x, w1], [c], name=nodes[0]),
            helper.make_node("Relu", [c], [r], name=nodes[1]),
            helper.make_node("Conv", [r, w2], [y], name=nodes[2]),
        ],
        "net",
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, 3, 12, 12])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, [1, 16, 8, 8])],
        [
            numpy_helper.from_array((rng.standard_normal(s) * 0.3).astype(np.float32), n)
            for n, s in weights.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


CLASHING = {
    "a tensor like a pair's": net(("x", "x_q", "x_scale", "x_dq", "x_zero", "x_value")),
    "an output like an inner scale": net(("x", "w", "c", "r", "v", "r_scale")),
    "an output like the input's pair": net(("x", "w", "c", "r", "v", "x_dq")),
    "an input like the output's cast": net(("y_inner", "w", "y_inner_", "y_Cast", "y_value", "y")),
    "weights like a node's": net(
        ("x", "one_weight_q", "one_weight_dq", "two_weight_scale", "two_weight_q", "y")
    ),
    "nodes like a pair's": net(
        ("x", "w", "c", "r", "v", "y"), ("x_QuantizeLinear", "r_DequantizeLinear", "x_float16_Cast")
    ),
    "tensors like float16 ones": net(
        ("x", "x_float16", "w1_float16", "c_float16", "x_float16_Cast", "x_float")
    ),
    "odd": net(("图像/输入:0", "w 1", "c\n2", "r\t;", 'w"2"', "выход/0"), ("né/1", "n 2", "n\n3")),
    "like paths": net(("../../x", "/etc/w", "..", "r/../r", "w2", "in/0/x")),
    "like files": net(("x.npy", "w", "c", "r", "v", "file")),
    "long": net(tuple(c * 300 for c in "xwcrvy"), ("n" * 300, "m" * 300, "o" * 300)),
    "of nodes like tensors": net(("x", "w", "c", "r", "v", "y"), ("x", "y", "c")),
    "of nodes that are empty": net(("x", "w", "c", "r", "v", "y"), ("", "", "")),
}


@pytest.mark.parametrize("model", CLASHING.values(), ids=CLASHING.keys())
def test_names_of_any_kind_go_through_every_family(model: ModelProto) -> None:
    name = model.graph.input[0].name
    rng = np.random.default_rng(1)
    through_every_family(
        model, [{name: rng.standard_normal((1, 3, 12, 12)).astype(np.float32)} for _ in range(8)]
    )


def test_names_that_clash_with_nothing_are_kept() -> None:
    model = net(
        ("x", "conv.weight", "features/conv", "features/relu_1", "head.weight", "y"),
        ("conv", "relu_1", "head_Conv"),
    )
    graph, _, _ = canonical(model, TENSOR)
    assert [n.name for n in graph.graph.node] == ["conv", "relu_1", "head_Conv"]
    assert {t.name for t in graph.graph.initializer} == {"conv.weight", "head.weight"}


def test_only_inner_names_change_and_nothing_is_added() -> None:
    for kind in ("long", "an output like an inner scale", "of nodes like tensors"):
        graph, _, _ = canonical(CLASHING[kind], TENSOR)
        assert [n.op_type for n in graph.graph.node] == ["Conv", "Relu", "Conv"]
        assert all(len(n) <= 64 for node in graph.graph.node for n in (node.name, *node.input[1:]))


@pytest.mark.parametrize("kind", ["odd", "like paths", "like files"])
def test_a_bundle_carries_odd_names_of_inputs_and_outputs(save: Save, tmp_path: Path, kind: str) -> None:
    model = CLASHING[kind]
    ends = [model.graph.input[0].name, model.graph.output[0].name]
    np.savez(
        tmp_path / "d.npz",
        **{ends[0]: np.random.default_rng(0).standard_normal((16, 3, 12, 12)).astype(np.float32)},
    )
    build_bundle(
        save(model),
        profiles=["cpu-arm64"],
        task=TENSOR,
        calibration=str(tmp_path / "d.npz"),
        out=tmp_path / "out",
        minutes=0.02,
        name="odd",
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.npz", "model.onnx", "out"]
    for variant in Bundle(tmp_path / "out").variants:
        engine = onnx.load_from_string(variant.need(LAYER_ENGINE).read_bytes())
        assert [engine.graph.input[0].name, engine.graph.output[0].name] == ends
        check_golden(open_engine(variant), variant)
