"""Segmentation models of YOLOv8 and YOLO11 as Ultralytics exports them: boxes with mask coefficients, prototypes beside,
no suppression."""

from __future__ import annotations

from edgectl.core.task import TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import DecoderType
from edgectl.pipelines.video.decode.base import Detections, keep_best, quiet
from edgectl.pipelines.video.decode.boxes import corners
from edgectl.pipelines.video.decode.candidates import pick
from edgectl.pipelines.video.decode.prototypes import boxes_and_prototypes, with_masks
from edgectl.pipelines.video.decode.yolov8 import box_rows
from edgectl.pipelines.video.preprocess import LetterboxMeta

__all__ = ["DECODER", "YoloV8Seg"]


class YoloV8Seg:
    """``[1, 4+C+M, N]`` or its transpose: cx, cy, w, h in tensor pixels, C class probabilities, M coefficients of the
    prototypes ``[1, M, h, w]``."""

    def __init__(self, task: TaskSpec) -> None:
        self._spec = task.decode
        self._classes = len(task.labels)

    @quiet
    def __call__(self, outputs: Outputs, meta: LetterboxMeta) -> Detections:
        boxes, prototypes = boxes_and_prototypes(outputs)
        at = 4 + self._classes
        out = box_rows(boxes, at + len(prototypes), "YOLOv8 segmentation output")
        rows, score, cls = pick(out[:, 4:at], self._spec.score)
        found, kept = keep_best(corners(out[rows, :4]), score, cls, self._spec, meta)
        return with_masks(found, out[rows[kept], at:], prototypes, meta)


DECODER = DecoderType(
    "detector",
    YoloV8Seg,
    "`[1, 4+C+M, N]` or `[1, N, 4+C+M]`: box, C class scores, M coefficients, and prototypes `[1, M, h, w]` (YOLOv8-seg, YOLO11-seg)",
)
