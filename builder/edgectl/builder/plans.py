"""Which variants a profile gets: int8 graphs are written and judged, candidates measured, and what is not measurable here is said.

A profile whose CPU is this machine's is measured; any other one is checked numerically only. Every profile ends with a variant
that its CPU can run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from onnx import ModelProto

from edgectl.builder.accuracy import Accuracy, Judge
from edgectl.builder.calibrate import CalibrationTable
from edgectl.builder.data import Sample, Slices
from edgectl.builder.families import FAMILIES, Family
from edgectl.builder.ladder import Basis, Rungs, Tune, climb, float_report, prepare_basis
from edgectl.builder.passes.base import PassLog
from edgectl.builder.quantize import Quantized
from edgectl.builder.search import Candidate, Choice, Outcome, search
from edgectl.builder.variants import VariantPlan
from edgectl.core.bundle import LayerReport, Recipe, Runtime, SessionSettings
from edgectl.core.errors import EdgectlError, ModelError
from edgectl.core.task import TaskSpec
from edgectl.device_profiles.probe import Machine, host_family
from edgectl.device_profiles.schema import DeviceProfile
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
    judge_cache: list[Judge] = field(default_factory=list)
    recover_minutes: float = 0.0
    """How long each family's int8 graph may be fine-tuned."""

    def judges(self) -> tuple[Judge, Judge]:
        """Of the search slice and of the confirmation slice."""
        if not self.judge_cache:
            self.tell("judge", 0.15, "float outputs of the search and confirmation slices", "")
            reference = open_model(self.float_bytes, SessionSettings())
            slices = (self.slices.search, self.slices.confirmation)
            self.judge_cache.extend(Judge(self.task, samples, reference) for samples in slices)
            reference.close()
        return self.judge_cache[0], self.judge_cache[1]

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
            work.basis.append(prepare_basis(work.model, work.table, spec, calibration, tell))
        work.rungs[family] = climb(
            work.basis[0], spec, calibration, work.judges()[0], max_drop=_limit(work), tell=tell, tune=_tune(work, spec, tell)
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
    judge, confirm = work.judges()
    rungs = None if family is None else _rungs(work, family)
    known: dict[tuple[str, Runtime], Accuracy] = {(n, "onnxruntime"): a for n, a in (rungs.judged if rungs else {}).items()}
    feeds = [s.feeds for s in work.slices.search[:8]]

    def told(what: str, share: float, best: str) -> None:
        work.tell("search", 0.15 + 0.75 * (start + share / parts), what, best)

    return search(
        candidates, feeds, judge, confirm, max_drop=_limit(work), min_speedup=p.min_speedup,
        seconds=seconds, machine=work.machine.summary, known=known, progress=told,
    )  # fmt: skip


def _measured(work: Work, p: DeviceProfile, family: str | None, choice: Choice) -> list[VariantPlan]:
    """The winner; if it needs OpenVINO, also the best that ONNX Runtime alone can run; and the float fallback."""
    recipes = {} if family is None else _recipes(work, family)
    work.notes.append(f"{p.name}: {choice.winner.candidate.name}: {choice.reason}")
    if choice.winner.accuracy is not None and choice.winner.candidate.precision == "int8":
        _say_interval(work, p, choice.winner.candidate.name, choice.winner.accuracy)
    picked = [choice.winner]
    if choice.winner.candidate.runtime != "onnxruntime":
        rest = [
            o for o in choice.outcomes
            if o.candidate.runtime == "onnxruntime" and o.measured and o.accuracy and o.accuracy.drop <= work.max_drop
            and o.ratio and o.candidate.precision == "int8" and o.ratio.high <= 1 / p.min_speedup
        ]  # fmt: skip
        ranked = sorted(rest, key=lambda o: o.measured.p50_ms if o.measured else 0.0)
        picked += list(itertools.islice(filter(None, (_confirmed(work, o) for o in ranked)), 1))
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


def _confirmed(work: Work, o: Outcome) -> Outcome | None:
    """The outcome with its accuracy on the confirmation slice; None if it does not hold the budget there."""
    c = o.candidate
    engine = open_model(c.model, c.settings, runtime=c.runtime)
    accuracy = work.judges()[1].judge(engine)
    engine.close()
    return replace(o, accuracy=accuracy) if accuracy.drop <= _limit(work) else None


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
                recipe=recipe, precision="float32", session=session, layers=_float_layers(work, "trt-gpu"),
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
    """The int8 graph of a family that keeps least in float and holds the budget on the confirmation slice, too.

    Run in ONNX Runtime without graph optimisation: the arithmetic of the Q/DQ nodes themselves, whatever this machine is.
    """
    rungs = _rungs(work, family)
    if rungs is None or not rungs.judged:
        return None
    limit, lost = _limit(work), min(a.drop for a in rungs.judged.values())
    simulated = SessionSettings(optimization="disabled", threads=min(2, work.machine.cores))
    order = sorted(rungs.recipes.items(), key=lambda r: (len(r[1].placement.reasons), rungs.judged[r[0]].drop))
    for name, quantized in order:
        work.tell("confirm", 0.15, f"{family}: {name}", "")
        data = quantized.model.SerializeToString(deterministic=True)
        try:
            engine = open_model(data, simulated)
            confirmed = work.judges()[1].judge(engine, limit=limit)
            engine.close()
        except EdgectlError as e:
            raise ModelError(f"the {family} graph ({name}) does not run in ONNX Runtime: {e.message}") from e
        if confirmed.drop <= limit:
            _say_interval(work, p, f"{family} int8 ({name})", confirmed)
            return (
                name,
                quantized,
                Outcome(Candidate(f"{name}/{family}", name, data, "int8", "onnxruntime", simulated), confirmed),
            )
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


def _recipe(work: Work, family: str, name: str, quantized: Quantized) -> Recipe:
    spec = FAMILIES[family]
    basis = work.basis[0]
    return Recipe(
        family=family, passes=(*work.log.ran, *basis.passes, f"quantize:{name}", "reconstruct"), precision="int8", activations=spec.activation,
        weights="int8" if spec.weight_max == 127 else "int8 (7 bit)", excluded=tuple(sorted(quantized.placement.reasons)),
        method=quantized.ranges, calibration=basis.table.digest, samples=basis.table.samples,
    )  # fmt: skip
