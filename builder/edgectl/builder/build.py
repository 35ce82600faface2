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
from edgectl.builder.ingest.licence import licence_given
from edgectl.builder.ingest.model import (
    IngestedModel,
    Validation,
    ingest_model,
    ingest_samples,
    with_background,
)
from edgectl.builder.ingest.read import MAX_MODEL_BYTES
from edgectl.builder.int8.keep_float import kept_in_float, told_kept
from edgectl.builder.int8.model import QuantizedModel, calibrate_model, quantize_families
from edgectl.builder.int8.previous_release import read_previous_release
from edgectl.builder.judge.accuracy import Accuracy
from edgectl.builder.judge.judges import Judges
from edgectl.builder.judge.labelled import LabelledFigures
from edgectl.builder.large.build import build_large
from edgectl.builder.large.hollow import weights_beside
from edgectl.builder.monitor import BuildMonitor, BuildProgress
from edgectl.builder.pack.on_device import finalised_on_devices
from edgectl.builder.pack.package import check_target, write_bundle
from edgectl.builder.pack.report import report_of
from edgectl.builder.pack.slim import slim
from edgectl.builder.pack.summary import BuildReport, VariantSummary, summary_of
from edgectl.builder.pack.variant import Identity, make_variant
from edgectl.builder.passes.shapes import Shape
from edgectl.builder.request import BuildRequest, check_devices, check_within, loaded_profiles, release_name
from edgectl.builder.search.candidates import Choice
from edgectl.builder.search.elsewhere import MeasuringDevice
from edgectl.builder.search.reasons import Reason, why_not_quantizable
from edgectl.builder.variants.batched import with_batches
from edgectl.builder.variants.buildable import check_buildable
from edgectl.builder.variants.choose import choose_variants, families_of
from edgectl.builder.variants.draft import VariantDraft
from edgectl.builder.variants.exact_int8 import inexact_int8
from edgectl.builder.variants.float16_weights import with_float16_weights
from edgectl.builder.variants.float_first import reasons_for_float
from edgectl.builder.variants.label_figures import with_label_figures
from edgectl.builder.variants.measured import measurable
from edgectl.builder.variants.near_floats import update_notes, with_near_floats
from edgectl.builder.variants.restriction import parse_restriction
from edgectl.builder.variants.smaller_input import (
    SmallerInput,
    check_takes_picture,
    choose_smaller_variants,
)
from edgectl.builder.variants.trial import Trial
from edgectl.builder.workplace import workplace
from edgectl.core.bundle import LAYER_RANGES, LAYER_REPORT
from edgectl.core.errors import EdgectlError, ModelError, UsageError
from edgectl.core.files import file_digest, storage
from edgectl.core.task import TaskSpec
from edgectl.device_profiles.machine import probe
from edgectl.engines.finalise.guarded import guarded_openings
from edgectl.pipelines.tasks import load_task

__all__ = ["BuildProgress", "BuildReport", "VariantSummary", "build_bundle"]

