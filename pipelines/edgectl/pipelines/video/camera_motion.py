"""How the camera moved between two frames that were looked at: pan, tilt, roll and zoom, for a tracker whose boxes would
else be expected where they were in another picture.

Corners of the picture before are found again by sparse optical flow (Lucas and Kanade, with pyramids), those in boxes
of objects left out; a similarity is fitted to them by RANSAC, as BoT-SORT does (Aharon et al., 2022). Where frames are
missing and the flow does not reach so far, phase correlation says where to look. Where the picture shows too little to
tell, or is another picture, nothing is said.

Left out: zones and lines, which stay where they are drawn.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["CameraMotion", "camera_view"]

F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

_ROWS = 180
"""Of the small picture that is looked at."""
_CORNERS = 150
_LEAST_CORNERS = 12
_LEAST_SHARE = 0.5
"""Of the corners must move in one way: else most of what is seen is no background."""
_RANSAC_PX = 1.0
"""Of the small picture."""
_STILL_PX = 0.25
"""Of the small picture: a camera whose picture moves by less at its corners does not move."""


def camera_view(luma: U8) -> U8:
    """What :class:`CameraMotion` looks at of a frame's brightness (H, W): every n-th row and column, averaged to 180
    rows. Belongs to the caller; what is smaller is copied as it is."""
    rows, columns = luma.shape
    if rows <= _ROWS:
        return np.array(luma)
    step = max(1, rows // (2 * _ROWS))
    size = (max(1, round(columns * _ROWS / rows)), _ROWS)
    return np.asarray(cv2.resize(luma[::step, ::step], size, interpolation=cv2.INTER_AREA), np.uint8)


class CameraMotion:
    """One per stream; feed it the frames that are looked at, in order. About 2 ms a frame of 16:9, more than that after a jolt."""

    def __init__(self) -> None:
        self._before: U8 | None = None
        self._boxes: F64 = np.empty((0, 4))
        self._size = (0, 0)

    def step(self, view: U8, boxes: NDArray[np.floating], width: int, height: int) -> F64 | None:
        """(2, 3): the matrix that takes pixels of the frame before to pixels of this one; None where the camera stood
        still, or nobody can tell.

        ``view``: of this frame, as :func:`camera_view` gives it. ``boxes``: (N, 4) xyxy of the objects in this frame of
        ``width`` × ``height``.
        """
        before, objects, size = self._before, self._boxes, self._size
        self._before, self._size = view, (width, height)
        scale = np.array([view.shape[1] / width, view.shape[0] / height])
        self._boxes = boxes.astype(np.float64) * np.tile(scale, 2)
        if before is None or size != (width, height) or before.shape != view.shape:
            return None
        small = _moved(before, view, objects)
        if small is None:
            return None
        grow = np.diag(scale)
        shrink = np.diag(1 / scale)
        return np.column_stack([shrink @ small[:, :2] @ grow, shrink @ small[:, 2]])


def _moved(before: U8, now: U8, objects: F64) -> F64 | None:
    """In pixels of the small pictures."""
    background = np.full(before.shape, 255, np.uint8)
    for x1, y1, x2, y2 in np.round(objects).astype(int).tolist():
        background[max(0, y1) : max(0, y2 + 1), max(0, x1) : max(0, x2 + 1)] = 0
    features = cv2.goodFeaturesToTrack(before, _CORNERS, 0.01, 7, mask=background)
    if features is None or len(features) < _LEAST_CORNERS:
        return None
    corners = np.asarray(features, np.float32)
    out = _fit(before, now, corners, corners)
    if out is None:
        # further than the flow reaches: from where the whole picture went
        shift, _ = cv2.phaseCorrelate(
            before.astype(np.float32), now.astype(np.float32), _window(before.shape)
        )
        out = _fit(before, now, corners, (corners + shift).astype(np.float32))
    if out is None:
        return None
    rows, columns = before.shape
    edges = np.array([[0, 0], [columns, 0], [0, rows], [columns, rows]], np.float64)
    away = edges @ out[:, :2].T + out[:, 2] - edges
    return out if np.abs(away).max() >= _STILL_PX else None


def _fit(before: U8, now: U8, corners: F32, near: F32) -> F64 | None:
    """The similarity that takes the ``corners`` (N, 1, 2) to where they are found, looked for from ``near`` on."""
    rows, columns = before.shape
    inside = ((near >= 0) & (near < [columns, rows])).all(axis=(1, 2))
    corners, near = corners[inside], near[inside]
    least = max(_LEAST_CORNERS, _LEAST_SHARE * len(corners))
    if len(corners) < least:
        return None
    found, known, _ = cv2.calcOpticalFlowPyrLK(
        before, now, corners, near.copy(), winSize=(15, 15), flags=cv2.OPTFLOW_USE_INITIAL_FLOW
    )
    known = known.ravel() == 1
    if known.sum() < least:
        return None
    a, b = corners[known].reshape(-1, 2), found[known].reshape(-1, 2)
    matrix, agree = cv2.estimateAffinePartial2D(a, b, ransacReprojThreshold=_RANSAC_PX)
    return np.asarray(matrix, np.float64) if matrix is not None and agree.sum() >= least else None


@lru_cache(maxsize=4)
def _window(shape: tuple[int, int]) -> F32:
    return np.asarray(cv2.createHanningWindow(shape[::-1], cv2.CV_32F), np.float32)
