"""The first step of a build: the model in the form that every other step works on, its task, and samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from onnx import ModelProto

from edgectl.builder.budget import READ
from edgectl.builder.ingest.bind_size import bind_size
from edgectl.builder.ingest.canonical import canonical, float16_as_received
from edgectl.builder.ingest.fit_task import fit_background, fit_input
from edgectl.builder.ingest.guess_task import guess_task
from edgectl.builder.ingest.labelled_samples import LabelledSamples
from edgectl.builder.ingest.licence import licence_of
from edgectl.builder.ingest.read import external_tensors, parse_model, read_model, weight_files
from edgectl.builder.ingest.samples import (
    Sample,
    SampleStore,
    Slices,
    collect,
    npz_shapes,
    random_samples,
    slice_samples,
)
from edgectl.builder.ingest.source_precision import source_precision
from edgectl.builder.ingest.split import split_post
from edgectl.builder.monitor import BuildMonitor
from edgectl.builder.passes.shapes import Shape
from edgectl.builder.truth.layouts import read_labels
from edgectl.core.bundle import Precision, SessionSettings, TensorSpec
from edgectl.core.errors import DataError, EngineError, UsageError
from edgectl.core.files import file_digest
from edgectl.core.task import TaskSpec
from edgectl.core.uri import redact
from edgectl.engines.base import Engine
from edgectl.engines.finalise.open import open_model

__all__ = [
    "IngestedModel",
    "IngestedSamples",
    "Validation",
    "ingest_model",
    "ingest_samples",
    "with_background",
]


@dataclass(frozen=True)
class Validation:
    """What ``--validation`` and its companions say."""

    uri: str | None = None
    pictures: Path | None = None
    """The folder of the pictures that the labels name; None: found beside them."""
    known_labels_only: bool = False
    """Classes that the model does not have are left out."""


@dataclass(frozen=True)
class IngestedSamples:
    """``labelled``: None where nobody labelled anything."""

    slices: Slices
    labelled: LabelledSamples | None = None
    teaching: Sequence[Sample] = ()
    """What training may see beside the calibration samples."""


# they lie on disk, and a minute of training sees a few hundred
_MOST_TEACHING = 8192
_GLANCED_AT = 8  # samples that tell a background class


@dataclass(frozen=True)
class IngestedModel:
    """``graph``: canonical, float32 unless it came quantized. ``passes``: what was done to it so far."""

    graph: ModelProto = field(repr=False)
    inputs: tuple[TensorSpec, ...]
    task: TaskSpec
    passes: tuple[str, ...] = ()
    precision: Precision = "float32"
    """Of ``graph``. ``int8``: it came quantized, and ships as it is."""
    float16: bytes | None = field(default=None, repr=False)
    """A float16 model as it came, behind inputs and outputs of float32; None for any other."""
    licence: str | None = None
    """Of the weights, where the file or the catalogue tells it."""

    weight_files: Mapping[str, str] = field(default_factory=dict)
    """File that the ONNX file has weights in → its digest."""

    file: Path | None = None
    """Of a model whose weights do not fit one ONNX file: the graph, with the file of its weights beside it."""

    @property
    def openable(self) -> bytes | Path:
        """What a runtime opens."""
        return self.graph.SerializeToString() if self.file is None else self.file

    @cached_property
    def onnx_bytes(self) -> bytes:
        """The graph as a file; the same graph gives the same bytes."""
        return bytes(self.graph.SerializeToString(deterministic=True))


def ingest_model(
    path: Path,
    task: TaskSpec | None,
    monitor: BuildMonitor,
    *,
    shapes: Mapping[str, Shape],
    calibration: str | None,
) -> IngestedModel:
    """Read the file, guess its task if there is none, cut NonMaxSuppression off, fit the task to it, and run the
    passes.

    ``shapes``, and then the arrays of an ``.npz`` of calibration data, say what the model leaves open. Raises
    :class:`ModelError`, :class:`UsageError` or :class:`DataError`.
    """
    monitor.tell("ingest", 0.0, f"reading {path.name}")
    came = parse_model(path)
    files = weight_files(external_tensors(came, path), path)
    del came
    source = read_model(path)
    licence = licence_of(file_digest(path), {p.key: p.value for p in source.metadata_props})
    if task is None:
        task, guessed = guess_task(source, shapes)
        monitor.note(guessed)
    source, task, was_bound = bind_size(source, task)
    if was_bound:
        monitor.note("the input for the picture's size was bound to 1 x 1: boxes are 0..1 of the picture")
    source, task, was_cut = split_post(source, task)
    if was_cut:
        monitor.note(
            "NonMaxSuppression was cut off the graph: the device's decoder does it, with the thresholds of the task"
        )
    task = fit_input(task, source, shapes)
    data = npz_shapes(Path(calibration)) if calibration is not None and calibration.endswith(".npz") else {}
    graph, inputs, log = canonical(source, task, shapes=shapes, data=data)
    monitor.notes += log.notes
    passes = (*(("bind-size",) if was_bound else ()), *(("split",) if was_cut else ()), *log.ran)
    float16 = float16_as_received(source, inputs, monitor.notes)
    precision = source_precision(graph)
    return IngestedModel(graph, inputs, task, passes, precision, float16, licence, weight_files=files)


def ingest_samples(
    model: IngestedModel,
    monitor: BuildMonitor,
    folder: Path,
    *,
    calibration: str | None,
    validation: Validation,
    teach: str | None = None,
) -> IngestedSamples:
    """Samples to calibrate, search and confirm with, in files of ``folder``; noise where ``calibration`` is
    None. ``teach``: data that training may see, too. Raises :class:`DataError`, :class:`SourceError` or :class:`UsageError`; for labels that are wrong or do not
    match before anything else is read."""
    held_out, labelled = _validation(model, validation)
    if labelled is not None and calibration is None:
        raise UsageError(
            "labels judge what was calibrated with real data",
            hint="give --calibration pictures that are not among the labelled ones",
        )
    engine = open_model(model.openable, SessionSettings())

    def read(uri: str, what: str, limit: int | None = None) -> SampleStore:
        (folder / what).mkdir()
        return collect(
            uri,
            model.task,
            model.inputs,
            engine,
            folder / what,
            progress=lambda n: monitor.tell("samples", 0.02, f"samples of {redact(uri)}: {n}"),
            enough=lambda: monitor.budget.over(READ, f"the rest of the {what} data"),
            limit=limit,
        )

    try:
        if calibration is None:
            noise = random_samples(model.task, model.inputs, folder)
            _check_takes_noise(engine, model.inputs, noise)
            return IngestedSamples(slice_samples(noise, None, random=True))
        confirming = None if held_out is None else read(held_out, "validation")
        slices = slice_samples(read(calibration, "calibration"), confirming)
        taught = () if teach is None else read(teach, "teaching", _MOST_TEACHING)
        return IngestedSamples(slices, labelled, taught)
    finally:
        engine.close()


def _validation(model: IngestedModel, given: Validation) -> tuple[str | None, LabelledSamples | None]:
    """Data without labels, or labelled samples."""
    if given.uri is None:
        if given.pictures is not None or given.known_labels_only:
            raise UsageError(
                "--validation-images and --known-labels-only say more of --validation, which is not there",
                hint="give --validation labels",
            )
        return None, None
    labelled = read_labels(given.uri, model.task, pictures=given.pictures, known_only=given.known_labels_only)
    if labelled is None:
        return given.uri, None
    return None, LabelledSamples(labelled, model.task, model.inputs)


def with_background(model: IngestedModel, samples: Slices, monitor: BuildMonitor) -> IngestedModel:
    """The model with the background class in its task, if its own answers on a few samples tell that it has
    one."""
    if model.task.decode.kind != "boxes-scores":
        return model
    engine = open_model(model.openable, SessionSettings())
    try:
        answers = [engine.run(s.feeds) for s in samples.calibration[:_GLANCED_AT]]
    finally:
        engine.close()
    task, note = fit_background(model.task, answers)
    if note:
        monitor.note(note)
    return replace(model, task=task)


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
