"""YOLOv8, v9, 11 and 12 detection heads as Ultralytics exports them (boxes decoded in the graph, no
suppression)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgectl.core.task import TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import DecoderType
from edgectl.pipelines.video.decode.base import Detections, expect, finish, only_output, quiet
from edgectl.pipelines.video.decode.boxes import corners
from edgectl.pipelines.video.decode.candidates import pick
from edgectl.pipelines.video.preprocess import LetterboxMeta

__all__ = ["DECODER", "YoloV8", "box_rows"]


class YoloV8:
    """``[1, 4+C, N]`` or ``[1, N, 4+C]``: cx, cy, w, h in tensor pixels, C class probabilities."""

    def __init__(self, task: TaskSpec) -> None:
        self._spec = task.decode
        self._classes = len(task.labels)

    @quiet
    def __call__(self, outputs: Outputs, meta: LetterboxMeta) -> Detections:
        out = box_rows(only_output(outputs), 4 + self._classes, "YOLOv8 output")
        rows, score, cls = pick(out[:, 4:], self._spec.score)
        return finish(corners(out[rows, :4]), score, cls, self._spec, meta)


DECODER = DecoderType(
    "detector",
    YoloV8,
    "`[1, 4+C, N]` or `[1, N, 4+C]`: cx, cy, w, h in input pixels, C class scores (YOLOv8, v9, 11, 12 as Ultralytics exports them)",
)


def box_rows(output: NDArray[np.float32], columns: int, what: str) -> NDArray[np.float32]:
    """``[1, columns, N]`` or ``[1, N, columns]`` as (N, columns). Raises :class:`ModelError`."""
    if output.ndim == 3 and output.shape[2] == columns != output.shape[1]:
        return np.asarray(expect(output, (1, None, columns), what)[0])
    return np.asarray(expect(output, (1, columns, None), what)[0].T)
