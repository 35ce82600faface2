"""A variant with its preprocessing inside the graph, where that makes the way from a picture to the outputs
faster."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx

from edgectl.builder.budget import PACK
from edgectl.builder.ingest.pixels import pixel_feeds, pixels_of
from edgectl.builder.int8.model import QuantizedModel
from edgectl.builder.variants.draft import VariantDraft
from edgectl.builder.variants.fold_gain import Folded, fold_if_faster
from edgectl.builder.variants.trial import Trial
from edgectl.core.bundle import SessionSettings
from edgectl.core.measured import Context, Measured, Standing
from edgectl.core.task import ImageInput
from edgectl.engines.measure.processes import (
    SECONDS,
    MeasuredEngine,
    measure_in_processes,
    standing_of,
    summarise_processes,
)

__all__ = ["with_preprocessing", "without_float_ratio"]

_PICTURES = 8
_SECONDS = 1.0


def with_preprocessing(
    model: QuantizedModel, trial: Trial, draft: VariantDraft, reference: SessionSettings | None = None
) -> VariantDraft:
    """``draft`` itself where its preprocessing stays outside. ``reference``: how the float fallback runs that
    the figures are told against; None: they stay those of the graph before."""
    spec = model.source.task.input
    if not isinstance(spec, ImageInput) or model.samples.random or draft.measured is None:
        return draft
    if trial.device is not None:
        return draft  # the route would be measured on this machine, and the engine on another one
    samples = model.samples.search[:_PICTURES]
    pictures = [
        pixels_of(np.asarray(next(iter(s.feeds.values()))), spec) for s in samples if len(s.feeds) == 1
    ]
    if trial.monitor.budget.over(PACK, f"{draft.variant} with its preprocessing inside"):
        return draft
    trial.monitor.tell("search", 0.9, f"{draft.variant}: preprocessing inside the graph")
    folded = fold_if_faster(
        onnx.load_from_string(draft.model),
        spec,
        pictures,
        runtime=draft.runtime,
        settings=draft.session,
        seconds=_SECONDS,
    )
    if folded is None:
        return draft
    again = draft.measured if reference is None else _measured_again(model, trial, draft, folded, reference)
    if again is None:
        return draft
    trial.monitor.note(
        f"{draft.profile}: {draft.variant} takes pixels: with its preprocessing inside the graph the route is {1 / folded.gain.ratio:.2f} × as fast"
    )
    return replace(
        draft,
        model=folded.model,
        picture=folded.spec,
        measured=again.model_copy(update={"route": folded.gain}),
        recipe=draft.recipe.model_copy(update={"passes": (*draft.recipe.passes, "fold-input")}),
    )


def without_float_ratio(m: Measured) -> Measured:
    """Of a model that has no float form."""
    fresh = m.fresh and m.fresh.model_copy(update={"ratio_to_float": None})
    return m.model_copy(update={"ratio_to_float": None, "fresh": fresh})


def _measured_again(
    model: QuantizedModel, trial: Trial, draft: VariantDraft, folded: Folded, reference: SessionSettings
) -> Measured | None:
    """The contexts of the graph that ships, with its preprocessing, against the float fallback; None if a
    quantized one is no longer faster than float, or there is no time to tell. What was not measured in a
    process of its own before is not now."""
    before, budget = draft.measured, trial.monitor.budget
    assert before is not None
    if before.fresh is None or not before.fresh.contexts:
        return before
    if budget.over(PACK, f"{draft.variant} with its preprocessing inside"):
        return None
    spec = model.source.task.input
    assert isinstance(spec, ImageInput)
    plain = [s.feeds for s in model.samples.search[:_PICTURES]]
    pixels = [pixel_feeds(f, spec) for f in plain]
    times = measure_in_processes(
        {
            "inside": MeasuredEngine(folded.model, draft.runtime, draft.session, pixels),
            "float": MeasuredEngine(model.source.onnx_bytes, "onnxruntime", reference, plain),
        },
        plain,
        seconds=budget.fresh_s(SECONDS),
        enough=lambda: budget.left() <= 0,
    )
    inside, base = times["inside"], times["float"]
    if inside.failed is not None or base.failed is not None:
        return None
    # the model before is the reference then, and no float
    came_quantized = model.source.precision != "float32"
    standing = None if draft.precision == "float32" or came_quantized else standing_of(inside, base)
    if standing in (Standing.EQUAL, Standing.SLOWER):
        return None
    fresh = summarise_processes(inside, base, base)
    alone = next((c.ratio for c in fresh.contexts if c.context is Context.ALONE), None)
    kept = before.standing if standing is Standing.UNDECIDED else standing
    again = before.model_copy(update={"fresh": fresh, "standing": kept, "ratio_to_float": alone})
    return without_float_ratio(again) if came_quantized else again
