"""Presence in a polygon, with hysteresis in pixels and seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from edgectl.pipelines.config import ZoneConfig
from edgectl.pipelines.events import Event
from edgectl.pipelines.rules.base import describe, pixels, wanted
from edgectl.pipelines.tracker import Tracks

__all__ = ["Stay", "ZoneRule"]


@dataclass
class Stay:
    """One track and one zone."""

    inside: bool = False
    since: float = 0.0
    """Inside: when it was first seen inside, before the hysteresis had passed."""
    pending: float | None = None
    """Since when the opposite is seen."""
    label: str = ""
    x: float = 0.0
    y: float = 0.0
    size: float = 0.0
    """Last seen anchor and box height, pixels."""


class ZoneRule:
    """Events ``zone`` with phase ``enter`` and ``leave`` (``reason``: ``left`` or ``lost``, ``dwell_s``)."""

    def __init__(self, name: str, config: ZoneConfig, labels: Sequence[str]) -> None:
        self.name = name
        self.stays: dict[int, Stay] = {}
        self._config = config
        self._labels = labels
        self._classes = wanted(config.classes, labels)
        self._size = (0, 0)
        self._polygon: Any = None
        self._boundary: Any = None

    @property
    def inside(self) -> dict[int, Stay]:
        """Track id → stay, of those who are in."""
        return {i: s for i, s in self.stays.items() if s.inside}

    def step(self, tracks: Tracks, t: float) -> list[Event]:
        events: list[Event] = []
        gone = self.stays.keys() - {int(i) for i in tracks.ids}
        for track in sorted(gone):
            stay = self.stays.pop(track)
            if stay.inside:
                events.append(
                    self._event(
                        "leave", t, {"track": track, "label": stay.label, "reason": "lost", "dwell_s": _s(t - stay.since)}
                    )
                )
        rows = [r for r in np.nonzero(tracks.seen)[0] if int(tracks.cls[r]) in self._classes]
        if not rows:
            return events
        points = tracks.anchor(self._config.anchor)[rows]
        depth = self._depth(points, tracks.width, tracks.height)
        for row, point, d in zip(rows, points, depth, strict=True):
            stay = self.stays.setdefault(int(tracks.ids[row]), Stay())
            stay.x, stay.y = float(point[0]), float(point[1])
            stay.size = float(tracks.xyxy[row, 3] - tracks.xyxy[row, 1])
            stay.label = self._labels[int(tracks.cls[row])]
            dwell = t - stay.since
            if self._turned(stay, float(d), t):
                about = describe(tracks, int(row), self._labels)
                if stay.inside:
                    events.append(self._event("enter", t, about))
                else:
                    events.append(self._event("leave", t, {**about, "reason": "left", "dwell_s": _s(dwell)}))
        return events

    def snapshot(self) -> dict[str, Any]:
        return {"stays": {str(i): asdict(s) for i, s in self.stays.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        self.stays = {int(i): Stay(**s) for i, s in state["stays"].items()}

    def _turned(self, stay: Stay, depth: float, t: float) -> bool:
        """Advance one stay; True if it went in or out. ``depth``: pixels inside (negative: outside)."""
        c = self._config
        opposite = depth <= -c.enter_px if stay.inside else depth >= c.enter_px
        same = depth > 0 if stay.inside else depth < 0
        if opposite and stay.pending is None:
            stay.pending = t
        elif same and not opposite:
            stay.pending = None
        if stay.pending is None or t - stay.pending < (c.exit_s if stay.inside else c.enter_s) - 1e-9:
            return False
        stay.inside, stay.since, stay.pending = not stay.inside, stay.pending, None
        return True

    def _depth(self, points: NDArray[np.float32], width: int, height: int) -> NDArray[np.float64]:
        if self._size != (width, height):
            self._polygon = shapely.Polygon(pixels(self._config.polygon, width, height))
            shapely.prepare(self._polygon)
            self._boundary = self._polygon.exterior
            self._size = (width, height)
        within = shapely.contains_xy(self._polygon, points[:, 0], points[:, 1])
        distance: NDArray[np.float64] = shapely.distance(self._boundary, shapely.points(points.astype(np.float64)))
        return np.where(within, distance, -distance)

    def _event(self, phase: str, t: float, data: dict[str, Any]) -> Event:
        return Event("zone", t, phase, self.name, {"zone": self.name, **data, "occupancy": len(self.inside)})


def _s(seconds: float) -> float:
    return round(seconds, 3)
