"""Areas of the picture as a configuration writes them: x, y, x, y, … relative to the frame."""

from __future__ import annotations

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
    shape = shapely.Polygon(list(zip(flat[0::2], flat[1::2], strict=True)))
    if not shape.is_valid or shape.area <= 0:
        raise ValueError("the polygon has no area or crosses itself")
    return flat


Polygon = Annotated[tuple[Relative, ...], AfterValidator(_is_an_area)]
"""3 to 256 corners that enclose an area and do not cross each other's lines."""
