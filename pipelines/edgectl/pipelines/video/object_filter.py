"""Which detections are taken for objects, label by label: by size, shape, score and place. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import shapely
from numpy.typing import NDArray
from pydantic import Field, model_validator

from edgectl.core.errors import UsageError
from edgectl.core.nearest import did_you_mean
from edgectl.core.schema import Config
from edgectl.pipelines.video.decode import Detections
from edgectl.pipelines.video.polygon import Polygon

__all__ = ["ObjectFilterConfig", "ObjectFilters"]


class ObjectFilterConfig(Config):
    min_area: float = Field(default=0.0, ge=0, le=1)
    """Of the picture's area: a smaller box is left out. A box of a tenth of the width and a fifth of the height has 0.02."""
    max_area: float = Field(default=1.0, gt=0, le=1)
    """The same: a larger one is left out."""
    min_ratio: float = Field(default=0.0, ge=0, le=1000)
    """Width by height in pixels: a box that is slimmer is left out. A person who stands has about 0.4."""
    max_ratio: float = Field(default=1000.0, gt=0, le=1000)
    """The same: a wider one is left out."""
    min_score: float = Field(default=0.0, ge=0, le=1)
    """What scores below is left out. An object begins at `track.high` in any case."""
    masks: tuple[Polygon, ...] = Field(default=(), max_length=16)
    """Where none is: a box is left out whose middle of the lower edge lies in one. What lies there is still seen and, where
    `privacy` says so, hidden."""

    @model_validator(mode="after")
    def _leaves_something(self) -> ObjectFilterConfig:
        for what in ("area", "ratio"):
            low, high = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            if low > high:
                raise ValueError(f"min_{what} is {low:g}, more than max_{what}, which is {high:g}")
        return self


class ObjectFilters:
    """Of one stream."""

    def __init__(self, config: Mapping[str, ObjectFilterConfig], labels: Sequence[str]) -> None:
        """``labels``: of the stream, by class number. Raises :class:`UsageError` for one that is not there."""
        for label in config:
            if label not in labels:
                raise UsageError(
                    f"filters names {label!r}, which the stream does not look for",
                    hint=did_you_mean(label, labels, there_are="it looks for "),
                    key=("filters", label),
                )
        self._of = {
            labels.index(label): (one, [shapely.Polygon(np.reshape(m, (-1, 2))) for m in one.masks])
            for label, one in config.items()
        }

    def __call__(self, found: Detections, width: int, height: int) -> Detections:
        """``width`` and ``height`` of the frame that the boxes are of, pixels."""
        if not self._of or not len(found):
            return found
        box_width, box_height = (found.xyxy[:, 2:] - found.xyxy[:, :2]).T
        area, ratio = box_width * box_height / (width * height), box_width / np.maximum(box_height, 1e-6)
        x, y = (found.xyxy[:, 0] + found.xyxy[:, 2]) / (2 * width), found.xyxy[:, 3] / height
        keep = np.ones(len(found), np.bool_)
        for cls, (one, masks) in self._of.items():
            good = (area >= one.min_area) & (area <= one.max_area) & (found.score >= one.min_score)
            good &= (ratio >= one.min_ratio) & (ratio <= one.max_ratio)
            for mask in masks:
                # a foot at the very edge of the picture stands in it
                good &= ~_inside(mask, x, np.minimum(y, 1 - 1e-6))
            keep &= good | (found.cls != cls)
        return found if keep.all() else found.select(np.nonzero(keep)[0])


def _inside(mask: shapely.Polygon, x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.bool_]:
    return np.asarray(shapely.contains_xy(mask, x, y), np.bool_)
