"""Build a model whose weights do not fit one ONNX file (from 1 GiB on, where they lie beside it): float, and its matrix
products in 8 and 4 bits.

Its weights stay in files: of the process and its children only one holds an engine of them at a time, so a build takes
little more memory than the model has bytes (bench/big_model.py). What wants the whole model in memory, or several engines side
by side, is left out and said: int8 activations, pruning and training, OpenVINO, TensorRT, smaller pictures, batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from edgectl.builder.budget import QUANTIZE
from edgectl.builder.compress.run import CompressionReport
from edgectl.builder.ingest.model import ingest_samples, with_background
from edgectl.builder.ingest.samples import Slices
from edgectl.builder.ingest.source_precision import AS_RECEIVED
from edgectl.builder.int8.families import FAMILIES
from edgectl.builder.int8.keep_float import kept_in_float, told_kept
from edgectl.builder.judge.judges import Judges
from edgectl.builder.large.choose import LargeCandidate, choose_large, judged
from edgectl.builder.large.engine_file import LargeEngine, write_engine
from edgectl.builder.large.freed import map_large_blocks
from edgectl.builder.large.ingest import LargeModel, ingest_large
from edgectl.builder.large.weight_codes import FORMS, CodedGraph, coded
from edgectl.builder.monitor import BuildMonitor
from edgectl.builder.pack.package import write_bundle
from edgectl.builder.pack.report import report_of
from edgectl.builder.pack.summary import BuildReport, summary_of
from edgectl.builder.pack.variant import Identity, make_variant
from edgectl.builder.request import BuildRequest
from edgectl.builder.scratch import scratch_folder
from edgectl.builder.search.candidates import Candidate, CandidateGraph, Choice, Pick
from edgectl.builder.search.reasons import Reason, reasons_of_search
from edgectl.builder.variants.draft import VariantDraft
from edgectl.builder.variants.measured import measurable
from edgectl.builder.workplace import workplace
from edgectl.core.bundle import LAYER_REPORT, LAYER_WEIGHTS, LayerReport, Recipe, SessionSettings
from edgectl.core.errors import UsageError
from edgectl.core.files import file_digest, storage
from edgectl.device_profiles.machine import Machine, probe
from edgectl.device_profiles.schema import DeviceProfile

__all__ = ["build_large"]

_BITS = {"weights-8": "int8", "weights-4": "int4"}


@dataclass(frozen=True)
class _Engines:
    """What was written, by recipe (``float``, ``weights-8`` …)."""

    files: dict[str, LargeEngine]
    graphs: dict[str, CodedGraph]


def build_large(request: BuildRequest, path: Path, monitor: BuildMonitor) -> BuildReport:
    """As :func:`~edgectl.builder.build.build_bundle`, of which it is a part. Raises what that raises."""
    _check_request(request)
    map_large_blocks()
    machine = probe()
    with _beside(request.out) as folder, workplace(request.out) as (scratch, _):
        large = ingest_large(
            path, request.task, monitor, folder, shapes=request.shapes, calibration=request.calibration
        )
        read = ingest_samples(
            large.model, monitor, scratch, calibration=request.calibration, validation=request.validation
        )
        large = LargeModel(
            with_background(large.model, read.slices, monitor), large.weights, large.engine, large.files
        )
        model, samples = large.model, read.slices
        kept = kept_in_float(model.graph, request.keep_float)
        monitor.notes += told_kept(model.graph, kept)
        judges = Judges(model.task, samples, large.engine.file, monitor, labelled=read.labelled)
        # raises before the long work if float itself knows nothing of the labels
        judges.ready()
        labels = None if judges.labels is None else judges.labels.about
        engines = _written(request, large, folder, frozenset().union(*kept.values()), monitor)
        choices: dict[str, Choice] = {}
        drafts: list[VariantDraft] = []
        for p in request.profiles:
            if measurable(p, machine):
                key = f"a large model in onnxruntime, {min(p.cpu.max_threads, machine.cores)} threads, {p.min_speedup:g} × float"
                if key not in choices:
                    choices[key] = _chosen(request, large, engines, judges, samples, p, machine, monitor)
                drafts += _measured_drafts(large, engines, p, machine, choices[key], monitor)
            else:
                monitor.note(f"{p.name}: a model this large ships there in float: nothing of it was measured")
                drafts.append(_float_draft(large, p, None))
        reasons = {key: why for key, c in choices.items() if (why := _reasons(c, request.max_drop))}
        monitor.tell("pack", 0.92, "recording golden outputs")
        report = report_of(choices, (), reasons, monitor.budget.left_out, labels)
        layer = (LAYER_REPORT, report.model_dump_json(exclude_none=True).encode())
        identity = _identity(request, large, samples, path)
        variants = [make_variant(identity, d, extra=(layer,) if d.measured else ()) for d in drafts]
        digest = write_bundle(request.out, variants, name=request.name, version=request.version)
        monitor.tell("done", 1.0, f"{len(variants)} variants")
        summaries = tuple(summary_of(d) for d in drafts)
    monitor.note(
        "the model is large: its weights were read from their files, and what takes the whole of it in memory was left out "
        "(int8 activations, OpenVINO, TensorRT)"
    )
    if told := request.restriction.told():
        monitor.note(told)
    if samples.random:
        monitor.note("judged on random data: speed and memory are good, nothing is known of its accuracy")
    return BuildReport(
        digest=digest,
        out=request.out,
        name=request.name,
        version=request.version,
        seconds=monitor.budget.used,
        source_bytes=path.stat().st_size + sum(w.nbytes for w in large.weights.values()),
        variants=summaries,
        candidates={key: choice.outcomes for key, choice in choices.items()},
        notes=tuple(dict.fromkeys(monitor.notes)),
        compression=CompressionReport(),
        causes=reasons,
        left_out=monitor.budget.left_out,
        licence=identity.licence,
        labels=labels,
    )


def _check_request(request: BuildRequest) -> None:
    """What a large model cannot have, said before any work. Raises :class:`UsageError`."""
    asked = {
        "compression": bool(request.compression),
        "--smaller-input": request.smaller is not None,
        "--follow": request.previous is not None,
        "--batch": max(request.batches) > 1,
        "--float16-weights": request.float16_weights,
    }
    if wanted := [name for name, is_asked in asked.items() if is_asked]:
        raise UsageError(
            f"{', '.join(wanted)} takes the whole model in memory, and this one is too large for that",
            hint="leave it out",
        )
    if request.devices:
        raise UsageError(
            "--on: candidates of a model this large are measured on this machine alone", hint="leave --on out"
        )
    if not request.restriction.runs_in("onnxruntime"):
        raise UsageError(
            f"{request.restriction.asked}: a model this large runs in onnxruntime alone",
            hint="leave --runtime out, or name onnxruntime",
        )


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A folder on the disk of the bundle, for engines that become part of it without being copied."""
    with storage(str(out)):
        out.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(f".{out.name}.large.", out.parent) as folder:
        yield folder


