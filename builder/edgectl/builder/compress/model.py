"""A step of a build: the float graph made smaller before it is calibrated, and int8 graphs trained after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from onnx import ModelProto

from edgectl.builder.compress.options import CompressOptions
from edgectl.builder.compress.run import CompressionReport, compress
from edgectl.builder.graph import GraphIndex
from edgectl.builder.ingest.model import IngestedModel
from edgectl.builder.ingest.samples import FeedsView, Sample, Slices
from edgectl.builder.int8.basis import QuantizationBasis
from edgectl.builder.int8.escalate import FineTune
from edgectl.builder.int8.families import Family
from edgectl.builder.int8.model import FineTuning
from edgectl.builder.int8.placement import weighted_nodes
from edgectl.builder.int8.quantize import Quantized
from edgectl.builder.judge.accuracy import Accuracy, Judge
from edgectl.builder.judge.judges import Judges
from edgectl.builder.judge.significance import affordable
from edgectl.builder.monitor import BuildMonitor
from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import ModelError, UsageError
from edgectl.engines.finalise.open import open_model

__all__ = ["CompressedModel", "check_compressible", "compress_model", "confirm_compression", "fine_tuning"]


@dataclass(frozen=True)
class CompressedModel:
    """``original``: the float graph before; what every candidate is judged against."""

    model: IngestedModel
    original: ModelProto = field(repr=False)
    report: CompressionReport = field(default_factory=CompressionReport)


def check_compressible(model: IngestedModel) -> None:
    """Raises :class:`UsageError` for a model whose weights are codes already, or that has none."""
    if model.precision != "float32":
        raise UsageError(
            "the model came quantized: there are no float weights to prune or to cluster",
            hint="build from the float model, or leave --prune and --cluster out",
        )
    if not weighted_nodes(GraphIndex(model.graph)):
        raise UsageError(
            "the model has no convolution or matrix product with constant weights: there is nothing to prune or to cluster",
            hint="leave --prune and --cluster out",
        )


def compress_model(
    model: IngestedModel,
    options: CompressOptions,
    samples: Slices,
    max_drop: float,
    monitor: BuildMonitor,
    *,
    teaching: Sequence[Sample] = (),
) -> CompressedModel:
    """Prune and cluster as asked; the model as it is if nothing was asked for. Raises :class:`ModelError` if
    that loses more than ``max_drop`` on the search slice."""
    if not options:
        if options.recover_minutes:
            monitor.note(
                "nothing was compressed: the minutes of recovery go to int8 graphs that lose something, if there are any"
            )
        return CompressedModel(model, model.graph)
    reference = open_model(model.graph.SerializeToString(), SessionSettings())
    judge = Judge(model.task, samples.search, reference)
    reference.close()
    graph, report = compress(
        model.graph,
        options,
        [s.feeds for s in samples.calibration],
        judge,
        max_drop=1.0 if samples.random else max_drop,
        decode=model.task.decode,
        more=FeedsView(teaching),
        progress=lambda what, share: monitor.tell("compress", 0.02 + 0.03 * share, what),
    )
    passes = (*model.passes, *(s.step for s in report.steps))
    return CompressedModel(replace(model, graph=graph, passes=passes, float16=None), model.graph, report)


def confirm_compression(model: IngestedModel, judges: Judges, max_drop: float, limit: float) -> Accuracy:
    """What compression cost, on samples that chose nothing. Raises :class:`ModelError` if that is more
    than ``limit``."""
    engine = open_model(model.onnx_bytes, SessionSettings())
    try:
        accuracy = judges.confirmation.judge(engine)
    finally:
        engine.close()
    if not affordable(accuracy, limit):
        raise ModelError(
            f"the compressed model loses {accuracy.drop:.4f} on samples that chose nothing, more than {max_drop:g}",
            hint="prune less, recover longer (--recover), or allow more with --max-drop",
        )
    return accuracy


def fine_tuning(
    model: IngestedModel,
    samples: Slices,
    minutes: float,
    monitor: BuildMonitor,
    *,
    teaching: Sequence[Sample] = (),
) -> FineTuning | None:
    """Training of each family's int8 graph for ``minutes``, which come on top of the build's time; None for
    0. torch is there: compression asked for it before anything was measured."""
    if not minutes:
        return None
    from edgectl.builder.compress.qat import fine_tune

    def of_family(family: Family, basis: QuantizationBasis) -> FineTune:
        def tune(q: Quantized) -> Quantized:
            monitor.budget.extend(minutes * 60)
            taught, lesson = fine_tune(
                q,
                basis.model,
                [s.feeds for s in samples.calibration],
                weight_max=family.weight_max,
                seconds=minutes * 60,
                decode=model.task.decode,
                more=FeedsView(teaching),
                progress=lambda share, error: monitor.tell(
                    "quantize", 0.15, f"{family.name}: fine-tuning, {share:.0%}: error {error:.4f}"
                ),
            )
            monitor.note(
                f"{family.name}: int8 fine-tuned in {lesson.steps} steps, held-back loss {lesson.before:.4f} → {lesson.after:.4f}"
            )
            return taught

        return tune

    return of_family
