"""The best picture of each object in sight: large, sharp, surely what it is, and whole. No IO."""

from __future__ import annotations

import math
from collections import OrderedDict

import cv2
import numpy as np
from numpy.typing import NDArray

from edgectl.pipelines.video.shown import ShownFrame, encode_jpeg
from edgectl.pipelines.video.tracker import Tracks

__all__ = ["BestPictures"]

_MAX_TRACKS = 64
"""Objects whose picture is kept; the one that was seen longest ago goes first."""
_SHARP = 100.0
"""Variance of the Laplacian at which a picture counts as half sharp (of a crop 64 pixels wide; Pech-Pacheco et al., 2000)."""
_CUT_OFF = 0.5
"""What an object at the frame's edge is worth: a part of it is outside."""
_MARGIN = 0.15
_BETTER = 1.05


class BestPictures:
    """For one thread. Memory is bounded by 64 JPEGs of crops."""

    def __init__(self, quality: int) -> None:
        self._quality = quality
        self._best: OrderedDict[int, tuple[float, bytes]] = OrderedDict()

    def see(self, tracks: Tracks, frame: ShownFrame) -> None:
        """Look at those that were detected in this frame. A crop is encoded only where it is better by 5 %."""
        for row in np.nonzero(tracks.seen)[0]:
            track = int(tracks.ids[row])
            worth = _worth(tracks, int(row))
            best = self._best.get(track, (-1.0, b""))[0]
            if track in self._best:
                self._best.move_to_end(track)
            if worth <= best * _BETTER:
                continue  # it cannot be sharper than sharp
            crop = _crop(frame.bgr(), tracks.xyxy[row])
            worth *= _sharpness(crop)
            if worth > best * _BETTER:
                self._best[track] = (worth, encode_jpeg(crop, self._quality))
        while len(self._best) > _MAX_TRACKS:
            self._best.popitem(last=False)

    def take(self, track: int) -> bytes | None:
        """The JPEG of one that has gone; None where there is none."""
        return self._best.pop(track, (0.0, None))[1]


def _worth(tracks: Tracks, row: int) -> float:
    """0..1: score and share of the frame, before anybody looked at the picture."""
    x1, y1, x2, y2 = (float(v) for v in tracks.xyxy[row])
    share = max(0.0, (x2 - x1) * (y2 - y1)) / (tracks.width * tracks.height)
    whole = x1 > 1 and y1 > 1 and x2 < tracks.width - 1 and y2 < tracks.height - 1
    return float(tracks.score[row]) * math.sqrt(min(1.0, share)) * (1.0 if whole else _CUT_OFF)


def _crop(image: NDArray[np.uint8], box: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The box with a margin, within the picture, never empty."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = (float(v) for v in box)
    dx, dy = (x2 - x1) * _MARGIN, (y2 - y1) * _MARGIN
    left, top = min(max(0, int(x1 - dx)), width - 1), min(max(0, int(y1 - dy)), height - 1)
    right, bottom = max(left + 1, min(width, round(x2 + dx))), max(top + 1, min(height, round(y2 + dy)))
    return image[top:bottom, left:right]


def _sharpness(crop: NDArray[np.uint8]) -> float:
    """0..1."""
    grey = cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY)
    scale = 64 / max(1, grey.shape[1])
    if scale < 1:
        grey = cv2.resize(grey, (64, max(1, round(grey.shape[0] * scale))), interpolation=cv2.INTER_AREA)
    detail = float(cv2.Laplacian(grey, cv2.CV_64F).var())
    return (1 + detail) / (1 + detail + _SHARP)
