"""Which regions of a frame the detector sees: the whole picture from time to time, and between that regions around
what moves and what is tracked. Pure: what is known comes in with its time.

A region has the shape of the detector's input and at least its size, so that nothing is made smaller without need;
one that must hold something larger is larger. Where there is more to see than calls to see it, the whole picture is
one of them, and what has waited longest has the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgectl.core.schema import Config

__all__ = ["Interest", "Region", "RegionConfig", "RegionCover"]

F32 = NDArray[np.float32]
Box = NDArray[np.float64]
"""xyxy in pixels."""

_ALIGN = 4
"""Regions begin at multiples of it: so they can be cut from planes with fewer samples of colour."""
_MARGIN = 0.2
"""Of the longer side, around what is looked at: a detector wants to see where a thing ends."""
_MARGIN_PX = 8.0
_CUT_MARGIN = 0.6
"""The same for what a region's border has cut: nobody knows how far it goes on."""
_WORTH = 1.5
"""A region that shows things larger than the whole picture does by less than this is not worth a call."""
_COARSER = 1.5
"""So much smaller things may be shown before regions are left out."""
_MOST_PLACES = 48
"""Of more things the first ones are looked at: what has waited longest."""
_CELLS = (18, 32)
"""Rows and columns in which it is remembered when a place was looked at."""


class RegionConfig(Config):
    on: bool = False
    """What moves and what is tracked is looked at in regions of the picture at its own resolution, not in the whole
    picture made small: for small objects. Costs more calls of the engine."""
    most: int = Field(default=4, ge=1, le=16)
    """Calls of the engine for one frame, at most; of a live source only as many as fit. Where they do not suffice,
    the whole picture is one of them."""
    whole_s: float = Field(default=2.0, gt=0, le=3600)
    """The whole picture is looked at so often, for what has never moved."""
    small_px: int = Field(default=20, ge=8, le=400)
    """Longer side of the smallest thing that is looked at when it moves, in pixels of the picture."""


