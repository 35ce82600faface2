"""A reader: the text of a crop."""

from __future__ import annotations

from collections.abc import Sequence

from edgectl.core.task import TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import DECODERS, make_reader
from edgectl.pipelines.video.preprocess import LetterboxMeta
from edgectl.pipelines.video.second_stage.answers import Answer, Looked
from edgectl.pipelines.video.second_stage.config import SecondStageConfig

__all__ = ["ReaderAnswers"]


class ReaderAnswers:
    """See :class:`~edgectl.pipelines.video.second_stage.answers.Answers`."""

    def __init__(self, task: TaskSpec, config: SecondStageConfig) -> None:
        self._kind = task.decode.kind
        self._least = task.decode.score if config.score is None else config.score
        self._decode = make_reader("reader", task, task)

    @staticmethod
    def values(task: TaskSpec) -> tuple[str, ...]:
        return ()

    def knows(self, labels: Sequence[str]) -> bool:
        return True

    def __call__(self, outputs: Outputs, meta: LetterboxMeta, looked: Looked) -> Answer | None:
        with DECODERS.using(self._kind):
            reading = self._decode(outputs)
        text = reading.text.strip()
        return Answer(text, reading.score) if text and reading.score >= self._least else None
