"""Where objects stand, by their masks: steadied over time, and carried on with the box where an object is not seen.

A box that holds an open car door, a shadow or a raised arm has the middle of its lower edge where nobody stands; the
lowest place of a mask is on the ground.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgectl.pipelines.video.decode import Detections
from edgectl.pipelines.video.tracker import TrackConfig, Tracks

__all__ = ["FootTracker"]

_STEADY_S = 0.4
"""Time constant of the mean: a foot that is lifted is another place for a moment."""
_MIDDLE = (0.5, 1.0)


class _ObjectTracker(Protocol):
    def update(
        self,
        found: Detections,
        t: float,
        width: int,
        height: int,
        camera: NDArray[np.float64] | None = None,
    ) -> Tracks: ...

    def adopt(self, config: TrackConfig, period_s: float | None) -> None: ...


class FootTracker:
    """A tracker whose tracks say where in their box they stand."""

    def __init__(self, tracker: _ObjectTracker) -> None:
        self._tracker = tracker
        self._known: dict[int, tuple[float, float, float]] = {}
        """Track → x and y in its box, 0..1, and when it was seen last."""

    def adopt(self, config: TrackConfig, period_s: float | None) -> None:
        """Other settings of the tracker from the next frame on."""
        self._tracker.adopt(config, period_s)

    def update(
        self,
        found: Detections,
        t: float,
        width: int,
        height: int,
        camera: NDArray[np.float64] | None = None,
    ) -> Tracks:
        """``camera``: see :meth:`~edgectl.pipelines.video.tracker.Tracker.update`."""
        tracks = self._tracker.update(found, t, width, height, camera)
        before, self._known = self._known, {}
        places = np.empty((len(tracks), 2), np.float32)
        for row, track in enumerate(tracks.ids.tolist()):
            known = before.get(track)
            at = _foot(tracks, row)
            if at is not None and known is not None:
                share = 1 - math.exp(-(t - known[2]) / _STEADY_S)
                at = (known[0] + share * (at[0] - known[0]), known[1] + share * (at[1] - known[1]))
            if at is not None:
                known = (*at, t)
            if known is not None:
                self._known[track] = known
            places[row] = _MIDDLE if known is None else known[:2]
        return dataclasses.replace(tracks, foot_at=places)


def _foot(tracks: Tracks, row: int) -> tuple[float, float] | None:
    """In the box in which the mask was detected, 0..1. None where nothing is known."""
    if tracks.masks is None or (foot := tracks.masks.foot(row)) is None:
        return None
    x1, y1, x2, y2 = tracks.masks.boxes[row].tolist()
    x, y = (foot[0] - x1) / max(x2 - x1, 1e-6), (foot[1] - y1) / max(y2 - y1, 1e-6)
    return min(max(x, 0.0), 1.0), min(max(y, 0.0), 1.0)
