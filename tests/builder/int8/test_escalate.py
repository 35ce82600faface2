"""Remedies on a trained classifier whose channels are 300 × apart, and the search for the fewest float
parts."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from support.builder.generated import mlp
from support.builder.imbalanced import imbalance, readout_net, top1
from support.builder.kernels import needs_dot_products
from support.builder.nets import images, residual_net
from support.builder.plain_tool import per_tensor

from edgectl.builder.ingest.samples import Sample
from edgectl.builder.int8 import basis as basis_module
from edgectl.builder.int8.basis import QuantizationBasis, prepare_basis
from edgectl.builder.int8.calibrate import calibrate
from edgectl.builder.int8.escalate import escalate, fewest_float_runs
from edgectl.builder.int8.families import FAMILIES
from edgectl.builder.int8.quantize import quantize
from edgectl.builder.int8.sensitivity import price
from edgectl.builder.judge.accuracy import Judge
from edgectl.builder.variants.exact_int8 import int8_is_exact
from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import EngineError
from edgectl.core.task import TaskSpec, TensorInput
from edgectl.engines.base import Engine, Feeds
from edgectl.engines.finalise.open import open_model


@pytest.mark.skipif(not int8_is_exact(), reason="this ONNX Runtime multiplies int8 wrongly on this processor")
def test_channels_300_times_apart_cost_a_plain_tool_6_points_and_our_remedies_a_fifth_of_one(
    tmp_path: Path,
) -> None:
    balanced, train, test, labels = readout_net()
    model = imbalance(balanced)
    reference = top1(model, test, labels)
    assert reference > 0.93
    assert top1(balanced, test, labels) == reference
    assert top1(per_tensor(model, train[:128], tmp_path), test, labels) < reference - 0.06

    family = FAMILIES["x86-vnni"]
    calibration = train[:128]
    table = calibrate(model, calibration, data_digest="sha256:" + "0" * 64)
    engine = open_model(model.SerializeToString(), SessionSettings())
    judge = Judge(
        TaskSpec(name="digits", input=TensorInput(), metric="top1"),
        [Sample(f) for f in train[128:628]],
        engine,
    )
    engine.close()
    basis = prepare_basis(model, table, family, calibration, judge, max_drop=0.01, tell=lambda what: None)
    graphs = escalate(basis, family, calibration, judge, max_drop=0.01, timed=False, tell=lambda what: None)
    assert basis.passes == ("equalise",)
    assert {r.precision for r in graphs.recipes["full"].layers} == {"int8"}
    assert top1(graphs.recipes["full"].model, test, labels) >= reference - 0.002


@needs_dot_products
def test_products_that_dominate_get_every_low_bit_form_as_a_candidate() -> None:
    model = mlp(2, width=64)
    rng = np.random.default_rng(0)
    feeds: list[Feeds] = [{"x": rng.standard_normal((2, 64)).astype(np.float32)} for _ in range(12)]
    family = FAMILIES["x86-vnni"]
    table = calibrate(model, feeds, data_digest="sha256:" + "0" * 64)
    engine = open_model(model.SerializeToString(), SessionSettings())
    judge = Judge(TaskSpec(name="mlp", input=TensorInput()), [Sample(f) for f in feeds], engine)
    engine.close()
    basis = prepare_basis(model, table, family, feeds, judge, max_drop=0.02, tell=lambda what: None)
    assert basis.easy
    graphs = escalate(
        basis,
        family,
        feeds,
        judge,
        max_drop=0.02,
        timed=False,
        tell=lambda what: None,
        also=[FAMILIES["openvino"]],
    )
    assert {"full", "openvino", "dynamic", "weights-8", "weights-4"} <= graphs.judged.keys()
    assert graphs.recipes["dynamic"].family.name == "dynamic"
    assert graphs.judged["weights-8"].drop < graphs.judged["weights-4"].drop


def test_a_graph_that_the_runtime_refuses_is_left_out_and_the_others_are_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = mlp(2, width=64)
    rng = np.random.default_rng(0)
    feeds: list[Feeds] = [{"x": rng.standard_normal((2, 64)).astype(np.float32)} for _ in range(12)]
    family = FAMILIES["x86-vnni"]
    table = calibrate(model, feeds, data_digest="sha256:" + "0" * 64)
    engine = open_model(model.SerializeToString(), SessionSettings())
    judge = Judge(TaskSpec(name="mlp", input=TensorInput()), [Sample(f) for f in feeds], engine)
    engine.close()

    def refuses_pairs(data: bytes, settings: SessionSettings) -> Engine:
        if b"DequantizeLinear" in data:
            raise EngineError("no kernel")
        return open_model(data, settings)

    monkeypatch.setattr(basis_module, "open_model", refuses_pairs)
    basis = QuantizationBasis(model, table, (), "minmax", easy=True)
    graphs = escalate(basis, family, feeds, judge, max_drop=0.02, timed=False, tell=lambda what: None)
    assert graphs.refused["full"] == "the x86-vnni graph (full) does not run in ONNX Runtime: no kernel"
    assert any(n.startswith("full is left out: ") for n in graphs.notes)
    assert "weights-8" in graphs.recipes
    assert "full" not in {*graphs.recipes, *graphs.judged}


def test_a_price_is_the_share_of_the_work_unless_the_clock_clearly_says_otherwise() -> None:
    for noise in (-0.03, -0.01, 0.0, 0.01, 0.03):
        assert price(0.1, 0.1 + noise) == 0.1
        assert price(0.01, 0.01 + noise) == 0.01
    assert price(0.1, 0.4) == pytest.approx(0.3)
    assert price(0.3, 0.05) == pytest.approx(0.1)


def test_fewest_climbs_in_small_steps_and_gives_back_what_was_not_needed() -> None:
    tried: list[tuple[int, ...]] = []

    def holds(kept: Collection[int]) -> bool:
        tried.append(tuple(kept))
        return {1, 4} <= set(kept)

    # the four largest of the first five were tried in int8 again
    assert fewest_float_runs(holds, 8, [1, 1, 5, 1, 1, 1, 1, 1]) == (1, 4)
    assert [len(t) for t in tried[:4]] == [1, 2, 3, 5]
    assert tried[4] == (0, 1, 3, 4)  # the largest part goes back first
    assert fewest_float_runs(lambda kept: False, 8, [1] * 8) is None
    assert fewest_float_runs(lambda kept: True, 0, []) is None


@given(st.lists(st.integers(1, 100), min_size=1, max_size=12), st.sets(st.integers(0, 11), max_size=4))
def test_what_fewest_returns_holds_and_of_its_largest_parts_every_one_is_needed(
    work: list[int], needed: set[int]
) -> None:
    tried = 0

    def holds(kept: Collection[int]) -> bool:
        nonlocal tried
        tried += 1
        return needed <= set(kept)

    found = fewest_float_runs(holds, len(work), work)
    assert (found is None) == (not needed <= set(range(len(work))))
    if found is not None:
        assert needed <= set(found)
        first = next(c for c in (1, 2, 3, 5, 8, 12) if needed <= set(range(c)) or c >= len(work))
        largest = sorted(range(min(first, len(work))), key=lambda i: -work[i])[:4]
        assert len(found) == 1 or set(found) & set(largest) <= needed
        assert tried <= 6 + 4


def test_plain_rounding_is_judged_where_the_refitted_graph_misses_the_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = residual_net(channels=32)
    samples = images(24)
    family = FAMILIES["x86-vnni"]
    table = calibrate(model, samples, data_digest="sha256:" + "0" * 64)
    engine = open_model(model.SerializeToString(), SessionSettings())
    judge = Judge(TaskSpec(name="t", input=TensorInput()), [Sample(f) for f in images(8, seed=9)], engine)
    engine.close()
    spoilt = quantize(model, table, family)
    for t in spoilt.model.graph.initializer:
        if t.name == "point_weight_q":
            t.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(t), t.name))
    monkeypatch.setattr("edgectl.builder.int8.escalate._reconstructed", lambda *_, **__: spoilt)
    graphs = escalate(
        QuantizationBasis(model, table, (), "minmax", easy=True),
        family,
        samples,
        judge,
        max_drop=0.01,
        timed=False,
        tell=lambda _: None,
    )
    assert graphs.judged["full"].drop > 0.01
    assert "full" not in graphs.recipes
    assert graphs.judged["full-plain"].drop <= 0.01
    assert "full-plain" in graphs.recipes
    # where labels decide afterwards it is a candidate all the same, and the remedy is tried as before
    guided = escalate(
        QuantizationBasis(model, table, (), "minmax", easy=True),
        family,
        samples,
        judge,
        max_drop=0.01,
        guide=1.0,
        timed=False,
        tell=lambda _: None,
    )
    assert {"full", "full-plain"} <= set(guided.recipes)
