"""How each track moves, from where its foot was seen: speed, and how much it trembles. Computed once a frame for
all rules.

A straight walk is fitted to the last sightings by least squares, the older the less they count (time constant
:data:`_FADE_S`); what is left over says how well its speed is known. The tremble, the noise of the detector in
pixels, is how far each sighting lies from the way between the one before and the one after: so somebody who turns or
brakes does not tremble. Where little was seen yet, a usual tremble is assumed (:data:`_USUAL`, as some
sightings).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgectl.pipelines.video.tracker import Tracks

__all__ = ["Motion", "MotionEstimator", "still"]

F64 = NDArray[np.float64]

_FADE_S = 1.0
_TREMBLE_FADE_S = 6.0
"""How much a detector trembles changes slowly, and takes many sightings to know."""
_USUAL = 0.08
"""Of a box's height."""
_USUAL_WORTH, _USUAL_TREMBLE_WORTH = 1.5, 5.0
"""Sightings; a tracker that finds again what is near hides some of the tremble at first."""
_MOST = 0.15
"""Of a box's height: more is no tremble, but a turn or a jump."""
_LEAST_SPREAD = 1e-6
"""s²: of sightings so near in time no speed is told."""
_NEIGHBOURS_S = (0.5, 1.0)
"""Between the sightings before and after: up to the first figure they count whole, from the second on not at all."""
_SUMS = 9
# Rows of the sums of each track and axis: of weights w, w², w·u, w·u², w·z, w·u·z, w·z²; u is the time since now
# (at most 0), z the place from where the track was first seen. Then of the weights v of the trembles r, and of v·r².


class Motion:
    """In the order of the tracks. Pixels and seconds; the foot is the bottom centre of the box. Each figure is
    computed when a rule asks for it."""

    def __init__(self, sums: F64, heights: F64) -> None:
        """``sums``: (9, N, 2) as above; all zero for a track of which nothing is known."""
        self._w, self._ww, self._wu, self._wuu, self._wz, self._wuz, self._wzz, self._v, self._vrr = sums
        self._heights = heights

    def select(self, keep: NDArray[np.bool_]) -> Motion:
        """Of some of the tracks, by a mask (N,)."""
        sums = np.stack(
            [self._w, self._ww, self._wu, self._wuu, self._wz, self._wuz, self._wzz, self._v, self._vrr]
        )
        return Motion(sums[:, keep], self._heights[keep])

    @cached_property
    def jitter(self) -> F64:
        """(N, 2): standard deviation of the foot's x and y around its way."""
        return self._deviation(self._vrr, self._v, _USUAL_TREMBLE_WORTH)

    @cached_property
    def velocity(self) -> F64:
        """(N, 2): px/s; 0 where it was seen once only."""
        out: F64 = self._common / np.maximum(self._spread, _LEAST_SPREAD)
        return out

    @cached_property
    def velocity_error(self) -> F64:
        """(N, 2): standard deviation of :attr:`velocity`; infinite where it was seen once only."""
        spread = np.maximum(self._spread, _LEAST_SPREAD)
        w, wz = self._weight, self._wz
        rest = self._wzz - wz * wz / w - self.velocity * self._common
        free = np.maximum(w - 2 * self._ww / w, 0.0)
        away = self._deviation(np.maximum(rest, 0.0), free, _USUAL_WORTH)
        error = away * np.sqrt(self._ww / (w * spread))
        return np.where(self._spread > _LEAST_SPREAD, error, np.inf)

    def _deviation(self, squares: F64, worth: F64, usual_worth: float) -> F64:
        """From a sum of squares of ``worth`` sightings, and what is usual as ``usual_worth`` more."""
        heights = self._heights[:, None]
        deviation = np.sqrt((usual_worth * (_USUAL * heights) ** 2 + squares) / (usual_worth + worth))
        most: F64 = np.minimum(deviation, _MOST * heights)
        return most

    @cached_property
    def _weight(self) -> F64:
        out: F64 = np.maximum(self._w, 1e-9)
        return out

    @cached_property
    def _spread(self) -> F64:
        out: F64 = self._wuu - self._wu * self._wu / self._weight
        return out

    @cached_property
    def _common(self) -> F64:
        out: F64 = self._wuz - self._wu * self._wz / self._weight
        return out


def still(tracks: Tracks) -> Motion:
    """Of tracks of which nothing is known: the usual tremble, no speed."""
    return Motion(np.zeros((_SUMS, len(tracks), 2)), _heights(tracks.xyxy))


