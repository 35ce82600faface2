"""What is usual in a place: how many passed there, in which direction, how fast, and who stood for how long.

The picture is a grid of cells. In each cell stand counts by direction and speed, and by how long something stood. A
visit is shared among the nearest cells, directions and speeds (linear interpolation), so that a neighbour counts as
nearly the same. Counts fade with a half-life of days. The memory does not grow.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["COLUMNS", "ROWS", "STOOD_S", "UsualPaths", "Visit"]

COLUMNS, ROWS = 32, 18
_DIRECTIONS = 8
_SPEEDS = 10
_SLOWEST, _STEP = 0.15, 1.6
"""Heights a second of the first speed; each is so many times the one before."""
STOOD_S = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
"""Standing is noted when it has lasted so long."""
_BINS = _DIRECTIONS * _SPEEDS + len(STOOD_S)
_NOBODY = 0.3
"""What nobody did yet counts as so many."""


@dataclass(frozen=True, slots=True)
class Visit:
    """Something was in a place."""

    x: float
    y: float
    """Relative to the frame."""
    dx: float = 0.0
    dy: float = 0.0
    """Heights a second, y down."""
    stood: int | None = None
    """Which of :data:`STOOD_S` was reached, by who stands."""


class UsualPaths:
    """Of one label."""

    def __init__(self) -> None:
        self.tracks = 0.0
        """Learned; faded like the counts."""
        self._counts: NDArray[np.float64] = np.zeros(ROWS * COLUMNS * _BINS)

    def surprise(self, visit: Visit) -> float:
        """0 where every track did the same, 1 where none did."""
        places, weights = _shares(visit)
        alike = float((weights * self._counts[places]).sum() / (weights * weights).sum())
        share = (alike + _NOBODY) / (self.tracks + 1)
        return min(1.0, max(0.0, -math.log(share) / math.log((self.tracks + 1) / _NOBODY)))

    def learn(self, visits: Sequence[Visit], worth: float = 1.0) -> None:
        """One track, which counts as ``worth`` tracks."""
        for visit in visits:
            places, weights = _shares(visit)
            np.add.at(self._counts, places, worth * weights)
        self.tracks += worth

    def fade(self, share: float) -> None:
        """Keep this share of what was learned."""
        self.tracks *= share
        self._counts *= share

    def dump(self) -> dict[str, Any]:
        """JSON values: counts as float32, deflated, base64."""
        packed = zlib.compress(self._counts.astype("<f4").tobytes(), 6)
        return {"tracks": self.tracks, "counts": base64.b64encode(packed).decode()}

    @classmethod
    def of(cls, state: dict[str, Any]) -> UsualPaths:
        """Raises KeyError, TypeError or ValueError for what :meth:`dump` never said."""
        paths = cls()
        unpacker = zlib.decompressobj()
        try:
            size = 4 * len(paths._counts)
            flat = np.frombuffer(unpacker.decompress(base64.b64decode(state["counts"]), size + 1), "<f4")
        except zlib.error as e:
            raise ValueError(str(e)) from e
        tracks = float(state["tracks"])
        if (
            len(flat) != len(paths._counts)
            or not np.isfinite(flat).all()
            or (flat < 0).any()
            or not tracks >= 0
        ):
            raise ValueError("these are no counts")
        paths._counts, paths.tracks = flat.astype(np.float64), tracks
        return paths


def _shares(visit: Visit) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Places in the flat counts, and what each gets of the visit: 16, or 4 of who stands."""
    row, column = _between(visit.y * ROWS - 0.5, ROWS), _between(visit.x * COLUMNS - 0.5, COLUMNS)
    if visit.stood is not None:
        bins = [(_DIRECTIONS * _SPEEDS + visit.stood, 1.0)]
    else:
        turn = math.atan2(visit.dy, visit.dx) / (2 * math.pi) * _DIRECTIONS
        first = math.floor(turn)
        directions = [(first % _DIRECTIONS, 1 - turn + first), ((first + 1) % _DIRECTIONS, turn - first)]
        speed = math.log(max(math.hypot(visit.dx, visit.dy), 1e-6) / _SLOWEST) / math.log(_STEP)
        bins = [(d * _SPEEDS + s, wd * ws) for d, wd in directions for s, ws in _between(speed, _SPEEDS)]
    places = [(r * COLUMNS + c) * _BINS + b for r, _ in row for c, _ in column for b, _ in bins]
    weights = [wr * wc * wb for _, wr in row for _, wc in column for _, wb in bins]
    return np.array(places, np.intp), np.array(weights, np.float64)


def _between(at: float, n: int) -> list[tuple[int, float]]:
    """The two of ``n`` numbers that a value lies between, and its share in each."""
    at = min(max(at, 0.0), n - 1.0)
    low = min(int(at), n - 2)
    return [(low, 1 - (at - low)), (low + 1, at - low)]
