"""Models that put out decoded boxes and class scores as two tensors (RT-DETR, D-FINE, SSD exports, NanoDet
wrappers)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgectl.core.errors import ModelError
from edgectl.core.task import DecodeSpec, TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.video.decode.base import Detections, expect, finish, quiet
from edgectl.pipelines.video.preprocess import LetterboxMeta

__all__ = ["BoxesScores", "boxes_and_scores"]


class BoxesScores:
    """``boxes [1, N, 4]`` and ``scores [1, N, C]`` (0..1), one column more with a background class.
    Unnamed outputs are told apart by their last axis, boxes first."""

    def __init__(self, task: TaskSpec) -> None:
        self._spec = task.decode
        self._classes = len(task.labels)

    @quiet
    def __call__(self, outputs: Outputs, meta: LetterboxMeta) -> Detections:
        boxes, scores = boxes_and_scores(outputs, self._spec)
        boxes = expect(boxes, (1, None, 4), "boxes output")[0]
        columns = self._classes + (self._spec.background != "none")
        scores = expect(scores, (1, len(boxes), columns), "scores output")[0]
        # it would win nearly every box, and take the place of all detections
        if self._spec.background != "none":
            scores = scores[:, 1:] if self._spec.background == "first" else scores[:, :-1]
        if self._spec.box_format == "yxyx":
            boxes = boxes[:, [1, 0, 3, 2]]
        if self._spec.box_unit == "relative":
            boxes = boxes * np.array([meta.input_width, meta.input_height] * 2, np.float32)
        if self._spec.box_format == "cxcywh":
            half = boxes[:, 2:] / 2
            boxes = np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
        score = scores.max(axis=1)
        (index,) = np.nonzero(~(score < self._spec.score))  # NaN is kept, and refused in finish()
        return finish(boxes[index], score[index], scores[index].argmax(axis=1), self._spec, meta)


def boxes_and_scores(outputs: Outputs, spec: DecodeSpec) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The two outputs that this decoder reads, by name or by shape. Raises :class:`ModelError` if they are
    not there."""
    names = list(outputs)
    boxes = spec.boxes or next((n for n in names if n != spec.scores and outputs[n].shape[-1:] == (4,)), None)
    scores = spec.scores or next((n for n in names if n != boxes), None)
    if boxes not in outputs or scores not in outputs:
        raise ModelError(
            f"the outputs {boxes or 'boxes'!r} and {scores or 'scores'!r} are not both among {', '.join(names)}",
            hint="name them in the task: decode.boxes and decode.scores",
        )
    return outputs[boxes], outputs[scores]
