"""``edgectl build``: from a model to a bundle. The steps in their order; each lives in its own wing."""

from __future__ import annotations

import contextlib
import errno
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx
from threadpoolctl import threadpool_limits

from edgectl.builder.budget import PACK, Budget
from edgectl.builder.compress.model import (
    check_compressible,
    compress_model,
    confirm_compression,
    fine_tuning,
)
from edgectl.builder.compress.options import CompressOptions
from edgectl.builder.compress.run import CompressionReport, training
from edgectl.builder.convert.convert import ConvertedModel, converted, source_name
from edgectl.builder.convert.options import ConvertOptions
from edgectl.builder.ingest.model import ingest_model, ingest_samples, with_background
from edgectl.builder.int8.model import QuantizedModel, calibrate_model, quantize_families
from edgectl.builder.int8.previous_release import PreviousRelease, read_previous_release
from edgectl.builder.judge.accuracy import Accuracy
from edgectl.builder.judge.judges import Judges
from edgectl.builder.monitor import BuildMonitor, BuildProgress
from edgectl.builder.pack.package import check_target, write_bundle
from edgectl.builder.pack.report import report_of
from edgectl.builder.pack.slim import slim
from edgectl.builder.pack.summary import BuildReport, VariantSummary, summary_of
from edgectl.builder.pack.variant import Identity, make_variant
from edgectl.builder.passes.shapes import Shape
from edgectl.builder.scratch import scratch_folder
from edgectl.builder.search.candidates import Choice
from edgectl.builder.search.reasons import Reason, why_not_quantizable
from edgectl.builder.variants.batched import with_batches
from edgectl.builder.variants.choose import choose_variants, families_of
from edgectl.builder.variants.draft import VariantDraft
from edgectl.builder.variants.float_first import reasons_for_float
from edgectl.builder.variants.near_floats import update_notes, with_near_floats
from edgectl.builder.variants.smaller_input import (
    SmallerInput,
    check_takes_picture,
    choose_smaller_variants,
)
from edgectl.builder.variants.trial import Trial
from edgectl.core.bundle import LAYER_RANGES, LAYER_REPORT
from edgectl.core.errors import EdgectlError, ModelError, UsageError
from edgectl.core.files import check_name, file_digest, storage
from edgectl.core.task import TaskSpec
from edgectl.device_profiles.catalogue import load_profile
from edgectl.device_profiles.machine import probe
from edgectl.device_profiles.schema import DeviceProfile
from edgectl.pipelines.tasks import load_task

