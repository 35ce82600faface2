"""Models that put out decoded boxes and class scores as two tensors (YOLO-NAS, SSD exports, models whose
NonMaxSuppression was cut off)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgectl.core.errors import ModelError
from edgectl.core.schema import Config
from edgectl.core.task import TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import DecoderType, decoder_options
from edgectl.pipelines.video.decode.base import Detections, expect, finish, quiet
from edgectl.pipelines.video.decode.boxes import BoxConvention
from edgectl.pipelines.video.decode.candidates import Activation, Background, pick
from edgectl.pipelines.video.preprocess import LetterboxMeta

__all__ = ["DECODER", "BoxesScores", "BoxesScoresOptions", "TwoOutputs", "boxes_and_scores"]


_BOX_WORDS = ("box", "dets", "offset", "loc", "reg")


class TwoOutputs(Config):
    """Options of a decoder that reads boxes and scores."""

    boxes: str | None = None
    """Name of the output with the boxes; None: the one whose last axis is 4, and of two the one whose name says
    so."""
    scores: str | None = None
    """Name of the output with the scores; None: the other one."""


class BoxesScoresOptions(BoxConvention, TwoOutputs):
    background: Background = "none"
    """The column of the scores that means "nothing is here". It has no label and is never a detection."""
    activation: Activation = "none"
    """What makes the scores 0..1: ``none``: they are."""


class BoxesScores:
    """``boxes [1, N, 4]`` and ``scores [1, N, C]``, one column more with a background class. Unnamed outputs
    are told apart by their last axis."""

    def __init__(self, task: TaskSpec) -> None:
        self._spec = task.decode
        self._options = decoder_options(BoxesScoresOptions, task)
        self._classes = len(task.labels)

    @quiet
    def __call__(self, outputs: Outputs, meta: LetterboxMeta) -> Detections:
        options = self._options
        boxes, scores = boxes_and_scores(outputs, options)
        boxes = expect(boxes, (1, None, 4), "boxes output")[0]
        columns = self._classes + (options.background != "none")
        scores = expect(scores, (1, len(boxes), columns), "scores output")[0]
        rows, score, cls = pick(
            scores, self._spec.score, activation=options.activation, background=options.background
        )
        return finish(options.in_pixels(boxes[rows], meta), score, cls, self._spec, meta)


DECODER = DecoderType(
    "detector",
    BoxesScores,
    "one output of decoded boxes `[1, N, 4]`, one of class scores `[1, N, C]`, or `[1, N, C+1]` with a background class (YOLO-NAS, SSD with decoded boxes)",
    BoxesScoresOptions,
)


def boxes_and_scores(
    outputs: Outputs, options: TwoOutputs
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The two outputs that this decoder reads, by name or by shape. Raises :class:`ModelError` if they are
    not there."""
    names = list(outputs)
    four = [n for n in names if n != options.scores and outputs[n].shape[-1:] == (4,)]
    if len(four) > 1:
        # with four classes, scores look like boxes
        four = [n for n in four if any(word in n.lower() for word in _BOX_WORDS)] or [""]
    boxes = options.boxes or (four[0] if len(four) == 1 else None)
    scores = options.scores or next((n for n in names if n != boxes), None)
    if boxes not in outputs or scores not in outputs:
        raise ModelError(
            f"the outputs {boxes or 'boxes'!r} and {scores or 'scores'!r} are not both among {', '.join(names)}",
            hint="name them in the task: decode.boxes and decode.scores",
        )
    return outputs[boxes], outputs[scores]
