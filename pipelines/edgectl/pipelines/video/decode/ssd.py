"""SSD (Liu et al., ECCV 2016) as it leaves the head: offsets from default boxes, and class logits with a
background class."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from edgectl.core.errors import ModelError
from edgectl.core.task import ImageInput, TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import DecoderType, decoder_options
from edgectl.pipelines.video.decode.base import Detections, expect, finish, quiet
from edgectl.pipelines.video.decode.boxes import corners
from edgectl.pipelines.video.decode.boxes_scores import TwoOutputs, boxes_and_scores
from edgectl.pipelines.video.decode.candidates import Activation, Background, pick
from edgectl.pipelines.video.preprocess import LetterboxMeta

__all__ = ["DECODER", "Ssd"]

_LONGEST = float(np.log(1000 / 16))
"""Of the logarithm of a box's size in default boxes: what torchvision cuts it at."""


class SsdOptions(TwoOutputs):
    grids: tuple[int, ...] = Field(min_length=1, max_length=16)
    """Cells in a row of each feature map; as many rows."""
    scales: tuple[float, ...]
    """Size of the default boxes of each feature map, 0..1 of the input, and one more."""
    aspect_ratios: tuple[tuple[float, ...], ...]
    """Of each feature map, besides 1: each stands for two boxes, a wide and a tall one."""
    steps: tuple[float, ...] = ()
    """Distance of the default boxes of each feature map, in input pixels; none: they fill the input."""
    variances: tuple[float, float] = (0.1, 0.2)
    """What offsets of the centre and of the size are multiplied with."""
    activation: Activation = "softmax"
    """What makes the scores 0..1: ``none``: they are."""
    background: Background = "first"
    """The column of the scores that means "nothing is here". It has no label and is never a detection."""

    @model_validator(mode="after")
    def _fits(self) -> SsdOptions:
        n = len(self.grids)
        if len(self.scales) != n + 1 or len(self.aspect_ratios) != n or len(self.steps) not in (0, n):
            raise ValueError(
                "grids, aspect_ratios and steps must be as many, scales one more: "
                f"{n}, {len(self.aspect_ratios)}, {len(self.steps)}, {len(self.scales)}"
            )
        return self


class Ssd:
    """``[1, N, 4]``: offsets of cx, cy, w, h from N default boxes; ``[1, N, C+1]``: class logits. A box counts
    for each class that it is sure of."""

    def __init__(self, task: TaskSpec) -> None:
        if not isinstance(task.input, ImageInput):
            raise ModelError(f"task {task.name} decodes boxes but its input is no image")
        self._spec = task.decode
        self._options = decoder_options(SsdOptions, task)
        self._classes = len(task.labels)
        self._default = default_boxes(self._options, task.input.width, task.input.height)

    @quiet
    def __call__(self, outputs: Outputs, meta: LetterboxMeta) -> Detections:
        offsets, scores = boxes_and_scores(outputs, self._options)
        offsets = expect(offsets, (1, len(self._default), 4), "offsets output")[0]
        columns = self._classes + (self._options.background != "none")
        scores = expect(scores, (1, len(offsets), columns), "scores output")[0]
        rows, score, cls = pick(
            scores,
            self._spec.score,
            activation=self._options.activation,
            background=self._options.background,
            every_class=True,
        )
        default, by = self._default[rows], offsets[rows]
        centre_by, size_by = self._options.variances
        centre = default[:, :2] + by[:, :2] * np.float32(centre_by) * default[:, 2:]
        size = default[:, 2:] * np.exp(np.minimum(by[:, 2:] * np.float32(size_by), _LONGEST))
        boxes = corners(np.concatenate([centre, size], axis=1))
        # before suppression, as torchvision does
        np.clip(boxes[:, 0::2], 0, meta.input_width, out=boxes[:, 0::2])
        np.clip(boxes[:, 1::2], 0, meta.input_height, out=boxes[:, 1::2])
        return finish(boxes, score, cls, self._spec, meta)


DECODER = DecoderType(
    "detector",
    Ssd,
    "offsets from default boxes `[1, N, 4]` and class logits with background `[1, N, C+1]` (SSD, SSDLite as they leave the head)",
    SsdOptions,
)


def default_boxes(options: SsdOptions, width: int, height: int) -> NDArray[np.float32]:
    """cx, cy, w, h (N, 4) in tensor pixels: feature map after feature map, row after row, shape after shape
    (section 2.2 of the paper)."""
    size = np.array([width, height], np.float64)
    found = []
    for k, cells in enumerate(options.grids):
        across = size / options.steps[k] if options.steps else np.array([cells, cells], np.float64)
        y, x = np.mgrid[0:cells, 0:cells]
        centres = (np.stack([x.ravel(), y.ravel()], axis=1) + 0.5) / across
        shapes = np.clip(np.array(list(_shapes(options, k))), 0, 1)
        found.append(
            np.concatenate(
                [np.repeat(centres, len(shapes), axis=0), np.tile(shapes, (len(centres), 1))], axis=1
            )
        )
    return np.asarray(np.concatenate(found) * np.tile(size, 2), np.float32)


def _shapes(options: SsdOptions, k: int) -> Iterator[tuple[float, float]]:
    """Width and height of the default boxes of feature map ``k``, 0..1."""
    scale = options.scales[k]
    between = (scale * options.scales[k + 1]) ** 0.5
    yield scale, scale
    yield between, between
    for ratio in options.aspect_ratios[k]:
        wide, tall = scale * ratio**0.5, scale / ratio**0.5
        yield wide, tall
        yield tall, wide
