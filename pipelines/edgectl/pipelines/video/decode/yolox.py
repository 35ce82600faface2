"""YOLOX (Ge et al., 2021) as its authors export it: the raw grid, or with ``--decode_in_inference`` boxes."""

from __future__ import annotations

import numpy as np

from edgectl.core.errors import ModelError
from edgectl.core.schema import Config
from edgectl.core.task import ImageInput, TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import DecoderType, decoder_options
from edgectl.pipelines.video.decode.base import Detections, expect, finish, only_output, quiet
from edgectl.pipelines.video.decode.boxes import corners
from edgectl.pipelines.video.decode.grid import grid_cells
from edgectl.pipelines.video.decode.yolov5 import with_objectness
from edgectl.pipelines.video.preprocess import LetterboxMeta

__all__ = ["DECODER", "YoloX"]

_STRIDES = (8, 16, 32)


class YoloXOptions(Config):
    decoded: bool = False
    """The boxes come as cx, cy, w, h in input pixels (exported with ``--decode_in_inference``)."""


class YoloX:
    """``[1, N, 5+C]``: dx, dy, log w, log h in units of the cell's stride, objectness, C class
    probabilities; a score is objectness × class."""

    def __init__(self, task: TaskSpec) -> None:
        if not isinstance(task.input, ImageInput):
            raise ModelError(f"task {task.name} decodes boxes but its input is no image")
        self._spec = task.decode
        self._classes = len(task.labels)
        self._decoded = decoder_options(YoloXOptions, task).decoded
        self._cell, self._stride = grid_cells(task.input.width, task.input.height, _STRIDES)

    @quiet
    def __call__(self, outputs: Outputs, meta: LetterboxMeta) -> Detections:
        out = expect(only_output(outputs), (1, len(self._stride), 5 + self._classes), "YOLOX output")[0]
        rows, score, cls = with_objectness(out[:, 4:], self._spec.score)
        boxes = out[rows, :4]
        if not self._decoded:
            stride = self._stride[rows, None]
            centre = (boxes[:, :2] + self._cell[rows]) * stride
            boxes = np.concatenate([centre, np.exp(np.clip(boxes[:, 2:], -20, 20)) * stride], axis=1)
        return finish(corners(boxes), score, cls, self._spec, meta)


DECODER = DecoderType(
    "detector",
    YoloX,
    "`[1, N, 5+C]`: the raw grid of YOLOX, strides 8, 16, 32, or its boxes",
    YoloXOptions,
)
