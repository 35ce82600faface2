"""Which class each pixel of a picture is of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ClassMap"]


@dataclass(frozen=True, slots=True)
class ClassMap:
    """Of a picture, or of a rectangle of one."""

    classes: NDArray[np.uint8]  # (h, w), index of the label; over the whole rectangle, whatever its size
    labels: tuple[str, ...]
    background: tuple[int, ...] = ()
    """Labels that are not drawn."""
    region: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    """Left, top, right, bottom, relative to the frame."""

    def shares(self) -> NDArray[np.float64]:
        """(C,), 0..1: how much of the rectangle each label takes; their sum is 1."""
        counts = np.bincount(self.classes.ravel(), minlength=len(self.labels))
        return counts / max(1, self.classes.size)
