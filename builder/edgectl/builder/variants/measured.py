"""The variants of a profile that this machine can run: candidates are measured, and what was chosen becomes
drafts.

A profile whose CPU is this machine's is measured on the CPU; one whose GPU is here, by ONNX Runtime on the
GPU, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import onnx

from edgectl.builder.ingest.source_precision import AS_RECEIVED
from edgectl.builder.int8.float16 import to_float16
from edgectl.builder.int8.model import QuantizedModel
from edgectl.builder.judge.accuracy import Accuracy
from edgectl.builder.judge.judges import Judges
from edgectl.builder.search.candidates import (
    LOWER_FLOATS,
    Arithmetic,
    Candidate,
    CandidateGraph,
    CandidateOutcome,
    Choice,
    Pick,
)
from edgectl.builder.search.elsewhere import DeviceMachine
from edgectl.builder.search.machine import ThisMachine, TimingMachine
from edgectl.builder.search.reasons import SPEED_CAUSES
from edgectl.builder.search.rules import slower_carried_over
from edgectl.builder.search.search import Goal, search
from edgectl.builder.search.tuning_log import TuningLog
from edgectl.builder.variants.competitors import competitors, cpu_runtimes, given_graph
from edgectl.builder.variants.draft import VariantDraft, float_layers, recipe_as_received, recipe_of
from edgectl.builder.variants.float_first import reasons_for_float
from edgectl.builder.variants.numeric_check import note_interval
from edgectl.builder.variants.preprocessing import with_preprocessing, without_float_ratio
from edgectl.builder.variants.restriction import UNRESTRICTED, Restriction
from edgectl.builder.variants.trial import Trial
from edgectl.core.bundle import LayerReport, Recipe, SessionSettings, requirement_met
from edgectl.core.measured import Measured
from edgectl.device_profiles.machine import Machine, host_family, lower_float_requirement
from edgectl.device_profiles.schema import DeviceProfile
from edgectl.engines.measure.processes import SECONDS
from edgectl.engines.runtimes.openvino import OpenVinoEngine

__all__ = [
    "comparison",
    "cuda_drafts",
    "fallback_draft",
    "has_cuda",
    "measurable",
    "measure_cuda",
    "measure_host",
    "measured_drafts",
    "picked_draft",
]

_FLOAT = Recipe(family="float")
_CUDA = "provider:CUDA"


def measurable(p: DeviceProfile, machine: Machine) -> bool:
    """Whether this machine is what the profile's CPU variant runs on, so that what is measured here holds
    there."""
    return p.gpu is None and (
        p.cpu.family == "host" or (p.cpu.arch == machine.arch and p.cpu.family == host_family(machine))
    )


def has_cuda(p: DeviceProfile, machine: Machine) -> bool:
    """Whether this machine has the profile's GPU and an ONNX Runtime that runs on it."""
    return p.gpu is not None and requirement_met(p.sm_requirement, machine.facts) and _CUDA in machine.facts


def comparison(p: DeviceProfile, machine: Machine, restriction: Restriction = UNRESTRICTED) -> str:
    """Names all that a choice depends on: profiles that agree on it are measured once. People read it in the
    report."""
    runtimes = " and ".join(cpu_runtimes(p, machine, restriction)) or "onnxruntime"
    threads = min(p.cpu.max_threads, machine.cores)
    return f"{host_family(machine) or 'float'} in {runtimes}, at most {threads} threads and {p.limits.rss_mb} MiB, {p.min_speedup:g} × float"


def measure_host(
    model: QuantizedModel, trial: Trial, p: DeviceProfile, place: tuple[float, int], *, share: float = 1.0
) -> Choice:
    """The CPU of this machine. ``place``: of this search among the others (where it starts, 0..1, and how
    many there are). ``share``: of the time that is left, where others are still to be measured."""
    family = host_family(trial.machine)
    cores = min(p.cpu.max_threads, trial.machine.cores)
    known: dict[Arithmetic, Accuracy] = {(n, "onnxruntime", None): a for n, a in model.judged(family).items()}
    seconds = trial.monitor.budget.rounds_s() * share
    bases = competitors(model, trial, p)
    known |= of_float(bases, trial.judges)
    return _search(model, trial, p, bases, known, [t for t in (2, 4, 8) if t <= cores], seconds, place)


def of_float(bases: Sequence[Candidate], judges: Judges) -> dict[Arithmetic, Accuracy]:
    """The verdict on whoever is the reference itself: it ran over the slice already."""
    found = judges.search.of_float
    same = (
        c
        for c in bases
        if (c.runtime, c.lower_float) == ("onnxruntime", None) and c.graph.model == judges.reference
    )
    return {} if found is None else {c.arithmetic: found for c in same}


