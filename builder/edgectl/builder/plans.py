"""Which variants a profile gets: int8 graphs are written and judged, candidates measured, and what is not measurable here is said.

A profile whose CPU is this machine's is measured; any other one is checked numerically only. Every profile ends with a variant
that its CPU can run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from onnx import ModelProto

from edgectl.builder import lint
from edgectl.builder.accuracy import Judge
from edgectl.builder.bias import correct_biases
from edgectl.builder.calibrate import CalibrationTable
from edgectl.builder.data import Slices
from edgectl.builder.families import FAMILIES
from edgectl.builder.graph import GraphIndex
from edgectl.builder.passes.base import PassLog
from edgectl.builder.placement import heads, weighted_nodes
from edgectl.builder.quantize import Quantized, RangeKind, quantize
from edgectl.builder.search import Candidate, Choice, Outcome, search
from edgectl.builder.sensitivity import rank_nodes
from edgectl.builder.variants import VariantPlan
from edgectl.core.bundle import Recipe, Runtime, SessionSettings
from edgectl.core.errors import EdgectlError, ModelError
from edgectl.core.task import TaskSpec
from edgectl.device_profiles.probe import Machine, host_family
from edgectl.device_profiles.schema import DeviceProfile
from edgectl.engines.open import open_model

__all__ = ["Work", "plan_variants"]

_FLOAT = Recipe(family="float")
_ON_DEVICE = "the TensorRT plan is compiled on the device itself; here its graph was checked numerically in ONNX Runtime"


@dataclass(frozen=True)
class Work:
    """What every profile of one build starts from."""

    model: ModelProto
    table: CalibrationTable | None
    slices: Slices
    task: TaskSpec
    machine: Machine
    log: PassLog
    max_drop: float
    notes: list[str]
    tell: Callable[[str, float, str, str], None]
    recipes: dict[str, dict[str, Quantized]] = field(default_factory=dict)
    """Kernel family → recipe → int8 graph; filled as families come up."""

    @property
    def float_bytes(self) -> bytes:
        return bytes(self.model.SerializeToString(deterministic=True))


def plan_variants(work: Work, profiles: Sequence[DeviceProfile], seconds: float) -> tuple[list[VariantPlan], dict[str, Choice]]:
    """The variants of every profile, best first and the fallback last; families are measured once for all profiles."""
    family = host_family(work.machine)
    measured = {p.name for p in profiles if _measurable(p, work.machine)}
    choices: dict[str, Choice] = {}
    plans: list[VariantPlan] = []
    for i, p in enumerate(profiles):
        if "tensorrt" in p.runtimes:
            plans += _tensorrt(work, p)
        if p.name not in measured:
            plans += _unmeasured(work, p)
            continue
        key = f"{family or 'float'}, at most {min(p.cpu.max_threads, work.machine.cores)} threads"
        if key not in choices:
            share = seconds / max(1, len(measured))
            choices[key] = _measure(work, p, family, share, i / len(profiles), len(profiles))
        plans += _measured(work, p, family, choices[key])
    return plans, choices


def _measurable(profile: DeviceProfile, machine: Machine) -> bool:
    """Whether this machine is what the profile's CPU variant runs on, so that what is measured here holds there."""
    return profile.gpu is None and (
        profile.cpu.family == "host" or (profile.cpu.arch == machine.arch and profile.cpu.family == host_family(machine))
    )


