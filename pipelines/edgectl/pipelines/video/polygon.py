"""Areas of the picture as a configuration writes them: x, y, x, y, … relative to the frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import shapely
from pydantic import AfterValidator

__all__ = ["Polygon", "Relative"]


def _near_the_frame(value: float) -> float:
    if not -0.5 <= value <= 1.5:
        raise ValueError(
            f"{value:g} is not relative to the frame: 0 is its left or upper edge, 1 the right or lower one; "
            "divide pixels by its width or height"
        )
    return value


Relative = Annotated[float, AfterValidator(_near_the_frame)]
"""Of the frame's width or height, from -0.5 to 1.5."""


def _is_an_area(flat: tuple[float, ...]) -> tuple[float, ...]:
    if len(flat) % 2 or not 6 <= len(flat) <= 512:
        raise ValueError("a polygon is x, y, x, y, … with 3 to 256 corners")
    corners = list(zip(flat[0::2], flat[1::2], strict=True))
    shape = shapely.Polygon(corners)
    if shape.is_valid and shape.area > 0:
        return flat
    if (crossing := _crossing(corners)) is not None:
        raise ValueError(f"the polygon crosses itself: {crossing}")
    raise ValueError("the polygon has no area")


def _crossing(corners: Sequence[tuple[float, float]]) -> str | None:
    """Which two of its sides meet that are no neighbours, or lie on each other. Corners are counted from 1."""
    n = len(corners)
    sides = [shapely.LineString([corners[i], corners[(i + 1) % n]]) for i in range(n)]
    for i in range(n):
        for j in range(i + 1, n):
            shared = sides[i].intersection(sides[j])
            neighbours = j == i + 1 or (i, j) == (0, n - 1)
            if shared.is_empty or (neighbours and shared.length <= 0):
                continue
            there = shared.centroid
            return f"{_side(i, n)} meets {_side(j, n)} at {there.x:.3g}, {there.y:.3g}"
    return None


def _side(i: int, n: int) -> str:
    return f"the side from corner {i + 1} to {(i + 1) % n + 1}"


Polygon = Annotated[tuple[Relative, ...], AfterValidator(_is_an_area)]
"""3 to 256 corners that enclose an area and do not cross each other's lines."""
