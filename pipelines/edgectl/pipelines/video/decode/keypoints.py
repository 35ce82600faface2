"""What the decoders of pose models share: the points behind a box's classes."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from edgectl.core.schema import Config
from edgectl.pipelines.video.decode.base import check_finite
from edgectl.pipelines.video.keypoints import COCO_NAMES, COCO_SKELETON, KeypointLayout, Keypoints
from edgectl.pipelines.video.preprocess import LetterboxMeta, unletterbox_points

__all__ = ["KeypointOptions"]

_Name = Annotated[str, Field(min_length=1, max_length=64)]


class KeypointOptions(Config):
    keypoints: tuple[_Name, ...] = Field(default=COCO_NAMES, min_length=1, max_length=64)
    """Names of the points, in the order of the model; unless they are given, the 17 of COCO."""
    skeleton: tuple[tuple[_Name, _Name], ...] = Field(default=COCO_SKELETON, max_length=256)
    """Pairs of points that are joined when they are drawn; unless they are given, COCO's."""
    confidence: bool = True
    """Whether a point has a third number, how sure it is; without, all are."""

    @model_validator(mode="after")
    def _joins_its_points(self) -> KeypointOptions:
        KeypointLayout(self.keypoints, self.skeleton if "skeleton" in self.model_fields_set else ())
        return self

    @property
    def layout(self) -> KeypointLayout:
        known = set(self.keypoints)
        return KeypointLayout(self.keypoints, tuple(p for p in self.skeleton if known.issuperset(p)))

    @property
    def numbers(self) -> int:
        """Of one object."""
        return len(self.keypoints) * (3 if self.confidence else 2)

    def read(self, rows: NDArray[np.float32], meta: LetterboxMeta, layout: KeypointLayout) -> Keypoints:
        """Rows (N, :attr:`numbers`) in tensor pixels. Raises :class:`EngineError` for what is no number."""
        check_finite(rows)
        raw = rows.reshape(len(rows), len(self.keypoints), 3 if self.confidence else 2)
        points = np.ones((*raw.shape[:2], 3), np.float32)
        points[..., :2] = unletterbox_points(raw[..., :2], meta)
        if self.confidence:
            points[..., 2] = np.clip(raw[..., 2], 0, 1)
        return Keypoints(points, layout)
