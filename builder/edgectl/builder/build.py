"""``edgectl build``: from an ONNX file to a bundle. Order of work, top-down; each part lives in its own module."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from onnx import ModelProto

from edgectl.builder import lint
from edgectl.builder.accuracy import Judge
from edgectl.builder.bias import correct_biases
from edgectl.builder.calibrate import CalibrationTable, calibrate
from edgectl.builder.data import SampleStore, Slices, collect, random_samples, slice_samples
from edgectl.builder.families import FAMILIES
from edgectl.builder.graph import GraphIndex
from edgectl.builder.package import check_target, write_bundle
from edgectl.builder.passes.base import PassLog, Reference, run_passes
from edgectl.builder.passes.canonicalise import Canonicalise
from edgectl.builder.passes.ingest import Ingest, read_model
from edgectl.builder.passes.shapes import StaticShapes, check_sizes, resolve_inputs
from edgectl.builder.placement import heads, weighted_nodes
from edgectl.builder.quantize import Quantized, RangeKind, quantize
from edgectl.builder.search import Candidate, Choice, Outcome, search
from edgectl.builder.sensitivity import rank_nodes
from edgectl.builder.variants import Identity, VariantPlan, make_variant
from edgectl.core.bundle import Recipe, Runtime, SessionSettings, TensorSpec
from edgectl.core.errors import EdgectlError, ModelError, UsageError
from edgectl.core.files import check_name, file_digest
from edgectl.core.task import TaskSpec
from edgectl.device_profiles.catalogue import load_profile
from edgectl.device_profiles.probe import Machine, host_family, probe
from edgectl.device_profiles.schema import DeviceProfile
from edgectl.engines.open import open_model

__all__ = ["BuildReport", "Progress", "VariantSummary", "build", "prepare"]

_FLOAT = Recipe(family="float")
_ON_DEVICE = "the TensorRT plan is compiled on the device itself; here its graph was checked numerically in ONNX Runtime"


@dataclass(frozen=True)
class Progress:
    """Where a build is: ``share`` of the whole (0..1), and the best candidate so far (empty before the first measurement)."""

    stage: str
    share: float
    message: str
    best: str = ""


@dataclass(frozen=True)
class VariantSummary:
    """One line of the report."""

    profile: str
    variant: str
    runtime: str
    precision: str
    drop: float | None
    p50_ms: float | None
    ratio_to_float: float | None
    engine_bytes: int
    fallback: bool


@dataclass(frozen=True)
class BuildReport:
    digest: str
    """Of the bundle: sha256 of its index.json."""
    out: Path
    name: str
    version: str
    seconds: float
    source_bytes: int
    variants: tuple[VariantSummary, ...]
    candidates: dict[str, tuple[Outcome, ...]] = field(repr=False)
    """Kernel family → what became of every candidate that was measured on this machine."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Work:
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


