"""Masks as labels have them: polygons, or run lengths (RLE) of COCO. Untrusted: sizes are checked before anything is
allocated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Polygons", "Runs", "TrueShape", "read_polygons", "read_runs", "shape_bounds"]

_MOST_POINTS = 100_000
_MOST_PARTS = 1000
_MOST_COORDINATE = 1 << 18
_MOST_PIXELS = 8192 * 8192


@dataclass(frozen=True)
class Polygons:
    """Parts of one object, each (N, 2): x, y of its corners."""

    parts: tuple[NDArray[np.float64], ...]

    def scaled(self, width: int, height: int) -> Polygons:
        return Polygons(tuple(p * np.asarray([width, height], np.float64) for p in self.parts))

    def pixels(self, width: int, height: int) -> NDArray[np.bool_]:
        """(height, width): the pixels whose middle lies inside one of the parts. COCO's own drawing differs by
        pixels of the outline."""
        found = np.zeros((height, width), np.bool_)
        for part in self.parts:
            # no more of the picture than it reaches over
            low = np.clip(np.floor(part.min(axis=0)), 0, (width, height)).astype(np.intp)
            high = np.clip(np.ceil(part.max(axis=0)), 0, (width, height)).astype(np.intp)
            (x1, y1), (x2, y2) = low.tolist(), high.tolist()
            found[y1:y2, x1:x2] |= _filled(part - low, x2 - x1, y2 - y1)
        return found


@dataclass(frozen=True)
class Runs:
    """Lengths of runs of pixels, column by column, the first of what is not the object."""

    counts: NDArray[np.int64]
    width: int
    height: int

    def scaled(self, width: int, height: int) -> Runs:
        return self

    def pixels(self, width: int, height: int) -> NDArray[np.bool_]:
        """(height, width)."""
        values = np.arange(len(self.counts)) % 2 == 1
        columns = np.repeat(values, self.counts).reshape(self.width, self.height)
        return np.asarray(columns.T, np.bool_)


TrueShape = Polygons | Runs


def shape_bounds(shape: TrueShape) -> tuple[float, float, float, float]:
    """xyxy around a shape."""
    if isinstance(shape, Polygons):
        points = np.concatenate(shape.parts)
        (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        return x1, y1, x2, y2
    rows, columns = np.nonzero(shape.pixels(shape.width, shape.height))
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)


def read_polygons(parts: Any, size: tuple[int, int] | None = None) -> Polygons:
    """``[[x, y, x, y, …], …]``. ``size``: width and height of the picture, which a shape may leave by as much on each side.
    Raises ValueError with what is wrong."""
    if len(parts) > _MOST_PARTS:
        raise ValueError(f"segmentation has more than {_MOST_PARTS} polygons")
    beyond = _MOST_COORDINATE if size is None else max(size)
    lowest, highest = (-beyond, 2 * beyond)
    found, points_of_all = [], 0
    for part in parts:
        if not isinstance(part, list) or len(part) < 6 or len(part) % 2:
            raise ValueError("a polygon of segmentation is no list of at least three points")
        points_of_all += len(part) // 2
        if points_of_all > _MOST_POINTS:
            raise ValueError(f"the polygons of segmentation have more than {_MOST_POINTS} points")
        if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in part):
            raise ValueError("a polygon of segmentation holds something that is no number")
        # before they are numbers of a machine: JSON has longer ones
        if not all(lowest <= v <= highest for v in part):
            raise ValueError("a polygon of segmentation lies far outside of its picture, or is not finite")
        found.append(np.asarray(part, np.float64).reshape(-1, 2))
    if not found:
        raise ValueError("segmentation is empty")
    return Polygons(tuple(found))


def read_runs(value: Any, width: int, height: int) -> Runs:
    """COCO's RLE of a picture of ``width`` × ``height``, as numbers or in its compressed form. Raises ValueError with
    what is wrong."""
    if not isinstance(value, dict) or value.get("size") != [height, width]:
        raise ValueError(
            f"the RLE of segmentation does not say size [{height}, {width}], that of its picture"
        )
    if width * height > _MOST_PIXELS:
        raise ValueError(f"its picture has more than {_MOST_PIXELS} pixels")
    counts = value.get("counts")
    if isinstance(counts, str):
        if len(counts) > 8 * _MOST_POINTS:
            raise ValueError("the RLE of segmentation is too long")
        runs = _uncompressed(counts)
    elif isinstance(counts, list) and len(counts) <= 2 * _MOST_POINTS:
        if not all(isinstance(c, int) and not isinstance(c, bool) for c in counts):
            raise ValueError("the RLE of segmentation holds something that is no whole number")
        runs = counts
    else:
        raise ValueError("the RLE of segmentation has no counts, or too many")
    if any(not 0 <= c <= width * height for c in runs) or sum(runs) != width * height:
        raise ValueError(
            f"the runs of segmentation do not add up to the {width * height} pixels of its picture"
        )
    return Runs(np.asarray(runs, np.int64), width, height)


def _uncompressed(text: str) -> list[int]:
    """Six bits a character, five of them of the number, lowest first; from the third run on, the difference to the one
    two before."""
    runs: list[int] = []
    number = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 40:
            raise ValueError("the RLE of segmentation is no compressed RLE of COCO")
        number |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            number |= -1 << shift
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
        number = shift = 0
    if shift:
        raise ValueError("the RLE of segmentation is cut off")
    return runs


def _filled(points: NDArray[np.float64], width: int, height: int) -> NDArray[np.bool_]:
    """Even-odd: each edge turns over what lies to the right of it in the rows that it crosses."""
    flips = np.zeros((height, width + 1), np.bool_)
    for (x1, y1), (x2, y2) in zip(points.tolist(), np.roll(points, -1, axis=0).tolist(), strict=True):
        if y1 == y2:
            continue
        low, high = min(y1, y2), max(y1, y2)
        first, last = max(0, int(np.ceil(low - 0.5))), min(height, int(np.ceil(high - 0.5)))
        rows = np.arange(first, last)
        across = x1 + (rows + 0.5 - y1) * (x2 - x1) / (y2 - y1)
        columns = np.clip(np.ceil(across - 0.5), 0, width).astype(np.intp)
        flips[rows, columns] ^= True
    inside: NDArray[np.bool_] = np.logical_xor.accumulate(flips, axis=1)[:, :width]
    return inside
