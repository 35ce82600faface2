"""The cells of detectors without anchors: one prediction for each cell of a few grids over the input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["grid_cells"]


def grid_cells(
    width: int, height: int, strides: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Column and row (N, 2) and stride (N,) of each cell: grid after grid, row after row. A border that does
    not fill a cell has one, as a padded convolution does."""
    cells, sizes = [], []
    for stride in strides:
        y, x = np.mgrid[0 : -(-height // stride), 0 : -(-width // stride)]
        cells.append(np.stack([x.ravel(), y.ravel()], axis=1))
        sizes.append(np.full(x.size, stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(sizes).astype(np.float32)
