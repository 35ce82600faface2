"""Models that put out decoded boxes and class scores as two tensors (RT-DETR, D-FINE, SSD exports, NanoDet
wrappers)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgectl.core.errors import ModelError
from edgectl.core.schema import Config
from edgectl.core.task import TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import DecoderType, decoder_options
from edgectl.pipelines.video.decode.base import Detections, expect, finish, quiet
from edgectl.pipelines.video.preprocess import LetterboxMeta

__all__ = ["DECODER", "BoxesScores", "BoxesScoresOptions", "boxes_and_scores"]


class BoxesScoresOptions(Config):
    box_format: Literal["xyxy", "yxyx", "cxcywh"] = "xyxy"
    """``yxyx``: what TensorFlow exports write."""
    box_unit: Literal["pixel", "relative"] = "pixel"
    """Of the input, or 0..1."""
    boxes: str | None = None
    """Name of the output with the boxes; None: the one whose last axis is 4."""
    scores: str | None = None
    """Name of the output with the scores; None: the other one."""
    background: Literal["none", "first", "last"] = "none"
    """The column of the scores that means "nothing is here". It has no label and is never a detection."""


class BoxesScores:
    """``boxes [1, N, 4]`` and ``scores [1, N, C]`` (0..1), one column more with a background class.
    Unnamed outputs are told apart by their last axis, boxes first."""

    def __init__(self, task: TaskSpec) -> None:
        self._spec = task.decode
        self._options = decoder_options(BoxesScoresOptions, task)
        self._classes = len(task.labels)

    @quiet
    def __call__(self, outputs: Outputs, meta: LetterboxMeta) -> Detections:
        boxes, scores = boxes_and_scores(outputs, self._options)
        boxes = expect(boxes, (1, None, 4), "boxes output")[0]
        columns = self._classes + (self._options.background != "none")
        scores = expect(scores, (1, len(boxes), columns), "scores output")[0]
        # it would win nearly every box, and take the place of all detections
        if self._options.background != "none":
            scores = scores[:, 1:] if self._options.background == "first" else scores[:, :-1]
        if self._options.box_format == "yxyx":
            boxes = boxes[:, [1, 0, 3, 2]]
        if self._options.box_unit == "relative":
            boxes = boxes * np.array([meta.input_width, meta.input_height] * 2, np.float32)
        if self._options.box_format == "cxcywh":
            half = boxes[:, 2:] / 2
            boxes = np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
        score = scores.max(axis=1)
        (index,) = np.nonzero(~(score < self._spec.score))  # NaN is kept, and refused in finish()
        return finish(boxes[index], score[index], scores[index].argmax(axis=1), self._spec, meta)


DECODER = DecoderType(
    "detector",
    BoxesScores,
    "one output of decoded boxes `[1, N, 4]`, one of class scores `[1, N, C]`, or `[1, N, C+1]` with a background class (SSD, RT-DETR, D-FINE)",
    BoxesScoresOptions,
)


def boxes_and_scores(
    outputs: Outputs, options: BoxesScoresOptions
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The two outputs that this decoder reads, by name or by shape. Raises :class:`ModelError` if they are
    not there."""
    names = list(outputs)
    boxes = options.boxes or next(
        (n for n in names if n != options.scores and outputs[n].shape[-1:] == (4,)), None
    )
    scores = options.scores or next((n for n in names if n != boxes), None)
    if boxes not in outputs or scores not in outputs:
        raise ModelError(
            f"the outputs {boxes or 'boxes'!r} and {scores or 'scores'!r} are not both among {', '.join(names)}",
            hint="name them in the task: decode.boxes and decode.scores",
        )
    return outputs[boxes], outputs[scores]
