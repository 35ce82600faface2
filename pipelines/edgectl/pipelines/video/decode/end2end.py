"""Models that end in the boxes themselves: YOLO26, YOLOv10, RT-DETR as Ultralytics exports it, and exports with
suppression in the graph."""

from __future__ import annotations

from edgectl.core.task import TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import DecoderType, decoder_options
from edgectl.pipelines.video.decode.base import Detections, expect, finish, known_classes, quiet
from edgectl.pipelines.video.decode.boxes import BoxConvention
from edgectl.pipelines.video.decode.yolov8 import ExtraOptions, box_output
from edgectl.pipelines.video.preprocess import LetterboxMeta

__all__ = ["DECODER", "EndToEnd"]


class EndToEndOptions(BoxConvention, ExtraOptions):
    pass


class EndToEnd:
    """``[1, K, 6]``: four numbers of a box, score, class. Nothing is suppressed unless the task says so. Of pose
    and segmentation models the boxes alone are read."""

    def __init__(self, task: TaskSpec) -> None:
        self._spec = task.decode
        self._options = decoder_options(EndToEndOptions, task)
        self._classes = len(task.labels)

    @quiet
    def __call__(self, outputs: Outputs, meta: LetterboxMeta) -> Detections:
        extra = self._options.extra
        out = expect(box_output(outputs, extra), (1, None, 6 + extra), "end-to-end output")[0]
        out = out[~(out[:, 4] < self._spec.score)]  # NaN is kept, and refused in finish()
        cls = known_classes(out[:, 5], self._classes)
        return finish(self._options.in_pixels(out[:, :4], meta), out[:, 4], cls, self._spec, meta, "none")


DECODER = DecoderType(
    "detector",
    EndToEnd,
    "`[1, K, 6]`: box, score, class, nothing left to suppress (YOLO26, YOLOv10, exports with NMS in the graph)",
    EndToEndOptions,
)
