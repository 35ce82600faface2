"""Which variants a profile gets: int8 graphs are written and judged, candidates measured, and what is not
measurable here is said.

A profile whose CPU is this machine's is measured; any other one is checked numerically only. Every profile
ends with a variant that its CPU can run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from edgectl.builder.budget import PACK
from edgectl.builder.ingest.pixels import pixel_feeds, pixels_of
from edgectl.builder.ingest.source_precision import AS_RECEIVED
from edgectl.builder.int8.float16 import to_float16
from edgectl.builder.judge.accuracy import Accuracy
from edgectl.builder.search.candidates import Candidate, CandidateGraph, CandidateOutcome, Choice, Pick
from edgectl.builder.search.draft import VariantDraft
from edgectl.builder.search.float_first import (
    SPEED_CAUSES,
    NotQuantizable,
    Reason,
    out_of_time,
    over_budget,
    reasons_of_search,
    why_not_quantizable,
)
from edgectl.builder.search.fold_gain import Folded, fold_if_faster
from edgectl.builder.search.machine import ThisMachine
from edgectl.builder.search.rules import slower_carried_over
from edgectl.builder.search.search import Goal, search
from edgectl.builder.search.smaller_input import WORTH, paired_time
from edgectl.builder.search.tuning_log import TuningLog
from edgectl.builder.search.variants_tensorrt import tensorrt_plans
from edgectl.builder.search.work import (
    Work,
    float_layers,
    limit_of,
    numerically_best,
    recipe_as_is,
    recipe_of,
    recipes_of,
    rungs_of,
    say_interval,
)
from edgectl.core.bundle import Recipe, Runtime, SessionSettings, requirement_met
from edgectl.core.errors import ModelError
from edgectl.core.measured import Context, Measured, Standing
from edgectl.core.task import ImageInput
from edgectl.device_profiles.probe import Machine, host_family
from edgectl.device_profiles.schema import DeviceProfile
from edgectl.engines.fresh import SECONDS, Contender, measure_fresh, standing_of, summarise_fresh

__all__ = ["causes_of", "plan_smaller", "plan_variants"]

_FLOAT = Recipe(family="float")
_PICTURES = 8
_ROUTE_SECONDS = 1.0
_CUDA = "provider:CUDA"


def plan_variants(
    work: Work, profiles: Sequence[DeviceProfile]
) -> tuple[list[VariantDraft], dict[str, Choice]]:
    """The variants of every profile, best first and the fallback last; families are measured once for all
    profiles."""
    family = host_family(work.machine)
    measured = {p.name for p in profiles if _measurable(p, work.machine)}
    keys = {_key(p, family, work.machine) for p in profiles if p.name in measured}
    choices: dict[str, Choice] = {}
    plans: list[VariantDraft] = []
    for i, p in enumerate(profiles):
        if "tensorrt" in p.runtimes:
            plans += tensorrt_plans(work, p)
        if _has_cuda(p, work.machine):
            try:
                choices[f"{p.name}, CUDA"] = choice = _measure_cuda(work, p, i / len(profiles), len(profiles))
                plans += _on_cuda(work, p, choice)
            except ModelError as e:
                # a GPU whose CUDA or cuDNN this ONNX Runtime cannot load
                work.notes.append(f"{p.name}: no variant for ONNX Runtime on the GPU: {e.message}")
        if p.name not in measured:
            plans += _unmeasured(work, p)
            continue
        key = _key(p, family, work.machine)
        if key not in choices:
            choices[key] = _measure(
                work,
                p,
                family,
                i / len(profiles),
                len(profiles),
                share=1 / (len(keys) - len(choices.keys() & keys)),
            )
        plans += _measured(work, p, family, choices[key])
    return plans, choices


def plan_smaller(
    small: Work, work: Work, profiles: Sequence[DeviceProfile], plans: Sequence[VariantDraft]
) -> tuple[list[VariantDraft], dict[str, Choice]]:
    """The winner of each profile for the smaller picture that ``small`` is about, where it is faster than the
    profile's fast variant.

    ``plans``: those of ``work``. A TensorRT profile gets its graphs, checked numerically like those of full
    size.
    """
    family = host_family(small.machine)
    choices: dict[str, Choice] = {}
    found: list[VariantDraft] = []
    for i, p in enumerate(profiles):
        if "tensorrt" in p.runtimes:
            found += [
                replace(t, variant=f"{t.variant}-small-input", roles=("small-input",))
                for t in tensorrt_plans(small, p)
                if t.precision == "int8" or t.accuracy is not None
            ]
        if not _measurable(p, small.machine):
            continue
        key = f"{_key(p, family, small.machine)}, smaller picture"
        if key not in choices:
            choices[key] = _measure(small, p, family, i / len(profiles), len(profiles))
        won = choices[key].winner
        plan = _folded(small, _pick(small, p, family, Pick(won, ("small-input",))))
        fast = next(f for f in plans if f.profile == p.name and ("fast" in f.roles or f.fallback))
        ratio = paired_time((plan, small), (fast, work))
        time = f"{ratio.median:.2f} ({ratio.low:.2f} … {ratio.high:.2f}) of the time of {fast.variant}"
        lost = (
            ""
            if plan.accuracy is None
            else f"; loses {plan.accuracy.drop:.4f}, {small.max_drop:g} are allowed"
        )
        if ratio.high > WORTH:
            small.notes.append(f"{p.name}: a smaller picture brings too little: {time}")
        else:
            small.notes.append(f"{p.name}: {plan.variant}: {time}{lost}")
            found.append(plan)
    return found, choices


def _key(p: DeviceProfile, family: str | None, machine: Machine) -> str:
    """Of all that a choice depends on: profiles that agree on it are measured once. People read it in the
    report."""
    runtimes = " and ".join(r for r in p.runtimes if r != "tensorrt" and r in machine.runtimes)
    threads = min(p.cpu.max_threads, machine.cores)
    return f"{family or 'float'} in {runtimes}, at most {threads} threads and {p.limits.rss_mb} MiB, {p.min_speedup:g} × float"


def _measurable(profile: DeviceProfile, machine: Machine) -> bool:
    """Whether this machine is what the profile's CPU variant runs on, so that what is measured here holds
    there."""
    return profile.gpu is None and (
        profile.cpu.family == "host"
        or (profile.cpu.arch == machine.arch and profile.cpu.family == host_family(machine))
    )


def _measure(
    work: Work, p: DeviceProfile, family: str | None, start: float, parts: int, *, share: float = 1.0
) -> Choice:
    """``share``: of the time that is left, where others are still to be measured."""
    recipes = {} if family is None else recipes_of(work, family)
    graphs = [_as_is(work)]
    if work.given is not None:
        graphs.append(CandidateGraph(f"{AS_RECEIVED}-float16", work.given, "float16"))
    graphs += [
        CandidateGraph(n, q.model.SerializeToString(deterministic=True), "int8", q.carried_over)
        for n, q in recipes.items()
    ]
    runtimes: list[Runtime] = [r for r in p.runtimes if r != "tensorrt" and r in work.machine.runtimes]
    cores = min(p.cpu.max_threads, work.machine.cores)
    bases = [
        Candidate(g, r, SessionSettings(precision_hint="f32" if r == "openvino" else None))
        for g in graphs
        for r in runtimes
    ]
    rungs = None if family is None else rungs_of(work, family)
    known: dict[tuple[str, Runtime], Accuracy] = {
        (n, "onnxruntime"): a for n, a in (rungs.judged if rungs else {}).items()
    }
    return _search(
        work,
        p,
        bases,
        known,
        [t for t in (2, 4, 8) if t <= cores],
        work.budget.rounds_s() * share,
        start,
        parts,
    )


def _as_is(work: Work) -> CandidateGraph:
    """The model itself, which others are compared with."""
    if work.precision == "float32":
        return CandidateGraph("float", work.float_bytes, "float32")
    return CandidateGraph(AS_RECEIVED, work.float_bytes, work.precision, as_received=True)


def _search(
    work: Work,
    p: DeviceProfile,
    bases: Sequence[Candidate],
    known: dict[tuple[str, Runtime], Accuracy],
    threads: Sequence[int],
    seconds: float,
    start: float,
    parts: int,
) -> Choice:
    fresh_s = work.budget.fresh_s(SECONDS)
    host = {
        "machine": work.machine.summary,
        "isa": " ".join(work.machine.isa),
        "memory_mb": str(work.machine.memory_mb),
    }
    host["fresh_s"] = f"{fresh_s:g}"
    log = TuningLog(work.tuning, {**host, **work.machine.runtimes})

    def told(what: str, share: float, best: str) -> None:
        work.tell("search", 0.15 + 0.75 * (start + share / parts), what, best)

    return search(
        bases,
        work.judge("search"),
        lambda: work.judge("confirmation"),
        Goal(limit_of(work), p.min_speedup, p.limits.rss_mb, work.budget.wait_s()),
        ThisMachine(
            work.machine.summary, [s.feeds for s in work.slices.search[:8]], fresh_s, work.budget.left
        ),
        log,
        threads=threads,
        seconds=seconds,
        known=known,
        progress=told,
        left=work.budget.left,
    )


def causes_of(work: Work, choice: Choice) -> tuple[Reason, ...]:
    """Why no quantized engine ships first, what came nearest first; empty if one does. Before a float16
    model that ships as it came, too."""
    if choice.winner.candidate.graph.precision == "int8" and not choice.winner.candidate.is_float:
        return ()
    limit = limit_of(work)
    found = list(reasons_of_search(choice.outcomes, limit, choice.busy))
    if found or not choice.winner.candidate.is_float:
        return tuple(found)
    if work.barred is not None:
        return (work.barred,)
    family = host_family(work.machine)
    if family is None:
        return (why_not_quantizable(NotQuantizable.NO_KERNELS, work.machine.summary),)
    judged = rungs_of(work, family)
    lossy = {} if judged is None else {n: a for n, a in judged.judged.items() if n not in judged.recipes}
    if lossy:
        name, least = min(lossy.items(), key=lambda item: item[1].drop)
        found.append(over_budget(name, least, limit))
    if work.budget.left_out:
        found.append(out_of_time(work.budget.left_out, work.budget.seconds / 60))
    if not found:
        unfit = {} if judged is None else judged.unfit
        found.append(why_not_quantizable(NotQuantizable.NO_PLACE, _by_reason(unfit)))
    return tuple(found)


def _by_reason(unfit: Mapping[str, str]) -> str:
    """Each reason with the first of its layers and how many there are."""
    of: dict[str, list[str]] = {}
    for node, reason in unfit.items():
        of.setdefault(reason, []).append(node)
    return (
        ", ".join(f"{r} ({n[0]}{f' and {len(n) - 1} more' if n[1:] else ''})" for r, n in of.items())
        or "nothing is left to quantize"
    )


def _has_cuda(p: DeviceProfile, machine: Machine) -> bool:
    """Whether this machine has the profile's GPU and an ONNX Runtime that runs on it."""
    return p.gpu is not None and requirement_met(p.sm_requirement, machine.facts) and _CUDA in machine.facts


