"""Models that say of each pixel what it is (semantic segmentation): scores of all classes, or the class itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgectl.core.errors import EngineError, ModelError
from edgectl.core.schema import Config
from edgectl.core.task import TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import DecoderType, decoder_options
from edgectl.pipelines.video.class_map import ClassMap
from edgectl.pipelines.video.decode.base import expect, known_classes, only_output
from edgectl.pipelines.video.preprocess import LetterboxMeta

__all__ = ["DECODER", "Semantic", "SemanticOptions"]

_MOST_CLASSES = 256


class SemanticOptions(Config):
    output: str | None = None
    """Name of the output that is read, of a model that has several; none: the only one."""


class Semantic:
    """``[1, C, h, w]``: scores, of which the largest wins (one score, C = 1: above 0 is the second of two labels); or
    ``[1, h, w]``: class numbers."""

    def __init__(self, task: TaskSpec) -> None:
        """Raises :class:`ModelError` for more than 256 labels."""
        self._labels = task.labels
        self._background = tuple(i for i, label in enumerate(task.labels) if label in task.background)
        self._output = decoder_options(SemanticOptions, task).output
        if len(task.labels) > _MOST_CLASSES:
            raise ModelError(
                f"task {task.name} has {len(task.labels)} labels, a class map has at most {_MOST_CLASSES}"
            )

    def __call__(self, outputs: Outputs, meta: LetterboxMeta) -> ClassMap:
        """The classes of the picture, without what was filled in around it. Raises :class:`ModelError` for shapes that
        do not fit the task, :class:`EngineError` for values that are not finite or are no class."""
        out = self._chosen(outputs)
        found: NDArray[np.uint8]
        if out.ndim == 3 and out.shape[0] == 1:
            classes = known_classes(out[0].astype(np.float32).ravel(), len(self._labels))
            found = classes.astype(np.uint8).reshape(out.shape[1:])
        else:
            columns = 1 if len(self._labels) == 2 and out.shape[1:2] == (1,) else len(self._labels)
            found = largest(expect(out, (1, columns, None, None), "class scores output")[0])
        rows, width = found.shape
        if not (1 <= rows <= meta.input_height and 1 <= width <= meta.input_width):
            raise ModelError(
                f"the classes come as {width}x{rows} pixels, the model's input has {meta.input_width}x{meta.input_height}"
            )
        return ClassMap(_without_padding(found, meta), self._labels, self._background)

    def _chosen(self, outputs: Outputs) -> NDArray[np.float32]:
        if self._output is None and len(outputs) > 1:
            raise ModelError(
                f"the model has several outputs: {', '.join(outputs)}",
                hint="name the one that is read in the task: decode.output",
            )
        if self._output is not None and self._output not in outputs:
            raise ModelError(
                f"there is no output {self._output!r} among {', '.join(outputs)}",
                hint="name one of them in the task: decode.output",
            )
        return only_output(outputs) if self._output is None else outputs[self._output]


DECODER = DecoderType(
    "segmenter",
    Semantic,
    "`[1, C, H, W]` class scores of each pixel, of which the largest wins, or `[1, H, W]` class numbers (DeepLab, FCN, TwinLiteNet, YOLO26-sem)",
    SemanticOptions,
)


def largest(scores: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(h, w) of (C, h, w): the class with the largest score; of one class, whether it is above 0. Class by class: the
    last axis is contiguous. Raises :class:`EngineError`."""
    best = np.zeros(scores.shape[1:], np.float32) if len(scores) == 1 else scores[0].copy()
    found = np.zeros(best.shape, np.uint8)
    first = 0 if len(scores) == 1 else 1
    for number, plane in enumerate(scores[first:], 1):
        found[plane > best] = number
        np.maximum(best, plane, out=best)
    if not np.isfinite(best).all():
        raise EngineError(
            "the engine's output has values that are not finite",
            hint="the engine is broken; roll back to the last one",
        )
    return found


def _without_padding(found: NDArray[np.uint8], meta: LetterboxMeta) -> NDArray[np.uint8]:
    rows, columns = found.shape
    x, y = columns / meta.input_width, rows / meta.input_height
    left, top = round(meta.left * x), round(meta.top * y)
    right, bottom = (
        round((meta.left + meta.width * meta.sx) * x),
        round((meta.top + meta.height * meta.sy) * y),
    )
    return found[top : max(top + 1, bottom), left : max(left + 1, right)]