def build(
    model: Path,
    *,
    profiles: Sequence[str],
    task: TaskSpec,
    calibration: str | None,
    out: Path,
    validation: str | None = None,
    max_drop: float = 0.01,
    minutes: float = 1.0,
    name: str | None = None,
    version: str = "1.0.0",
    random_calibration: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> BuildReport:
    """Build a bundle at ``out`` for ``profiles``.

    ``max_drop``: largest loss of the task's metric against float (0.01 = one point). ``minutes``: budget for measuring, all
    profiles together. ``random_calibration``: noise instead of data; the bundle is then marked *speed only*.

    Raises :class:`UsageError`, :class:`ModelError`, :class:`DataError`, :class:`SourceError`, :class:`ProfileError` or
    :class:`StorageError`; after any of them nothing is left at ``out`` that was not there before.
    """
    started = time.monotonic()
    loaded = [load_profile(p) for p in dict.fromkeys(profiles)]
    if not loaded:
        raise UsageError("no device profile was given", hint="`edgectl profiles list` names them")
    release = _release_name(name or model.stem.lower().replace("_", "-"))
    check_target(out)
    if calibration is None and not random_calibration:
        raise UsageError(
            "there is no calibration data",
            hint="give --calibration a video, a folder of images or recordings, or an .npz of the model's inputs; "
            "--random-calibration builds a bundle that is good for measuring speed only",
        )

    reached = [0.0]

    def tell(stage: str, share: float, message: str, best: str = "") -> None:
        reached[0] = max(reached[0], min(1.0, share))  # a bar never runs backwards
        if progress is not None:
            progress(Progress(stage, reached[0], message, best))

    tell("passes", 0.0, f"reading {model.name}")
    machine = probe()
    graph, inputs, log = prepare(model, task)
    notes: list[str] = []
    with contextlib.ExitStack() as stack:
        spool = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgectl-samples-")))
        slices = _data(graph, inputs, task, calibration, validation, random_calibration, spool, tell)
        table = _calibrate(graph, slices, notes, tell)
        work = _Work(graph, table, slices, task, machine, log, max_drop, notes, tell)
        identity = Identity(
            name=release, version=version, task=task, inputs=inputs, source=file_digest(model),
            parameters={"task": task.name, "max_drop": max_drop, "passes": list(log.ran)}, table=table,
            samples=slices.confirmation, float_model=work.float_bytes, speed_only=slices.random,
        )  # fmt: skip
        plans, choices = _plan_all(work, loaded, minutes * 60)
        tell("package", 0.92, "recording golden outputs")
        contents = [make_variant(identity, p) for p in plans]
        digest = write_bundle(out, contents, name=release, version=version)
    tell("done", 1.0, f"{len(contents)} variants")
    if slices.random:
        notes.append("calibrated on random data: the bundle is marked speed only and is not for production")
    return BuildReport(
        digest=digest, out=out, name=release, version=version, seconds=time.monotonic() - started,
        source_bytes=model.stat().st_size, variants=tuple(_summary(p) for p in plans),
        candidates={f: c.outcomes for f, c in choices.items()}, notes=tuple(dict.fromkeys(notes)),
    )  # fmt: skip


def _release_name(text: str) -> str:
    try:
        return check_name(text)
    except ValueError as e:
        raise UsageError(str(e), hint="give --name") from e


def prepare(path: Path, task: TaskSpec) -> tuple[ModelProto, tuple[TensorSpec, ...], PassLog]:
    """Read the model and run the passes, checked against its own outputs on made-up inputs.

    Returns the canonical float graph, its inputs and what ran. Raises :class:`ModelError` or :class:`UsageError`.
    """
    original = read_model(path)
    check_sizes(original)
    inputs = resolve_inputs(original, task)
    rng = np.random.default_rng(0)
    feeds = {i.name: np.asarray(rng.random(i.shape), i.dtype) if np.dtype(i.dtype).kind == "f" else np.full(i.shape, 16000 if not i.shape else 0, i.dtype) for i in inputs}  # fmt: skip
    reference = Reference.record(original.SerializeToString(), feeds)
    graph, log = run_passes(original, [Ingest(), StaticShapes(inputs), Canonicalise()], reference)
    return graph, inputs, log


def _data(
    graph: ModelProto, inputs: tuple[TensorSpec, ...], task: TaskSpec, calibration: str | None, validation: str | None,
    random_calibration: bool, spool: Path, tell: Callable[[str, float, str, str], None],
) -> Slices:  # fmt: skip
    engine = open_model(graph.SerializeToString(), SessionSettings())

    def read(uri: str, folder: str) -> SampleStore:
        (spool / folder).mkdir()
        return collect(
            uri, task, inputs, engine, spool / folder, progress=lambda n: tell("data", 0.02, f"{uri}: {n} samples", "")
        )

    try:
        if calibration is None:
            return slice_samples(random_samples(task, inputs, spool), None, random=random_calibration)
        held_out = read(validation, "validation") if validation is not None else None
        return slice_samples(read(calibration, "calibration"), held_out)
    finally:
        engine.close()


def _calibrate(
    graph: ModelProto, slices: Slices, notes: list[str], tell: Callable[[str, float, str, str], None]
) -> CalibrationTable | None:
    """The range table; None for a graph that is already quantized or has nothing to quantize: it ships as it is."""
    index = GraphIndex(graph)
    if any(
        n.op_type in ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "MatMulInteger") for n in index.nodes
    ):
        notes.append("the model is already quantized: it ships as it is")
        return None
    if not weighted_nodes(index):
        notes.append("the model has no convolution or matrix product with constant weights: it ships as float")
        return None
    if recurrent := _states_of(index):
        notes.append(
            f"the model carries {', '.join(recurrent)} from input to input, where errors would add up: it ships as float"
        )
        return None
    total = len(slices.calibration)
    return calibrate(
        graph, (s.feeds for s in slices.calibration), data_digest=slices.digest,
        progress=lambda n: tell("calibrate", 0.05 + 0.1 * n / total, f"{n}/{total} samples", ""),
    )  # fmt: skip