def _measure_cuda(work: Work, p: DeviceProfile, start: float, parts: int) -> Choice:
    """Float32 and float16 on the GPU by ONNX Runtime, which has no fast int8 there: what TensorRT has to
    beat, and the way without it."""
    graphs = [_as_is(work)]
    if work.table is not None:
        float16, _ = to_float16(work.model, {t: max(-r.low, r.high) for t, r in work.table.ranges.items()})
        graphs.append(CandidateGraph("float16", float16.SerializeToString(deterministic=True), "float16"))
    bases = [Candidate(g, "onnxruntime", SessionSettings(provider="cuda")) for g in graphs]
    return _search(work, p, bases, {}, [], work.budget.rounds_s() / parts, start, parts)


def _on_cuda(work: Work, p: DeviceProfile, choice: Choice) -> list[VariantDraft]:
    work.notes.append(f"{p.name}: {choice.winner.candidate.name} on the GPU: {choice.reason}")
    best = choice.picks[0].outcome
    c = best.candidate
    recipe = _FLOAT.model_copy(
        update={
            "passes": (*work.log.ran, *(() if c.is_float else ("float16",))),
            "precision": c.graph.precision,
        }
    )
    plan = VariantDraft(
        profile=p.name,
        variant=f"onnxruntime-cuda-{c.graph.precision}",
        runtime="onnxruntime",
        requires=(f"arch:{work.machine.arch}", p.sm_requirement, _CUDA),
        model=c.graph.model,
        recipe=recipe,
        precision=c.graph.precision,
        session=c.settings,
        accuracy=best.accuracy,
        measured=best.measured,
    )
    return [_folded(work, plan)]


