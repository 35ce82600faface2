"""What labels say of each variant that ships, also of those that nothing had to be decided about: the float ones."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace

from edgectl.builder.ingest.pixels import PixelFed
from edgectl.builder.int8.model import QuantizedModel
from edgectl.builder.judge.accuracy import Accuracy
from edgectl.builder.judge.labelled import LabelledJudge
from edgectl.builder.variants.draft import VariantDraft
from edgectl.builder.variants.trial import Trial
from edgectl.core.bundle import Runtime
from edgectl.core.task import ImageInput
from edgectl.engines.finalise.open import open_model

__all__ = ["with_label_figures"]

_HERE: tuple[Runtime, ...] = ("onnxruntime", "openvino")


def with_label_figures(
    drafts: Sequence[VariantDraft], model: QuantizedModel, trial: Trial
) -> list[VariantDraft]:
    """``drafts`` as they are where there are no labels. Otherwise each that was not judged by them so far is, if this
    machine can run it; the float graph in ONNX Runtime is what everything was compared with."""
    labels = trial.judges.labels
    judge = trial.judges.confirmation
    if labels is None or not isinstance(judge, LabelledJudge):
        return list(drafts)
    known: dict[tuple[bytes, Runtime], Accuracy] = {}
    found = []
    for d in drafts:
        if (d.accuracy is not None and d.accuracy.labelled) or d.runtime not in _HERE:
            found.append(d)
            continue
        if (key := (d.model, d.runtime)) not in known:
            trial.monitor.tell("labels", 0.9, f"{d.variant} by the labels")
            if key == (trial.judges.reference, "onnxruntime"):
                known[key] = labels.accuracy
            else:
                known[key] = _judged(d, model, judge)
        found.append(replace(d, accuracy=known[key]))
    return found


def _judged(d: VariantDraft, model: QuantizedModel, judge: LabelledJudge) -> Accuracy:
    engine = open_model(d.model, d.session, runtime=d.runtime)
    spec = model.source.task.input
    if d.picture is not None and isinstance(spec, ImageInput):
        engine = PixelFed(engine, spec)
    with contextlib.closing(engine):
        return judge.judge(engine)
