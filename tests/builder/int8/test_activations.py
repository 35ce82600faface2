"""SiLU made HardSwish where that pays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from support.builder.models import quantized_model

from edgectl.builder.graph import GraphIndex
from edgectl.builder.ingest.samples import Sample
from edgectl.builder.int8.activations import (
    calibrated_again,
    largest,
    silus,
    told_hard_swish,
    with_hard_swish,
)
from edgectl.builder.int8.basis import QuantizationBasis
from edgectl.builder.int8.calibrate import calibrate
from edgectl.builder.int8.escalate import FamilyGraphs, escalate
from edgectl.builder.int8.families import FAMILIES
from edgectl.builder.int8.model import _basis_key
from edgectl.builder.int8.quantize import quantize
from edgectl.builder.int8.sensitivity import outputs_of, sqnr_db
from edgectl.builder.judge.accuracy import Accuracy, Judge
from edgectl.builder.variants.draft import recipe_of
from edgectl.core.bundle import SessionSettings
from edgectl.core.task import TaskSpec, TensorInput
from edgectl.engines.base import Feeds
from edgectl.engines.finalise.open import open_model

DIGEST = "sha256:" + "0" * 64


def _net(blocks: int = 3, *, reversed_operands: bool = False) -> ModelProto:
    """Blocks of a depthwise and a pointwise convolution with a SiLU each, and a head; the first block is of larger
    pictures."""
    rng = np.random.default_rng(0)
    nodes, stored, last = [], {}, "x"
    for i in range(blocks):
        layers = (
            ("point", 3 if i == 0 else 16, 1, 16, 1, 2 if i < 2 else 1),
            ("deep", 1, 16, 16, 3, 1),
        )
        for kind, inputs, group, outputs, size, stride in layers:
            name = f"{kind}{i}"
            fan = inputs * size * size
            stored[f"{name}_w"] = rng.standard_normal((outputs, inputs, size, size)) * 1.6 / np.sqrt(fan)
            stored[f"{name}_b"] = rng.standard_normal(outputs) * 0.3
            pads = [size // 2] * 4
            conv = helper.make_node(
                "Conv",
                [last, f"{name}_w", f"{name}_b"],
                [f"{name}_c"],
                name=name,
                pads=pads,
                group=group,
                strides=[stride] * 2,
            )
            operands = [f"{name}_c", f"{name}_s"]
            nodes += [
                conv,
                helper.make_node("Sigmoid", [f"{name}_c"], [f"{name}_s"], name=f"{name}_sigmoid"),
                helper.make_node(
                    "Mul",
                    operands[::-1] if reversed_operands else operands,
                    [f"{name}_y"],
                    name=f"{name}_mul",
                ),
            ]
            last = f"{name}_y"
    stored |= {"head_w": rng.standard_normal((6, 16, 1, 1)) * 0.4, "head_b": rng.standard_normal(6)}
    nodes.append(helper.make_node("Conv", [last, "head_w", "head_b"], ["y"], name="head"))
    graph = helper.make_graph(
        nodes,
        "silu",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v.astype(np.float32), n) for n, v in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def _pictures(count: int, seed: int = 0) -> list[Feeds]:
    rng = np.random.default_rng(seed)
    coarse = rng.random((count, 1, 3, 8, 8))
    return [{"x": np.kron(c, np.ones((1, 1, 4, 4))).astype(np.float32)} for c in coarse]


def _basis(model: ModelProto, samples: list[Feeds]) -> QuantizationBasis:
    return QuantizationBasis(model, calibrate(model, samples, data_digest=DIGEST), (), "minmax")


@pytest.mark.parametrize("reversed_operands", [False, True])
def test_every_silu_is_found_whichever_operand_the_gate_is(reversed_operands: bool) -> None:
    index = GraphIndex(_net(reversed_operands=reversed_operands))
    found = silus(index)
    assert [(s.sigmoid, s.multiply) for s in found] == [
        (f"{kind}{i}_sigmoid", f"{kind}{i}_mul") for i in range(3) for kind in ("point", "deep")
    ]
    assert [s.elements for s in found] == [16 * 16 * 16] * 2 + [16 * 8 * 8] * 4


def test_a_gate_that_something_else_reads_and_what_the_user_keeps_are_none() -> None:
    model = _net()
    model.graph.output.append(helper.make_tensor_value_info("deep1_s", TensorProto.FLOAT, None))
    names = [s.multiply for s in silus(GraphIndex(model), kept={"point2_sigmoid", "deep2_mul"})]
    assert names == ["point0_mul", "deep0_mul", "point1_mul"]


def test_a_product_with_another_tensors_sigmoid_is_none() -> None:
    model = _net()
    squeeze = next(n for n in model.graph.node if n.name == "deep1_sigmoid")
    squeeze.input[0] = "point1_c"
    assert "deep1_mul" not in [s.multiply for s in silus(GraphIndex(model))]


def test_the_largest_come_first() -> None:
    found = silus(GraphIndex(_net()))
    assert [s.multiply for s in largest(found, 0.5)] == ["point0_mul", "deep0_mul"]
    assert len(largest(found, 1.0)) == 6
    assert largest([], 0.5) == []


def test_refitted_layers_win_back_most_of_what_the_other_function_costs() -> None:
    model, samples = _net(), _pictures(24)
    basis = _basis(model, samples)
    found = silus(GraphIndex(model))
    cheaper = with_hard_swish(basis, found, found, samples)
    assert [n.op_type for n in cheaper.model.graph.node].count("HardSwish") == 6
    assert not [n for n in cheaper.model.graph.node if n.op_type in ("Sigmoid", "Mul")]
    assert cheaper.passes == ("hard-swish:6/6",)
    assert told_hard_swish(cheaper).startswith("6 of 6 SiLU activations are HardSwish")
    others = _pictures(8, seed=5)
    want = outputs_of(model, others)
    plain = ModelProto()
    plain.CopyFrom(cheaper.model)
    stored = {t.name: t for t in model.graph.initializer}
    for t in plain.graph.initializer:
        t.CopyFrom(stored[t.name])
    without, refitted = (sqnr_db(want, outputs_of(m, others)) for m in (plain, cheaper.model))
    assert refitted > without + 6


def test_openvino_gets_graphs_with_depthwise_layers_in_float_and_with_cheaper_activations() -> None:
    model, samples = _net(), _pictures(24)
    basis = _basis(model, samples)
    engine = open_model(model.SerializeToString(), SessionSettings())
    task = TaskSpec(name="silu", input=TensorInput())
    judge = Judge(task, [Sample(f) for f in _pictures(8, seed=9)], engine)
    engine.close()
    family = FAMILIES["x86-vnni"]
    told: list[str] = []
    graphs = escalate(
        basis,
        family,
        samples,
        judge,
        max_drop=0.05,
        timed=False,
        tell=told.append,
        also=[FAMILIES["openvino"]],
    )
    assert {"openvino-no-depthwise", "openvino-hard-swish-1", "openvino-hard-swish-0.75"} <= set(
        graphs.recipes
    )
    cheaper = graphs.recipes["openvino-hard-swish-1"]
    assert cheaper.family.name == "openvino"
    assert {"deep0", "deep1", "deep2"} <= cheaper.placement.reasons.keys()
    assert "point1" in cheaper.placement.nodes
    assert graphs.bases["openvino-hard-swish-1"].passes == ("hard-swish:6/6",)
    # a smaller share is for where the first does not hold
    assert "openvino-hard-swish-0.5" not in graphs.judged
    assert any(n.startswith("openvino-hard-swish-1: 6 of 6 SiLU") for n in graphs.notes)
    alone = escalate(basis, family, samples, judge, max_drop=0.05, timed=False, tell=told.append)
    assert not [n for n in alone.judged if n.startswith("openvino")]


def test_a_share_whose_float_graph_is_over_the_budget_is_not_written() -> None:
    model, samples = _net(), _pictures(24)
    engine = open_model(model.SerializeToString(), SessionSettings())
    judge = Judge(
        TaskSpec(name="silu", input=TensorInput()), [Sample(f) for f in _pictures(8, seed=9)], engine
    )
    engine.close()
    graphs = escalate(
        _basis(model, samples),
        FAMILIES["x86-vnni"],
        samples,
        judge,
        max_drop=1e-7,
        timed=False,
        tell=lambda _: None,
        also=[FAMILIES["openvino"]],
    )
    assert not [n for n in graphs.judged if "hard-swish" in n]
    assert not graphs.bases


def test_where_three_quarters_do_not_hold_other_ranges_and_then_a_half_are_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def judged(model: ModelProto, judge: Judge, limit: float, what: str) -> Accuracy:
        return Accuracy(0.5 if "(openvino-hard-swish-0.75" in what else 0.0, {})

    monkeypatch.setattr("edgectl.builder.int8.escalate.judge_graph", judged)
    model, samples = _net(blocks=2), _pictures(8)
    engine = open_model(model.SerializeToString(), SessionSettings())
    judge = Judge(TaskSpec(name="silu", input=TensorInput()), [Sample(f) for f in samples], engine)
    engine.close()
    graphs = escalate(
        replace(_basis(model, samples), ranges="mse"),
        FAMILIES["x86-vnni"],
        samples,
        judge,
        max_drop=0.01,
        timed=False,
        tell=lambda _: None,
        also=[FAMILIES["openvino"]],
    )
    tried = [n.removeprefix("openvino-hard-swish-") for n in graphs.judged if "hard-swish" in n]
    assert tried == ["0.75", "0.75-minmax", "0.5"]
    assert {n: b.ranges for n, b in graphs.bases.items()} == {"openvino-hard-swish-0.5": "mse"}
    assert "openvino-hard-swish-0.5" in graphs.recipes


def test_the_recipe_of_a_graph_tells_its_own_passes_and_calibration() -> None:
    model, samples = _net(blocks=1), _pictures(8)
    basis = _basis(model, samples)
    found = silus(GraphIndex(model))
    cheaper = calibrated_again(with_hard_swish(basis, found, found[:1], samples), samples)
    families = {"x86-vnni": FamilyGraphs({}, {}, (), bases={"cheap": cheaper})}
    made = replace(
        quantized_model(model, table=basis.table, families=families),
        bases={_basis_key(FAMILIES["x86-vnni"]): basis},
    )
    q = quantize(cheaper.model, cheaper.table, FAMILIES["openvino"])
    own, other = (recipe_of(made, "x86-vnni", name, q) for name in ("cheap", "full"))
    assert "hard-swish:1/2" in own.passes
    assert not [p for p in other.passes if p.startswith("hard-swish")]
    assert own.calibration == cheaper.table.digest != other.calibration
