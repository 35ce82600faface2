"""The first step of a large build: the model as one float engine of two files, checked against the model itself."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from onnx import ModelProto

from edgectl.builder.graph import np_dtype
from edgectl.builder.ingest.bind_size import bind_size
from edgectl.builder.ingest.canonical import ROUGH_COSINE, ROUGH_RELATIVE, check_same_answers, made_up
from edgectl.builder.ingest.fit_task import fit_input
from edgectl.builder.ingest.guess_task import guess_task
from edgectl.builder.ingest.known_types import with_known_types
from edgectl.builder.ingest.licence import licence_of
from edgectl.builder.ingest.model import IngestedModel
from edgectl.builder.ingest.samples import npz_shapes
from edgectl.builder.ingest.source_precision import source_precision
from edgectl.builder.ingest.split import split_post
from edgectl.builder.large.engine_file import LargeEngine, stored, write_engine
from edgectl.builder.large.hollow import HollowModel, closed, opened, read_hollow
from edgectl.builder.large.room import check_room, needs_of
from edgectl.builder.large.weights import StoredWeight, bytes_of
from edgectl.builder.monitor import BuildMonitor
from edgectl.builder.passes.base import FloatReference, Pass, PassLog, run_passes, typed_feeds
from edgectl.builder.passes.canonicalise import Canonicalise
from edgectl.builder.passes.shapes import Shape, StaticShapes, check_sizes, resolve_inputs
from edgectl.builder.passes.upgrade import Upgrade
from edgectl.builder.passes.widen import Widen, other_floats
from edgectl.core.bundle import SessionSettings, TensorSpec
from edgectl.core.errors import EdgectlError, ModelError
from edgectl.core.files import file_digest
from edgectl.core.task import TaskSpec
from edgectl.device_profiles.memory import memory_room
from edgectl.engines.base import Feeds, Outputs
from edgectl.engines.finalise.open import open_model

__all__ = ["LargeModel", "ingest_large"]

_FLOAT32 = 1


@dataclass(frozen=True)
class LargeModel:
    """``model.graph`` is hollow; ``weights`` are those of it, where they lay when it came; ``engine``: float, as ``model.file``."""

    model: IngestedModel
    weights: Mapping[str, StoredWeight]
    engine: LargeEngine
    files: Mapping[str, str]
    """Name → digest of each file that weights were read from."""


def ingest_large(
    path: Path,
    task: TaskSpec | None,
    monitor: BuildMonitor,
    folder: Path,
    *,
    shapes: Mapping[str, Shape],
    calibration: str | None,
) -> LargeModel:
    """As :func:`~edgectl.builder.ingest.model.ingest_model`, with weights that stay in files. The engine is written into
    ``folder``.

    Raises :class:`ModelError`, also for a machine with too little memory or disk, :class:`UsageError`, :class:`DataError` or
    :class:`StorageError`."""
    monitor.tell("ingest", 0.0, f"reading {path.name}")
    source = read_hollow(path, folder)
    total = sum(bytes_of(_FLOAT32, w.shape) for w in source.weights.values())
    check_room(path.name, needs_of(total), memory_room(), shutil.disk_usage(folder).free, str(folder.parent))
    licence = licence_of(file_digest(path), {p.key: p.value for p in source.graph.metadata_props})
    graph = source.graph
    if task is None:
        task, guessed = guess_task(graph, shapes)
        monitor.note(guessed)
    graph, task, was_bound = bind_size(graph, task)
    graph, task, was_cut = split_post(graph, task)
    task = fit_input(task, graph, shapes)
    data = npz_shapes(Path(calibration)) if calibration is not None and calibration.endswith(".npz") else {}
    check_sizes(graph)
    inputs = resolve_inputs(graph, task, shapes=shapes, data=data)
    graph, inputs, log = _canonical(graph, inputs, source.weights)
    monitor.notes += log.notes
    weights = {t.name: source.weights[t.name] for t in graph.graph.initializer if t.name in source.weights}
    monitor.tell("ingest", 0.02, f"writing {total >> 20} MiB of weights")
    engine = write_engine(graph, stored(weights), folder, "float")
    _check(path, source, engine, graph, inputs, monitor)
    passes = (*(("bind-size",) if was_bound else ()), *(("split",) if was_cut else ()), *log.ran)
    model = IngestedModel(
        graph, inputs, task, passes, source_precision(graph), licence=licence, file=engine.file
    )
    return LargeModel(model, weights, engine, source.files)


def _canonical(
    hollow: ModelProto, inputs: tuple[TensorSpec, ...], weights: Mapping[str, StoredWeight]
) -> tuple[ModelProto, tuple[TensorSpec, ...], PassLog]:
    """The passes of every build on the open graph, in which the large weights are inputs. Nothing runs it yet."""
    log = PassLog()
    kinds = other_floats(hollow)
    graph = opened(hollow, weights)
    first: list[Pass] = [Upgrade(), *([Widen()] if kinds else [])]
    graph, log = run_passes(graph, first, None, log)
    if kinds:
        log.notes.append(
            f"the model is in {' and '.join(kinds)}: it was widened to float32, its inputs and outputs, too"
        )
    shape_of = {i.name: i.shape for i in inputs} | {n: w.shape for n, w in weights.items()}
    specs = {
        i.name: TensorSpec(name=i.name, shape=shape_of[i.name], dtype=str(np_dtype(i)))
        for i in graph.graph.input
    }
    graph, log = run_passes(graph, [StaticShapes(tuple(specs.values()))], None, log)
    try:
        graph, log = run_passes(graph, [Canonicalise()], None, log)
    except ModelError as e:
        graph, log = run_passes(graph, [Canonicalise(simplify=False)], None, log)
        log.notes.append(f"the graph is used without being simplified: {e.message}")
    graph = with_known_types(graph)
    return closed(graph, weights), tuple(specs[i.name] for i in inputs), log


def _check(
    path: Path,
    source: HollowModel,
    engine: LargeEngine,
    graph: ModelProto,
    inputs: tuple[TensorSpec, ...],
    monitor: BuildMonitor,
) -> None:
    """The engine answers as the file does that came, and the same each time. One of them is open at a time."""
    feeds = made_up(inputs)
    monitor.tell("ingest", 0.05, f"{path.name} as it came, on made-up inputs")
    rough = bool(other_floats(source.graph))
    try:
        came, again = _answers(path, typed_feeds(feeds, source.graph), 2)
    except EdgectlError as e:
        # no kernels here for its float type
        if not rough:
            raise ModelError(f"the model, as it is, does not run: {e.message}", hint=e.hint) from e
        monitor.note(f"nothing here runs the model in the precision that it came in: {e.message}")
        return
    check_same_answers(source.graph, came, again)
    monitor.tell("ingest", 0.08, "the canonical form, on the same inputs")
    kept = {o.name for o in graph.graph.output} | set(came)
    outputs = {
        n: o.astype(np.float32) if rough and o.dtype.kind == "f" else o for n, o in came.items() if n in kept
    }
    reference = FloatReference(feeds, outputs)
    if rough:
        reference = replace(reference, cosine=ROUGH_COSINE, relative=ROUGH_RELATIVE)
    try:
        reference.compare(_answers(engine.file, feeds, 1)[0])
    except EdgectlError as e:
        raise ModelError(f"the canonical form of {path.name}: {e.message}", hint=e.hint) from e


def _answers(file: Path, feeds: Feeds, times: int) -> list[Outputs]:
    engine = open_model(file, SessionSettings(optimization="disabled"))
    try:
        return [engine.run(feeds) for _ in range(times)]
    finally:
        engine.close()
