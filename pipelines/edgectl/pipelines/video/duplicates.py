"""Several boxes that are one object: left over where a model has two labels for it, or where labels are
merged."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgectl.pipelines.video.decode import Detections

__all__ = ["one_label_each", "without_doubles"]


def one_label_each(found: Detections, iou: float) -> Detections:
    """Of boxes with different labels that overlap by at least ``iou``, the one with the best score: they
    are one object."""
    if len(found) < 2 or (found.cls == found.cls[0]).all():
        return found
    return _best_of(found, _overlap(found) >= iou)


def without_doubles(found: Detections, iou: float = 0.55) -> Detections:
    """One object that the model called both car and truck is one box once both are vehicles (best score
    first)."""
    return _best_of(found, (_overlap(found) > iou) & (found.cls[:, None] == found.cls[None, :]))


def _overlap(found: Detections) -> NDArray[np.float32]:
    """Intersection over union of each box with each, (N, N)."""
    area = (found.xyxy[:, 2:] - found.xyxy[:, :2]).prod(axis=1)
    corner = np.minimum(found.xyxy[:, None, 2:], found.xyxy[None, :, 2:]) - np.maximum(
        found.xyxy[:, None, :2], found.xyxy[None, :, :2]
    )
    shared = np.maximum(corner, 0).prod(axis=2)
    return np.asarray(shared / np.maximum(area[:, None] + area[None, :] - shared, 1e-9), np.float32)


def _best_of(found: Detections, same: NDArray[np.bool_]) -> Detections:
    """The best of each group of boxes that are the ``same`` (N, N); rows come best score first."""
    keep: list[int] = []
    for i in np.argsort(-found.score, kind="stable").tolist():
        if not same[i, keep].any():
            keep.append(i)
    return found.select(np.array(sorted(keep)))