class MotionEstimator:
    """State of one stream; steps once with each observation, before the rules."""

    def __init__(self) -> None:
        self._ids: NDArray[np.int64] = np.empty(0, np.int64)
        self._last: F64 = np.empty((2, 0))
        """When the last two sightings were, the last one first; not a number where there were none."""
        self._places: F64 = np.empty((2, 0, 2))
        self._from: F64 = np.empty((0, 2))
        self._sums: F64 = np.empty((_SUMS, 0, 2))
        self._size: tuple[int, int] | None = None

    def step(self, tracks: Tracks, t: float) -> Motion:
        self._align(tracks)
        for track, sightings in tracks.past.items():
            row = np.searchsorted(self._ids, [track])
            x, y = tracks.foot_in_box(track)
            for time, x1, y1, x2, y2 in sightings.tolist():
                self._add(row, np.array([[x1 + x * (x2 - x1), y1 + y * (y2 - y1)]]), time)
        if len(tracks):
            feet = tracks.anchor().astype(np.float64)
            if tracks.seen.all():
                self._add(slice(None), feet, t)
            else:
                rows = np.nonzero(tracks.seen)[0]
                self._add(rows, feet[rows], t)
        return Motion(self._sums, _heights(tracks.xyxy))

    def snapshot(self) -> dict[str, Any]:
        return {
            "ids": self._ids.tolist(),
            "last": [[None if np.isnan(t) else t for t in row] for row in self._last.tolist()],
            "places": self._places.tolist(),
            "from": self._from.tolist(),
            "sums": self._sums.tolist(),
            "size": self._size,
        }

    def restore(self, state: dict[str, Any]) -> None:
        n = len(state["ids"])
        self._ids, self._last = np.array(state["ids"], np.int64), np.array(state["last"], np.float64)
        self._last = self._last.reshape(2, n)
        self._places = np.array(state["places"], np.float64).reshape(2, n, 2)
        self._from = np.array(state["from"], np.float64).reshape(n, 2)
        self._sums = np.array(state["sums"], np.float64).reshape(_SUMS, n, 2)
        self._size = None if state["size"] is None else (int(state["size"][0]), int(state["size"][1]))

    def _align(self, tracks: Tracks) -> None:
        """One row a track, in their order. Pixels of another size are other pixels: all begins anew."""
        size, n = (tracks.width, tracks.height), len(tracks)
        if self._size == size and np.array_equal(self._ids, tracks.ids):
            return
        known = np.isin(tracks.ids, self._ids) if self._size in (None, size) else np.zeros(n, np.bool_)
        last, places = np.full((2, n), np.nan), np.zeros((2, n, 2))
        start, sums = np.zeros((n, 2)), np.zeros((_SUMS, n, 2))
        old = np.searchsorted(self._ids, tracks.ids[known])
        last[:, known], places[:, known] = self._last[:, old], self._places[:, old]
        start[known], sums[:, known] = self._from[old], self._sums[:, old]
        self._ids, self._last, self._places, self._from, self._sums = (
            tracks.ids.copy(),
            last,
            places,
            start,
            sums,
        )
        self._size = size

    def _add(self, rows: Any, at: F64, t: float) -> None:
        """Sightings ``at`` (M, 2) of the tracks in ``rows``."""
        w, ww, wu, wuu, wz, wuz, wzz, v, vrr = self._sums[:, rows]
        if not w.all():
            fresh = np.arange(len(self._ids))[rows][w[:, 0] == 0]
            self._from[fresh] = at[w[:, 0] == 0]
            self._last[0, fresh] = t
        dt = (t - self._last[0, rows])[:, None]
        fade = np.exp(-dt / _FADE_S)
        z = at - self._from[rows]
        back = dt * w
        worth, tremble = self._tremble(rows, z, t)
        sums = np.empty((_SUMS, *z.shape))
        sums[0] = fade * w + 1
        sums[1] = fade * fade * ww + 1
        sums[2] = fade * (wu - back)
        sums[3] = fade * (wuu - dt * (2 * wu - back))
        sums[4] = fade * wz + z
        sums[5] = fade * (wuz - dt * wz)
        sums[6] = fade * wzz + z * z
        slow = np.exp(-dt / _TREMBLE_FADE_S)
        sums[7] = slow * v + worth
        sums[8] = slow * vrr + worth * tremble * tremble
        # never in place: a Motion may still look at the old ones
        if len(z) == len(self._ids):
            self._sums = sums
        else:
            self._sums = self._sums.copy()
            self._sums[:, rows] = sums
        self._last[1, rows], self._places[1, rows] = self._last[0, rows], self._places[0, rows]
        self._last[0, rows], self._places[0, rows] = t, z

    def _tremble(self, rows: Any, z: F64, t: float) -> tuple[F64, F64]:
        """Weight (M, 1) and distance (M, 2) of the last place from the way between the one before it and ``z``, as a
        standard deviation: all three tremble."""
        t1, t0 = self._last[0, rows], self._last[1, rows]
        span = t - t0
        known = span > 0
        part = np.where(known, (t1 - t0) / np.where(known, span, 1.0), 0.0)[:, None]
        away = self._places[0, rows] - (self._places[1, rows] + part * (z - self._places[1, rows]))
        near, far = _NEIGHBOURS_S
        worth = np.where(known, np.clip((far - span) / (far - near), 0.0, 1.0), 0.0)[:, None]
        return worth, away / np.sqrt(1 + part * part + (1 - part) ** 2)


def _heights(xyxy: NDArray[np.floating[Any]]) -> F64:
    out: F64 = np.maximum((xyxy[:, 3] - xyxy[:, 1]).astype(np.float64), 1.0)
    return out
