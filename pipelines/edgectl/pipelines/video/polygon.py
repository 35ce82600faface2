"""Areas of the picture as a configuration writes them: x, y, x, y, … relative to the frame."""

from __future__ import annotations

from typing import Annotated

import shapely
from pydantic import AfterValidator, Field

__all__ = ["Polygon", "Relative"]

Relative = Annotated[float, Field(ge=-0.5, le=1.5)]
"""Of the frame's width or height."""


def _is_an_area(flat: tuple[float, ...]) -> tuple[float, ...]:
    if len(flat) % 2 or not 6 <= len(flat) <= 512:
        raise ValueError("a polygon is x, y, x, y, … with 3 to 256 corners")
    shape = shapely.Polygon(list(zip(flat[0::2], flat[1::2], strict=True)))
    if not shape.is_valid or shape.area <= 0:
        raise ValueError("the polygon has no area or crosses itself")
    return flat


Polygon = Annotated[tuple[Relative, ...], AfterValidator(_is_an_area)]
"""3 to 256 corners that enclose an area and do not cross each other's lines."""