def _measured(work: Work, p: DeviceProfile, family: str | None, choice: Choice) -> list[VariantDraft]:
    """The fast one, what is best at something else, and the float fallback.

    A device tries the fallback last. Where the same float candidate is also the fast one and others ship
    beside it, it therefore comes first as well, as a variant of its own: a few kilobytes, its files are
    shared.
    """
    causes = causes_of(work, choice)
    reason = choice.reason if work.precision == "float32" else "the only form of a model that came quantized"
    won = choice.winner.candidate
    work.notes.append(f"{p.name}: {won.name}: {causes[0].text if causes and won.is_float else reason}")
    if not won.is_float and causes:  # float16, as it came
        work.notes.append(f"{p.name}: {causes[0].text}")
    work.notes.extend(f"{p.name}: also: {why.text}" for why in causes[1:] if why.cause not in SPEED_CAUSES)
    work.notes.extend(f"{p.name}: {note}" for note in choice.notes)
    if slower := slower_carried_over(choice):
        work.notes.append(f"{p.name}: {slower}")
    plans, fallback = [], _fallback(work, p, choice.fallback)
    for pick in choice.picks:
        o = pick.outcome
        if not o.candidate.is_float and o.accuracy is not None:
            say_interval(work, p, o.candidate.name, o.accuracy)
        is_fallback = choice.fallback is not None and o.candidate == choice.fallback.candidate
        if not is_fallback or ("fast" in pick.roles and len(choice.picks) > 1):
            plans.append(_folded(work, _pick(work, p, family, pick), fallback.session))
        else:
            fallback = replace(fallback, roles=pick.roles)
    return [*plans, fallback]