def measure_cuda(model: QuantizedModel, trial: Trial, p: DeviceProfile, place: tuple[float, int]) -> Choice:
    """Float32 and float16 on the GPU by ONNX Runtime, which has no fast int8 there: what TensorRT has to
    beat, and the way without it."""
    graphs = [given_graph(model)]
    if model.table is not None and trial.restriction.allows("float16"):
        largest = {t: max(-r.low, r.high) for t, r in model.table.ranges.items()}
        float16, _ = to_float16(model.source.graph, largest)
        graphs.append(CandidateGraph("float16", float16.SerializeToString(deterministic=True), "float16"))
    bases = [Candidate(g, "onnxruntime", SessionSettings(provider="cuda")) for g in graphs]
    seconds = trial.monitor.budget.rounds_s() / place[1]
    return _search(model, trial, p, bases, {}, [], seconds, place)


def measured_drafts(
    model: QuantizedModel, trial: Trial, p: DeviceProfile, choice: Choice
) -> list[VariantDraft]:
    """The fast one, what is best at something else, and the float fallback.

    A device tries the fallback last. Where the same float candidate is also the fast one and others ship
    beside it, it therefore comes first as well, as a variant of its own: a few kilobytes, its files are
    shared.
    """
    _note_choice(model, trial, p, choice)
    drafts, fallback = [], fallback_draft(model, trial, p, choice.fallback)
    for pick in choice.picks:
        o = pick.outcome
        if not o.candidate.is_float and o.accuracy is not None:
            note_interval(model, trial, p, o.candidate.name, o.accuracy)
        is_fallback = choice.fallback is not None and o.candidate == choice.fallback.candidate
        if not is_fallback or ("fast" in pick.preferences and len(choice.picks) > 1):
            draft = picked_draft(model, trial, p, pick)
            drafts.append(with_preprocessing(model, trial, draft, fallback.session))
        else:
            fallback = replace(fallback, preferences=pick.preferences)
    return [*drafts, fallback]


def cuda_drafts(model: QuantizedModel, trial: Trial, p: DeviceProfile, choice: Choice) -> list[VariantDraft]:
    trial.monitor.note(f"{p.name}: {choice.winner.candidate.name} on the GPU: {choice.reason}")
    best = choice.picks[0].outcome
    c = best.candidate
    passes = (*model.source.passes, *(() if c.is_float else ("float16",)))
    draft = VariantDraft(
        profile=p.name,
        variant=f"onnxruntime-cuda-{c.graph.precision}",
        runtime="onnxruntime",
        requires=(f"arch:{trial.machine.arch}", p.sm_requirement, _CUDA),
        model=c.graph.model,
        recipe=_FLOAT.model_copy(update={"passes": passes, "precision": c.graph.precision}),
        precision=c.graph.precision,
        session=c.settings,
        accuracy=best.accuracy,
        measured=best.measured,
    )
    return [with_preprocessing(model, trial, draft)]


def picked_draft(model: QuantizedModel, trial: Trial, p: DeviceProfile, pick: Pick) -> VariantDraft:
    """A candidate that ships for the CPU of this machine."""
    family = host_family(trial.machine)
    c = pick.outcome.candidate
    quantized = None if family is None or c.is_float else model.recipes(family).get(c.graph.recipe)
    best_at = () if "fast" in pick.preferences else pick.preferences[:1]
    layers = () if quantized is None else quantized.layers
    if c.graph.precision == "float32":
        layers = float_layers(model, family)
    lower = c.lower_float
    beside = (lower,) if lower is not None and c.precision != lower else ()
    return VariantDraft(
        profile=p.name,
        variant="-".join((c.runtime, c.precision, *beside, *best_at)),
        runtime=c.runtime,
        requires=(
            f"arch:{trial.machine.arch}",
            *(() if quantized is None else _isa(p, family)),
            *(() if lower is None else (lower_float_requirement(trial.machine.arch, lower) or "",)),
        ),
        model=c.graph.model,
        recipe=_plain_recipe(c)
        if quantized is None or family is None
        else recipe_of(model, family, c.graph.recipe, quantized),
        precision=c.precision,
        session=c.settings,
        layers=layers if lower is None else _in_lower_float(layers, c, lower),
        accuracy=pick.outcome.accuracy,
        measured=_measured(model, pick.outcome),
        preferences=pick.preferences,
    )


