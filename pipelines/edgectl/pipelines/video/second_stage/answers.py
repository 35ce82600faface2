"""What a second model says of one crop. The decoder of its task says which sort of model it is; one file has the code
of each sort."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from edgectl.core.errors import UsageError
from edgectl.core.task import TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import DECODERS
from edgectl.pipelines.video.class_map import ClassMap
from edgectl.pipelines.video.preprocess import LetterboxMeta
from edgectl.pipelines.video.second_stage.config import SecondStageConfig

__all__ = ["Answer", "Answers", "Looked", "answer_values", "make_answers"]

_SORTS = {
    "classifier": "by_classifier:ClassifierAnswers",
    "detector": "by_detector:DetectorAnswers",
    "reader": "by_reader:ReaderAnswers",
    "segmenter": "by_segmenter:SegmenterAnswers",
}
"""Part of a decoder → module in this folder, and what is in it."""


class Answer(NamedTuple):
    value: str
    score: float
    """0..1: the weight of its vote."""
    classes: ClassMap | None = None
    """What each pixel is, of a model that tells it."""


class Looked(NamedTuple):
    """What was cut out."""

    labels: Sequence[str]
    """The track's label, and those of the first model that it stands for."""
    box: Sequence[float]
    """The track's box, xyxy in pixels of the crop."""


class Answers(Protocol):
    """For one thread."""

    def __init__(self, task: TaskSpec, config: SecondStageConfig) -> None: ...

    @staticmethod
    def values(task: TaskSpec) -> tuple[str, ...]:
        """What it can say; empty: any text."""
        ...

    def knows(self, labels: Sequence[str]) -> bool:
        """Whether it can say something of a track whose label is one of these (see :attr:`Looked.labels`)."""
        ...

    def __call__(self, outputs: Outputs, meta: LetterboxMeta, looked: Looked) -> Answer | None:
        """None: it is not sure enough. Raises :class:`ModelError` or :class:`EngineError`."""
        ...


def make_answers(task: TaskSpec, config: SecondStageConfig) -> Answers:
    """Raises :class:`UsageError` for a model that cannot look at crops, :class:`ModelError` for a wrong task."""
    sort = _sort(task, config.part)
    if config.share and DECODERS.get(task.decode.kind).part != "segmenter":
        raise UsageError(
            f"the part {config.part!r} has a share, and its model (task {task.name}) does not say what each pixel is"
        )
    return sort(task, config)


def answer_values(tasks: Mapping[str, TaskSpec]) -> dict[str, tuple[str, ...]]:
    """Part → what its attribute can be; empty: any text. Raises :class:`UsageError` as :func:`make_answers`."""
    return {part: _sort(task, part).values(task) for part, task in tasks.items()}


def _sort(task: TaskSpec, part: str) -> type[Answers]:
    kind = task.decode.kind
    sort = None if kind == "none" else DECODERS.get(kind).part
    if sort not in _SORTS:
        raise UsageError(
            f"the model for the part {part!r} (task {task.name}) cannot look at crops: it is {_article(sort)}",
            hint=f"a second stage takes: {', '.join(_SORTS)}",
        )
    module, _, name = _SORTS[sort].partition(":")
    found: type[Answers] = getattr(importlib.import_module(f"{__package__}.{module}"), name)
    return found


def _article(sort: str | None) -> str:
    return "for no part of a pipeline" if sort is None else f"for the part {sort}"
