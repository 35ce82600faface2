"""Kalman filters of many boxes at once, over the true time between two frames: places move with constant velocity,
sizes with one that fades, so that a box that is not seen neither collapses nor swells.

Four independent axes a box: centre and size. All noise is in box heights, so that near and far, large and small
pictures are alike. A detection whose score is low is believed less: what is half hidden trembles (Du et al.,
StrongSORT, IEEE TMM 2023).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["BoxFilter", "to_cxcywh"]

F64 = NDArray[np.float64]
Rows = NDArray[np.intp]

# Noise, in box heights. Position error of a detector; acceleration and position drift of what it looks at.
_MEASURE = 0.04
_DOUBT = 2.0
"""How much more of that error comes with a score of 0 than with one of 1."""
_ACCELERATION = 1.0  # per s^1.5
_DRIFT = 0.05  # per s^0.5
_START_SPEED = 4.0
"""Per second; a car that comes into the picture has it."""
_AXES = np.array([1.0, 1.0, 0.3, 0.3])
"""Of the variance of what moves: sizes change less than places."""
_START_TREMBLE, _MOST_TREMBLE = 0.1, 0.2  # box heights
"""How much more than :data:`_MEASURE` a centre is believed to tremble at first, and at most."""
_TREMBLE_WORTH = 10.0
"""Sightings over which it is learned how much it does."""
_SIZE_SPEED_LASTS_S = 0.3
"""Time constant with which the speed of a size fades. Between two frames a car grows as it did; what nobody has seen
for a second has the size that it had."""
_LEAST_SIZE = 1.0  # pixels


class BoxFilter:
    """State ``x`` (N, 4, 2) of cx, cy, w, h and their speeds, pixels and seconds; covariance ``p`` (N, 4, 3) = p00,
    p01, p11. ``tremble`` (N, 2): variance of the detections' centres beyond what is usual, square pixels."""

    def __init__(self) -> None:
        self.x: F64 = np.empty((0, 4, 2))
        self.p: F64 = np.empty((0, 4, 3))
        self.tremble: F64 = np.empty((0, 2))

    def __len__(self) -> int:
        return len(self.x)

    def predict(self, dt: float) -> None:
        """``dt`` seconds later."""
        h = self._height()
        q, d = (_ACCELERATION * h) ** 2 * _AXES, (_DRIFT * h) ** 2 * _AXES
        left, way, noise = _carried(dt)
        self.x[..., 0] += way * self.x[..., 1]
        self.x[..., 1] *= left
        np.maximum(self.x[:, 2:, 0], _LEAST_SIZE, out=self.x[:, 2:, 0])
        p00, p01, p11 = self.p[..., 0], self.p[..., 1], self.p[..., 2]
        p00 += way * (2 * p01 + way * p11) + q * noise[0] + d * dt
        p01[...] = left * (p01 + way * p11) + q * noise[1]
        p11[...] = left * left * p11 + q * noise[2]

    def update(self, rows: Rows, z: F64, score: NDArray[np.float32]) -> None:
        """Measurements ``z`` (M, 4) of the boxes ``rows``, with scores of 0..1."""
        x, p = self.x[rows], self.p[rows]
        r = (_MEASURE * (1 + _DOUBT * (1 - score[:, None])) * np.maximum(z[:, 3:4], 1.0)) ** 2
        s = p[..., 0] + r
        e = z - x[..., 0]
        self._learn_tremble(rows, e[:, :2] ** 2 - s[:, :2], z)
        k0, k1 = p[..., 0] / s, p[..., 1] / s
        self.x[rows] = np.stack([x[..., 0] + k0 * e, x[..., 1] + k1 * e], axis=-1)
        self.p[rows] = np.stack(
            [(1 - k0) * p[..., 0], (1 - k0) * p[..., 1], p[..., 2] - k1 * p[..., 1]], axis=-1
        )

    def add(self, z: F64) -> None:
        h = np.maximum(z[:, 3:4], 1.0).repeat(4, axis=1)
        x = np.stack([z, np.zeros_like(z)], axis=-1)
        p = np.stack([(_MEASURE * h) ** 2, np.zeros_like(h), (_START_SPEED * h) ** 2], axis=-1)
        self.x, self.p = np.concatenate([self.x, x]), np.concatenate([self.p, p])
        self.tremble = np.concatenate([self.tremble, np.repeat((_START_TREMBLE * h[:, :1]) ** 2, 2, axis=1)])

    def scale(self, x: float, y: float) -> None:
        """The frame has another size: pixels are other pixels."""
        factors = np.array([x, y, x, y])
        self.x *= factors[:, None]
        self.p *= factors[:, None] ** 2
        self.tremble *= factors[:2] ** 2

    def move(self, camera: F64) -> None:
        """The camera moved: ``camera`` (2, 3) takes pixels of before to those of now. A box stays upright; its size
        takes the zoom."""
        turn, zoom = camera[:, :2], float(np.sqrt(abs(np.linalg.det(camera[:, :2]))))
        self.x[:, :2] = turn @ self.x[:, :2]
        self.x[:, :2, 0] += camera[:, 2]
        self.x[:, 2:] *= zoom
        self.p *= zoom**2
        self.tremble *= zoom**2

    def keep(self, mask: NDArray[np.bool_]) -> None:
        self.x, self.p, self.tremble = self.x[mask], self.p[mask], self.tremble[mask]

    def boxes(self) -> F64:
        """(N, 4) xyxy."""
        centre, half = self.x[:, :2, 0], np.maximum(self.x[:, 2:, 0], 1.0) / 2
        return np.concatenate([centre - half, centre + half], axis=1)

    def margin(self) -> F64:
        """(N, 2): standard deviation of a centre and of how it trembles, pixels."""
        out: F64 = np.sqrt(self.p[:, :2, 0] + self.tremble)
        return out

    def reach(self) -> F64:
        """(N,): standard deviation of a detection's centre around where the object is, pixels."""
        out: F64 = np.sqrt((_MEASURE * self._height()[:, 0]) ** 2 + self.tremble.max(axis=1, initial=0.0))
        return out

    def distance(self, z: F64) -> F64:
        """(N, M): squared distance of centres to those of ``z`` (M, 4), in variances of what is expected (Mahalanobis)."""
        r = (_MEASURE * np.maximum(z[:, 3], 1.0)) ** 2
        away = z[None, :, :2] - self.x[:, None, :2, 0]
        known = (self.p[:, :2, 0] + self.tremble)[:, None] + r[None, :, None]
        out: F64 = (away * away / known).sum(axis=-1)
        return out

    def _learn_tremble(self, rows: Rows, more: F64, z: F64) -> None:
        """From ``more`` (M, 2), by how much squared surprises exceeded what was expected."""
        most = (_MOST_TREMBLE * np.maximum(z[:, 3:4], 1.0)) ** 2
        was = self.tremble[rows]
        self.tremble[rows] = np.clip(was + (np.clip(more, -most, most) - was) / _TREMBLE_WORTH, 0.0, most)

    def _height(self) -> F64:
        return np.maximum(self.x[:, 3:4, 0], 1.0)


def to_cxcywh(xyxy: NDArray[np.floating]) -> F64:
    b = xyxy.astype(np.float64)
    return np.concatenate([(b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]], axis=1)


def _carried(dt: float) -> tuple[F64, F64, F64]:
    """By axis, after ``dt`` seconds: what is left of a speed (4,); how far one of 1 has led (4,); and, of a unit of
    acceleration, the variances (3, 4) of place, of both and of speed (Ornstein-Uhlenbeck for sizes)."""
    t = _SIZE_SPEED_LASTS_S
    left, left2 = math.exp(-dt / t), math.exp(-2 * dt / t)
    way, speed = t * (1 - left), t * (1 - left2) / 2
    places, sizes = (
        (1.0, dt, dt**3 / 3, dt * dt / 2, dt),
        (left, way, t * t * (dt - 2 * way + speed), way * way / 2, speed),
    )
    by_axis = np.array([places, places, sizes, sizes]).T
    return by_axis[0], by_axis[1], by_axis[2:]
