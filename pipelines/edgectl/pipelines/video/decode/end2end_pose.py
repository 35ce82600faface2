"""Pose models that end in the boxes themselves, each with its keypoints: YOLO26-pose, and exports with suppression in
the graph."""

from __future__ import annotations

import dataclasses

from edgectl.core.task import TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import DecoderType, decoder_options
from edgectl.pipelines.video.decode.base import (
    Detections,
    expect,
    keep_best,
    known_classes,
    only_output,
    quiet,
)
from edgectl.pipelines.video.decode.keypoints import KeypointOptions
from edgectl.pipelines.video.preprocess import LetterboxMeta

__all__ = ["DECODER", "EndToEndPose"]

_BOX = 6


class EndToEndPose:
    """``[1, N, 6+3K]``: xyxy, score, class, then x, y and confidence of K points; tensor pixels. Nothing is suppressed
    unless the task says so."""

    def __init__(self, task: TaskSpec) -> None:
        self._spec = task.decode
        self._classes = len(task.labels)
        self._options = decoder_options(KeypointOptions, task)
        self.layout = self._options.layout

    @quiet
    def __call__(self, outputs: Outputs, meta: LetterboxMeta) -> Detections:
        columns = _BOX + self._options.numbers
        out = expect(only_output(outputs), (1, None, columns), "end-to-end pose output")[0]
        out = out[~(out[:, 4] < self._spec.score)]  # NaN is kept, and refused in keep_best()
        cls = known_classes(out[:, 5], self._classes)
        found, kept = keep_best(out[:, :4], out[:, 4], cls, self._spec, meta, "none")
        points = self._options.read(out[kept, _BOX:], meta, self.layout)
        return dataclasses.replace(found, keypoints=points)


DECODER = DecoderType(
    "detector",
    EndToEndPose,
    "`[1, N, 6+3K]`: box, score, class, then x, y, confidence of K keypoints, nothing left to suppress (YOLO26-pose)",
    KeypointOptions,
)
