"""Whether an object stands still: a place that its foot does not leave by more than it trembles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgectl.pipelines.rules.observation import Observation

__all__ = ["StandingPlace", "Stillness"]

_TREMBLES = 4.0
"""Standard deviations of its tremble that are no step."""
_STEP = 0.2
"""Of a box's height: less is no step."""
_AWAY_S = 0.5
"""How long it must be away to have moved."""


@dataclass(slots=True)
class StandingPlace:
    """One track. Pixels and seconds of capture time."""

    x: float
    y: float
    """Where it stands."""
    since: float
    seen: float
    away: float | None = None
    """Since when it is seen elsewhere."""
    moved: float = 0.0
    """How far from the place it was seen last, and what would be a step."""
    step: float = 0.0
    n: int = 1
    """Sightings that the place is the mean of, so that one bad box does not decide."""


class Stillness:
    """Of all tracks of a stream."""

    def __init__(self) -> None:
        self.tracks: dict[int, StandingPlace] = {}

    def step(self, now: Observation) -> None:
        for track in [track for track in self.tracks if track not in now.alive]:
            del self.tracks[track]
        feet = now.points("bottom_center").tolist()
        for row in now.rows:
            (x, y), track = feet[row], now.ids[row]
            at = self.tracks.get(track)
            if at is None:
                past = now.tracks.past.get(track)
                since = now.t if past is None else float(past[0, 0])
                at = self.tracks[track] = StandingPlace(x, y, since, now.t)
            at.seen = now.t
            at.step = max(_STEP * now.heights[row], _TREMBLES * now.trembles[row])
            at.moved = math.hypot(x - at.x, y - at.y)
            if at.moved <= at.step:
                at.away = None
                at.n += 1
                at.x += (x - at.x) / at.n
                at.y += (y - at.y) / at.n
                continue
            if at.away is None:
                at.away = now.t
            if now.t - at.away >= _AWAY_S - 1e-9:
                self.tracks[track] = StandingPlace(x, y, now.t, now.t, step=at.step)

    def snapshot(self) -> dict[str, Any]:
        return {str(track): asdict(at) for track, at in self.tracks.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.tracks = {int(track): StandingPlace(**at) for track, at in state.items()}
