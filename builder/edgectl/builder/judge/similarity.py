"""How similar two detections are: by their keypoints or masks where the model finds some, else by their boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgectl.builder.truth.labelled import BODY_OF_BOX
from edgectl.pipelines.video.decode.base import Detections
from edgectl.pipelines.video.keypoints import COCO_NAMES, Keypoints
from edgectl.pipelines.video.masks import InstanceMasks

__all__ = [
    "mask_iou",
    "measured_by",
    "object_keypoint_similarity",
    "point_sigmas",
    "similar",
    "similar_enough",
]

_IOU, _OKS = 0.5, 0.75
_PLACES = 64
_COCO_SIGMAS = np.array(
    [0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89]
)
_COCO_SIGMAS /= 10
"""How differently people mark each point (COCO keypoint evaluation). Of other points: a mean of them."""


def similar(of: Detections, row: int, others: Detections) -> NDArray[np.float64]:
    """(N,), 0..1, of one detection with each of the others."""
    if of.keypoints is not None and others.keypoints is not None:
        size = others.xyxy[:, 2:] - others.xyxy[:, :2]
        return object_keypoint_similarity(
            of.keypoints, row, others.keypoints, size.prod(axis=1, dtype=np.float64)
        )
    boxes = _box_iou(of.xyxy[row], others.xyxy)
    if of.masks is None or others.masks is None:
        return boxes
    near = np.nonzero(boxes > 0)[0]
    boxes[near] = [mask_iou(of.masks, row, others.masks, int(other)) for other in near]
    return boxes


def similar_enough(found: Detections) -> float:
    """From here on two detections are one object."""
    return _IOU if found.keypoints is None else _OKS


def measured_by(found: Detections) -> str:
    """What average precision by :func:`similar` is called in a report."""
    if found.keypoints is not None:
        return "oks_ap75_vs_float"
    return "ap50_vs_float" if found.masks is None else "mask_ap50_vs_float"


def object_keypoint_similarity(
    of: Keypoints, row: int, others: Keypoints, areas: NDArray[np.float64]
) -> NDArray[np.float64]:
    """OKS (N,), 0..1, as COCO defines it. ``areas`` (N,): of the boxes of ``others``, px². Points count that both
    see; of objects without such, 0."""
    points = others.points.astype(np.float64)
    away = ((points[..., :2] - of.points[row, :, :2]) ** 2).sum(axis=2)
    sigmas = point_sigmas(others.layout.names)
    scale = 2 * (2 * sigmas) ** 2 * np.maximum(BODY_OF_BOX * areas[:, None], 1e-9)
    counts = others.sure & of.sure[row]
    shared = counts.sum(axis=1)
    total = (np.exp(-away / scale) * counts).sum(axis=1)
    return np.where(shared > 0, total / np.maximum(shared, 1), 0.0)


def point_sigmas(names: Sequence[str]) -> NDArray[np.float64]:
    """(K,): how differently people mark each point; of other points than COCO's, the mean of those."""
    return _COCO_SIGMAS if tuple(names) == COCO_NAMES else np.full(len(names), _COCO_SIGMAS.mean())


def mask_iou(a: InstanceMasks, row: int, b: InstanceMasks, other: int) -> float:
    """Intersection over union of two masks, 0..1, at :data:`_PLACES` × :data:`_PLACES` places of the rectangle around
    both."""
    boxes = np.stack([a.boxes[row], b.boxes[other]]).astype(np.float64)
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    x, y = (low + (high - low) * (np.arange(_PLACES)[:, None] + 0.5) / _PLACES).T
    one, two = _inside(a, row, x, y), _inside(b, other, x, y)
    union = int((one | two).sum())
    return float((one & two).sum() / union) if union else 0.0


def _inside(
    masks: InstanceMasks, row: int, x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.bool_]:
    x1, y1, x2, y2 = masks.boxes[row].tolist()
    box = ((y >= y1) & (y < y2))[:, None] & ((x >= x1) & (x < x2))
    return np.asarray(box & (masks.logits(row, x, y) > 0))


def _box_iou(box: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    left, top = np.maximum(box[0], boxes[:, 0]), np.maximum(box[1], boxes[:, 1])
    right, bottom = np.minimum(box[2], boxes[:, 2]), np.minimum(box[3], boxes[:, 3])
    shared = np.clip(right - left, 0, None) * np.clip(bottom - top, 0, None)
    area = (box[2] - box[0]) * (box[3] - box[1]) + (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return np.asarray(shared / np.maximum(area - shared, 1e-9), np.float64)
