"""Segmentation models that end in the boxes themselves, each with its mask coefficients: YOLO26-seg, and exports with
suppression in the graph."""

from __future__ import annotations

from edgectl.core.task import TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import DecoderType
from edgectl.pipelines.video.decode.base import Detections, expect, keep_best, known_classes, quiet
from edgectl.pipelines.video.decode.prototypes import boxes_and_prototypes, with_masks
from edgectl.pipelines.video.preprocess import LetterboxMeta

__all__ = ["DECODER", "EndToEndSeg"]

_BOX = 6


class EndToEndSeg:
    """``[1, N, 6+M]``: xyxy in tensor pixels, score, class, M coefficients of the prototypes ``[1, M, h, w]``. Nothing
    is suppressed unless the task says so."""

    def __init__(self, task: TaskSpec) -> None:
        self._spec = task.decode
        self._classes = len(task.labels)

    @quiet
    def __call__(self, outputs: Outputs, meta: LetterboxMeta) -> Detections:
        boxes, prototypes = boxes_and_prototypes(outputs)
        out = expect(boxes, (1, None, _BOX + len(prototypes)), "end-to-end segmentation output")[0]
        out = out[~(out[:, 4] < self._spec.score)]  # NaN is kept, and refused in keep_best()
        cls = known_classes(out[:, 5], self._classes)
        found, kept = keep_best(out[:, :4], out[:, 4], cls, self._spec, meta, "none")
        return with_masks(found, out[kept, _BOX:], prototypes, meta)


DECODER = DecoderType(
    "detector",
    EndToEndSeg,
    "`[1, N, 6+M]`: box, score, class, M coefficients, and prototypes `[1, M, h, w]`, nothing left to suppress (YOLO26-seg)",
)
