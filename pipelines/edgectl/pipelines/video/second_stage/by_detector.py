"""A second detector that confirms the first: it finds the same thing in the crop, or it does not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgectl.core.task import TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import DECODERS
from edgectl.pipelines.video.decode import make_decoder
from edgectl.pipelines.video.preprocess import LetterboxMeta
from edgectl.pipelines.video.second_stage.answers import Answer, Looked
from edgectl.pipelines.video.second_stage.config import SecondStageConfig

__all__ = ["DetectorAnswers"]

_CONFIRMED, _REJECTED = "confirmed", "rejected"
_LOW = 0.05
"""Scores from here are asked for, so that a rejection knows how sure it is."""
_SAME_IOU = 0.3
"""A box that overlaps the track's by so much is the same thing. A crop shows few things, and the two models draw
their boxes differently."""


class DetectorAnswers:
    """See :class:`~edgectl.pipelines.video.second_stage.answers.Answers`."""

    def __init__(self, task: TaskSpec, config: SecondStageConfig) -> None:
        self._labels = task.labels
        self._kind = task.decode.kind
        self._least = task.decode.score if config.score is None else config.score
        low = task.decode.model_copy(update={"score": min(_LOW, self._least)})
        self._decode = make_decoder(task.model_copy(update={"decode": low}))

    @staticmethod
    def values(task: TaskSpec) -> tuple[str, ...]:
        return _CONFIRMED, _REJECTED

    def knows(self, labels: Sequence[str]) -> bool:
        return not set(labels).isdisjoint(self._labels)

    def __call__(self, outputs: Outputs, meta: LetterboxMeta, looked: Looked) -> Answer | None:
        with DECODERS.using(self._kind):
            found = self._decode(outputs, meta)
        named = np.isin(found.cls, [i for i, label in enumerate(self._labels) if label in looked.labels])
        there = named & (_iou(found.xyxy, np.asarray(looked.box, np.float64)) >= _SAME_IOU)
        p = float(found.score[there].max(initial=0.0))
        return Answer(_CONFIRMED, p) if p >= self._least else Answer(_REJECTED, 1 - p)


def _iou(boxes: NDArray[np.float32], box: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of boxes (N, 4) with one, (N,)."""
    low, high = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
    shared = np.prod(np.maximum(high - low, 0), axis=1)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) + np.prod(box[2:] - box[:2])
    out: NDArray[np.float64] = shared / np.maximum(area - shared, 1e-9)
    return out