_log = logging.getLogger(__name__)


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
    validation_images: str | Path | None = None,
    known_labels_only: bool = False,
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
    licence: str | None = None,
    keep_float: Sequence[str] = (),
    precisions: Sequence[str] = (),
    runtimes: Sequence[str] = (),
    float16_weights: bool = False,
    convert: ConvertOptions | None = None,
    devices: Sequence[MeasuringDevice] = (),
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

    ``validation``: data to confirm the accuracy on, or labels, which then decide
    (:mod:`edgectl.builder.truth`). ``validation_images``: where the pictures lie that they name, if not beside them;
    ``known_labels_only``: classes that the model does not have are left out.

    ``max_drop``: largest loss of the task's metric against float (0.01 = one point). ``minutes``: for the
    whole build, all profiles together (training that was asked for comes on top); what is left out for it is
    listed (:mod:`edgectl.builder.budget`). ``smaller``: variants of a smaller picture, in what is left then.
    ``random_calibration``: noise instead of data; the bundle is then marked *speed only*.

    ``shapes``: input → shape, for what the model leaves open. The task, and then an ``.npz`` of inputs, say
    what is not in it. ``previous``: bundle of the release that this one fine-tunes, so that the update takes
    few bytes (:mod:`edgectl.builder.int8.previous_release`).

    ``batches``: pictures in one call, 1 among them; engines are built for the one that is fastest a picture
    (:mod:`edgectl.builder.variants.batched`).

    ``licence``: SPDX expression of the weights' licence; None: as the file or the catalogue tells it.

    ``keep_float``: layers that no graph computes in int8, by name or pattern
    (:mod:`edgectl.builder.int8.keep_float`).

    ``precisions``, ``runtimes``: what engines may compute in, and where; none: whatever there is
    (:mod:`edgectl.builder.variants.restriction`).

    ``float16_weights``: of float32 engines for the CPU, in the file, where that costs next to nothing
    (:mod:`edgectl.builder.variants.float16_weights`).

    ``devices``: hold still for this build; candidates of their profiles are measured there and not here
    (:mod:`edgectl.builder.search.elsewhere`).

    ``progress`` is called on this thread; what it raises ends the build and is raised again.

    Raises :class:`UsageError`, :class:`ModelError`, :class:`DataError`, :class:`SourceError`,
    :class:`ProfileError`, :class:`StorageError` or (a damaged ``previous``) :class:`IntegrityError`; after any
    of them nothing is left at ``out`` that was not there before.
    """
    model = Path(model)
    target = Path(out) if out is not None else Path("out") / (name or source_name(model))
    check_within("max_drop", max_drop, 1.0)
    check_within("minutes", minutes, 1440.0)
    monitor = BuildMonitor(Budget(minutes * 60), progress)
    with _defects_named(monitor):
        loaded, release = (
            loaded_profiles(profiles),
            release_name(name or source_name(model).lower().replace("_", "-")),
        )
        restriction = parse_restriction(precisions, runtimes)
        restriction.check(loaded)
        check_devices(devices, loaded, batches, smaller)
        check_target(target)
        if calibration is None and not random_calibration:
            raise UsageError(
                "there is no calibration data",
                hint="give --calibration a video, a folder of images or recordings, or an .npz of the model's inputs; "
                "--random-calibration builds a bundle that is good for measuring speed only",
            )
        request = BuildRequest(
            model,
            loaded,
            load_task(task) if isinstance(task, str | Path) else task,
            None if calibration is None else str(calibration),
            Validation(
                None if validation is None else str(validation),
                None if validation_images is None else Path(validation_images),
                known_labels_only,
            ),
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
            None if licence is None else licence_given(licence),
            tuple(keep_float),
            restriction,
            float16_weights,
            convert or ConvertOptions(),
            tuple(devices),
        )
        with guarded_openings():
            return _build(request, monitor)


def _build(request: BuildRequest, monitor: BuildMonitor) -> BuildReport:
    recover_minutes = request.compression.recover_minutes
    if recover_minutes:
        monitor.budget.extend(recover_minutes * 60)
        # raises before the long work if torch is not there
        training()
    with converted(
        request.model, request.convert, monitor, shapes=request.shapes, calibration=request.calibration
    ) as source:
        return _build_from(request, source, monitor)


def _build_from(request: BuildRequest, source: ConvertedModel, monitor: BuildMonitor) -> BuildReport:
    if source.conversion is None and weights_beside(source.onnx) > MAX_MODEL_BYTES:
        return build_large(request, source.onnx, monitor)
    machine, budget = probe(), monitor.budget
    ingested = ingest_model(
        source.onnx, request.task, monitor, shapes=request.shapes, calibration=request.calibration
    )
    if request.compression:
        check_compressible(ingested)
    kept = _kept_in_float(request, ingested, monitor)
    monitor.notes += check_buildable(request.restriction, request.profiles, machine, ingested)
    if request.restriction.quantizes:
        monitor.notes += inexact_int8()
    if request.smaller is not None:
        check_takes_picture(ingested.task, ingested.inputs)
    with workplace(request.out) as (folder, tuning):
        read = ingest_samples(
            ingested,
            monitor,
            folder,
            calibration=request.calibration,
            validation=request.validation,
            teach=request.compression.teach,
        )
        samples = read.slices
        source.confirm(samples.calibration, monitor)
        ingested = with_background(ingested, samples, monitor)
        judges = Judges(ingested.task, samples, ingested.graph, monitor, labelled=read.labelled)
        # raises before the long work if float itself knows nothing of the labels
        labels = None if judges.labels is None else judges.labels.about
        if any(measurable(p, machine) for p in request.profiles):
            # now, so that every step knows what the search will take
            _ = judges.search
            budget.keep(judges.search_s)
        compressed = compress_model(
            ingested, request.compression, samples, request.max_drop, monitor, teaching=read.teaching
        )
        calibrated = calibrate_model(
            compressed.model, samples, request.max_drop, monitor, labelled=labels is not None, kept=kept
        )
        if calibrated.not_quantizable is not None:
            monitor.note(why_not_quantizable(calibrated.not_quantizable).sentence)
        lost_before = (
            confirm_compression(compressed.model, judges, request.max_drop, calibrated.limit)
            if compressed.report.steps
            else None
        )
        model = quantize_families(
            calibrated,
            families_of(
                request.profiles, machine, calibrated.source.graph, request.restriction, request.devices
            ),
            judges,
            machine,
            monitor,
            previous=request.previous,
            fine_tuning=fine_tuning(
                compressed.model,
                samples,
                request.compression.recover_minutes,
                monitor,
                teaching=read.teaching,
            ),
        )
        trial = Trial(judges, machine, monitor, tuning, request.restriction)
        contents = [_on_devices(request, source, _full_size(request, model, trial), monitor)]
        if request.smaller is not None and not budget.over(PACK, "variants of a smaller picture"):
            contents += _smaller(request, request.smaller, model, trial, contents[0].drafts)
        contents = [_as_shipped(c, lost_before) for c in contents]
        digest = _pack(request, source, contents, compressed.report, labels, monitor)
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
        licence=request.licence or ingested.licence,
        labels=labels,
        conversion=None if source.conversion is None else source.conversion.as_report(),
    )


def _kept_in_float(request: BuildRequest, model: IngestedModel, monitor: BuildMonitor) -> frozenset[str]:
    if request.keep_float and model.precision != "float32":
        raise UsageError(
            "--keep-float is for float models; this one came quantized, and its maker decided what is float in it",
            hint="leave it out, or build from the float model",
        )
    kept = kept_in_float(model.graph, request.keep_float)
    monitor.notes += told_kept(model.graph, kept)
    return frozenset().union(*kept.values())


def _full_size(request: BuildRequest, model: QuantizedModel, trial: Trial) -> _Content:
    """Measure, judge, and choose the variants of every profile."""
    chosen = choose_variants(model, trial, request.profiles, request.devices)
    reasons = {key: why for key, c in chosen.choices.items() if (why := reasons_for_float(model, trial, c))}
    drafts: Sequence[VariantDraft] = chosen.drafts
    # weights that are shared stay shared
    if request.previous is not None and not request.compression.cluster:
        drafts = with_near_floats(request.previous, drafts, model, trial)
    if request.float16_weights:
        drafts = with_float16_weights(drafts, model, trial)
    if max(request.batches) > 1:
        feeds = [s.feeds for s in model.samples.confirmation]
        drafts = with_batches(drafts, request.batches, model.source.task, feeds, trial.monitor)
    drafts = with_label_figures(drafts, model, trial)
    return _Content(model, drafts, chosen.choices, reasons)


def _on_devices(
    request: BuildRequest, source: ConvertedModel, content: _Content, monitor: BuildMonitor
) -> _Content:
    """What only a device can run is measured there, where one holds still for it."""
    if not request.devices:
        return content
    identity = _identity(request, source, content.model)
    drafts = finalised_on_devices(identity, content.drafts, request.profiles, request.devices, monitor)
    return replace(content, drafts=drafts)


def _smaller(
    request: BuildRequest,
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
    request: BuildRequest,
    source: ConvertedModel,
    contents: Sequence[_Content],
    compression: CompressionReport,
    labels: LabelledFigures | None,
    monitor: BuildMonitor,
) -> str:
    """Record golden outputs and write the bundle; its digest."""
    monitor.tell("pack", 0.92, "recording golden outputs")
    choices = {key: choice for c in contents for key, choice in c.choices.items()}
    reasons = {key: why for c in contents for key, why in c.reasons.items()}
    report = report_of(choices, compression.steps, reasons, monitor.budget.left_out, labels)
    layer = (LAYER_REPORT, report.model_dump_json(exclude_none=True).encode())
    shared = [(_identity(request, source, c.model), c.drafts) for c in contents]
    variants = [
        make_variant(identity, d, extra=(layer,) if d.measured or compression.steps else ())
        for identity, drafts in shared
        for d in drafts
    ]
    digest = write_bundle(request.out, variants, name=request.name, version=request.version)
    if request.previous is not None:
        drafts = [d for c in contents for d in c.drafts]
        whole = [d for d, v in zip(drafts, variants, strict=True) if v.config.unpacked is None]
        monitor.notes += update_notes(request.previous, whole)
    monitor.tell("done", 1.0, f"{len(variants)} variants")
    return digest


def _identity(request: BuildRequest, source: ConvertedModel, model: QuantizedModel) -> Identity:
    ingested, table = model.source, model.table
    return Identity(
        name=request.name,
        version=request.version,
        task=ingested.task,
        inputs=ingested.inputs,
        source=file_digest(source.onnx),
        parameters={
            "task": ingested.task.name,
            "max_drop": model.max_drop,
            "passes": list(ingested.passes),
            **({"keep_float": list(request.keep_float)} if request.keep_float else {}),
        },
        table=table,
        samples=model.samples.confirmation,
        float_model=ingested.onnx_bytes,
        speed_only=model.samples.random and table is not None,
        conversion=source.conversion,
        packed=bool(request.compression.cluster),
        licence=request.licence or ingested.licence,
        weights=ingested.weight_files,
    )


def _closing_notes(request: BuildRequest, contents: Sequence[_Content], monitor: BuildMonitor) -> None:
    budget, minutes, model = monitor.budget, request.minutes, contents[0].model
    if told := request.restriction.told():
        monitor.note(told)
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
