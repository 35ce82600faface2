"""YOLOv8, v9 and v11 detection heads as Ultralytics exports them (boxes decoded in the graph, no
suppression)."""

from __future__ import annotations

import numpy as np

from edgectl.core.task import TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import DecoderType
from edgectl.pipelines.video.decode.base import Detections, expect, finish, only_output, quiet
from edgectl.pipelines.video.preprocess import LetterboxMeta

__all__ = ["DECODER", "YoloV8"]


class YoloV8:
    """``[1, 4+C, N]``: cx, cy, w, h in tensor pixels, C class probabilities."""

    def __init__(self, task: TaskSpec) -> None:
        self._spec = task.decode
        self._classes = len(task.labels)

    @quiet
    def __call__(self, outputs: Outputs, meta: LetterboxMeta) -> Detections:
        out = expect(only_output(outputs), (1, 4 + self._classes, None), "YOLOv8 output")[0]
        score = out[4:].max(axis=0)
        (index,) = np.nonzero(~(score < self._spec.score))  # NaN is kept, and refused in finish()
        picked = out[:, index]
        half = picked[2:4] / 2
        boxes = np.concatenate([picked[:2] - half, picked[:2] + half]).T
        return finish(boxes, score[index], picked[4:].argmax(axis=0), self._spec, meta)


DECODER = DecoderType(
    "detector",
    YoloV8,
    "`[1, 4+C, N]`: cx, cy, w, h in input pixels, C class scores (YOLOv8, v9, v11 as Ultralytics exports them)",
)