def _pick(work: Work, p: DeviceProfile, family: str | None, pick: Pick) -> VariantDraft:
    c = pick.outcome.candidate
    quantized = None if family is None or c.is_float else recipes_of(work, family).get(c.graph.recipe)
    isa = () if quantized is None else _isa(p, work.machine, family)
    return VariantDraft(
        profile=p.name,
        variant="-".join((c.runtime, c.graph.precision, *(() if "fast" in pick.roles else pick.roles[:1]))),
        runtime=c.runtime,
        requires=(f"arch:{work.machine.arch}", *isa),
        model=c.graph.model,
        recipe=_plain_recipe(work, c)
        if quantized is None or family is None
        else recipe_of(work, family, c.graph.recipe, quantized),
        precision=c.graph.precision,
        session=c.settings,
        layers=() if quantized is None else quantized.layers,
        accuracy=pick.outcome.accuracy,
        measured=_measured_as(work, pick.outcome),
        roles=pick.roles,
    )


def _plain_recipe(work: Work, c: Candidate) -> Recipe:
    """Of a candidate that nothing was quantized for: the float model, or one as it came."""
    return (
        _FLOAT if c.graph.precision == "float32" else Recipe(family=AS_RECEIVED, precision=c.graph.precision)
    )


def _measured_as(work: Work, o: CandidateOutcome) -> Measured | None:
    """What was measured; without a float form of the model there is no ratio to it."""
    return o.measured if o.measured is None or work.precision == "float32" else _without_float(o.measured)


def _without_float(m: Measured) -> Measured:
    fresh = m.fresh and m.fresh.model_copy(update={"ratio_to_float": None})
    return m.model_copy(update={"ratio_to_float": None, "fresh": fresh})


def _folded(work: Work, plan: VariantDraft, reference: SessionSettings | None = None) -> VariantDraft:
    """The same with its preprocessing inside the graph, where that makes the route from a picture to the
    outputs faster. ``reference``: how the float fallback runs that the figures are told against; None:
    they stay those of the graph before."""
    spec = work.task.input
    if not isinstance(spec, ImageInput) or work.slices.random or plan.measured is None:
        return plan
    samples = work.slices.search[:_PICTURES]
    pictures = [
        pixels_of(np.asarray(next(iter(s.feeds.values()))), spec) for s in samples if len(s.feeds) == 1
    ]
    if work.budget.over(PACK, f"{plan.variant} with its preprocessing inside"):
        return plan
    work.tell("search", 0.9, f"{plan.variant}: preprocessing inside the graph", "")
    found = fold_if_faster(
        onnx.load_from_string(plan.model),
        spec,
        pictures,
        runtime=plan.runtime,
        settings=plan.session,
        seconds=_ROUTE_SECONDS,
    )
    if found is None:
        return plan
    again = plan.measured if reference is None else _measured_folded(work, plan, found, reference)
    if again is None:
        return plan
    work.notes.append(
        f"{plan.profile}: {plan.variant} takes pixels: with its preprocessing inside the graph the route is {1 / found.gain.ratio:.2f} × as fast"
    )
    return replace(
        plan,
        model=found.model,
        picture=found.spec,
        measured=again.model_copy(update={"route": found.gain}),
        recipe=plan.recipe.model_copy(update={"passes": (*plan.recipe.passes, "fold-input")}),
    )


