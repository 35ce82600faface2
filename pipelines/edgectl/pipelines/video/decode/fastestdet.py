"""FastestDet: one anchor-free cell grid (dog-qiuqiu/FastestDet, ``example/onnx-runtime``)."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from edgectl.core.schema import Config
from edgectl.core.task import TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import DecoderType, decoder_options
from edgectl.pipelines.video.decode.base import Detections, expect, finish, only_output, quiet
from edgectl.pipelines.video.decode.candidates import sigmoid
from edgectl.pipelines.video.preprocess import LetterboxMeta

__all__ = ["DECODER", "FastestDet"]


class FastestDetOptions(Config):
    objectness_power: float = Field(default=0.6, ge=0, le=1)
    """A box's score is objectness to this power × class score to the rest of 1."""


class FastestDet:
    """``[1, 5+C, H, W]``: objectness (0..1), raw dx, dy, w, h, C class probabilities.

    ``cx = (column + tanh(dx)) / W``, ``w = sigmoid(w)`` of the input's width; score = obj^a × class^(1-a).
    """

    def __init__(self, task: TaskSpec) -> None:
        self._spec = task.decode
        self._power = decoder_options(FastestDetOptions, task).objectness_power
        self._classes = len(task.labels)

    @quiet
    def __call__(self, outputs: Outputs, meta: LetterboxMeta) -> Detections:
        out = expect(only_output(outputs), (1, 5 + self._classes, None, None), "FastestDet output")[0]
        _, rows, columns = out.shape
        power = self._power
        best = out[5:].max(axis=0)
        score = out[0] ** power * best ** (1 - power)
        row, column = np.nonzero(~(score < self._spec.score))  # NaN is kept, and refused in finish()
        picked = out[:, row, column]
        centre = (np.stack([column, row]) + np.tanh(picked[1:3])) * [
            [meta.input_width / columns],
            [meta.input_height / rows],
        ]
        half = sigmoid(picked[3:5]) * [[meta.input_width / 2], [meta.input_height / 2]]
        boxes = np.concatenate([centre - half, centre + half]).T.astype(np.float32)
        return finish(boxes, score[row, column], picked[5:].argmax(axis=0), self._spec, meta)


DECODER = DecoderType(
    "detector",
    FastestDet,
    "`[1, 5+C, H, W]`: objectness, tanh dx, tanh dy, sigmoid w, sigmoid h, C class scores",
    FastestDetOptions,
)
