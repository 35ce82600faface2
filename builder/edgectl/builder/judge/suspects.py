"""Why a float model answers no better than chance to labels: the usual mistakes are tried, each on a few pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from edgectl.builder.ingest.labelled_samples import LabelledSample, LabelledSamples
from edgectl.builder.judge.labelled import FloatByLabels
from edgectl.builder.judge.labelled_scores import Figures, Scorer, scorer_for
from edgectl.builder.truth.labelled import TrueClasses, TrueObjects, Truth
from edgectl.core.errors import DataError, EdgectlError
from edgectl.core.task import ImageInput, TaskSpec
from edgectl.engines.base import Engine

__all__ = ["explain_nothing"]

_TRIED = 48  # pictures


def explain_nothing(by_labels: FloatByLabels, reference: Engine) -> DataError:
    """The sentence for a float model that :attr:`~FloatByLabels.knows_nothing`: what its figures are, and what would
    mend them if one of the usual mistakes was made."""
    about = by_labels.about
    figures = ", ".join(f"{name} {value:.3f}" for name, value in about.values.items())
    said = f"the float model itself reaches only {figures} on {about.pictures} labelled pictures, so a loss of it says nothing"
    for mended, sentence in _suspects(by_labels):
        if mended is not None and _tried(by_labels, reference, *mended):
            return DataError(f"{said}; {sentence}", hint="mend that, and build again")
    return DataError(
        said,
        hint="check the order of colours, scale and mean of the task's input, the order of its labels (one too many or "
        "too few moves each class), and whether the pictures are such as the model was trained for; without "
        "--validation, variants are judged against what float answers",
    )


Trial = tuple[TaskSpec, int | None]
"""A task to try, and by how much the classes of the labels are moved; None: classes do not count."""


def _suspects(by_labels: FloatByLabels) -> Iterator[tuple[Trial | None, str]]:
    task, spec = by_labels.task, by_labels.task.input
    if isinstance(spec, ImageInput):
        other = "bgr" if spec.color == "rgb" else "rgb"
        swapped = spec.model_copy(update={"color": other})
        yield (
            (task.model_copy(update={"input": swapped}), 0),
            f"with the colours in the order {other} it is better: set input.color",
        )
        if spec.dtype == "float32":
            scale = 1.0 if spec.scale != 1.0 else 1 / 255
            scaled = spec.model_copy(update={"scale": scale, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)})
            name = "0..255" if scale == 1.0 else "0..1"
            yield (
                (task.model_copy(update={"input": scaled}), 0),
                f"with pixels as {name} it is better: set input.scale (and mean and std)",
            )
            yield (
                (task.model_copy(update={"input": scaled.model_copy(update={"color": other})}), 0),
                f"with pixels as {name} and the colours in the order {other} it is better: set input.scale and input.color",
            )
    for step in (1, -1):
        yield (
            (task, step),
            f"with the classes of the labels moved by {step:+d} it is better: the task's labels are one too {'few' if step > 0 else 'many'} at their start",
        )
    if by_labels.samples.labelled.kind != "text":
        yield (
            (task, None),
            "it finds the objects and calls them something else: the task's labels are in another order",
        )


def _tried(by_labels: FloatByLabels, reference: Engine, task: TaskSpec, moved: int | None) -> bool:
    labelled = by_labels.samples.labelled
    if moved is None and labelled.kind in ("class", "pixels"):
        return False
    classes = len(task.labels)
    wanted = (0,) if moved is None else tuple(c + moved for c in labelled.classes if 0 <= c + moved < classes)
    if not wanted:
        return False
    scorer = scorer_for(labelled.kind, task, wanted, classless=moved is None)
    samples = LabelledSamples(labelled, task, by_labels.samples.inputs)
    rows = []
    try:
        for i in by_labels.judged[:_TRIED]:
            one = samples[i]
            truth = _moved(one, moved, classes)
            if truth is None:
                continue
            outputs = reference.run(one.sample.feeds)
            rows.append(scorer.row(outputs, one.sample.meta, truth))
    except EdgectlError:
        return False
    figures = scorer.measured(rows)(np.ones(len(rows))) if rows else None
    return (
        figures is not None and not scorer.is_nothing(figures) and _better(scorer, figures, by_labels.figures)
    )


def _better(scorer: Scorer, tried: Figures, was: Figures) -> bool:
    """Twice as good, or as bad: a mistake that was mended shows."""
    return bool(tried[0] > 2 * was[0]) if scorer.sign > 0 else bool(2 * tried[0] < was[0])


def _moved(one: LabelledSample, step: int | None, classes: int) -> Truth | None:
    truth = one.truth
    if isinstance(truth, TrueObjects):
        return replace(truth, cls=np.zeros_like(truth.cls) if step is None else truth.cls + (step or 0))
    if isinstance(truth, TrueClasses):
        return replace(truth, moved=step or 0)
    if isinstance(truth, int):
        moved = truth + (step or 0)
        return moved if 0 <= moved < classes else None
    return truth
