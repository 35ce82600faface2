"""Fine-tuning of a quantized graph: codes change, scales and the graph do not, and the answer comes closer
to float."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper
from support.builder.compressible import chain_net, inputs, judge_of

from edgectl.builder.compress.magnitude import prune_two_of_four
from edgectl.builder.int8.basis import QuantizationBasis
from edgectl.builder.int8.calibrate import CalibrationTable, calibrate
from edgectl.builder.int8.escalate import escalate
from edgectl.builder.int8.families import FAMILIES
from edgectl.builder.int8.quantize import Quantized, quantize
from edgectl.builder.int8.sensitivity import outputs_of, sqnr_db

FAMILY = FAMILIES["x86-avx2"]


def tuned(model: ModelProto, q: Quantized, *, steps: int) -> Quantized:
    from edgectl.builder.compress.qat import fine_tune

    taught, lesson = fine_tune(q, model, inputs(32), weight_max=FAMILY.weight_max, seconds=0, steps=steps)
    assert lesson.steps == steps
    return taught


def table_of(model: ModelProto) -> CalibrationTable:
    return calibrate(model, inputs(16), data_digest="sha256:" + "0" * 64)


def coarse(model: ModelProto) -> Quantized:
    """Codes of the wrong size, as after a bad calibration: a tenth too large."""
    q = quantize(model, table_of(model), FAMILY)
    for t in q.model.graph.initializer:
        if t.name.endswith("_weight_q"):
            codes = np.clip(np.rint(numpy_helper.to_array(t) * 1.1), -FAMILY.weight_max, FAMILY.weight_max)
            t.CopyFrom(numpy_helper.from_array(codes.astype(np.int8), t.name))
    return q


@pytest.mark.torch
def test_codes_learn_and_nothing_else_changes() -> None:
    model = prune_two_of_four(chain_net(), None)[0]
    q = coarse(model)
    taught = tuned(model, q, steps=60)
    held = inputs(8, seed=77)
    reference = outputs_of(model, held)
    assert (
        sqnr_db(reference, outputs_of(taught.model, held)) > sqnr_db(reference, outputs_of(q.model, held)) + 2
    )
    assert list(taught.model.graph.node) == list(q.model.graph.node)
    before = {t.name: t for t in q.model.graph.initializer}
    changed = {t.name for t in taught.model.graph.initializer if t != before[t.name]}
    assert changed
    assert all(name.endswith(("_weight_q", "_bias_q")) for name in changed)
    zeros = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "w2")) == 0
    codes = numpy_helper.to_array(
        next(t for t in taught.model.graph.initializer if t.name == "second_weight_q")
    )
    assert (codes[zeros] == 0).all(), "what was pruned stays pruned"
    assert np.abs(codes).max() <= FAMILY.weight_max


@pytest.mark.parametrize(("better", "kept"), [(True, "full-tuned"), (False, "full")])
def test_a_fine_tuned_graph_is_kept_only_if_it_loses_less(
    monkeypatch: pytest.MonkeyPatch, better: bool, kept: str
) -> None:
    model = chain_net()
    table = table_of(model)
    good, bad = quantize(model, table, FAMILY), coarse(model)
    good, bad = (dataclasses.replace(q, model=_noisy(q.model, noise)) for q, noise in ((good, 8), (bad, 25)))
    start, trained = (bad, good) if better else (good, bad)
    monkeypatch.setattr("edgectl.builder.int8.escalate._reconstructed", lambda *_, **__: start)
    basis = QuantizationBasis(model, table, (), "minmax", easy=True)
    judge = judge_of(model, inputs(120, seed=5))
    graphs = escalate(
        basis,
        FAMILY,
        inputs(8),
        judge,
        max_drop=1.0,
        timed=False,
        tell=lambda _: None,
        tune=lambda _: trained,
    )
    assert graphs.judged["full"].drop > 0
    assert {"full", "full-tuned"} & set(graphs.recipes) == {kept}


def _noisy(model: ModelProto, noise: int) -> ModelProto:
    rng = np.random.default_rng(0)
    for t in model.graph.initializer:
        if t.name.endswith("_weight_q"):
            codes = numpy_helper.to_array(t)
            moved = codes + rng.integers(-noise, noise + 1, codes.shape)
            t.CopyFrom(numpy_helper.from_array(np.clip(moved, -63, 63).astype(np.int8), t.name))
    return model
