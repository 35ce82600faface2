"""Pose models of YOLOv8 and YOLO11 as Ultralytics exports them: a box, its classes and its keypoints in one row, no
suppression."""

from __future__ import annotations

import dataclasses

from edgectl.core.task import TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import DecoderType, decoder_options
from edgectl.pipelines.video.decode.base import Detections, keep_best, only_output, quiet
from edgectl.pipelines.video.decode.boxes import corners
from edgectl.pipelines.video.decode.candidates import pick
from edgectl.pipelines.video.decode.keypoints import KeypointOptions
from edgectl.pipelines.video.decode.yolov8 import box_rows
from edgectl.pipelines.video.preprocess import LetterboxMeta

__all__ = ["DECODER", "YoloV8Pose"]


class YoloV8Pose:
    """``[1, 4+C+3K, N]`` or its transpose: cx, cy, w, h, C class probabilities, then x, y and confidence of K points;
    tensor pixels."""

    def __init__(self, task: TaskSpec) -> None:
        self._spec = task.decode
        self._classes = len(task.labels)
        self._options = decoder_options(KeypointOptions, task)
        self.layout = self._options.layout

    @quiet
    def __call__(self, outputs: Outputs, meta: LetterboxMeta) -> Detections:
        at = 4 + self._classes
        out = box_rows(only_output(outputs), at + self._options.numbers, "YOLOv8 pose output")
        rows, score, cls = pick(out[:, 4:at], self._spec.score)
        found, kept = keep_best(corners(out[rows, :4]), score, cls, self._spec, meta)
        points = self._options.read(out[rows[kept], at:], meta, self.layout)
        return dataclasses.replace(found, keypoints=points)


DECODER = DecoderType(
    "detector",
    YoloV8Pose,
    "`[1, 4+C+3K, N]` or `[1, N, 4+C+3K]`: box, C class scores, then x, y, confidence of K keypoints (YOLOv8-pose, YOLO11-pose)",
    KeypointOptions,
)