class Region(NamedTuple):
    """Of the picture, in whole pixels."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Interest:
    """What there is to look at in a frame. Boxes are (N, 4) xyxy in pixels."""

    moves: F32
    """What moves."""
    known: F32
    """What is tracked and has to be seen now, and what was found and is not confirmed yet."""
    cut: F32
    """What the border of a region has cut in the frame before."""


class RegionCover:
    """One per stream. Times are seconds of capture time, in order."""

    def __init__(self, config: RegionConfig) -> None:
        self._config = config
        self._whole_s = -math.inf
        self._looked = np.full(_CELLS, -math.inf)
        self._size = (0, 0)

    def choose(
        self, t_s: float, size: tuple[int, int], tensor: tuple[int, int], interest: Interest, calls: int
    ) -> tuple[Region | None, ...]:
        """What the detector sees of the frame of ``t_s``, in order; None is the whole picture.

        ``size`` is the frame's, ``tensor`` the detector's input (width, height), ``calls`` how many regions
        it may be, at least 1.
        """
        if size != self._size:
            self._size, self._whole_s = size, -math.inf
            self._looked[:] = -math.inf
        whole = t_s - self._whole_s >= self._config.whole_s
        places, coarse = self._places(interest, tensor)
        wanted = _regions(places, size, tensor, calls - whole)
        whole = whole or coarse or not wanted or len(wanted) > calls
        if whole:
            self._whole_s = t_s
        # what has waited longest is first; of the rest what comes first in the list
        wanted.sort(key=self._seen_s)
        chosen = wanted[: calls - whole]
        for region in chosen:
            self._looked[self._cells(region)] = t_s
        return (*((None,) if whole else ()), *chosen)

    def _places(self, interest: Interest, tensor: tuple[int, int]) -> tuple[list[Box], bool]:
        """Boxes with their margins, what has been cut first; and whether something is left to the whole picture: it is
        so large that it is shown as well there, or there is too much."""
        cut, known, moves = (
            self._inside(_widened(boxes, margin))
            for boxes, margin in (
                (interest.cut, _CUT_MARGIN),
                (interest.known, _MARGIN),
                (interest.moves, _MARGIN),
            )
        )
        large = [not _worth(box, self._size, tensor) for box in known]
        # an arm of somebody near is no thing of its own
        moves = [m for m in moves if not any(_holds(k, m) for k, of in zip(known, large, strict=True) if of)]
        places = [*cut, *known, *moves]
        small = [place for place in places if _worth(place, self._size, tensor)]
        if len(small) > _MOST_PLACES:
            small.sort(key=lambda place: float(self._looked[self._cell(place)]))
            del small[_MOST_PLACES:]
        return small, len(small) < len(places)

    def _inside(self, boxes: F32) -> list[Box]:
        """What of them lies in the picture."""
        boxes = np.clip(boxes, 0, np.array([*self._size, *self._size]))
        return list(boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)].astype(np.float64))

    def _cell(self, place: Box) -> tuple[int, int]:
        x, y = (place[0] + place[2]) / 2, (place[1] + place[3]) / 2
        row = min(_CELLS[0] - 1, int(y * _CELLS[0] / self._size[1]))
        return row, min(_CELLS[1] - 1, int(x * _CELLS[1] / self._size[0]))

    def _cells(self, region: Region) -> tuple[slice, slice]:
        """Whatever of it lies in the region."""
        down, across = _CELLS[0] / self._size[1], _CELLS[1] / self._size[0]
        rows = slice(int(region.y * down), math.ceil((region.y + region.height) * down))
        return rows, slice(int(region.x * across), math.ceil((region.x + region.width) * across))

    def _seen_s(self, region: Region) -> float:
        """When its middle was looked at last."""
        middle = np.array([region.x, region.y, region.x + region.width, region.y + region.height], np.float64)
        return float(self._looked[self._cell(middle)])


def _widened(boxes: F32, share: float) -> F32:
    if not len(boxes):
        return np.empty((0, 4), np.float32)
    margin = share * (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True) + _MARGIN_PX
    return np.concatenate([boxes[:, :2] - margin, boxes[:, 2:] + margin], axis=1).astype(np.float32)


def _holds(outer: Box, inner: Box) -> bool:
    return bool((outer[:2] <= inner[:2]).all() and (outer[2:] >= inner[2:]).all())


def _regions(boxes: list[Box], size: tuple[int, int], tensor: tuple[int, int], most: int) -> list[Region]:
    """As few regions as hold all places without making them smaller; ``most`` if that is possible with making them a
    little smaller."""
    boxes = _joined(boxes, size, tensor, 1.0, 0)
    if len(boxes) > most:
        boxes = _joined(boxes, size, tensor, _COARSER, most)
    return [_around(box, size, tensor) for box in boxes]


def _joined(
    boxes: Sequence[Box], size: tuple[int, int], tensor: tuple[int, int], coarser: float, enough: int
) -> list[Box]:
    """Join the two that are closest, while what holds both shows them at most ``coarser`` times smaller than the input
    shows one alone, and there are more than ``enough``."""
    if len(boxes) < 2:
        return list(boxes)
    array = np.stack(boxes)
    left = np.arange(len(boxes))
    area = np.full((len(boxes), len(boxes)), np.inf)
    for i in left:
        area[i, i + 1 :] = _area_of_both(array[i], array[i + 1 :], tensor, coarser)
    while len(left) > max(1, enough):
        i, j = np.unravel_index(int(area.argmin()), area.shape)
        if not np.isfinite(area[i, j]):
            break
        both = np.concatenate(
            [np.minimum(array[i, :2], array[j, :2]), np.maximum(array[i, 2:], array[j, 2:])]
        )
        if not _worth(both, size, tensor):
            area[i, j] = np.inf
            continue
        array[i] = both
        left = left[left != j]
        area[j, :] = area[:, j] = np.inf
        again = _area_of_both(both, array[left], tensor, coarser)
        area[left, i], area[i, left] = np.where(left < i, again, np.inf), np.where(left > i, again, np.inf)
    return [array[i] for i in left]


def _area_of_both(
    box: Box, others: NDArray[np.float64], tensor: tuple[int, int], coarser: float
) -> NDArray[np.float64]:
    """Of what holds it and one of the others (N, 4), in inputs; infinite where that shows them too small."""
    side = np.array(tensor)
    both = (np.maximum(box[2:], others[:, 2:]) - np.minimum(box[:2], others[:, :2])) / side
    alone = np.maximum(((others[:, 2:] - others[:, :2]) / side).max(axis=1), 1.0)
    alone = np.maximum(alone, ((box[2:] - box[:2]) / side).max())
    return np.where(both.max(axis=1) <= coarser * alone + 1e-9, both.prod(axis=1), np.inf)


def _worth(box: Box, size: tuple[int, int], tensor: tuple[int, int]) -> bool:
    """Whether a region around it shows it enough larger than the whole picture does."""
    whole = max(size[0] / tensor[0], size[1] / tensor[1])
    x1, y1, x2, y2 = box.tolist()
    return bool(whole >= _WORTH * max(1.0, (x2 - x1) / tensor[0], (y2 - y1) / tensor[1]))


def _around(box: Box, size: tuple[int, int], tensor: tuple[int, int]) -> Region:
    """The region with ``box`` in its middle, or as near to it as the picture goes."""
    scale = max(1.0, (box[2] - box[0]) / tensor[0], (box[3] - box[1]) / tensor[1])
    at, sides = [], []
    for low, high, tensor_side, whole in zip(box[:2], box[2:], tensor, size, strict=True):
        side = min(whole, _ALIGN * math.ceil(tensor_side * scale / _ALIGN))
        start = min(max(0.0, (low + high - side) / 2), whole - side)
        # the last pixels of a picture whose size is odd
        start = _ALIGN * int(start // _ALIGN)
        if start + side < high:
            side = min(whole - start, side + _ALIGN)
        at.append(start)
        sides.append(side)
    return Region(at[0], at[1], sides[0], sides[1])