__all__ = ["BuildProgress", "BuildReport", "VariantSummary", "build_bundle"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _BuildRequest:
    """What the user decides about a build, checked as far as the arguments alone tell."""

    model: Path
    profiles: tuple[DeviceProfile, ...]
    task: TaskSpec | None
    """None: it is guessed from the model."""
    calibration: str | None
    validation: str | None
    out: Path
    name: str
    version: str
    max_drop: float
    minutes: float
    compression: CompressOptions
    smaller: SmallerInput | None
    previous: PreviousRelease | None
    shapes: Mapping[str, Shape]
    batches: tuple[int, ...]
    convert: ConvertOptions


@dataclass(frozen=True)
class _Content:
    """Variants of one size of input, with the model that they were made from."""

    model: QuantizedModel
    drafts: Sequence[VariantDraft]
    choices: Mapping[str, Choice]
    reasons: Mapping[str, tuple[Reason, ...]] = field(default_factory=dict)


def build_bundle(
    model: Path | str,
    *,
    profiles: str | Path | Sequence[str | Path],
    task: TaskSpec | str | Path | None = None,
    calibration: str | Path | None = None,
    out: Path | str | None = None,
    validation: str | Path | None = None,
    max_drop: float = 0.01,
    minutes: float = 5.0,
    name: str | None = None,
    version: str = "0.1.0",
    random_calibration: bool = False,
    compression: CompressOptions | None = None,
    smaller: SmallerInput | None = None,
    previous: Path | str | None = None,
    shapes: Mapping[str, Shape] | None = None,
    batches: Sequence[int] = (1,),
    convert: ConvertOptions | None = None,
    progress: Callable[[BuildProgress], None] | None = None,
) -> BuildReport:
    """Build a bundle: what ``edgectl build`` does.

    >>> report = build_bundle("yolov8n.onnx", profiles="jetson-orin", task="yolov8", calibration="yard.mp4")
    >>> report.out
    PosixPath('out/yolov8n')

    ``model``: an ONNX file, or what :mod:`edgectl.builder.convert` makes one of: a file or folder of another framework, or
    ``package.module:function``; ``convert`` says with which Python, and whether code inside it is trusted.

    ``profiles``: names or files, in one string separated by commas. ``task``: a name, a TOML file or the task
    itself; None: guessed from the model (:mod:`edgectl.builder.ingest.guess_task`). ``out``: default ``out/NAME``. What is measured is kept beside it in ``OUT.tuning.jsonl`` until
    the bundle is whole: the same build, started again after it was killed, goes on from there.

    ``max_drop``: largest loss of the task's metric against float (0.01 = one point). ``minutes``: for the
    whole build, all profiles together (training that was asked for comes on top); what is left out for it is
    listed (:mod:`edgectl.builder.budget`). ``smaller``: variants of a smaller picture, in what is left then.
    ``random_calibration``: noise instead of data; the bundle is then marked *speed only*.

    ``shapes``: input → shape, for what the model leaves open. The task, and then an ``.npz`` of inputs, say
    what is not in it. ``previous``: bundle of the release that this one fine-tunes, so that the update takes
    few bytes (:mod:`edgectl.builder.int8.previous_release`).

    ``batches``: pictures in one call, 1 among them; engines are built for the one that is fastest a picture
    (:mod:`edgectl.builder.variants.batched`).

    ``progress`` is called on this thread; what it raises ends the build and is raised again.

    Raises :class:`UsageError`, :class:`ModelError`, :class:`DataError`, :class:`SourceError`,
    :class:`ProfileError`, :class:`StorageError` or (a damaged ``previous``) :class:`IntegrityError`; after any
    of them nothing is left at ``out`` that was not there before.
    """
    model = Path(model)
    target = Path(out) if out is not None else Path("out") / (name or source_name(model))
    _check_within("max_drop", max_drop, 1.0)
    _check_within("minutes", minutes, 1440.0)
    monitor = BuildMonitor(Budget(minutes * 60), progress)
    with _defects_named(monitor):
        loaded, release = (
            _loaded(profiles),
            _release_name(name or source_name(model).lower().replace("_", "-")),
        )
        check_target(target)
        if calibration is None and not random_calibration:
            raise UsageError(
                "there is no calibration data",
                hint="give --calibration a video, a folder of images or recordings, or an .npz of the model's inputs; "
                "--random-calibration builds a bundle that is good for measuring speed only",
            )
        request = _BuildRequest(
            model,
            loaded,
            load_task(task) if isinstance(task, str | Path) else task,
            None if calibration is None else str(calibration),
            None if validation is None else str(validation),
            target,
            release,
            version,
            max_drop,
            minutes,
            compression or CompressOptions(),
            smaller,
            None if previous is None else read_previous_release(Path(previous)),
            shapes or {},
            tuple(batches),
            convert or ConvertOptions(),
        )
        return _build(request, monitor)


def _build(request: _BuildRequest, monitor: BuildMonitor) -> BuildReport:
    recover_minutes = request.compression.recover_minutes
    if recover_minutes:
        monitor.budget.extend(recover_minutes * 60)
        # raises before the long work if torch is not there
        training()
    with converted(
        request.model, request.convert, monitor, shapes=request.shapes, calibration=request.calibration
    ) as source:
        return _build_from(request, source, monitor)


def _build_from(request: _BuildRequest, source: ConvertedModel, monitor: BuildMonitor) -> BuildReport:
    machine, budget = probe(), monitor.budget
    ingested = ingest_model(
        source.onnx, request.task, monitor, shapes=request.shapes, calibration=request.calibration
    )
    if request.compression:
        check_compressible(ingested)
    if request.smaller is not None:
        check_takes_picture(ingested.task, ingested.inputs)
    with _workplace(request.out) as (folder, tuning):
        samples = ingest_samples(
            ingested, monitor, folder, calibration=request.calibration, validation=request.validation
        )
        source.confirm(samples.calibration, monitor)
        ingested = with_background(ingested, samples, monitor)
        compressed = compress_model(ingested, request.compression, samples, request.max_drop, monitor)
        calibrated = calibrate_model(compressed.model, samples, request.max_drop, monitor)
        if calibrated.not_quantizable is not None:
            monitor.note(why_not_quantizable(calibrated.not_quantizable).sentence)
        judges = Judges(ingested.task, samples, compressed.original, monitor)
        lost_before = (
            confirm_compression(compressed.model, judges, request.max_drop, calibrated.limit)
            if compressed.report.steps
            else None
        )
        model = quantize_families(
            calibrated,
            families_of(request.profiles, machine, calibrated.source.graph),
            judges,
            machine,
            monitor,
            previous=request.previous,
            fine_tuning=fine_tuning(compressed.model, samples, request.compression.recover_minutes, monitor),
        )
        trial = Trial(judges, machine, monitor, tuning)
        contents = [_full_size(request, model, trial)]
        if request.smaller is not None and not budget.over(PACK, "variants of a smaller picture"):
            contents += _smaller(request, request.smaller, model, trial, contents[0].drafts)
        contents = [_as_shipped(c, lost_before) for c in contents]
        digest = _pack(request, source, contents, compressed.report, monitor)
    _closing_notes(request, contents, monitor)
    return BuildReport(
        digest=digest,
        out=request.out,
        name=request.name,
        version=request.version,
        seconds=budget.used,
        source_bytes=source.size,
        variants=tuple(summary_of(d) for c in contents for d in c.drafts),
        candidates={key: choice.outcomes for c in contents for key, choice in c.choices.items()},
        notes=tuple(dict.fromkeys(monitor.notes)),
        compression=compressed.report,
        causes={key: why for c in contents for key, why in c.reasons.items()},
        left_out=budget.left_out,
        conversion=None if source.conversion is None else source.conversion.as_report(),
    )


def _full_size(request: _BuildRequest, model: QuantizedModel, trial: Trial) -> _Content:
    """Measure, judge, and choose the variants of every profile."""
    chosen = choose_variants(model, trial, request.profiles)
    reasons = {key: why for key, c in chosen.choices.items() if (why := reasons_for_float(model, trial, c))}
    drafts: Sequence[VariantDraft] = chosen.drafts
    # weights that are shared stay shared
    if request.previous is not None and not request.compression.cluster:
        drafts = with_near_floats(request.previous, drafts, model, trial)
    if max(request.batches) > 1:
        feeds = [s.feeds for s in model.samples.confirmation]
        drafts = with_batches(drafts, request.batches, model.source.task, feeds, trial.monitor)
    return _Content(model, drafts, chosen.choices, reasons)


def _smaller(
    request: _BuildRequest,
    wanted: SmallerInput,
    model: QuantizedModel,
    trial: Trial,
    drafts: Sequence[VariantDraft],
) -> list[_Content]:
    """The variants of a smaller picture; a note says why there are none."""
    try:
        small = choose_smaller_variants(model, trial, wanted, request.profiles, drafts)
    except ModelError as e:
        trial.monitor.note(f"no variant for a smaller picture: {e.message}")
        return []
    return [_Content(small.model, small.chosen.drafts, small.chosen.choices)]


def _as_shipped(content: _Content, lost_before: Accuracy | None) -> _Content:
    drafts = content.drafts
    if lost_before is not None:
        drafts = [_with_compression(d, lost_before) for d in drafts]
    return replace(content, drafts=[_slimmed(d) for d in drafts])


def _with_compression(draft: VariantDraft, lost: Accuracy) -> VariantDraft:
    """Candidates were judged against the model as it came; a float variant loses what compression lost."""
    known = lost if draft.precision == "float32" or draft.accuracy is None else draft.accuracy
    return replace(draft, accuracy=replace(known, values={"compression_drop": lost.drop, **known.values}))


def _slimmed(draft: VariantDraft) -> VariantDraft:
    """Without the names that nobody refers to; ranges of implicit quantization refer to tensors by name."""
    if any(media == LAYER_RANGES for media, _ in draft.engine_layers):
        return draft
    small = slim(onnx.load_from_string(draft.model))
    return replace(draft, model=small.SerializeToString(deterministic=True))


def _pack(
    request: _BuildRequest,
    source: ConvertedModel,
    contents: Sequence[_Content],
    compression: CompressionReport,
    monitor: BuildMonitor,
) -> str:
    """Record golden outputs and write the bundle; its digest."""
    monitor.tell("pack", 0.92, "recording golden outputs")
    choices = {key: choice for c in contents for key, choice in c.choices.items()}
    reasons = {key: why for c in contents for key, why in c.reasons.items()}
    report = report_of(choices, compression.steps, reasons, monitor.budget.left_out)
    layer = (LAYER_REPORT, report.model_dump_json(exclude_none=True).encode())
    variants = [
        make_variant(
            _identity(request, source, c.model), d, extra=(layer,) if d.measured or compression.steps else ()
        )
        for c in contents
        for d in c.drafts
    ]
    digest = write_bundle(request.out, variants, name=request.name, version=request.version)
    if request.previous is not None:
        drafts = [d for c in contents for d in c.drafts]
        whole = [d for d, v in zip(drafts, variants, strict=True) if v.config.unpacked is None]
        monitor.notes += update_notes(request.previous, whole)
    monitor.tell("done", 1.0, f"{len(variants)} variants")
    return digest


def _identity(request: _BuildRequest, source: ConvertedModel, model: QuantizedModel) -> Identity:
    ingested, table = model.source, model.table
    return Identity(
        name=request.name,
        version=request.version,
        task=ingested.task,
        inputs=ingested.inputs,
        source=file_digest(source.onnx),
        parameters={"task": ingested.task.name, "max_drop": model.max_drop, "passes": list(ingested.passes)},
        table=table,
        samples=model.samples.confirmation,
        float_model=ingested.onnx_bytes,
        speed_only=model.samples.random and table is not None,
        conversion=source.conversion,
        packed=bool(request.compression.cluster),
    )


def _closing_notes(request: _BuildRequest, contents: Sequence[_Content], monitor: BuildMonitor) -> None:
    budget, minutes, model = monitor.budget, request.minutes, contents[0].model
    if budget.left_out:
        monitor.note(
            f"left out for want of time ({minutes:g} min): {', '.join(budget.left_out)}; --minutes gives more"
        )
    if budget.left(1.0) < 0:
        monitor.note(
            f"took {-budget.left(1.0):.0f} s more than {minutes:g} min: the least that a bundle needs"
        )
    if model.samples.random and model.table is not None:
        monitor.note("calibrated on random data: the bundle is marked speed only and is not for production")


def _check_within(name: str, value: float, most: float) -> None:
    if not 0 <= value <= most:
        raise UsageError(f"{name} is {value}, it must be from 0 to {most:g}")


def _loaded(profiles: str | Path | Sequence[str | Path]) -> tuple[DeviceProfile, ...]:
    names = str(profiles).split(",") if isinstance(profiles, str | Path) else map(str, profiles)
    loaded = tuple(load_profile(p) for p in dict.fromkeys(n.strip() for n in names) if p)
    if not loaded:
        raise UsageError("no device profile was given", hint="`edgectl profiles list` names them")
    return loaded


def _release_name(text: str) -> str:
    try:
        return check_name(text)
    except ValueError as e:
        raise UsageError(str(e), hint="give --name") from e


@contextlib.contextmanager
def _defects_named(monitor: BuildMonitor) -> Iterator[None]:
    """Whatever a graph brings up that nobody thought of: the traceback is for us, the sentence for the user."""
    try:
        yield
    except EdgectlError:
        raise
    except Exception as e:
        if e is monitor.raised_by_listener:
            raise
        at = monitor.last
        _log.debug("build step %s (%s) broke", at.step, at.message, exc_info=True)
        # of a temporary file, wherever
        if isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            with storage(e.filename or tempfile.gettempdir()):
                raise
        what = (str(e).strip() or "no reason given").splitlines()[0][:200]
        raise ModelError(
            f"build step {at.step} ({at.message}) broke: {type(e).__name__}: {what}",
            hint="this is a defect of edgectl, not of the model: report it with what the same command prints with --debug",
        ) from e


@contextlib.contextmanager
def _workplace(out: Path) -> Iterator[tuple[Path, Path]]:
    """A folder for samples, and the file of measurements beside the bundle."""
    with contextlib.ExitStack() as stack:
        # The products are small: BLAS threads wait for each other longer than they multiply.
        stack.enter_context(threadpool_limits(1, "blas"))
        folder = stack.enter_context(scratch_folder("edgectl-samples-"))
        tuning = stack.enter_context(_tuning_log(out.with_name(f"{out.name}.tuning.jsonl")))
        yield folder, tuning


@contextlib.contextmanager
def _tuning_log(path: Path) -> Iterator[Path]:
    """Gone when the build ends, whole or with an error. A kill or Ctrl-C leaves it for the next try."""
    try:
        yield path
    except Exception:
        path.unlink(missing_ok=True)
        raise
    path.unlink(missing_ok=True)
