"""Which variants a profile gets: int8 graphs are written and judged, candidates measured, and what is not measurable here is said.

A profile whose CPU is this machine's is measured; any other one is checked numerically only. Every profile ends with a variant
that its CPU can run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from onnx import ModelProto

from edgectl.builder.accuracy import Accuracy, Judge
from edgectl.builder.calibrate import CalibrationTable
from edgectl.builder.candidates import Candidate, Choice, Graph, Outcome, Pick
from edgectl.builder.data import Sample, Slices
from edgectl.builder.families import FAMILIES, Family
from edgectl.builder.half import half
from edgectl.builder.lab import HostLab
from edgectl.builder.ladder import Basis, Rungs, Tune, climb, float_report, prepare_basis
from edgectl.builder.passes.base import PassLog
from edgectl.builder.quantize import Quantized, symmetric_ranges
from edgectl.builder.search import Goal, search
from edgectl.builder.tuning import TuningLog
from edgectl.builder.variants import VariantPlan
from edgectl.core.bundle import LAYER_RANGES, LayerReport, Precision, Recipe, Runtime, SessionSettings
from edgectl.core.errors import EdgectlError, ModelError
from edgectl.core.task import TaskSpec
from edgectl.device_profiles.probe import Machine, host_family
from edgectl.device_profiles.schema import DeviceProfile, TensorRtSpec
from edgectl.engines.base import Feeds
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
    basis: list[Basis] = field(default_factory=list)
    """The prepared graph, one for all families; filled when the first family comes up."""
    rungs: dict[str, Rungs] = field(default_factory=dict)
    """Kernel family → what the ladder gave; filled as families come up."""
    tuning: Path | None = None
    """Where measurements are kept until the bundle is whole; None: nowhere."""
    judge_cache: dict[str, Judge] = field(default_factory=dict)
    recover_minutes: float = 0.0
    """How long each family's int8 graph may be fine-tuned."""

    def judge(self, which: Literal["search", "confirmation"]) -> Judge:
        """The judge of a slice; made when it is first needed."""
        if which not in self.judge_cache:
            self.tell("judge", 0.15, f"float outputs of the {which} slice", "")
            reference = open_model(self.float_bytes, SessionSettings(threads=2))
            samples = self.slices.search if which == "search" else self.slices.confirmation
            self.judge_cache[which] = Judge(self.task, samples, reference)
            reference.close()
        return self.judge_cache[which]

    @cached_property
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


def _rungs(work: Work, family: str) -> Rungs | None:
    """What the ladder gave for a family; None where there is nothing to quantize. Each family is climbed once."""
    if work.table is None:
        return None
    if family not in work.rungs:
        spec = FAMILIES[family]
        calibration = _Feeds(work.slices.calibration)

        def tell(what: str) -> None:
            work.tell("quantize", 0.15, f"{family}: {what}", "")

        if not work.basis:
            work.basis.append(prepare_basis(
                work.model, work.table, spec, calibration, work.judge("search"), max_drop=_limit(work), tell=tell
            ))  # fmt: skip
        work.rungs[family] = climb(
            work.basis[0], spec, calibration, work.judge("search"), max_drop=_limit(work), timed=family == host_family(work.machine), tell=tell,
            also=[FAMILIES["openvino"]] if "openvino" in work.machine.runtimes and family.startswith("x86") else [],
            tune=_tune(work, spec, tell),
        )  # fmt: skip
    return work.rungs[family]


def _tune(work: Work, family: Family, tell: Callable[[str], None]) -> Tune | None:
    """Fine-tuning of int8 for the minutes that were allowed; None if none were."""
    if not work.recover_minutes:
        return None
    from edgectl.builder.compress.qat import fine_tune  # torch is there: compression asked for it before anything was measured

    def tune(q: Quantized) -> Quantized:
        samples = [s.feeds for s in work.slices.calibration]
        taught, lesson = fine_tune(
            q, work.basis[0].model, samples, weight_max=family.weight_max, seconds=work.recover_minutes * 60,
            decode=work.task.decode, progress=lambda share, error: tell(f"fine-tuning, {share:.0%}: error {error:.4f}"),
        )  # fmt: skip
        work.notes.append(
            f"{family.name}: int8 fine-tuned in {lesson.steps} steps, held-back loss {lesson.before:.4f} → {lesson.after:.4f}"
        )
        return taught

    return tune


def _recipes(work: Work, family: str) -> dict[str, Quantized]:
    rungs = _rungs(work, family)
    return {} if rungs is None else rungs.recipes