def _states_of(index: GraphIndex) -> list[str]:
    """Recurrent inputs: of several inputs, the float ones that have the shape of an output.

    What is judged sample by sample says nothing about hundreds of steps that feed on each other.
    """
    shapes = {index.shape(o) for o in index.outputs}
    return [i for i in index.inputs if len(index.inputs) > 1 and index.is_float(i) and index.shape(i) in shapes - {(), None}]


def _plan_all(work: _Work, profiles: Sequence[DeviceProfile], seconds: float) -> tuple[list[VariantPlan], dict[str, Choice]]:
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


def _recipes(work: _Work, family: str) -> dict[str, Quantized]:
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


def _measure(work: _Work, p: DeviceProfile, family: str | None, seconds: float, start: float, parts: int) -> Choice:
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


def _measured(work: _Work, p: DeviceProfile, family: str | None, choice: Choice) -> list[VariantPlan]:
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


def _fallback(work: _Work, p: DeviceProfile, measured: Outcome | None) -> VariantPlan:
    """Float in ONNX Runtime: runs on any machine of the profile's architecture."""
    session = measured.candidate.settings if measured else SessionSettings(threads=min(2, p.cpu.max_threads))
    return VariantPlan(
        profile=p.name, variant="cpu-float32", runtime="onnxruntime", requires=(p.arch_requirement,), model=work.float_bytes,
        recipe=_FLOAT.model_copy(update={"passes": tuple(work.log.ran)}), precision="float32", session=session,
        accuracy=measured.accuracy if measured else None, measured=measured.measured if measured else None, fallback=True,
    )  # fmt: skip


def _tensorrt(work: _Work, p: DeviceProfile) -> list[VariantPlan]:
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


def _unmeasured(work: _Work, p: DeviceProfile) -> list[VariantPlan]:
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


def _numerically_best(work: _Work, family: str, p: DeviceProfile) -> tuple[str, Quantized, Outcome] | None:
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


def _recipe(work: _Work, family: str, name: str, quantized: Quantized) -> Recipe:
    spec = FAMILIES[family]
    assert work.table is not None
    return Recipe(
        family=family, passes=(*work.log.ran, f"quantize:{name}"), precision="int8", activations=spec.activation,
        weights="int8" if spec.weight_max == 127 else "int8 (7 bit)", excluded=tuple(sorted(quantized.placement.reasons)),
        method="minmax" if quantized.ranges == "minmax" else "mean of extremes", calibration=work.table.digest, samples=work.table.samples,
    )  # fmt: skip


def _summary(p: VariantPlan) -> VariantSummary:
    return VariantSummary(
        p.profile, p.variant, p.runtime, p.precision, p.accuracy.drop if p.accuracy else None,
        p.measured.p50_ms if p.measured else None, p.measured.ratio_to_float if p.measured else None, len(p.model), p.fallback,
    )  # fmt: skip
