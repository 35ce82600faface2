"""Engine outputs to detections: one file per output format, one table to find it."""

from __future__ import annotations

from collections.abc import Callable

from edgectl.core.errors import ModelError
from edgectl.core.task import TaskSpec
from edgectl.pipelines.video.decode.base import Decoder, Detections
from edgectl.pipelines.video.decode.boxes_scores import BoxesScores
from edgectl.pipelines.video.decode.fastestdet import FastestDet
from edgectl.pipelines.video.decode.yolov8 import YoloV8
from edgectl.pipelines.video.decode.yolox import YoloX

__all__ = ["Decoder", "Detections", "make_decoder"]

_DECODERS: dict[str, Callable[[TaskSpec], Decoder]] = {
    "boxes-scores": BoxesScores,
    "fastestdet": FastestDet,
    "yolov8": YoloV8,
    "yolox": YoloX,
}


def make_decoder(task: TaskSpec) -> Decoder:
    """The decoder of a detection task. Raises :class:`ModelError` if the task detects nothing (``vad``,
    ``keyword``, ``none``)."""
    if task.decode.kind not in _DECODERS:
        raise ModelError(
            f"task {task.name} does not put out boxes (decode kind {task.decode.kind!r})",
            hint=f"kinds: {', '.join(_DECODERS)}",
        )
    return _DECODERS[task.decode.kind](task)
