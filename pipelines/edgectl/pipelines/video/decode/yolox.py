"""YOLOX as exported without ``--decode_in_inference`` (Megvii-BaseDetection/YOLOX, ``demo_postprocess``)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgectl.core.errors import ModelError
from edgectl.core.task import ImageInput, TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import DecoderType
from edgectl.pipelines.video.decode.base import Detections, expect, finish, only_output, quiet
from edgectl.pipelines.video.preprocess import LetterboxMeta

__all__ = ["DECODER", "YoloX"]

_STRIDES = (8, 16, 32)


class YoloX:
    """``[1, N, 5+C]``: dx, dy, log w, log h in units of the cell's stride, objectness, C class
    probabilities."""

    def __init__(self, task: TaskSpec) -> None:
        if not isinstance(task.input, ImageInput):
            raise ModelError(f"task {task.name} decodes boxes but its input is no image")
        self._spec = task.decode
        self._classes = len(task.labels)
        self._cell, self._stride = _grid(task.input.width, task.input.height)

    @quiet
    def __call__(self, outputs: Outputs, meta: LetterboxMeta) -> Detections:
        out = expect(only_output(outputs), (1, len(self._stride), 5 + self._classes), "YOLOX output")[0]
        score = out[:, 4] * out[:, 5:].max(axis=1)
        (index,) = np.nonzero(~(score < self._spec.score))  # NaN is kept, and refused in finish()
        picked, stride = out[index], self._stride[index, None]
        centre = (picked[:, :2] + self._cell[index]) * stride
        half = np.exp(np.clip(picked[:, 2:4], -20, 20)) * stride / 2
        boxes = np.concatenate([centre - half, centre + half], axis=1)
        return finish(boxes, score[index], picked[:, 5:].argmax(axis=1), self._spec, meta)


DECODER = DecoderType(
    "detector",
    YoloX,
    "`[1, N, 5+C]`: the raw grid of YOLOX, strides 8, 16, 32",
)


def _grid(width: int, height: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cell column and row (N, 2), and stride (N,), in the order of the output."""
    cells, strides = [], []
    for stride in _STRIDES:
        y, x = np.mgrid[0 : height // stride, 0 : width // stride]
        cells.append(np.stack([x.ravel(), y.ravel()], axis=1))
        strides.append(np.full(x.size, stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(strides).astype(np.float32)
