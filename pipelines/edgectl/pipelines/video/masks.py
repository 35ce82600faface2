"""Instance masks: which pixels of a frame belong to an object. Kept as small maps of logits around each box, and made
pixels of where somebody looks.

Bilinear between the cells of a map, as its authors do (YOLACT, Bolya et al., ICCV 2019). Not to be taken for the masks of
:mod:`.privacy`, which hide a part of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MOST_CELLS", "InstanceMasks", "MaskGrid"]

MOST_CELLS = 1 << 21
"""Of all maps of a frame, 4 MiB. The least sure objects have none then."""

Map = NDArray[np.float16] | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class MaskGrid:
    """Where the cells that maps are cut out of lie in the frame, in pixels of it."""

    left: float
    top: float
    """Upper left corner of the first cell."""
    width: float
    height: float
    """Of a cell."""

    def columns(self, x: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Places in cells, counted from the middle of the first one."""
        return np.asarray((x - self.left) / self.width - 0.5, np.float64)

    def rows(self, y: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        return np.asarray((y - self.top) / self.height - 0.5, np.float64)


_NO_GRID = MaskGrid(0, 0, 1, 1)
"""Of a row without a map."""


@dataclass(frozen=True, slots=True)
class InstanceMasks:
    """A map for each of several objects. No map (0 × 0): nothing is known of its shape."""

    maps: tuple[Map, ...]
    """(h, w) each: logits, above 0 where the object is."""
    corners: NDArray[np.int64]  # (N, 2): column and row of the map's first cell
    boxes: NDArray[np.float32]  # (N, 4): xyxy, pixels of the frame; nothing outside is of the object
    grids: tuple[MaskGrid, ...]
    """Of each row: a frame may be looked at in regions, which have a grid of their own each."""

    def __len__(self) -> int:
        return len(self.maps)

    @classmethod
    def joined(cls, parts: Sequence[InstanceMasks]) -> InstanceMasks:
        """All rows of several."""
        return cls(
            tuple(m for p in parts for m in p.maps),
            np.concatenate([p.corners for p in parts]),
            np.concatenate([p.boxes for p in parts]),
            tuple(grid for p in parts for grid in p.grids),
        )

    def select(self, index: NDArray[Any]) -> InstanceMasks:
        """Rows by boolean mask or index."""
        rows = np.arange(len(self))[index]
        maps = tuple(self.maps[row] for row in rows.tolist())
        grids = tuple(self.grids[row] for row in rows.tolist())
        return InstanceMasks(maps, self.corners[rows], self.boxes[rows], grids)

    def of_rows(self, rows: NDArray[np.int64]) -> InstanceMasks:
        """Rows by index; -1 is a row without a map."""
        empty = np.empty((0, 0), np.float16)
        maps = tuple(empty if row < 0 else self.maps[row] for row in rows.tolist())
        if not len(self):
            none = (np.zeros((len(rows), 2), np.int64), np.zeros((len(rows), 4), np.float32))
            return InstanceMasks(maps, *none, (_NO_GRID,) * len(rows))
        grids = tuple(self.grids[row] for row in rows.tolist())
        return InstanceMasks(maps, self.corners[rows], self.boxes[rows], grids)

    def logits(
        self, row: int, x: NDArray[np.floating[Any]], y: NDArray[np.floating[Any]]
    ) -> NDArray[np.float32]:
        """(len(y), len(x)): values at places in the frame, pixels. The box does not cut them."""
        found = self.maps[row]
        if not found.size:
            return np.full((len(y), len(x)), -1, np.float32)
        column, line = self.corners[row].tolist()
        grid = self.grids[row]
        left, right, across = _between(grid.columns(x) - column, found.shape[1])
        above, below, down = _between(grid.rows(y) - line, found.shape[0])
        values = found.astype(np.float32)
        values = values[above] * (1 - down)[:, None] + values[below] * down[:, None]
        return np.asarray(values[:, left] * (1 - across) + values[:, right] * across, np.float32)

    def pixels(self, row: int, width: int, height: int) -> tuple[int, int, NDArray[np.bool_]]:
        """Of a frame of ``width`` × ``height``: x and y of the upper left pixel of a rectangle around the object, and which
        of its pixels (h, w) are of it. Empty (0 × 0) where nothing is known."""
        x1, y1, x2, y2 = self.boxes[row].astype(np.float64).tolist()
        left, top = max(0, int(np.ceil(x1))), max(0, int(np.ceil(y1)))
        right, bottom = min(width, int(np.ceil(x2))), min(height, int(np.ceil(y2)))
        if not self.maps[row].size or right <= left or bottom <= top:
            return 0, 0, np.zeros((0, 0), np.bool_)
        inside = self.logits(row, np.arange(left, right) + 0.5, np.arange(top, bottom) + 0.5) > 0
        return left, top, inside

    def foot(self, row: int) -> tuple[float, float] | None:
        """Where the object stands: the lowest place of its mask, and the middle of what lies near to it (a twentieth of the
        box's height); pixels of the frame. None where nothing is known."""
        x1, y1, x2, y2 = self.boxes[row].astype(np.float64).tolist()
        if not self.maps[row].size or x2 <= x1 or y2 <= y1:
            return None
        # four places a cell: as finely as bilinear values tell anything
        grid = self.grids[row]
        x = np.arange(x1, x2, max(grid.width / 4, (x2 - x1) / 256))
        y = np.arange(y1, y2, max(grid.height / 4, (y2 - y1) / 256))
        inside = self.logits(row, x, y) > 0
        lines = np.nonzero(inside.any(axis=1))[0]
        if not len(lines):
            return None
        lowest = float(y[lines[-1]])
        near = inside[y >= lowest - (y2 - y1) / 20].any(axis=0)
        return float(x[near].mean()), lowest


def _between(
    at: NDArray[np.float64], cells: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """The cells on either side of each place, and how far it is from the first to the second. Beyond the last cell's
    middle nothing changes."""
    at = np.clip(at, 0, cells - 1)
    first = np.minimum(np.floor(at).astype(np.intp), max(0, cells - 2))
    return first, np.minimum(first + 1, cells - 1), (at - first).astype(np.float32)