def _limit(work: Work) -> float:
    """Noise has no accuracy to lose."""
    return 1.0 if work.slices.random else work.max_drop


@dataclass(frozen=True)
class _Feeds(Sequence[Feeds]):
    samples: Sequence[Sample]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        picked = self.samples[index]
        return [s.feeds for s in picked] if isinstance(index, slice) else picked.feeds


def _measure(work: Work, p: DeviceProfile, family: str | None, seconds: float, start: float, parts: int) -> Choice:
    recipes = {} if family is None else _recipes(work, family)
    graphs = [Graph("float", work.float_bytes, "float32")]
    graphs += [Graph(n, q.model.SerializeToString(deterministic=True), "int8") for n, q in recipes.items()]
    runtimes: list[Runtime] = [r for r in p.runtimes if r != "tensorrt" and r in work.machine.runtimes]
    cores = min(p.cpu.max_threads, work.machine.cores)
    bases = [
        Candidate(g, r, SessionSettings(precision_hint="f32" if r == "openvino" else None)) for g in graphs for r in runtimes
    ]
    rungs = None if family is None else _rungs(work, family)
    known: dict[tuple[str, Runtime], Accuracy] = {(n, "onnxruntime"): a for n, a in (rungs.judged if rungs else {}).items()}
    host = {"machine": work.machine.summary, "isa": " ".join(work.machine.isa), "memory_mb": str(work.machine.memory_mb)}
    log = TuningLog(work.tuning, {**host, **work.machine.runtimes})

    def told(what: str, share: float, best: str) -> None:
        work.tell("search", 0.15 + 0.75 * (start + share / parts), what, best)

    return search(
        bases, work.judge("search"), lambda: work.judge("confirmation"), Goal(_limit(work), p.min_speedup, p.limits.rss_mb),
        HostLab(work.machine.summary, [s.feeds for s in work.slices.search[:8]]), log,
        threads=[t for t in (2, 4, 8) if t <= cores], seconds=seconds, known=known, progress=told,
    )  # fmt: skip


def _measured(work: Work, p: DeviceProfile, family: str | None, choice: Choice) -> list[VariantPlan]:
    """The fast one, what is best at something else, and the float fallback.

    A device tries the fallback last. Where the same float candidate is also the fast one and others ship beside it, it therefore comes
    first as well, as a variant of its own: a few kilobytes, its files are shared.
    """
    work.notes.append(f"{p.name}: {choice.winner.candidate.name}: {choice.reason}")
    work.notes.extend(f"{p.name}: {note}" for note in choice.notes)
    plans, fallback = [], _fallback(work, p, choice.fallback)
    for pick in choice.picks:
        o = pick.outcome
        if o.candidate.graph.precision == "int8" and o.accuracy is not None:
            _say_interval(work, p, o.candidate.name, o.accuracy)
        is_fallback = choice.fallback is not None and o.candidate == choice.fallback.candidate
        if not is_fallback or ("fast" in pick.roles and len(choice.picks) > 1):
            plans.append(_pick(work, p, family, pick))
        else:
            fallback = replace(fallback, roles=pick.roles)
    return [*plans, fallback]


def _pick(work: Work, p: DeviceProfile, family: str | None, pick: Pick) -> VariantPlan:
    c = pick.outcome.candidate
    quantized = None if family is None or c.is_float else _recipes(work, family)[c.graph.recipe]
    isa = () if c.is_float else _isa(p, work.machine, family)
    return VariantPlan(
        profile=p.name, variant="-".join((c.runtime, c.graph.precision, *(() if "fast" in pick.roles else pick.roles[:1]))),
        runtime=c.runtime, requires=(f"arch:{work.machine.arch}", *isa), model=c.graph.model,
        recipe=_FLOAT if quantized is None or family is None else _recipe(work, c.graph.recipe, quantized),
        precision=c.graph.precision, session=c.settings, layers=() if quantized is None else quantized.layers,
        accuracy=pick.outcome.accuracy, measured=pick.outcome.measured, roles=pick.roles,
    )  # fmt: skip


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
        layers=_float_layers(work, host_family(work.machine) if p.cpu.family == "host" else p.cpu.family),
    )  # fmt: skip


def _float_layers(work: Work, family: str | None) -> tuple[LayerReport, ...]:
    """Why each layer is float, for the families that were climbed."""
    if work.table is None:
        return float_report(work.model, None, work.max_drop, "float: see the notes of the build")
    return float_report(work.model, work.rungs.get(family or ""), work.max_drop, "")


