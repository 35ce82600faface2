"""What moves in a picture: brightness against a background that is learned, made small.

Values are grey levels of the Y plane, times are seconds of capture time. A light that is switched on is not
motion: the median change of the whole picture is taken away first, and a picture of which most has changed
starts the background anew. Noise is learned for each pixel, so that a grainy night needs no threshold of its
own.

Left out: what to do about it (:mod:`edgectl.pipelines.video.motion_gate`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["MotionDetector", "SceneMotion"]

F32 = NDArray[np.float32]

_HEIGHT = 90
"""Rows of the small picture. A person who is a twelfth of the picture's height has eight of them."""
_MOST_HEIGHT = 360
_SMALL_ROWS = 5
"""Rows of the small picture that the smallest thing has which is asked for, and the share of their square that it
fills: a person is slim."""
_SMALL_FILLS = 0.3
_BACKGROUND_S = 8.0
"""How long something must stand still to fade into the background by 63 %."""
_NOISE_S = 30.0
_NOISE_TIMES = 5.0
"""A pixel moves when it differs from the background by so many times what it usually does."""
_SETTLE_S = 1.0
"""The background of a new picture is learned so fast, and everything is motion for as long."""
_MOST = 0.6
"""A picture of which more has changed is another picture: its light, or where the camera looks."""


@dataclass(frozen=True, slots=True)
class SceneMotion:
    boxes: F32
    """(N, 4) x1 y1 x2 y2 of what moves, relative to the picture (0..1), the largest first."""
    share: float
    """Of the picture, 0..1."""
    settled: bool
    """False while the background is learned: nothing is known of what moves then."""


class MotionDetector:
    """One per stream; feed it in order. About 0.1 ms for a 1080p frame in which nothing moves, and ten times that for
    things of 20 pixels."""

    def __init__(self, threshold: float, min_area: float, small_px: int | None = None) -> None:
        """``threshold``: the least difference in grey levels. ``min_area``: of the smallest thing that
        counts, as a share of the picture. ``small_px``: its longer side in pixels, where that is less."""
        self._threshold = threshold
        self._wanted_area = min_area
        self._small_px = small_px
        self._min_area, self._rows = min_area, _HEIGHT
        self._size: tuple[int, int] | None = None
        self._since_s = self._last_s = 0.0
        self._background: F32 = np.empty((0, 0), np.float32)
        self._noise: F32 = np.empty((0, 0), np.float32)

    def step(self, luma: NDArray[np.uint8], t_s: float) -> SceneMotion:
        """``luma``: (H, W) uint8, rows may be strided."""
        if luma.shape != self._size:
            self._size = (luma.shape[0], luma.shape[1])
            self._plan(*self._size)
            return self._anew(_small(luma, self._rows), t_s)
        small = _small(luma, self._rows)
        dt, self._last_s = max(0.0, t_s - self._last_s), t_s
        change = small - self._background
        light = float(np.median(change[::4, ::4]))
        away: F32 = np.abs(change - light)
        moving = away > np.maximum(self._threshold, _NOISE_TIMES * self._noise)
        settled = t_s - self._since_s >= _SETTLE_S
        if settled and moving.mean() > _MOST:
            return self._anew(small, t_s)
        self._learn(small, away, light, dt, settled)
        mask = cv2.medianBlur(moving.astype(np.uint8), 3)
        return SceneMotion(self._boxes(mask), float(mask.mean()), settled)

    def _plan(self, rows: int, columns: int) -> None:
        """How fine the small picture must be for the smallest thing."""
        self._min_area, self._rows = self._wanted_area, _HEIGHT
        if self._small_px is not None:
            self._min_area = min(self._wanted_area, _SMALL_FILLS * self._small_px**2 / (rows * columns))
            fine = round(_SMALL_ROWS * rows / self._small_px)
            self._rows = min(max(_HEIGHT, fine), max(_HEIGHT, min(_MOST_HEIGHT, rows // 2)))

    def _anew(self, small: F32, t_s: float) -> SceneMotion:
        self._since_s = self._last_s = t_s
        self._background = small
        self._noise = np.full_like(small, self._threshold / _NOISE_TIMES / 2)
        return SceneMotion(np.empty((0, 4), np.float32), 1.0, False)

    def _learn(self, small: F32, away: F32, light: float, dt: float, settled: bool) -> None:
        """The whole background takes the change of light at once, and each pixel what it shows, slowly."""
        self._background += light
        cv2.accumulateWeighted(small, self._background, _share(dt, _BACKGROUND_S if settled else _SETTLE_S))
        # What moves is not noise: it counts as much as the threshold at most.
        cv2.accumulateWeighted(
            np.minimum(away, self._threshold), self._noise, _share(dt, _NOISE_S if settled else _SETTLE_S)
        )

    def _boxes(self, mask: NDArray[np.uint8]) -> F32:
        if not mask.any():
            return np.empty((0, 4), np.float32)
        height, width = mask.shape
        # Parts of one thing that its own colours tear apart are joined.
        joined = cv2.dilate(mask, np.ones((3, 3), np.uint8))
        _, _, stats, _ = cv2.connectedComponentsWithStats(joined)
        stats = stats[1:]
        stats = stats[stats[:, cv2.CC_STAT_AREA] >= self._min_area * width * height]
        stats = stats[np.argsort(-stats[:, cv2.CC_STAT_AREA], kind="stable")]
        x, y, w, h = (stats[:, i].astype(np.float32) for i in range(4))
        return np.stack([x / width, y / height, (x + w) / width, (y + h) / height], axis=1)


def _small(luma: NDArray[np.uint8], height: int) -> F32:
    """Every n-th row and column, then averaged: six times cheaper than averaging all of it."""
    rows, columns = luma.shape
    step = max(1, rows // (2 * height))
    size = (max(1, round(columns * height / rows)), height)
    return cv2.resize(luma[::step, ::step], size, interpolation=cv2.INTER_AREA).astype(np.float32)


def _share(dt: float, within_s: float) -> float:
    return 1 - math.exp(-dt / within_s)