def _written(
    request: BuildRequest, large: LargeModel, folder: Path, kept: frozenset[str], monitor: BuildMonitor
) -> _Engines:
    """Float, and each form that has time and is allowed."""
    engines = _Engines({"float": large.engine}, {})
    if large.model.precision != "float32":
        monitor.note("the model came quantized: it ships as it is")
        return engines
    for form in FORMS:
        if not request.restriction.allows("int4" if form == "weights-4" else "int8"):
            continue
        if monitor.budget.over(QUANTIZE, f"the form {form}"):
            continue
        monitor.tell("quantize", 0.3, f"writing the form {form}")
        found = coded(large.model.graph, large.weights, form, kept=kept)
        if found is None:
            monitor.note(
                "nothing of the model is a plain matrix product with a large weight: it ships in float"
            )
            break
        engines.files[form] = write_engine(found.graph, found.sources, folder, form)
        engines.graphs[form] = found
    return engines


def _chosen(
    request: BuildRequest,
    large: LargeModel,
    engines: _Engines,
    judges: Judges,
    samples: Slices,
    p: DeviceProfile,
    machine: Machine,
    monitor: BuildMonitor,
) -> Choice:
    settings = SessionSettings(threads=min(p.cpu.max_threads, machine.cores))
    precision = large.model.precision
    limit = 1.0 if samples.random else request.max_drop
    contenders: list[LargeCandidate] = []
    for recipe, engine in engines.files.items():
        graph = (
            CandidateGraph(recipe, engine.graph, precision, as_received=precision != "float32")
            if recipe == "float"
            else CandidateGraph(recipe, engine.graph, "int8")
        )
        guide = min(1.0, 10 * limit) if judges.labels is not None else limit
        contenders.append(
            judged(Candidate(graph, "onnxruntime", settings), engine.file, judges, limit, guide, monitor)
        )
    feeds = [s.feeds for s in samples.search[:8]]
    return choose_large(contenders, feeds, p, machine, limit, monitor)


