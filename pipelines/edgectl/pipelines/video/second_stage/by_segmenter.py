"""A segmenter: what most of a picture is, or what there is enough of."""

from __future__ import annotations

from collections.abc import Sequence

from edgectl.core.errors import UsageError
from edgectl.core.nearest import did_you_mean
from edgectl.core.task import TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import DECODERS, make_reader
from edgectl.pipelines.video.preprocess import LetterboxMeta
from edgectl.pipelines.video.second_stage.answers import Answer, Looked
from edgectl.pipelines.video.second_stage.config import SecondStageConfig

__all__ = ["SegmenterAnswers"]


class SegmenterAnswers:
    """See :class:`~edgectl.pipelines.video.second_stage.answers.Answers`. Each answer is a whole vote."""

    def __init__(self, task: TaskSpec, config: SecondStageConfig) -> None:
        """Raises :class:`UsageError` for a share of a label that the model does not have."""
        if unknown := set(config.share) - set(task.labels):
            raise UsageError(
                f"share of the part {config.part!r} names {min(unknown)!r}, which its model does not know",
                hint=did_you_mean(min(unknown), task.labels, there_are="it knows "),
            )
        self._kind = task.decode.kind
        self._labels = task.labels
        self._least = [(task.labels.index(label), least) for label, least in config.share.items()]
        self._decode = make_reader("segmenter", task, task)

    @staticmethod
    def values(task: TaskSpec) -> tuple[str, ...]:
        return tuple(label for label in task.labels if label not in task.background)

    def knows(self, labels: Sequence[str]) -> bool:
        return True

    def __call__(self, outputs: Outputs, meta: LetterboxMeta, looked: Looked) -> Answer | None:
        with DECODERS.using(self._kind):
            found = self._decode(outputs, meta)
        shares = found.shares()
        enough = [label for label, least in self._least if shares[label] >= least]
        label = enough[0] if enough else int(shares.argmax())
        return Answer(self._labels[label], 1.0, found)