def _tensorrt(work: Work, p: DeviceProfile) -> list[VariantPlan]:
    """The graphs that the device compiles: explicit Q/DQ where int8 holds the budget, float otherwise.

    TensorRT 10 and 11 take every precision from the graph, so float16 is written into it. TensorRT 8 knows no float16 scales and
    chooses float16 by itself. A profile that asks for DLA gets that first.
    """
    work.notes.append(f"{p.name}: {_ON_DEVICE}")
    assert p.tensorrt is not None
    return [*(_dla(work, p) if p.tensorrt.dla_core is not None else ()), *_gpu(work, p, p.tensorrt)]


def _dla(work: Work, p: DeviceProfile) -> list[VariantPlan]:
    """Explicit Q/DQ for TensorRT 11, and float with the same ranges for the implicit quantization of 8.6 to 10.7."""
    best = _numerically_best(work, "trt-dla", p)
    if best is None:
        return []  # a note says why; DLA is worth its detour in int8 only
    name, quantized, accuracy = best
    recipe = _recipe(work, name, quantized).model_copy(update={"plan": "on-device"})
    fits = (f"arch:{p.cpu.arch}", p.sm_requirement)
    explicit = VariantPlan(
        profile=p.name, variant="tensorrt-dla-int8", runtime="tensorrt", requires=(*fits, "trt:11"), model=quantized.model.SerializeToString(deterministic=True),
        recipe=recipe, precision="int8", session=SessionSettings(), layers=quantized.layers, accuracy=accuracy,
    )  # fmt: skip
    ranges = json.dumps(symmetric_ranges(quantized.model), separators=(",", ":"), sort_keys=True).encode()
    implicit = replace(
        explicit, variant="tensorrt-dla-int8-implicit", requires=(*fits, "trt:8|trt:10"),
        model=work.basis[0].model.SerializeToString(deterministic=True), golden=explicit.model, parts=((LAYER_RANGES, ranges),),
    )  # fmt: skip
    halved = _halved(work, p, explicit, quantized.model)
    return [replace(halved, variant="tensorrt-dla-int8-float16") if halved is not None else explicit, implicit]


def _gpu(work: Work, p: DeviceProfile, tensorrt: TensorRtSpec) -> list[VariantPlan]:
    best = _numerically_best(work, "trt-gpu", p)
    if best is None:
        graph, recipe = work.model, Recipe(family="float", passes=tuple(work.log.ran), plan="on-device")
        plain = VariantPlan(
            profile=p.name, variant="tensorrt-float32", runtime="tensorrt", requires=(), model=work.float_bytes, recipe=recipe,
            precision="float32", session=SessionSettings(), layers=_float_layers(work, "trt-gpu"),
        )  # fmt: skip
    else:
        name, quantized, accuracy = best
        graph, recipe = quantized.model, _recipe(work, name, quantized).model_copy(update={"plan": "on-device"})
        plain = VariantPlan(
            profile=p.name, variant="tensorrt-int8", runtime="tensorrt", requires=(), model=quantized.model.SerializeToString(deterministic=True),
            recipe=recipe, precision="int8", session=SessionSettings(), layers=quantized.layers, accuracy=accuracy,
        )  # fmt: skip
    fits = (f"arch:{p.cpu.arch}", p.sm_requirement)
    typed = [g for g in tensorrt.generations if g >= 10]
    halved = _halved(work, p, plain, graph) if typed else None
    if halved is None:
        return [replace(plain, requires=fits)]
    plans = [replace(halved, requires=(*fits, "|".join(f"trt:{g}" for g in typed)))]
    if 8 in tensorrt.generations:
        plans.append(replace(plain, requires=(*fits, "trt:8")))
    return plans


def _halved(work: Work, p: DeviceProfile, plain: VariantPlan, graph: ModelProto) -> VariantPlan | None:
    """The same with what is left in float computing in float16; None if that loses too much, or was never calibrated."""
    if work.table is None:
        return None
    table = work.basis[0].table if work.basis else work.table
    model, chosen = half(graph, {t: max(-r.low, r.high) for t, r in table.ranges.items()})
    data = model.SerializeToString(deterministic=True)
    work.tell("confirm", 0.15, f"{plain.variant}: float16", "")
    engine = open_model(data, SessionSettings(optimization="disabled", threads=min(2, work.machine.cores)))
    accuracy = work.judge("confirmation").judge(engine, limit=_limit(work))
    engine.close()
    if accuracy.drop > _limit(work):
        work.notes.append(f"{p.name}: float16 loses {accuracy.drop:.4f}: what is not int8 stays float32")
        return None
    layers = [
        layer.model_copy(update={"precision": "float16"}) if layer.precision == "float32" and layer.node in chosen else layer
        for layer in plain.layers
    ]
    precision: Precision = "float16" if plain.precision == "float32" else plain.precision
    recipe = plain.recipe.model_copy(update={"passes": (*plain.recipe.passes, "half"), "precision": precision})
    return replace(
        plain, variant=f"tensorrt-{precision}" + ("-float16" if precision == "int8" else ""), model=data, recipe=recipe,
        precision=precision, layers=tuple(layers), accuracy=accuracy,
    )  # fmt: skip