def _measured_folded(
    work: Work, plan: VariantDraft, folded: Folded, reference: SessionSettings
) -> Measured | None:
    """The contexts of the graph that ships, with its preprocessing, against the float fallback; None if a
    quantized one is no longer faster than float, or there is no time to tell. What was not measured in a
    process of its own before is not now."""
    before = plan.measured
    assert before is not None
    if before.fresh is None or not before.fresh.contexts:
        return before
    if work.budget.over(PACK, f"{plan.variant} with its preprocessing inside"):
        return None
    assert isinstance(work.task.input, ImageInput)
    plain = [s.feeds for s in work.slices.search[:_PICTURES]]
    pixels = [pixel_feeds(f, work.task.input) for f in plain]
    times = measure_fresh(
        {
            "inside": Contender(folded.model, plan.runtime, plan.session, pixels),
            "float": Contender(work.float_bytes, "onnxruntime", reference, plain),
        },
        plain,
        seconds=work.budget.fresh_s(SECONDS),
        enough=lambda: work.budget.left() <= 0,
    )
    inside, base = times["inside"], times["float"]
    if inside.failed is not None or base.failed is not None:
        return None
    # the model before is the reference then, and no float
    as_received = work.precision != "float32"
    standing = None if plan.precision == "float32" or as_received else standing_of(inside, base)
    if standing in (Standing.EQUAL, Standing.SLOWER):
        return None
    fresh = summarise_fresh(inside, base, base)
    alone = next((c.ratio for c in fresh.contexts if c.context is Context.ALONE), None)
    kept = before.standing if standing is Standing.UNDECIDED else standing
    again = before.model_copy(update={"fresh": fresh, "standing": kept, "ratio_to_float": alone})
    return _without_float(again) if as_received else again


def _isa(p: DeviceProfile, machine: Machine, family: str | None) -> tuple[str, ...]:
    """What an int8 variant needs beside the architecture: the kernels that it was written for."""
    if p.cpu.family != "host":
        return p.cpu.isa
    return {
        "x86-vnni": ("isa:avx512_vnni|isa:avx_vnni",),
        "x86-avx2": ("isa:avx2",),
        "arm64": ("isa:dotprod",),
    }.get(family or "", ())


def _fallback(work: Work, p: DeviceProfile, measured: CandidateOutcome | None) -> VariantDraft:
    """The model itself, float unless it came quantized, in ONNX Runtime: runs on any machine of the
    profile's architecture."""
    session = measured.candidate.settings if measured else SessionSettings(threads=min(2, p.cpu.max_threads))
    return VariantDraft(
        profile=p.name,
        variant=f"cpu-{work.precision}",
        runtime="onnxruntime",
        requires=(p.arch_requirement,),
        model=work.float_bytes,
        recipe=recipe_as_is(work),
        precision=work.precision,
        session=session,
        accuracy=measured.accuracy if measured else None,
        measured=_measured_as(work, measured) if measured else None,
        fallback=True,
        layers=float_layers(work, host_family(work.machine) if p.cpu.family == "host" else p.cpu.family),
    )


def _unmeasured(work: Work, p: DeviceProfile) -> list[VariantDraft]:
    """CPU variants for another machine than this one: int8 where its kernels have dot products and the
    numbers hold.

    For a profile with a GPU that int8 variant is the fallback; otherwise it comes first and a float fallback
    follows.
    """
    plans = []
    has_kernels = any(
        fact.partition("|")[0] in ("isa:dotprod", "isa:avx512_vnni", "isa:avx2") for fact in p.cpu.isa
    )
    best = numerically_best(work, p.cpu.family, p) if p.cpu.family != "host" and has_kernels else None
    if best is not None:
        name, quantized, accuracy = best
        plans.append(
            VariantDraft(
                profile=p.name,
                variant="cpu-int8",
                runtime="onnxruntime",
                requires=(p.arch_requirement, *p.cpu.isa),
                model=quantized.model.SerializeToString(deterministic=True),
                recipe=recipe_of(work, p.cpu.family, name, quantized),
                precision="int8",
                session=SessionSettings(threads=min(2, p.cpu.max_threads)),
                layers=quantized.layers,
                accuracy=accuracy,
                fallback=p.gpu is not None,
            )
        )
        work.notes.append(f"{p.name}: {p.cpu.family} int8 was checked numerically here, and measured nowhere")
    if best is None or p.gpu is None:
        plans.append(_fallback(work, p, None))
    return plans
