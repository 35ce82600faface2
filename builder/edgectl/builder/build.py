"""``edgectl build``: from an ONNX file to a bundle. Order of work, top-down; each part lives in its own
module."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import psutil
from onnx import ModelProto
from threadpoolctl import threadpool_limits

from edgectl.builder.budget import CALIBRATE, LEAST_SAMPLES, PACK, READ, Budget
from edgectl.builder.compress.options import CompressOptions
from edgectl.builder.compress.run import CompressionReport, compress, training
from edgectl.builder.graph import GraphIndex
from edgectl.builder.ingest.canonical import canonical, float16_as_received, prepare
from edgectl.builder.ingest.fit_task import fit_background, fit_input
from edgectl.builder.ingest.read import read_model
from edgectl.builder.ingest.samples import (
    SampleStore,
    Slices,
    collect,
    npz_shapes,
    random_samples,
    slice_samples,
)
from edgectl.builder.ingest.source_precision import source_precision
from edgectl.builder.ingest.split import split_post
from edgectl.builder.int8.calibrate import CalibrationTable, calibrate
from edgectl.builder.int8.placement import weighted_nodes
from edgectl.builder.int8.previous_release import read_release
from edgectl.builder.judge.accuracy import Accuracy, Judge
from edgectl.builder.judge.significance import affordable
from edgectl.builder.pack.near_floats import update_notes, with_near_floats
from edgectl.builder.pack.package import check_target, write_bundle
from edgectl.builder.pack.report import report_of
from edgectl.builder.pack.slim import slim
from edgectl.builder.pack.variant import Identity, make_variant
from edgectl.builder.passes.shapes import Shape
from edgectl.builder.search.candidates import CandidateOutcome, Choice
from edgectl.builder.search.draft import VariantDraft
from edgectl.builder.search.float_first import NotQuantizable, Reason, why_not_quantizable
from edgectl.builder.search.smaller_input import SmallerInput, check_takes_picture, smaller_work
from edgectl.builder.search.variants import causes_of, plan_smaller, plan_variants
from edgectl.builder.search.work import Work, limit_of
from edgectl.core.bundle import LAYER_REPORT, SessionSettings, TensorSpec
from edgectl.core.errors import DataError, EdgectlError, EngineError, ModelError, UsageError
from edgectl.core.files import check_name, file_digest, storage
from edgectl.core.measured import ContextRun, Standing
from edgectl.core.task import TaskSpec
from edgectl.core.uri import redact
from edgectl.device_profiles.catalogue import load_profile
from edgectl.device_profiles.probe import probe
from edgectl.device_profiles.schema import DeviceProfile
from edgectl.engines.base import Engine, Feeds
from edgectl.engines.open import open_model

__all__ = ["BuildProgress", "BuildReport", "VariantSummary", "build", "canonical", "prepare"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildProgress:
    """Where a build is: ``share`` of the whole (0..1), and the best candidate so far (empty before the
    first measurement)."""

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
    """Alone, in a process of its own, × the float fallback."""
    engine_bytes: int
    fallback: bool
    roles: tuple[str, ...] = ()
    contexts: tuple[ContextRun, ...] = ()
    """Each way in which a device runs it; empty where it was not measured here."""
    standing: Standing | None = None


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
    candidates: dict[str, tuple[CandidateOutcome, ...]] = field(repr=False)
    """Kernel family → what became of every candidate that was measured on this machine."""
    notes: tuple[str, ...]
    compression: CompressionReport
    causes: dict[str, tuple[Reason, ...]] = field(default_factory=dict)
    """Kernel family → why no quantized engine ships first there, what came nearest first; no entry where
    one does."""
    left_out: tuple[str, ...] = ()
    """What was not done for want of time."""


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
    compression: CompressOptions | None = None,
    smaller: SmallerInput | None = None,
    follow: Path | None = None,
    shapes: Mapping[str, Shape] | None = None,
    progress: Callable[[BuildProgress], None] | None = None,
) -> BuildReport:
    """Build a bundle at ``out`` for ``profiles``.

    What is measured is kept beside it in ``OUT.tuning.jsonl`` until the bundle is whole: the same build,
    started again after it was killed, goes on from there.

    ``max_drop``: largest loss of the task's metric against float (0.01 = one point). ``minutes``: for the
    whole build, all profiles together (training that was asked for comes on top); what is left out for it is
    listed (:mod:`edgectl.builder.budget`). ``smaller``: variants of a smaller picture, in what is left then.
    ``random_calibration``: noise instead of data; the bundle is then marked *speed only*.

    ``shapes``: input → shape, for what the model leaves open. The task, and then an ``.npz`` of inputs, say
    what is not in it.

    ``follow``: bundle of the release that this one fine-tunes, so that the update takes few bytes
    (:mod:`edgectl.builder.int8.previous_release`).

    Raises :class:`UsageError`, :class:`ModelError`, :class:`DataError`, :class:`SourceError`,
    :class:`ProfileError`,
    :class:`StorageError` or (a damaged ``follow``) :class:`IntegrityError`; after any of them nothing is left
      at ``out`` that was not there before.
    """
    at = ["start", ""]

    def heard(p: BuildProgress) -> None:
        at[:] = p.stage, p.message
        if progress is not None:
            progress(p)

    try:
        return _built(
            model,
            profiles=profiles,
            task=task,
            calibration=calibration,
            out=out,
            validation=validation,
            max_drop=max_drop,
            minutes=minutes,
            name=name,
            version=version,
            random_calibration=random_calibration,
            compression=compression,
            smaller=smaller,
            follow=follow,
            shapes=shapes,
            progress=heard,
        )
    except EdgectlError:
        raise
    # whatever a graph brings up that nobody thought of: the traceback is for us, the sentence for the user
    except Exception as e:
        _log.debug("build step %s (%s) broke", *at, exc_info=True)
        # of a temporary file, wherever
        if isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            with storage(e.filename or tempfile.gettempdir()):
                raise
        what = (str(e).strip() or "no reason given").splitlines()[0][:200]
        raise ModelError(
            f"build step {at[0]} ({at[1]}) broke: {type(e).__name__}: {what}",
            hint="this is a defect of edgectl, not of the model: report it with what the same command prints with --debug",
        ) from e


def _built(
    model: Path,
    *,
    profiles: Sequence[str],
    task: TaskSpec,
    calibration: str | None,
    out: Path,
    validation: str | None,
    max_drop: float,
    minutes: float,
    name: str | None,
    version: str,
    random_calibration: bool,
    compression: CompressOptions | None,
    smaller: SmallerInput | None,
    follow: Path | None,
    shapes: Mapping[str, Shape] | None,
    progress: Callable[[BuildProgress], None],
) -> BuildReport:
    budget = Budget(minutes * 60)
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
    former = None if follow is None else read_release(follow)

    reached = [0.0]

    def tell(stage: str, share: float, message: str, best: str = "") -> None:
        reached[0] = max(reached[0], min(1.0, share))  # a bar never runs backwards
        progress(BuildProgress(stage, reached[0], message, best))

    minutes_to_recover = compression.recover_minutes if compression is not None else 0.0
    if minutes_to_recover:
        budget.extend(minutes_to_recover * 60)
        # raises before the long work if torch is not there
        training()
    tell("passes", 0.0, f"reading {model.name}")
    machine = probe()
    notes: list[str] = []
    source, task, was_cut = split_post(read_model(model), task)
    if was_cut:
        notes.append(
            "NonMaxSuppression was cut off the graph: the device's decoder does it, with the thresholds of the task"
        )
    task = fit_input(task, source, shapes or {})
    data = npz_shapes(Path(calibration)) if calibration is not None and calibration.endswith(".npz") else {}
    graph, inputs, log = canonical(source, task, shapes=shapes, data=data)
    notes += log.notes
    if compression:
        _check_compressible(graph)
    if was_cut:
        log.ran.insert(0, "split")
    if smaller is not None:
        check_takes_picture(task, inputs)
    with contextlib.ExitStack() as stack:
        # The products are small: BLAS threads wait for each other longer than they multiply.
        stack.enter_context(threadpool_limits(1, "blas"))
        spool = stack.enter_context(_spool())
        slices = _data(graph, inputs, task, calibration, validation, random_calibration, spool, tell, budget)
        task, note = _with_background(graph, task, slices)
        notes += [note] if note else []
        shrunk = CompressionReport()
        original = None
        if compression:
            original = graph
            graph, shrunk = _compress(graph, compression, slices, task, max_drop, tell)
            log.ran += [s.step for s in shrunk.steps]
            if minutes_to_recover and not shrunk.steps:
                notes.append(
                    "nothing was compressed: the minutes of recovery go to int8 graphs that lose something, if there are any"
                )
        table, why_not = _calibrate(graph, slices, notes, tell, budget)
        tuning = stack.enter_context(_tuning_log(out.with_name(f"{out.name}.tuning.jsonl")))
        work = Work(
            graph,
            table,
            slices,
            task,
            machine,
            log,
            max_drop,
            notes,
            tell,
            tuning=tuning,
            recover_minutes=minutes_to_recover,
            original=original,
            release=former,
            budget=budget,
            barred=why_not,
            precision=source_precision(graph),
            given=float16_as_received(source, inputs, notes) if original is None else None,
        )
        confirmed = _confirmed(work) if shrunk.steps else None
        identity = Identity(
            name=release,
            version=version,
            task=task,
            inputs=inputs,
            source=file_digest(model),
            parameters={"task": task.name, "max_drop": max_drop, "passes": list(log.ran)},
            table=table,
            samples=slices.confirmation,
            float_model=work.float_bytes,
            speed_only=slices.random and table is not None,
            packed=bool(compression and compression.cluster),
        )
        plans, choices = plan_variants(work, loaded)
        causes = {key: why for key, choice in choices.items() if (why := causes_of(work, choice))}
        if former is not None and not identity.packed:  # weights that are shared stay shared
            plans = with_near_floats(
                former, plans, lambda: work.judge("confirmation"), task, max_drop=max_drop, notes=notes
            )
        of_identity = [(identity, p) for p in plans]
        if smaller is not None and not budget.over(PACK, "variants of a smaller picture"):
            of_identity += _smaller(work, smaller, identity, loaded, plans, choices)
        if confirmed is not None:
            of_identity = [(i, _with_compression(p, confirmed)) for i, p in of_identity]
        of_identity = [(i, _slimmed(p)) for i, p in of_identity]
        tell("package", 0.92, "recording golden outputs")
        report = (
            LAYER_REPORT,
            report_of(choices, shrunk.steps, causes, budget.left_out)
            .model_dump_json(exclude_none=True)
            .encode(),
        )
        contents = [
            make_variant(i, p, extra=(report,) if p.measured or shrunk.steps else ()) for i, p in of_identity
        ]
        digest = write_bundle(out, contents, name=release, version=version)
    if former is not None:
        notes += update_notes(
            former, [p for (_, p), c in zip(of_identity, contents, strict=True) if c.config.unpacked is None]
        )
    tell("done", 1.0, f"{len(contents)} variants")
    if budget.left_out:
        notes.append(
            f"left out for want of time ({minutes:g} min): {', '.join(budget.left_out)}; --minutes gives more"
        )
    if budget.left(1.0) < 0:
        notes.append(
            f"took {-budget.left(1.0):.0f} s more than {minutes:g} min: the least that a bundle needs"
        )
    if slices.random and table is not None:
        notes.append("calibrated on random data: the bundle is marked speed only and is not for production")
    return BuildReport(
        digest=digest,
        out=out,
        name=release,
        version=version,
        seconds=budget.used,
        source_bytes=model.stat().st_size,
        variants=tuple(_summary(p) for _, p in of_identity),
        candidates={f: c.outcomes for f, c in choices.items()},
        notes=tuple(dict.fromkeys(notes)),
        compression=shrunk,
        causes=causes,
        left_out=budget.left_out,
    )


def _smaller(
    work: Work,
    wanted: SmallerInput,
    identity: Identity,
    profiles: Sequence[DeviceProfile],
    plans: Sequence[VariantDraft],
    choices: dict[str, Choice],
) -> list[tuple[Identity, VariantDraft]]:
    """The variants of a smaller picture, each with what it starts from; a note says why there are none."""
    try:
        small = smaller_work(work, wanted)
    except ModelError as e:
        work.notes.append(f"no variant for a smaller picture: {e.message}")
        return []
    found, searched = plan_smaller(small, work, profiles, plans)
    choices.update(searched)
    (name,) = (i.name for i in identity.inputs)
    shape = next(iter(small.slices.search[0].feeds.values())).shape
    inputs = (TensorSpec(name=name, shape=shape, dtype="float32"),)
    its = replace(
        identity,
        task=small.task,
        inputs=inputs,
        table=small.table,
        samples=small.slices.confirmation,
        float_model=small.float_bytes,
        parameters={**identity.parameters, "max_drop": small.max_drop, "passes": list(small.log.ran)},
    )
    return [(its, p) for p in found]


_SPOOL = "edgectl-samples-"
_GLANCED_AT = 8  # samples that tell a background class


@contextlib.contextmanager
def _spool() -> Iterator[Path]:
    """A folder for samples (hundreds of MiB), and the end of those that killed builds left."""
    for left in Path(tempfile.gettempdir()).glob(f"{_SPOOL}*-*"):
        pid = left.name.removeprefix(_SPOOL).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{_SPOOL}{os.getpid()}-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def _tuning_log(path: Path) -> Iterator[Path]:
    """Gone when the build ends, whole or with an error. A kill or Ctrl-C leaves it for the next try."""
    try:
        yield path
    except Exception:
        path.unlink(missing_ok=True)
        raise
    path.unlink(missing_ok=True)


def _release_name(text: str) -> str:
    try:
        return check_name(text)
    except ValueError as e:
        raise UsageError(str(e), hint="give --name") from e


def _with_background(graph: ModelProto, task: TaskSpec, slices: Slices) -> tuple[TaskSpec, str]:
    """The task with its background class, if the model's own answers on a few samples tell that it has
    one."""
    if task.decode.kind != "boxes-scores":
        return task, ""
    engine = open_model(graph.SerializeToString(), SessionSettings())
    try:
        return fit_background(task, [engine.run(s.feeds) for s in slices.calibration[:_GLANCED_AT]])
    finally:
        engine.close()


def _data(
    graph: ModelProto,
    inputs: tuple[TensorSpec, ...],
    task: TaskSpec,
    calibration: str | None,
    validation: str | None,
    random_calibration: bool,
    spool: Path,
    tell: Callable[[str, float, str, str], None],
    budget: Budget,
) -> Slices:
    engine = open_model(graph.SerializeToString(), SessionSettings())

    def read(uri: str, folder: str) -> SampleStore:
        (spool / folder).mkdir()
        return collect(
            uri,
            task,
            inputs,
            engine,
            spool / folder,
            progress=lambda n: tell("data", 0.02, f"{redact(uri)}: {n} samples", ""),
            enough=lambda: budget.over(READ, f"the rest of the {folder} data"),
        )

    try:
        if calibration is None:
            noise = random_samples(task, inputs, spool)
            _check_takes_noise(engine, inputs, noise)
            return slice_samples(noise, None, random=random_calibration)
        held_out = read(validation, "validation") if validation is not None else None
        return slice_samples(read(calibration, "calibration"), held_out)
    finally:
        engine.close()


def _check_takes_noise(engine: Engine, inputs: tuple[TensorSpec, ...], noise: SampleStore) -> None:
    """Raises :class:`DataError` for a model whose integers are no pixels but places in a table, say, of
    which noise names some that are not there."""
    if all(np.dtype(i.dtype).kind == "f" for i in inputs):
        return
    try:
        for sample in noise:
            engine.run(sample.feeds)
    except EngineError as e:
        raise DataError(
            f"the model does not take noise: {e.message}", hint="give --calibration an .npz of real inputs"
        ) from e


def _compress(
    graph: ModelProto,
    options: CompressOptions,
    slices: Slices,
    task: TaskSpec,
    max_drop: float,
    tell: Callable[[str, float, str, str], None],
) -> tuple[ModelProto, CompressionReport]:
    reference = open_model(graph.SerializeToString(), SessionSettings())
    judge = Judge(task, slices.search, reference)
    reference.close()
    return compress(
        graph,
        options,
        [s.feeds for s in slices.calibration],
        judge,
        max_drop=1.0 if slices.random else max_drop,
        decode=task.decode,
        progress=lambda what, share: tell("compress", 0.02 + 0.03 * share, what, ""),
    )


def _confirmed(work: Work) -> Accuracy:
    """What compression cost, on samples that chose nothing. Raises :class:`ModelError` if that is more
    than the budget."""
    engine = open_model(work.float_bytes, SessionSettings())
    try:
        accuracy = work.judge("confirmation").judge(engine)
    finally:
        engine.close()
    if not affordable(accuracy, limit_of(work)):
        raise ModelError(
            f"the compressed model loses {accuracy.drop:.4f} on samples that chose nothing, more than {work.max_drop:g}",
            hint="prune less, recover longer (--recover), or allow more with --max-drop",
        )
    return accuracy


def _calibrate(
    graph: ModelProto,
    slices: Slices,
    notes: list[str],
    tell: Callable[[str, float, str, str], None],
    budget: Budget,
) -> tuple[CalibrationTable | None, Reason | None]:
    """The range table, or why there is none: a graph that is already quantized or has nothing to quantize
    ships as it is."""
    why = _barred(graph)
    if why is not None:
        notes.append(why.sentence)
        return None, why
    total = len(slices.calibration)

    def feeds() -> Iterator[Feeds]:
        for n, sample in enumerate(slices.calibration):
            if n >= LEAST_SAMPLES and budget.over(
                CALIBRATE, f"calibration samples from the {n + 1}th of {total} on"
            ):
                return
            yield sample.feeds

    table = calibrate(
        graph,
        feeds(),
        data_digest=slices.digest,
        progress=lambda n: tell("calibrate", 0.05 + 0.1 * n / total, f"{n}/{total} samples", ""),
    )
    return table, None


def _check_compressible(graph: ModelProto) -> None:
    """Raises :class:`UsageError` for a model whose weights are codes already, or that has none."""
    if source_precision(graph) != "float32":
        raise UsageError(
            "the model came quantized: there are no float weights to prune or to cluster",
            hint="build from the float model, or leave --prune and --cluster out",
        )
    if not weighted_nodes(GraphIndex(graph)):
        raise UsageError(
            "the model has no convolution or matrix product with constant weights: there is nothing to prune or to cluster",
            hint="leave --prune and --cluster out",
        )


def _barred(graph: ModelProto) -> Reason | None:
    index = GraphIndex(graph)
    if source_precision(graph) != "float32":
        return why_not_quantizable(NotQuantizable.QUANTIZED)
    if not weighted_nodes(index):
        return why_not_quantizable(NotQuantizable.NO_LAYER)
    if loose := [
        o.name for o in graph.graph.output if index.is_tensor(o.name) and index.shape(o.name) is None
    ]:
        return why_not_quantizable(NotQuantizable.SIZE_OF_DATA, loose[0])
    recurrent = _states_of(index)
    return why_not_quantizable(NotQuantizable.RECURRENT, ", ".join(recurrent)) if recurrent else None


def _states_of(index: GraphIndex) -> list[str]:
    """Recurrent inputs: of several inputs, the float ones that have the shape of an output.

    What is judged sample by sample says nothing about hundreds of steps that feed on each other.
    """
    shapes = {index.shape(o) for o in index.outputs}
    return [
        i
        for i in index.inputs
        if len(index.inputs) > 1 and index.is_float(i) and index.shape(i) in shapes - {(), None}
    ]


def _with_compression(p: VariantDraft, confirmed: Accuracy) -> VariantDraft:
    """Candidates were judged against the model as it came; a float variant loses what compression lost."""
    known = confirmed if p.precision == "float32" or p.accuracy is None else p.accuracy
    return replace(p, accuracy=replace(known, values={"compression_drop": confirmed.drop, **known.values}))


def _slimmed(p: VariantDraft) -> VariantDraft:
    """Without the names that nobody refers to; ranges of implicit quantization refer to tensors by name."""
    return (
        p
        if p.parts
        else replace(p, model=slim(onnx.load_from_string(p.model)).SerializeToString(deterministic=True))
    )


def _summary(p: VariantDraft) -> VariantSummary:
    return VariantSummary(
        p.profile,
        p.variant,
        p.runtime,
        p.precision,
        p.accuracy.drop if p.accuracy else None,
        p.measured.p50_ms if p.measured else None,
        p.measured.ratio_to_float if p.measured else None,
        len(p.model),
        p.fallback,
        p.roles,
        p.measured.fresh.contexts if p.measured and p.measured.fresh else (),
        p.measured.standing if p.measured else None,
    )
