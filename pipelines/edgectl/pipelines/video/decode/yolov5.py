"""YOLOv5, v6 and v7 as their authors export them: anchors and strides applied in the graph, no suppression."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgectl.core.task import TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import DecoderType
from edgectl.pipelines.video.decode.base import Detections, expect, finish, only_output, quiet
from edgectl.pipelines.video.decode.boxes import corners
from edgectl.pipelines.video.decode.candidates import Picked
from edgectl.pipelines.video.preprocess import LetterboxMeta

__all__ = ["DECODER", "YoloV5", "with_objectness"]


class YoloV5:
    """``[1, N, 5+C]``: cx, cy, w, h in tensor pixels, objectness, C class probabilities; a score is objectness ×
    class."""

    def __init__(self, task: TaskSpec) -> None:
        self._spec = task.decode
        self._classes = len(task.labels)

    @quiet
    def __call__(self, outputs: Outputs, meta: LetterboxMeta) -> Detections:
        out = expect(only_output(outputs), (1, None, 5 + self._classes), "YOLOv5 output")[0]
        rows, score, cls = with_objectness(out[:, 4:], self._spec.score)
        return finish(corners(out[rows, :4]), score, cls, self._spec, meta)


DECODER = DecoderType(
    "detector",
    YoloV5,
    "`[1, N, 5+C]`: cx, cy, w, h in input pixels, objectness, C class scores (YOLOv5, v6, v7)",
)


def with_objectness(scores: NDArray[np.float32], least: float) -> Picked:
    """Boxes by objectness × best class, from (N, 1+C). What is no object needs no class: most rows go at
    once."""
    (rows,) = np.nonzero(~(scores[:, 0] < least))
    few = scores[rows]
    cls = few[:, 1:].argmax(axis=1)
    score = few[:, 0] * few[np.arange(len(few)), 1 + cls]
    (sure,) = np.nonzero(~(score < least))
    return rows[sure], score[sure], cls[sure]
