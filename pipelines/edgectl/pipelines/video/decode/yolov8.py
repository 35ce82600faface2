"""YOLOv8, v9, 11 and 12 detection heads as Ultralytics exports them (boxes decoded in the graph, no
suppression)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgectl.core.schema import Config
from edgectl.core.task import TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import DecoderType, decoder_options
from edgectl.pipelines.video.decode.base import Detections, expect, finish, only_output, quiet
from edgectl.pipelines.video.decode.boxes import corners
from edgectl.pipelines.video.decode.candidates import pick
from edgectl.pipelines.video.preprocess import LetterboxMeta

__all__ = ["DECODER", "ExtraOptions", "YoloV8", "box_output", "box_rows"]


class ExtraOptions(Config):
    extra: int = Field(default=0, ge=0, le=4096)
    """Numbers of a box after its classes, which are not read: 3 for each point of a pose model, 32 of a
    segmentation model."""


class YoloV8:
    """``[1, 4+C, N]`` or ``[1, N, 4+C]``: cx, cy, w, h in tensor pixels, C class probabilities. Of pose and
    segmentation models the boxes alone are read."""

    def __init__(self, task: TaskSpec) -> None:
        self._spec = task.decode
        self._classes = len(task.labels)
        self._extra = decoder_options(ExtraOptions, task).extra

    @quiet
    def __call__(self, outputs: Outputs, meta: LetterboxMeta) -> Detections:
        columns = 4 + self._classes + self._extra
        out = box_rows(box_output(outputs, self._extra), columns, "YOLOv8 output")
        rows, score, cls = pick(out[:, 4 : 4 + self._classes], self._spec.score)
        return finish(corners(out[rows, :4]), score, cls, self._spec, meta)


DECODER = DecoderType(
    "detector",
    YoloV8,
    "`[1, 4+C, N]` or `[1, N, 4+C]`: cx, cy, w, h in input pixels, C class scores (YOLOv8, v9, 11, 12 as Ultralytics exports them); with `extra`, the boxes alone of its pose and segmentation models",
    ExtraOptions,
)


def box_output(outputs: Outputs, extra: int) -> NDArray[np.float32]:
    """The output with the boxes: a segmentation model has its prototypes beside it, ``[1, 32, H, W]``. Raises
    :class:`ModelError`."""
    boxes = {name: o for name, o in outputs.items() if not extra or o.ndim == 3}
    return only_output(boxes or outputs)


def box_rows(output: NDArray[np.float32], columns: int, what: str) -> NDArray[np.float32]:
    """``[1, columns, N]`` or ``[1, N, columns]`` as (N, columns). Raises :class:`ModelError`."""
    if output.ndim == 3 and output.shape[2] == columns != output.shape[1]:
        return np.asarray(expect(output, (1, None, columns), what)[0])
    return np.asarray(expect(output, (1, columns, None), what)[0].T)
