"""Models that end in the boxes themselves: YOLO26, YOLOv10, RT-DETR as Ultralytics exports it, and exports with
suppression in the graph."""

from __future__ import annotations

from edgectl.core.task import TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import DecoderType, decoder_options
from edgectl.pipelines.video.decode.base import Detections, expect, finish, known_classes, only_output, quiet
from edgectl.pipelines.video.decode.boxes import BoxConvention
from edgectl.pipelines.video.preprocess import LetterboxMeta

__all__ = ["DECODER", "EndToEnd"]


class EndToEnd:
    """``[1, K, 6]``: four numbers of a box, score, class. Nothing is suppressed unless the task says so."""

    def __init__(self, task: TaskSpec) -> None:
        self._spec = task.decode
        self._boxes = decoder_options(BoxConvention, task)
        self._classes = len(task.labels)

    @quiet
    def __call__(self, outputs: Outputs, meta: LetterboxMeta) -> Detections:
        out = expect(only_output(outputs), (1, None, 6), "end-to-end output")[0]
        out = out[~(out[:, 4] < self._spec.score)]  # NaN is kept, and refused in finish()
        cls = known_classes(out[:, 5], self._classes)
        return finish(self._boxes.in_pixels(out[:, :4], meta), out[:, 4], cls, self._spec, meta, "none")


DECODER = DecoderType(
    "detector",
    EndToEnd,
    "`[1, K, 6]`: box, score, class, nothing left to suppress (YOLO26, YOLOv10, exports with NMS in the graph)",
    BoxConvention,
)
