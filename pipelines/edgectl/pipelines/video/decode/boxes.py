"""The conventions in which models write boxes."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgectl.core.schema import Config
from edgectl.pipelines.video.preprocess import LetterboxMeta

__all__ = ["BoxConvention", "corners"]


class BoxConvention(Config):
    """Options of the decoders whose models do not agree about it."""

    box_format: Literal["xyxy", "yxyx", "cxcywh"] = "xyxy"
    """``yxyx``: what TensorFlow exports write."""
    box_unit: Literal["pixel", "relative"] = "pixel"
    """Of the input, or 0..1."""

    def in_pixels(self, boxes: NDArray[np.float32], meta: LetterboxMeta) -> NDArray[np.float32]:
        """Boxes (N, 4) as xyxy in tensor pixels."""
        if self.box_format == "yxyx":
            boxes = boxes[:, [1, 0, 3, 2]]
        if self.box_format == "cxcywh":
            boxes = corners(boxes)
        if self.box_unit == "relative":
            boxes = boxes * np.array([meta.input_width, meta.input_height] * 2, np.float32)
        return boxes


def corners(cxcywh: NDArray[np.float32]) -> NDArray[np.float32]:
    """Boxes (N, 4) from centre and size to xyxy."""
    half = cxcywh[:, 2:4] / 2
    return np.concatenate([cxcywh[:, :2] - half, cxcywh[:, :2] + half], axis=1)
