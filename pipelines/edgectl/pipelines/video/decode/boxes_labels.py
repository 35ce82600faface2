"""Models that put out boxes, their scores and their class numbers as three tensors."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from edgectl.core.errors import ModelError
from edgectl.core.task import TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import DecoderType, decoder_options
from edgectl.pipelines.video.decode.base import Detections, expect, finish, known_classes, quiet
from edgectl.pipelines.video.decode.boxes import BoxConvention
from edgectl.pipelines.video.preprocess import LetterboxMeta

__all__ = ["DECODER", "BoxesLabels", "BoxesLabelsOptions"]


class BoxesLabelsOptions(BoxConvention):
    boxes: str = "boxes"
    """Name of the output with the boxes, `[1, K, 4]`."""
    scores: str = "scores"
    """Name of the output with the scores, `[1, K]`."""
    classes: str = "labels"
    """Name of the output with the class numbers, `[1, K]`."""
    first_class: int = Field(default=0, ge=0, le=1)
    """The number of the first label; 1: what TensorFlow exports write."""


class BoxesLabels:
    """``boxes [1, K, 4]``, ``scores [1, K]``, ``labels [1, K]``. Other outputs (a number of detections) are not
    looked at; nothing is suppressed unless the task says so."""

    def __init__(self, task: TaskSpec) -> None:
        self._spec = task.decode
        self._options = decoder_options(BoxesLabelsOptions, task)
        self._classes = len(task.labels)

    @quiet
    def __call__(self, outputs: Outputs, meta: LetterboxMeta) -> Detections:
        names = (self._options.boxes, self._options.scores, self._options.classes)
        if missing := [name for name in names if name not in outputs]:
            raise ModelError(
                f"there is no output {missing[0]!r} among {', '.join(outputs)}",
                hint="name them in the task: decode.boxes, decode.scores and decode.classes",
            )
        boxes, scores, numbers = (outputs[name] for name in names)
        score = expect(scores, (1, None), "scores output")[0]
        boxes = expect(boxes, (1, len(score), 4), "boxes output")[0]
        numbers = expect(numbers, (1, len(score)), "labels output")[0]
        (rows,) = np.nonzero(~(score < self._spec.score))  # NaN is kept, and refused in finish()
        cls = known_classes(numbers[rows], self._classes, self._options.first_class)
        return finish(self._options.in_pixels(boxes[rows], meta), score[rows], cls, self._spec, meta, "none")


DECODER = DecoderType(
    "detector",
    BoxesLabels,
    "three outputs of boxes `[1, K, 4]`, scores `[1, K]` and class numbers `[1, K]` (RT-DETR and D-FINE with their post-processing, TensorFlow's detection API)",
    BoxesLabelsOptions,
)