def fallback_draft(
    model: QuantizedModel, trial: Trial, p: DeviceProfile, measured: CandidateOutcome | None
) -> VariantDraft:
    """The model itself, float unless it came quantized, in ONNX Runtime: runs on any machine of the
    profile's architecture. ``measured``: how it did here; None: it was not tried."""
    threads = SessionSettings(threads=min(2, p.cpu.max_threads))
    return VariantDraft(
        profile=p.name,
        variant=f"cpu-{model.source.precision}",
        runtime="onnxruntime",
        requires=(p.arch_requirement,),
        model=model.source.onnx_bytes,
        recipe=recipe_as_received(model),
        precision=model.source.precision,
        session=measured.candidate.settings if measured else threads,
        accuracy=measured.accuracy if measured else None,
        measured=_measured(model, measured) if measured else None,
        fallback=True,
        layers=float_layers(model, host_family(trial.machine) if p.cpu.family == "host" else p.cpu.family),
    )


def _search(
    model: QuantizedModel,
    trial: Trial,
    p: DeviceProfile,
    bases: Sequence[Candidate],
    known: Mapping[Arithmetic, Accuracy],
    threads: Sequence[int],
    seconds: float,
    place: tuple[float, int],
) -> Choice:
    machine, budget = trial.machine, trial.monitor.budget
    start, searches = place
    fresh_s = budget.fresh_s(SECONDS)
    host = {
        "machine": machine.summary,
        "isa": " ".join(machine.isa),
        "memory_mb": str(machine.memory_mb),
        "fresh_s": f"{fresh_s:g}",
        **machine.runtimes,
        **({} if trial.device is None else {"device": trial.device.name}),
    }
    feeds = [s.feeds for s in model.samples.search[:8]]
    timing: TimingMachine = (
        ThisMachine(machine.summary, feeds, fresh_s, budget.left)
        if trial.device is None
        else DeviceMachine(trial.device, trial.here or machine, feeds, fresh_s, budget.left)
    )

    def told(what: str, share: float, best: str) -> None:
        trial.monitor.tell("search", 0.15 + 0.75 * (start + share / searches), what, best)

    judge = trial.judges.search
    budget.keep(trial.judges.confirmation_s)
    try:
        return search(
            bases,
            judge,
            lambda: trial.judges.confirmation,
            Goal(model.limit, p.min_speedup, p.limits.rss_mb, budget.wait_s(), model.guide),
            timing,
            TuningLog(trial.tuning, host),
            threads=threads,
            seconds=seconds,
            known=known,
            progress=told,
            left=budget.left,
            measuring_s=trial.judges.measuring_s(),
        )
    finally:
        budget.keep(lambda: 0.0)


def _note_choice(model: QuantizedModel, trial: Trial, p: DeviceProfile, choice: Choice) -> None:
    reasons = reasons_for_float(model, trial, choice)
    is_float = model.source.precision == "float32"
    reason = choice.reason if is_float else "the only form of a model that came quantized"
    won = choice.winner.candidate
    said = [f"{won.name}: {reasons[0].text if reasons and won.is_float else reason}"]
    if not won.is_float and reasons:  # float16, as it came
        said.append(reasons[0].text)
    said += [f"also: {r.text}" for r in reasons[1:] if r.cause not in SPEED_CAUSES]
    said += choice.notes
    if slower := slower_carried_over(choice):
        said.append(slower)
    trial.monitor.notes += [f"{p.name}: {text}" for text in said]


def _plain_recipe(c: Candidate) -> Recipe:
    """Of a candidate that nothing was quantized for: the float model, or one as it came."""
    if c.graph.precision == "float32":
        return _FLOAT.model_copy(update={"precision": c.precision})
    return Recipe(family=AS_RECEIVED, precision=c.graph.precision)


def _in_lower_float(
    layers: Sequence[LayerReport], c: Candidate, lower: Literal["bfloat16", "float16"]
) -> tuple[LayerReport, ...]:
    """The float layers that the runtime says it computes so; it keeps some in float32."""
    engine = OpenVinoEngine(c.graph.model, c.settings)
    try:
        runs = {name for name, precision in engine.layer_precisions().items() if LOWER_FLOATS.get(precision)}
    finally:
        engine.close()
    nodes = onnx.load_from_string(c.graph.model).graph.node
    runs |= {n.name for n in nodes if runs.intersection(n.output)}
    return tuple(
        r.model_copy(update={"precision": lower}) if r.precision == "float32" and r.node in runs else r
        for r in layers
    )


def _measured(model: QuantizedModel, o: CandidateOutcome) -> Measured | None:
    """What was measured; without a float form of the model there is no ratio to it."""
    if o.measured is None or model.source.precision == "float32":
        return o.measured
    return without_float_ratio(o.measured)


def _isa(p: DeviceProfile, family: str | None) -> tuple[str, ...]:
    """What an int8 variant needs beside the architecture: the kernels that it was written for."""
    if p.cpu.family != "host":
        return p.cpu.isa
    return {
        "x86-vnni": ("isa:avx512_vnni|isa:avx_vnni",),
        "x86-avx2": ("isa:avx2",),
        "arm64": ("isa:dotprod",),
    }.get(family or "", ())
