"""DETR and its real-time heirs as they leave the transformer: RT-DETR, D-FINE, RF-DETR, DETR.

Each query has one box and the raw logits of all classes. The heirs judge each class by itself (sigmoid: Zhu et
al., Deformable DETR, ICLR 2021) and keep the best pairs of query and class; DETR (Carion et al., ECCV 2020) has a
softmax over the classes and "no object", which is last, and keeps the best class of a query.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from edgectl.core.task import TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import DecoderType, decoder_options
from edgectl.pipelines.video.decode.base import Detections, expect, finish, quiet
from edgectl.pipelines.video.decode.boxes import corners
from edgectl.pipelines.video.decode.boxes_scores import TwoOutputs, boxes_and_scores
from edgectl.pipelines.video.decode.candidates import pick
from edgectl.pipelines.video.preprocess import LetterboxMeta

__all__ = ["DECODER", "Detr", "DetrOptions"]


class DetrOptions(TwoOutputs):
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    """``softmax``: the last column is "no object", and has no label."""


class Detr:
    """``boxes [1, Q, 4]``: cx, cy, w, h, 0..1; ``logits [1, Q, C]``, one column more with ``softmax``. Nothing
    is suppressed unless the task says so."""

    def __init__(self, task: TaskSpec) -> None:
        self._spec = task.decode
        self._options = decoder_options(DetrOptions, task)
        self._classes = len(task.labels)

    @quiet
    def __call__(self, outputs: Outputs, meta: LetterboxMeta) -> Detections:
        soft = self._options.activation == "softmax"
        boxes, logits = boxes_and_scores(outputs, self._options)
        boxes = expect(boxes, (1, None, 4), "boxes output")[0]
        logits = expect(logits, (1, len(boxes), self._classes + soft), "logits output")[0]
        rows, score, cls = pick(
            logits,
            self._spec.score,
            activation=self._options.activation,
            background="last" if soft else "none",
            every_class=not soft,
        )
        size = np.array([meta.input_width, meta.input_height] * 2, np.float32)
        return finish(corners(boxes[rows]) * size, score, cls, self._spec, meta, "none")


DECODER = DecoderType(
    "detector",
    Detr,
    "`[1, Q, 4]`: cx, cy, w, h, 0..1, and raw class logits `[1, Q, C]` (RT-DETR, D-FINE, RF-DETR; DETR with `softmax`)",
    DetrOptions,
)
