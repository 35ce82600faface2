"""Weights that are float16 in the file: half the bytes, and to the bit what float32 weights of the same values compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper
from support.builder.generated import mlp
from support.builder.models import quantized_model, trial_of
from support.builder.nets import images, residual_net

from edgectl.builder.ingest.samples import Sample
from edgectl.builder.variants.draft import VariantDraft
from edgectl.builder.variants.float16_weights import float16_weights, with_float16_weights
from edgectl.core.bundle import Recipe, Runtime, SessionSettings
from edgectl.engines.base import Feeds, Outputs
from edgectl.engines.finalise import guarded
from edgectl.engines.finalise.open import open_model


def _scaled(model: ModelProto, **factors: float) -> ModelProto:
    for t in model.graph.initializer:
        if t.name in factors:
            t.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(t) * np.float32(factors[t.name]), t.name)
            )
    return model


def _rounded(model: ModelProto) -> bytes:
    """Every weight that is to be float16, as the float32 of that value."""
    for t in model.graph.initializer:
        value = numpy_helper.to_array(t)
        if value.size >= 64:
            t.CopyFrom(numpy_helper.from_array(value.astype(np.float16).astype(np.float32), t.name))
    return model.SerializeToString()


def _run(model: bytes, runtime: Runtime, feeds: Feeds) -> Outputs:
    engine = open_model(model, SessionSettings(precision_hint="f32"), runtime=runtime)
    outputs = engine.run(feeds)
    engine.close()
    return outputs


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_it_is_half_as_large_and_computes_what_those_values_do(runtime: Runtime) -> None:
    for model, feeds in (
        (residual_net(channels=64), images(1)[0]),
        (mlp(1), {"x": np.random.default_rng(0).standard_normal((1, 48)).astype(np.float32)}),
    ):
        data = model.SerializeToString()
        small = float16_weights(data)
        assert len(small) < 0.65 * len(data)
        onnx.checker.check_model(onnx.load_from_string(small))
        expected, plain = _run(_rounded(model), runtime, feeds), _run(data, runtime, feeds)
        for name, got in _run(small, runtime, feeds).items():
            assert np.array_equal(got, expected[name])
            assert not np.array_equal(got, plain[name])


@pytest.mark.parametrize("factor", [1e9, 1e-9, float("nan")])
def test_what_float16_does_not_hold_stays_float32(factor: float) -> None:
    kinds = {
        t.name: t.data_type
        for t in onnx.load_from_string(
            float16_weights(_scaled(residual_net(channels=64), w2=factor).SerializeToString())
        ).graph.initializer
    }
    assert kinds["w2"] == onnx.TensorProto.FLOAT
    assert kinds["w3_float16"] == onnx.TensorProto.FLOAT16
    assert kinds["b4"] == onnx.TensorProto.FLOAT  # eight values


def _draft(model: bytes, precision: str = "float32") -> VariantDraft:
    return VariantDraft(
        profile="cpu",
        variant=f"cpu-{precision}",
        runtime="onnxruntime",
        requires=(),
        model=model,
        recipe=Recipe(family="float"),
        precision=precision,  # type: ignore[arg-type]
        session=SessionSettings(),
        fallback=True,
    )


def test_only_float_engines_that_lose_next_to_nothing_get_them_and_the_build_says_what_that_brings() -> None:
    net = residual_net(channels=64)
    model = quantized_model(net, samples=[Sample(f) for f in images(6)])
    trial = trial_of(model)
    data = model.source.onnx_bytes
    (small, other) = with_float16_weights([_draft(data), _draft(data, "int8")], model, trial)
    assert other.model == data
    assert small.model == float16_weights(data)
    assert (small.recipe.passes, small.recipe.weights) == (("float16-weights",), "float16")
    assert small.accuracy is not None
    assert 0 <= small.accuracy.drop < 1e-4
    (note,) = trial.monitor.notes
    assert note.startswith(
        f"cpu/cpu-float32 has float16 weights: {len(small.model):,} bytes instead of {len(data):,}"
    )


def test_where_the_engine_would_lose_too_much_it_stays_as_it_is() -> None:
    # another model's weights stand for a rounding that costs too much
    net = residual_net(channels=64)
    model = quantized_model(net, samples=[Sample(f) for f in images(6)])
    trial = trial_of(model)
    other = residual_net(channels=64, seed=1).SerializeToString()
    (kept,) = with_float16_weights([_draft(other)], model, trial)
    assert kept.model == other
    assert "keeps float32 weights: rounded to float16 they lose" in trial.monitor.notes[0]


def test_where_the_runtime_dies_of_the_graph_the_engine_stays_as_it_is_and_the_build_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = residual_net(channels=64)
    model = quantized_model(net, samples=[Sample(f) for f in images(6)])
    trial = trial_of(model)
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setattr(guarded, "_MODULE", "support.dying_runtime")
    monkeypatch.setattr(guarded, "_GUARDED", ("onnxruntime",))
    good, net.doc_string = net.SerializeToString(), "it dies of this one"
    deadly = net.SerializeToString()
    kept, small = with_float16_weights([_draft(deadly), _draft(good)], model, trial)
    assert (kept.model, kept.recipe.weights) == (deadly, None)
    assert small.recipe.weights == "float16"
    refused, told = trial.monitor.notes
    assert refused.startswith(
        "cpu/cpu-float32 keeps float32 weights: opening it in onnxruntime died by SIGSEGV"
    )
    assert told.startswith("cpu/cpu-float32 has float16 weights")
