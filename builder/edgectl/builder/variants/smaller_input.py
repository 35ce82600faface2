"""A variant for a smaller picture: less work an inference, at an accuracy that the user allows for it and for
nothing else.

The same weights, fewer pixels: calibrated, quantized and searched like the model itself, but judged on the
same pictures against what float sees at full size. A device takes it only if its configuration asks for the
preference ``small-input``.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from onnx import ModelProto

from edgectl.builder.ingest.pixels import pixel_feeds
from edgectl.builder.ingest.resized import resized
from edgectl.builder.int8.calibrate import calibrate
from edgectl.builder.int8.model import CalibratedModel, QuantizedModel, quantize_families
from edgectl.builder.judge.accuracy import Judge
from edgectl.builder.passes.rescale import rescale, smaller_size
from edgectl.builder.search.candidates import Choice, Pick
from edgectl.builder.variants.choose import ChosenVariants
from edgectl.builder.variants.draft import VariantDraft
from edgectl.builder.variants.label_figures import with_label_figures
from edgectl.builder.variants.measured import comparison, measurable, measure_host, picked_draft
from edgectl.builder.variants.preprocessing import with_preprocessing
from edgectl.builder.variants.tensorrt import tensorrt_drafts, tensorrt_families
from edgectl.builder.variants.trial import Trial
from edgectl.core.bundle import SessionSettings, TensorSpec
from edgectl.core.errors import ModelError, UsageError
from edgectl.core.task import ImageInput, TaskSpec
from edgectl.device_profiles.machine import host_family
from edgectl.device_profiles.schema import DeviceProfile
from edgectl.engines.base import Engine, Feeds, Outputs
from edgectl.engines.finalise.open import open_model
from edgectl.engines.timing import Ratio, interleave, paired_ratio

__all__ = [
    "SmallerInput",
    "SmallerVariants",
    "check_takes_picture",
    "choose_smaller_variants",
    "paired_time",
    "parse_smaller_input",
]

WORTH = 0.95
"""Of the time: below this the whole interval of the ratio to the fast variant must lie."""
_SECONDS = 2.0


@dataclass(frozen=True)
class SmallerInput:
    """``factor``: of the picture's width and height (0.1 … 0.95). ``max_drop``: what this variant may
    lose; None: as the others."""

    factor: float
    max_drop: float | None = None


def parse_smaller_input(text: str) -> SmallerInput:
    """``0.75`` or ``0.75:0.05``. Raises :class:`UsageError`."""
    factor, colon, drop = text.partition(":")
    try:
        found = SmallerInput(float(factor), float(drop) if colon else None)
    except ValueError:
        found = SmallerInput(0.0)
    if not 0.1 <= found.factor <= 0.95 or not 0.0 <= (found.max_drop or 0.0) <= 1.0:
        raise UsageError(
            f"--smaller-input {text} is not known",
            hint="FACTOR from 0.1 to 0.95, or FACTOR:DROP with the accuracy that it may lose",
        )
    return found


def check_takes_picture(task: TaskSpec, inputs: Sequence[TensorSpec]) -> None:
    """Raises :class:`UsageError` for a model that does not take one float picture."""
    if not isinstance(task.input, ImageInput) or task.input.dtype != "float32" or len(inputs) != 1:
        raise UsageError("--smaller-input is for models that take one float picture", hint="leave it out")


@dataclass(frozen=True)
class SmallerVariants:
    """``model``: what the drafts start from: its graph takes the smaller picture."""

    model: QuantizedModel
    chosen: ChosenVariants


def choose_smaller_variants(
    model: QuantizedModel,
    trial: Trial,
    wanted: SmallerInput,
    profiles: Sequence[DeviceProfile],
    drafts: Sequence[VariantDraft],
) -> SmallerVariants:
    """The winner of each profile for a smaller picture, where it is faster than the profile's fast variant,
    one of ``drafts``. A TensorRT profile gets its graphs, checked numerically like those of full size.

    Raises :class:`ModelError` if this model cannot be made smaller, or float itself loses more than allowed
    then.
    """
    calibrated, its = _smaller_model(model, trial, wanted)
    families = [f for p in profiles for f in tensorrt_families(p, calibrated.source.graph, its.restriction)]
    here = host_family(trial.machine)
    if here is not None and its.restriction.quantizes and any(measurable(p, trial.machine) for p in profiles):
        families.append(here)
    small = quantize_families(
        calibrated, tuple(dict.fromkeys(families)), its.judges, its.machine, its.monitor
    )
    choices: dict[str, Choice] = {}
    found: list[VariantDraft] = []
    for i, p in enumerate(profiles):
        if "tensorrt" in p.runtimes:
            found += [
                replace(t, variant=f"{t.variant}-small-input", preferences=("small-input",))
                for t in tensorrt_drafts(small, its, p)
                if t.precision == "int8" or t.accuracy is not None
            ]
        if not measurable(p, its.machine):
            continue
        key = f"{comparison(p, its.machine, its.restriction)}, smaller picture"
        if key not in choices:
            choices[key] = measure_host(small, its, p, (i / len(profiles), len(profiles)))
        won = picked_draft(small, its, p, Pick(choices[key].winner, ("small-input",)))
        [draft] = with_label_figures([with_preprocessing(small, its, won)], small, its)
        fast = next(f for f in drafts if f.profile == p.name and ("fast" in f.preferences or f.fallback))
        ratio = paired_time((draft, small), (fast, model))
        time = f"{ratio.median:.2f} ({ratio.low:.2f} … {ratio.high:.2f}) of the time of {fast.variant}"
        if ratio.high > WORTH:
            trial.monitor.note(f"{p.name}: a smaller picture brings too little: {time}")
            continue
        lost = (
            ""
            if draft.accuracy is None
            else f"; loses {draft.accuracy.drop:.4f}, {small.max_drop:g} are allowed"
        )
        trial.monitor.note(f"{p.name}: {draft.variant}: {time}{lost}")
        found.append(draft)
    return SmallerVariants(small, ChosenVariants(tuple(found), choices))


def paired_time(
    small: tuple[VariantDraft, QuantizedModel], fast: tuple[VariantDraft, QuantizedModel]
) -> Ratio:
    """The time of one inference of ``small`` in that of ``fast``, in turn, each on its own pictures."""
    with contextlib.ExitStack() as stack:
        runs = {}
        for which, (draft, model) in {"small": small, "fast": fast}.items():
            engine = open_model(draft.model, draft.session, runtime=draft.runtime)
            stack.callback(engine.close)
            runs[which] = functools.partial(_next, engine, itertools.cycle(_feeds(draft, model)))
        times = interleave(runs, seconds=_SECONDS, min_rounds=20, max_rounds=400)
    return paired_ratio(times["small"], times["fast"])


def _smaller_model(
    model: QuantizedModel, trial: Trial, wanted: SmallerInput
) -> tuple[CalibratedModel, Trial]:
    """The model for the smaller picture, and with what it is tried: judged against the model at full size."""
    source = model.source
    spec = source.task.input
    assert isinstance(spec, ImageInput)
    if model.table is None:
        raise ModelError("a model that ships as it came is not made smaller")
    trial.monitor.tell("search", 0.9, f"a picture of {wanted.factor:g} × the size")
    height, width = smaller_size(source.graph, spec, wanted.factor)
    graph = rescale(source.graph, spec, height, width)
    small = spec.model_copy(update={"height": height, "width": width})
    task = source.task.model_copy(update={"input": small})
    samples = resized(model.samples, spec, small)
    max_drop = model.max_drop if wanted.max_drop is None else wanted.max_drop
    limit = 1.0 if samples.random else max_drop
    judges = trial.judges.resized(task, samples)
    lost = _float_loses(graph, judges.search, limit)
    if lost > limit:
        raise ModelError(f"at {width}x{height} float itself loses {lost:.4f}, more than {limit:g}")
    table = calibrate(graph, (x.feeds for x in samples.calibration), data_digest=samples.digest)
    inputs = tuple(
        TensorSpec(name=i.name, shape=samples.search[0].feeds[i.name].shape, dtype=i.dtype)
        for i in source.inputs
    )
    its = replace(
        source, graph=graph, inputs=inputs, task=task, passes=(*source.passes, "rescale"), float16=None
    )
    return CalibratedModel(its, samples, limit, table, labelled=model.labelled, kept=model.kept), replace(
        trial, judges=judges
    )


def _float_loses(graph: ModelProto, judge: Judge, limit: float) -> float:
    engine = open_model(graph.SerializeToString(), SessionSettings(threads=2))
    try:
        return judge.judge(engine, limit=limit).drop
    finally:
        engine.close()


def _next(engine: Engine, feeds: Iterator[Feeds]) -> Outputs:
    return engine.run(next(feeds))


def _feeds(draft: VariantDraft, model: QuantizedModel) -> list[Feeds]:
    spec = model.source.task.input
    plain = [s.feeds for s in model.samples.search[:8]]
    return (
        [pixel_feeds(f, spec) for f in plain]
        if draft.picture is not None and isinstance(spec, ImageInput)
        else plain
    )
