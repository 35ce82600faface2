"""From the picture to the ground: four points whose places in metres are known make a homography."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely
from numpy.typing import NDArray
from pydantic import field_validator, model_validator

from edgectl.core.schema import Config
from edgectl.pipelines.video.polygon import Relative

__all__ = ["Ground", "GroundConfig"]

F64 = NDArray[np.float64]


class GroundConfig(Config):
    picture: tuple[Relative, Relative, Relative, Relative, Relative, Relative, Relative, Relative]
    """x, y of four points of the ground in the picture, relative to the frame, in turn around their area."""
    metres: tuple[float, float, float, float, float, float, float, float]
    """x, y of the same four points on the ground, in metres, in the same turn."""

    @field_validator("picture", "metres")
    @classmethod
    def _are_four_corners(cls, flat: tuple[float, ...]) -> tuple[float, ...]:
        corners = shapely.Polygon(np.array(flat).reshape(4, 2))
        hull = corners.convex_hull
        if not corners.is_valid or not corners.area > 0 or len(hull.exterior.coords) != 5:
            raise ValueError("the four points must be the corners of an area, in turn, no three on one line")
        return flat

    @model_validator(mode="after")
    def _one_turn(self) -> GroundConfig:
        if not np.isfinite(Ground(self).metres_of(np.array([[0.5, 0.5]]))).all():
            raise ValueError("the four points do not fit together")
        return self


class Ground:
    """Points relative to the frame ↔ metres on the ground (direct linear transform; Hartley and Zisserman,
    Multiple View Geometry, 4.1)."""

    def __init__(self, config: GroundConfig) -> None:
        here, there = (np.array(flat, np.float64).reshape(4, 2) for flat in (config.picture, config.metres))
        # from the middle of the four: the corner of the picture may lie on the horizon
        self._middle = here.mean(axis=0)
        here = here - self._middle
        rows = []
        for (x, y), (u, v) in zip(here, there, strict=True):
            rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
            rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
        self._h: F64 = np.append(np.linalg.solve(np.array(rows), there.reshape(8)), 1.0).reshape(3, 3)

    def metres_of(self, points: F64) -> F64:
        """(N, 2) relative to the frame → (N, 2) metres; NaN on and beyond the horizon."""
        points = points - self._middle
        scale = points @ self._h[2, :2] + 1.0
        out = (points @ self._h[:2, :2].T + self._h[:2, 2]) / np.where(scale == 0, 1.0, scale)[:, None]
        return np.where((scale > 1e-9)[:, None], out, np.nan)

    def metres_per(self, points: F64) -> F64:
        """(N, 2, 2): the change of place in metres for a small change of x, y relative to the frame."""
        x, y = np.array([[1e-5, 0.0]]), np.array([[0.0, 1e-5]])
        dx = self.metres_of(points + x) - self.metres_of(points - x)
        dy = self.metres_of(points + y) - self.metres_of(points - y)
        return np.stack([dx, dy], axis=2) / 2e-5

    def area_m2(self, polygon: Sequence[float]) -> float:
        """Of a polygon x, y, x, y, … relative to the frame; NaN where it reaches the horizon."""
        corners = self.metres_of(np.clip(np.array(polygon, np.float64).reshape(-1, 2), 0, 1))
        return float(shapely.Polygon(corners).area) if np.isfinite(corners).all() else float("nan")