def _measured_drafts(
    large: LargeModel,
    engines: _Engines,
    p: DeviceProfile,
    machine: Machine,
    choice: Choice,
    monitor: BuildMonitor,
) -> list[VariantDraft]:
    """The fast one, what is best at something else, and the float fallback."""
    monitor.note(f"{p.name}: {choice.winner.candidate.name}: {choice.reason}")
    drafts = []
    fallback = _float_draft(large, p, choice)
    for pick in choice.picks:
        if not pick.outcome.candidate.is_float:
            drafts.append(_coded_draft(large, engines, p, machine, pick))
        elif "fast" not in pick.preferences or len(choice.picks) == 1:
            fallback = replace(fallback, preferences=pick.preferences)
        else:
            # a device tries the fallback last
            first = _float_draft(
                large, p, choice, variant=f"onnxruntime-{large.model.precision}", fallback=False
            )
            drafts.append(replace(first, preferences=pick.preferences))
    return [*drafts, fallback]


def _coded_draft(
    large: LargeModel, engines: _Engines, p: DeviceProfile, machine: Machine, pick: Pick
) -> VariantDraft:
    c = pick.outcome.candidate
    recipe, graph, engine = c.graph.recipe, engines.graphs[c.graph.recipe], engines.files[c.graph.recipe]
    best_at = () if "fast" in pick.preferences else pick.preferences[:1]
    return VariantDraft(
        profile=p.name,
        variant="-".join((c.runtime, _BITS[recipe], *best_at)),
        runtime=c.runtime,
        requires=(f"arch:{machine.arch}",),
        model=engine.graph,
        file=engine.file,
        engine_layers=((LAYER_WEIGHTS, engine.weights),),
        recipe=Recipe(
            family=recipe,
            passes=(*large.model.passes, f"quantize:{recipe}"),
            precision="int8",
            activations=FAMILIES[recipe].activation,
            weights=_BITS[recipe],
            excluded=graph.excluded,
        ),
        precision="int8",
        session=c.settings,
        layers=graph.layers,
        accuracy=pick.outcome.accuracy,
        measured=pick.outcome.measured,
        preferences=pick.preferences,
    )


def _float_draft(
    large: LargeModel,
    p: DeviceProfile,
    choice: Choice | None,
    *,
    variant: str | None = None,
    fallback: bool = True,
) -> VariantDraft:
    measured = None if choice is None else choice.fallback
    precision = large.model.precision
    return VariantDraft(
        profile=p.name,
        variant=variant or f"cpu-{precision}",
        runtime="onnxruntime",
        requires=(p.arch_requirement,),
        model=large.engine.graph,
        file=large.engine.file,
        engine_layers=((LAYER_WEIGHTS, large.engine.weights),),
        recipe=Recipe(
            family="float" if precision == "float32" else AS_RECEIVED,
            passes=large.model.passes,
            precision=precision,
        ),
        precision=precision,
        session=measured.candidate.settings
        if measured is not None
        else SessionSettings(threads=min(2, p.cpu.max_threads)),
        measured=None if measured is None else measured.measured,
        fallback=fallback,
        layers=_float_layers(large),
    )


def _float_layers(large: LargeModel) -> tuple[LayerReport, ...]:
    found = (
        coded(large.model.graph, large.weights, "weights-8") if large.model.precision == "float32" else None
    )
    return (
        ()
        if found is None
        else tuple(
            r.model_copy(update={"precision": "float32", "reason": r.reason or "float: the fallback"})
            for r in found.layers
        )
    )


def _reasons(choice: Choice, max_drop: float) -> tuple[Reason, ...]:
    if not choice.winner.candidate.is_float:
        return ()
    return tuple(reasons_of_search(choice.outcomes, max_drop, choice.busy))


def _identity(request: BuildRequest, large: LargeModel, samples: Slices, path: Path) -> Identity:
    model = large.model
    return Identity(
        name=request.name,
        version=request.version,
        task=model.task,
        inputs=model.inputs,
        source=file_digest(path),
        parameters={
            "task": model.task.name,
            "max_drop": request.max_drop,
            "passes": list(model.passes),
            **({"keep_float": list(request.keep_float)} if request.keep_float else {}),
        },
        table=None,
        samples=samples.confirmation,
        float_model=large.engine.file,
        licence=request.licence or model.licence,
        weights=large.files,
    )
