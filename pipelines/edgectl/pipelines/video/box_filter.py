"""Kalman filters of many boxes at once, with constant velocity over the true time between two frames.

Four independent axes a box: centre and size. All noise is in box heights, so that near and far, large and small
pictures are alike. A detection whose score is low is believed less: what is half hidden trembles (Du et al.,
StrongSORT, IEEE TMM 2023).
"""

from __future__ import annotations

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


class BoxFilter:
    """State ``x`` (N, 4, 2) of cx, cy, w, h and their speeds, pixels and seconds; covariance ``p`` (N, 4, 3) = p00,
    p01, p11."""

    def __init__(self) -> None:
        self.x: F64 = np.empty((0, 4, 2))
        self.p: F64 = np.empty((0, 4, 3))

    def __len__(self) -> int:
        return len(self.x)

    def predict(self, dt: float) -> None:
        """``dt`` seconds later."""
        h = self._height()
        q, d = (_ACCELERATION * h) ** 2 * _AXES, (_DRIFT * h) ** 2 * _AXES
        self.x[..., 0] += dt * self.x[..., 1]
        p00, p01, p11 = self.p[..., 0], self.p[..., 1], self.p[..., 2]
        p00 += 2 * dt * p01 + dt * dt * p11 + q * (dt**3 / 3) + d * dt
        p01 += dt * p11 + q * (dt * dt / 2)
        p11 += q * dt

    def update(self, rows: Rows, z: F64, score: NDArray[np.float32]) -> None:
        """Measurements ``z`` (M, 4) of the boxes ``rows``, with scores of 0..1."""
        x, p = self.x[rows], self.p[rows]
        r = (_MEASURE * (1 + _DOUBT * (1 - score[:, None])) * np.maximum(z[:, 3:4], 1.0)) ** 2
        s = p[..., 0] + r
        k0, k1 = p[..., 0] / s, p[..., 1] / s
        e = z - x[..., 0]
        self.x[rows] = np.stack([x[..., 0] + k0 * e, x[..., 1] + k1 * e], axis=-1)
        self.p[rows] = np.stack(
            [(1 - k0) * p[..., 0], (1 - k0) * p[..., 1], p[..., 2] - k1 * p[..., 1]], axis=-1
        )

    def add(self, z: F64) -> None:
        h = np.maximum(z[:, 3:4], 1.0).repeat(4, axis=1)
        x = np.stack([z, np.zeros_like(z)], axis=-1)
        p = np.stack([(_MEASURE * h) ** 2, np.zeros_like(h), (_START_SPEED * h) ** 2], axis=-1)
        self.x, self.p = np.concatenate([self.x, x]), np.concatenate([self.p, p])

    def scale(self, x: float, y: float) -> None:
        """The frame has another size: pixels are other pixels."""
        factors = np.array([x, y, x, y])
        self.x *= factors[:, None]
        self.p *= factors[:, None] ** 2

    def move(self, camera: F64) -> None:
        """The camera moved: ``camera`` (2, 3) takes pixels of before to those of now. A box stays upright; its size
        takes the zoom."""
        turn, zoom = camera[:, :2], float(np.sqrt(abs(np.linalg.det(camera[:, :2]))))
        self.x[:, :2] = turn @ self.x[:, :2]
        self.x[:, :2, 0] += camera[:, 2]
        self.x[:, 2:] *= zoom
        self.p *= zoom**2

    def keep(self, mask: NDArray[np.bool_]) -> None:
        self.x, self.p = self.x[mask], self.p[mask]

    def boxes(self) -> F64:
        """(N, 4) xyxy."""
        centre, half = self.x[:, :2, 0], np.maximum(self.x[:, 2:, 0], 1.0) / 2
        return np.concatenate([centre - half, centre + half], axis=1)

    def margin(self) -> F64:
        """(N, 2): standard deviation of the centres, pixels."""
        out: F64 = np.sqrt(self.p[:, :2, 0])
        return out

    def distance(self, z: F64) -> F64:
        """(N, M): squared distance of centres to those of ``z`` (M, 4), in variances of what is expected (Mahalanobis)."""
        r = (_MEASURE * np.maximum(z[:, 3], 1.0)) ** 2
        away = z[None, :, :2] - self.x[:, None, :2, 0]
        out: F64 = (away * away / (self.p[:, None, :2, 0] + r[None, :, None])).sum(axis=-1)
        return out

    def _height(self) -> F64:
        return np.maximum(self.x[:, 3:4, 0], 1.0)


def to_cxcywh(xyxy: NDArray[np.floating]) -> F64:
    b = xyxy.astype(np.float64)
    return np.concatenate([(b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]], axis=1)