def _recipes(work: Work, family: str) -> dict[str, Quantized]:
    """The int8 graphs worth trying, from the one calibration table, each checked by the placement linter.

    ``keep-third`` leaves the nodes in float that cost most when quantized alone; ``typical`` ranges let outliers saturate;
    ``…-corrected`` have their biases corrected.
    """
    if work.table is None:
        return {}
    if family in work.recipes:
        return work.recipes[family]
    spec, index = FAMILIES[family], GraphIndex(work.model)
    names = [n.name for n in weighted_nodes(index)]
    feeds = [s.feeds for s in work.slices.search[:4]]
    ranked = rank_nodes(
        work.model, work.table, spec, feeds,
        progress=lambda n, total: work.tell("sensitivity", 0.15, f"{family}: {n}/{total} nodes", ""),
    )  # fmt: skip
    worst = [name for name, _ in ranked]
    last = heads(index)
    options: dict[str, tuple[Collection[str], bool, RangeKind]] = {
        "full": ((), True, "minmax"),
        "no-head": (last, True, "minmax"),
        "no-first": (names[:1], True, "typical"),
        "conv-only": ((), False, "minmax"),
        "full-corrected": ((), True, "typical"),
        "keep-third-corrected": (worst[: max(2, len(worst) // 3)], True, "typical"),
    }
    if spec.placement == "inputs":  # there are no chains, and heads stay float anyway
        options = {k: v for k, v in options.items() if k not in ("no-head", "conv-only")} | {"typical": ((), True, "typical")}
    made: dict[str, Quantized] = {}
    for name, (exclude, chains, ranges) in options.items():
        work.tell("quantize", 0.15, f"{family}: {name}", "")
        q = quantize(work.model, work.table, spec, exclude=exclude, chains=chains, ranges=ranges)
        if any(r.precision == "int8" for r in q.layers):
            if name.endswith("-corrected"):
                q = correct_biases(
                    q, work.model, [s.feeds for s in work.slices.calibration[:: max(1, len(work.slices.calibration) // 6)]]
                )
            lint.check(q.model, spec)
            sqnr = dict(ranked)
            made[name] = replace(
                q, ranges=ranges, layers=tuple(r.model_copy(update={"sqnr_db": _round(sqnr.get(r.node))}) for r in q.layers)
            )
    work.recipes[family] = made
    return made


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _measure(work: Work, p: DeviceProfile, family: str | None, seconds: float, start: float, parts: int) -> Choice:
    recipes = {} if family is None else _recipes(work, family)
    models = {"float": work.float_bytes, **{n: q.model.SerializeToString(deterministic=True) for n, q in recipes.items()}}
    runtimes: list[Runtime] = [r for r in p.runtimes if r != "tensorrt" and r in work.machine.runtimes]
    cores = min(p.cpu.max_threads, work.machine.cores)
    threads = [t for t in (1, 2, 4, 8) if t <= cores]
    candidates = [
        Candidate(
            f"{recipe}/{runtime}/{t}", recipe, data, "float32" if recipe == "float" else "int8", runtime,
            SessionSettings(threads=t, precision_hint="f32" if runtime == "openvino" else None),
        )
        for recipe, data in models.items() for runtime in runtimes for t in threads
    ]  # fmt: skip
    reference = open_model(work.float_bytes, SessionSettings())
    judge = Judge(work.task, work.slices.search, reference)
    confirm = Judge(work.task, work.slices.confirmation, reference)
    reference.close()
    feeds = [s.feeds for s in work.slices.search[:8]]

    def told(what: str, share: float, best: str) -> None:
        work.tell("search", 0.15 + 0.75 * (start + share / parts), what, best)

    return search(
        candidates, feeds, judge, confirm, max_drop=1.0 if work.slices.random else work.max_drop, min_speedup=p.min_speedup,
        seconds=seconds, machine=work.machine.summary, progress=told,
    )  # fmt: skip


def _measured(work: Work, p: DeviceProfile, family: str | None, choice: Choice) -> list[VariantPlan]:
    """The winner; if it needs OpenVINO, also the best that ONNX Runtime alone can run; and the float fallback."""
    recipes = {} if family is None else _recipes(work, family)
    work.notes.append(f"{p.name}: {choice.winner.candidate.name}: {choice.reason}")
    picked = [choice.winner]
    if choice.winner.candidate.runtime != "onnxruntime":
        rest = [
            o for o in choice.outcomes
            if o.candidate.runtime == "onnxruntime" and o.measured and o.accuracy and o.accuracy.drop <= work.max_drop
            and o.ratio and o.candidate.precision == "int8" and o.ratio.high <= 1 / p.min_speedup
        ]  # fmt: skip
        picked += sorted(rest, key=lambda o: o.measured.p50_ms if o.measured else 0.0)[:1]
    plans = []
    for o in picked:
        c = o.candidate
        if c.precision == "float32" and c.runtime == "onnxruntime":
            continue  # it is the fallback
        arch = f"arch:{work.machine.arch}"
        isa = _isa(p, work.machine, family) if c.precision == "int8" else ()
        quantized = recipes.get(c.recipe)
        plans.append(
            VariantPlan(
                profile=p.name, variant=f"{c.runtime}-{c.precision}", runtime=c.runtime, requires=(arch, *isa), model=c.model,
                recipe=_FLOAT if quantized is None or family is None else _recipe(work, family, c.recipe, quantized),
                precision=c.precision, session=c.settings, layers=() if quantized is None else quantized.layers,
                accuracy=o.accuracy, measured=o.measured,
            )
        )  # fmt: skip
    floats = [
        o for o in choice.outcomes if o.candidate.precision == "float32" and o.candidate.runtime == "onnxruntime" and o.measured
    ]
    best_float = min(floats, key=lambda o: (o.rejected is not None, o.measured.p50_ms if o.measured else 0.0), default=None)
    plans.append(_fallback(work, p, best_float))
    return plans


def _isa(p: DeviceProfile, machine: Machine, family: str | None) -> tuple[str, ...]:
    """What an int8 variant needs beside the architecture: the kernels that it was written for."""
    if p.cpu.family != "host":
        return p.cpu.isa
    return {"x86-vnni": ("isa:avx512_vnni|isa:avx_vnni",), "x86-avx2": ("isa:avx2",), "arm64": ("isa:dotprod",)}.get(
        family or "", ()
    )


def _fallback(work: Work, p: DeviceProfile, measured: Outcome | None) -> VariantPlan:
    """Float in ONNX Runtime: runs on any machine of the profile's architecture."""
    session = measured.candidate.settings if measured else SessionSettings(threads=min(2, p.cpu.max_threads))
    return VariantPlan(
        profile=p.name, variant="cpu-float32", runtime="onnxruntime", requires=(p.arch_requirement,), model=work.float_bytes,
        recipe=_FLOAT.model_copy(update={"passes": tuple(work.log.ran)}), precision="float32", session=session,
        accuracy=measured.accuracy if measured else None, measured=measured.measured if measured else None, fallback=True,
    )  # fmt: skip


def _tensorrt(work: Work, p: DeviceProfile) -> list[VariantPlan]:
    """The explicit Q/DQ graph that the device compiles; float if int8 loses too much or nothing is worth quantizing."""
    work.notes.append(f"{p.name}: {_ON_DEVICE}")
    requires = (f"arch:{p.cpu.arch}", p.sm_requirement)
    best = _numerically_best(work, "trt-gpu", p)
    session = SessionSettings()
    if best is None:
        recipe = Recipe(family="float", passes=tuple(work.log.ran), plan="on-device")
        return [
            VariantPlan(
                profile=p.name, variant="tensorrt-float32", runtime="tensorrt", requires=requires, model=work.float_bytes,
                recipe=recipe, precision="float32", session=session,
            )
        ]  # fmt: skip
    name, quantized, outcome = best
    recipe = _recipe(work, "trt-gpu", name, quantized).model_copy(update={"plan": "on-device"})
    return [
        VariantPlan(
            profile=p.name, variant="tensorrt-int8", runtime="tensorrt", requires=requires,
            model=quantized.model.SerializeToString(deterministic=True), recipe=recipe, precision="int8", session=session,
            layers=quantized.layers, accuracy=outcome.accuracy,
        )
    ]  # fmt: skip


def _unmeasured(work: Work, p: DeviceProfile) -> list[VariantPlan]:
    """CPU variants for another machine than this one: int8 where its kernels have dot products and the numbers hold.

    For a profile with a GPU that int8 variant is the fallback; otherwise it comes first and a float fallback follows.
    """
    plans = []
    has_kernels = any(fact.partition("|")[0] in ("isa:dotprod", "isa:avx512_vnni", "isa:avx2") for fact in p.cpu.isa)
    best = _numerically_best(work, p.cpu.family, p) if p.cpu.family != "host" and has_kernels else None
    if best is not None:
        name, quantized, outcome = best
        plans.append(
            VariantPlan(
                profile=p.name, variant="cpu-int8", runtime="onnxruntime", requires=(p.arch_requirement, *p.cpu.isa),
                model=quantized.model.SerializeToString(deterministic=True), recipe=_recipe(work, p.cpu.family, name, quantized),
                precision="int8", session=SessionSettings(threads=min(2, p.cpu.max_threads)), layers=quantized.layers,
                accuracy=outcome.accuracy, fallback=p.gpu is not None,
            )
        )  # fmt: skip
        work.notes.append(f"{p.name}: {p.cpu.family} int8 was checked numerically here, and measured nowhere")
    if best is None or p.gpu is None:
        plans.append(_fallback(work, p, None))
    return plans


def _numerically_best(work: Work, family: str, p: DeviceProfile) -> tuple[str, Quantized, Outcome] | None:
    """The int8 graph of a family that loses least on the search slice, if it also holds on the confirmation slice.

    Run in ONNX Runtime without graph optimisation: the arithmetic of the Q/DQ nodes themselves, whatever this machine is.
    """
    recipes = _recipes(work, family)
    if not recipes:
        return None
    reference = open_model(work.float_bytes, SessionSettings())
    judge = Judge(work.task, work.slices.search, reference)
    confirm = Judge(work.task, work.slices.confirmation, reference)
    reference.close()
    simulated = SessionSettings(optimization="disabled")
    found: list[tuple[float, str, Quantized, Outcome]] = []
    for name, quantized in recipes.items():
        data = quantized.model.SerializeToString(deterministic=True)
        try:
            engine = open_model(data, simulated)
            searched, confirmed = judge.judge(engine), confirm.judge(engine)
            engine.close()
        except EdgectlError as e:
            raise ModelError(f"the {family} graph ({name}) does not run in ONNX Runtime: {e.message}") from e
        candidate = Candidate(f"{name}/{family}", name, data, "int8", "onnxruntime", simulated)
        found.append((max(searched.drop, confirmed.drop), name, quantized, Outcome(candidate, confirmed)))
    drop, name, quantized, outcome = min(found, key=lambda f: f[0])
    if drop > work.max_drop and not work.slices.random:
        work.notes.append(f"{p.name}: {family} int8 loses {drop:.4f}, more than {work.max_drop:g}: float instead")
        return None
    return name, quantized, outcome


def _recipe(work: Work, family: str, name: str, quantized: Quantized) -> Recipe:
    spec = FAMILIES[family]
    assert work.table is not None
    return Recipe(
        family=family, passes=(*work.log.ran, f"quantize:{name}"), precision="int8", activations=spec.activation,
        weights="int8" if spec.weight_max == 127 else "int8 (7 bit)", excluded=tuple(sorted(quantized.placement.reasons)),
        method="minmax" if quantized.ranges == "minmax" else "mean of extremes", calibration=work.table.digest, samples=work.table.samples,
    )  # fmt: skip
