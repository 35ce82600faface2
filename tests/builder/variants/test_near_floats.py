"""Float engines near to those of the release before: the low bits stay, and nearly nothing is lost."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import ModelProto
from support.builder.models import quantized_model, trial_of
from support.builder.nets import residual_net
from support.builder.releases import FEEDS, RECIPE, TENSOR, changed, release_of, tuned

from edgectl.builder.graph import GraphIndex
from edgectl.builder.ingest.samples import Sample
from edgectl.builder.int8.previous_release import (
    PreviousRelease,
)
from edgectl.builder.pack.slim import slim
from edgectl.builder.variants.draft import VariantDraft
from edgectl.builder.variants.near_floats import near, update_notes, with_near_floats
from edgectl.core.bundle import Recipe, SessionSettings
from edgectl.core.delta import make_delta


def test_float_weights_keep_the_low_bits_that_they_had_and_move_by_less_than_their_noise() -> None:
    base = changed(residual_net(channels=32), lambda _, w: np.where(np.abs(w) < 0.2 * w.std(), 0, w))
    old = slim(base).SerializeToString()
    moved = changed(tuned(base), lambda name, w: np.where(GraphIndex(base).weights(name) == 0, 0, w))
    new = moved.SerializeToString()
    found = near(new, old)
    before, after = (GraphIndex(onnx.load_from_string(data)) for data in (new, found))
    for name in before.initializers:
        a, b = before.weights(name), after.weights(name)
        assert a is not None
        assert b is not None
        assert ((a == 0) == (b == 0)).all()
        assert (np.abs(b - a) <= np.abs(a) * 2.0**-9).all()
    assert len(make_delta(old, found) or b"") < 0.6 * len(make_delta(old, new) or b"")
    assert near(found, old) == found
    narrow = GraphIndex(residual_net(channels=16))
    beside = GraphIndex(onnx.load_from_string(near(new, narrow.model.SerializeToString())))
    for name in before.initializers:
        same = narrow.shape(name) == before.shape(name)
        assert np.array_equal(before.weights(name), beside.weights(name)) != same, (
            "weights of another shape are nobody's partners"
        )


def float_draft(model: ModelProto) -> VariantDraft:
    return VariantDraft(
        profile="cpu",
        variant="cpu-float32",
        runtime="onnxruntime",
        requires=(),
        model=model.SerializeToString(),
        recipe=Recipe(family="float", passes=("upgrade",)),
        precision="float32",
        session=SessionSettings(),
        fallback=True,
    )


@pytest.mark.parametrize("max_drop", [0.05, 1e-9])
def test_float_engine_is_near_that_of_the_release_before_if_that_costs_next_to_nothing(
    max_drop: float,
) -> None:
    base = residual_net(channels=32)
    draft, other = float_draft(tuned(base)), replace(float_draft(tuned(base)), variant="another")
    release = replace(release_of(base, base), engines={("cpu", "cpu-float32"): base.SerializeToString()})
    model = replace(quantized_model(tuned(base), TENSOR, [Sample(f) for f in FEEDS]), max_drop=max_drop)
    trial = trial_of(model)
    made, untouched = with_near_floats(release, [draft, other], model, trial)
    notes = trial.monitor.notes
    assert untouched == other
    if max_drop < 1e-6:
        assert made == draft
        assert "it ships as it is" in notes[0]
    else:
        assert made.recipe.passes == ("upgrade", "near")
        assert made.model == near(draft.model, base.SerializeToString()) != draft.model
        assert notes == []


def test_a_variant_without_a_successor_is_named() -> None:
    release = PreviousRelease(
        "net@1", None, (), {("cpu", "openvino-int8"): b"", ("jetson", "tensorrt-int8"): b""}
    )
    draft = VariantDraft(
        profile="cpu",
        variant="cpu-int8",
        runtime="onnxruntime",
        requires=(),
        model=b"",
        recipe=RECIPE,
        precision="int8",
        session=SessionSettings(),
    )
    assert update_notes(release, [draft]) == [
        "cpu: openvino-int8 of net@1 has no successor: who runs it fetches another engine whole"
    ]