def _unmeasured(work: Work, p: DeviceProfile) -> list[VariantPlan]:
    """CPU variants for another machine than this one: int8 where its kernels have dot products and the numbers hold.

    For a profile with a GPU that int8 variant is the fallback; otherwise it comes first and a float fallback follows.
    """
    plans = []
    has_kernels = any(fact.partition("|")[0] in ("isa:dotprod", "isa:avx512_vnni", "isa:avx2") for fact in p.cpu.isa)
    best = _numerically_best(work, p.cpu.family, p) if p.cpu.family != "host" and has_kernels else None
    if best is not None:
        name, quantized, accuracy = best
        plans.append(
            VariantPlan(
                profile=p.name, variant="cpu-int8", runtime="onnxruntime", requires=(p.arch_requirement, *p.cpu.isa),
                model=quantized.model.SerializeToString(deterministic=True), recipe=_recipe(work, name, quantized),
                precision="int8", session=SessionSettings(threads=min(2, p.cpu.max_threads)), layers=quantized.layers,
                accuracy=accuracy, fallback=p.gpu is not None,
            )
        )  # fmt: skip
        work.notes.append(f"{p.name}: {p.cpu.family} int8 was checked numerically here, and measured nowhere")
    if best is None or p.gpu is None:
        plans.append(_fallback(work, p, None))
    return plans


def _numerically_best(work: Work, family: str, p: DeviceProfile) -> tuple[str, Quantized, Accuracy] | None:
    """The int8 graph of a family that keeps least in float and holds the budget on the confirmation slice, too.

    Run in ONNX Runtime without graph optimisation: the arithmetic of the Q/DQ nodes themselves, whatever this machine is.
    """
    rungs = _rungs(work, family)
    if rungs is None or not rungs.judged:
        return None
    limit, lost = _limit(work), min(a.drop for a in rungs.judged.values())
    simulated = SessionSettings(optimization="disabled", threads=min(2, work.machine.cores))
    order = sorted(
        rungs.recipes.items(), key=lambda r: (r[1].ranges is None, len(r[1].placement.reasons), rungs.judged[r[0]].drop)
    )
    for name, quantized in order:
        work.tell("confirm", 0.15, f"{family}: {name}", "")
        data = quantized.model.SerializeToString(deterministic=True)
        try:
            engine = open_model(data, simulated)
            confirmed = work.judge("confirmation").judge(engine, limit=limit)
            engine.close()
        except EdgectlError as e:
            raise ModelError(f"the {family} graph ({name}) does not run in ONNX Runtime: {e.message}") from e
        if confirmed.drop <= limit:
            _say_interval(work, p, f"{family} int8 ({name})", confirmed)
            return name, quantized, confirmed
        lost = confirmed.drop
    work.notes.append(f"{p.name}: {family} int8 loses {lost:.4f}, more than {work.max_drop:g}: float instead")
    return None


def _say_interval(work: Work, p: DeviceProfile, what: str, accuracy: Accuracy) -> None:
    """A budget that lies inside the interval is met as far as these samples can tell: the user hears it."""
    if accuracy.high > work.max_drop and not work.slices.random:
        work.notes.append(
            f"{p.name}: {what} loses {accuracy.drop:.4f} on {accuracy.samples} samples, 95 % interval "
            f"{accuracy.low:.4f} … {accuracy.high:.4f}: more data would tell it from the budget of {work.max_drop:g}"
        )


def _recipe(work: Work, name: str, quantized: Quantized) -> Recipe:
    spec = quantized.family
    basis = work.basis[0]
    return Recipe(
        family=spec.name,
        passes=(*work.log.ran, *basis.passes, f"quantize:{name}", *(("reconstruct",) if quantized.rebuilt else ())),
        precision="int8", activations=spec.activation, weights={127: "int8", 63: "int8 (7 bit)", 7: "int4"}[spec.weight_max],
        excluded=tuple(sorted(quantized.placement.reasons)),
        method=quantized.ranges, **({} if quantized.ranges is None else {"calibration": basis.table.digest, "samples": basis.table.samples}),
    )  # fmt: skip
