"""Which detection goes on with which track: how alike they are, and the best pairs of it. Pure.

A track's place is known as well as its filter knows it, and so are the boxes widened: the longer it was not seen and
the more its detections tremble, the further it may be. (C-BIoU, Yang et al., WACV 2023, widens all by the same share.)
"""

from __future__ import annotations

import lap
import numpy as np
from numpy.typing import NDArray

from edgectl.pipelines.video.box_filter import BoxFilter

__all__ = ["best_pairs", "box_overlap", "likeness"]

F64 = NDArray[np.float64]
B = NDArray[np.bool_]
Pairs = tuple[NDArray[np.intp], NDArray[np.intp]]

_WIDER = 1.5
"""Standard deviations of its centre that a box is widened by on each side; at most half of its size."""
_AWAY = 0.7
"""Share of its likeness that a pair loses when the detection is far from where the track is expected."""
_FAR = 6.0
"""Squared distance in variances at which it loses 63 % of that."""

_TINY = 1e-6
_NONE = np.empty(0, np.intp)


def likeness(tracks: BoxFilter, boxes: F64, detected: F64, z: F64) -> tuple[F64, F64]:
    """Two (N, M) of 0..1: how much ``boxes`` (N, 4) of ``tracks`` and ``detected`` (M, 4) overlap, both widened; and the
    same less what the detection is away from where it is expected, to choose by. ``z``: ``detected`` as cx, cy, w, h."""
    if not len(boxes) or not len(detected):
        return np.zeros((len(boxes), len(detected))), np.zeros((len(boxes), len(detected)))
    margin = np.minimum(_WIDER * tracks.margin(), (boxes[:, 2:] - boxes[:, :2]) / 2)
    grow = np.concatenate([-margin, margin], axis=1)
    overlap = _overlap((boxes + grow)[:, None, :], detected[None, :, :] + grow[:, None, :])
    away = 1 - np.exp(tracks.distance(z) / -_FAR)
    return overlap, overlap * (1 - _AWAY * away)


def best_pairs(values: F64, allowed: B, rows: B, columns: B) -> Pairs:
    """Best one-to-one pairs (Jonker-Volgenant) among the masked rows and columns, of those that are ``allowed`` (N, M).
    Values are over 0."""
    r, c = rows.nonzero()[0], columns.nonzero()[0]
    if not len(r) or not len(c):
        return _NONE, _NONE
    at = np.ix_(r, c)
    _, to, _ = lap.lapjv(
        1.0 - np.where(allowed[at], values[at], 0.0), extend_cost=True, cost_limit=1.0 - _TINY
    )
    matched = np.asarray(to) >= 0
    return r[matched], c[np.asarray(to)[matched]]


def box_overlap(a: F64, b: F64) -> F64:
    """(N, M): intersection over union of xyxy boxes."""
    return _overlap(a[:, None, :], b[None, :, :])


def _overlap(a: F64, b: F64) -> F64:
    corner = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    np.maximum(corner, 0, out=corner)
    shared = corner[..., 0] * corner[..., 1]
    union = _area(a) + _area(b) - shared
    out: F64 = shared / np.maximum(union, 1e-9)
    return out


def _area(boxes: F64) -> F64:
    size = boxes[..., 2:] - boxes[..., :2]
    area: F64 = size[..., 0] * size[..., 1]
    return area
