"""A classifier: the most probable label of a crop."""

from __future__ import annotations

from collections.abc import Sequence

from edgectl.core.task import TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import DECODERS, make_reader
from edgectl.pipelines.video.preprocess import LetterboxMeta
from edgectl.pipelines.video.second_stage.answers import Answer, Looked
from edgectl.pipelines.video.second_stage.config import SecondStageConfig

__all__ = ["ClassifierAnswers"]


class ClassifierAnswers:
    """See :class:`~edgectl.pipelines.video.second_stage.answers.Answers`."""

    def __init__(self, task: TaskSpec, config: SecondStageConfig) -> None:
        self._labels = task.labels
        self._kind = task.decode.kind
        self._least = task.decode.score if config.score is None else config.score
        self._decode = make_reader("classifier", task, task)

    @staticmethod
    def values(task: TaskSpec) -> tuple[str, ...]:
        return tuple(label for label in task.labels if label not in task.background)

    def knows(self, labels: Sequence[str]) -> bool:
        return True

    def __call__(self, outputs: Outputs, meta: LetterboxMeta, looked: Looked) -> Answer | None:
        with DECODERS.using(self._kind):
            (label, p), *_ = self._decode(outputs).top(1)
        return Answer(self._labels[label], p) if p >= self._least else None
