"""Presence in a polygon, with hysteresis in pixels and seconds.

A zone that touches the frame's edge goes on beyond it. A box is cut off there, and so its foot lies on the
edge however far outside the object stands: that edge is no border of the zone, and nobody is less deep in it
for being near.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from pydantic import Field

from edgectl.core.schema import Config
from edgectl.pipelines.rules.observation import EDGE, Observation, Seconds, describe, wanted
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.video.polygon import Polygon
from edgectl.pipelines.video.tracker import Tracks

__all__ = ["Stay", "ZoneConfig", "ZoneRule"]


class ZoneConfig(Config):
    polygon: Polygon
    """x, y, x, y, … relative to the frame."""
    anchor: Literal["bottom_center", "center"] = "bottom_center"
    """The point of a box that must be inside."""
    enter_px: float = Field(default=4.0, ge=0, le=1000)
    """How deep inside (and how far outside, to leave) an object must be."""
    enter_s: Seconds = 0.2
    """How long it must be inside before it has entered."""
    exit_s: Seconds = 0.5
    """How long it must be outside, or away, before it has left."""
    classes: tuple[str, ...] = ()
    """Labels that count; empty: all."""


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
        self._border: Any = None
        """What of the polygon's outline does not run along the frame's edge."""

    @property
    def inside(self) -> dict[int, Stay]:
        """Track id → stay, of those who are in."""
        return {i: s for i, s in self.stays.items() if s.inside}

    def step(self, now: Observation) -> list[Event]:
        tracks, t = now.tracks, now.t
        events: list[Event] = []
        gone = self.stays.keys() - {int(i) for i in tracks.ids}
        for track in sorted(gone):
            stay = self.stays.pop(track)
            if stay.inside:
                events.append(
                    self._event(
                        "leave",
                        t,
                        {
                            "track": track,
                            "label": stay.label,
                            "reason": "lost",
                            "dwell_s": _s(t - stay.since),
                        },
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

    def holds(self, tracks: Tracks) -> NDArray[np.bool_]:
        """Which objects (N,) lie in the zone in this very picture, without hysteresis; the state is left
        alone."""
        wanted_class = np.isin(tracks.cls, sorted(self._classes))
        if not len(tracks):
            return wanted_class
        return wanted_class & (
            self._depth(tracks.anchor(self._config.anchor), tracks.width, tracks.height) > 0
        )

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
            self._polygon, self._border = _in_frame(self._config.polygon, width, height)
            self._size = (width, height)
        points = np.clip(points.astype(np.float64), 0, [width, height])
        within = shapely.intersects_xy(self._polygon, points[:, 0], points[:, 1])
        if self._border.is_empty:  # the zone is the whole picture
            return np.where(within, np.inf, -np.inf)
        distance: NDArray[np.float64] = shapely.distance(self._border, shapely.points(points))
        return np.where(within, distance, -distance)

    def _event(self, phase: str, t: float, data: dict[str, Any]) -> Event:
        return Event("zone", t, phase, self.name, {"zone": self.name, **data, "occupancy": len(self.inside)})


def _s(seconds: float) -> float:
    return round(seconds, 3)


def _in_frame(flat: Sequence[float], width: int, height: int) -> tuple[Any, Any]:
    """The part of a zone that can be seen, in pixels, and its border without what lies along the frame's
    edge."""
    corners = np.array(flat, np.float64).reshape(-1, 2)
    corners = np.where(np.abs(corners) <= EDGE, 0.0, np.where(np.abs(corners - 1) <= EDGE, 1.0, corners))
    drawn = shapely.Polygon(corners * [width, height])
    frame = shapely.box(0, 0, width, height)
    if not drawn.is_valid or drawn.intersection(frame).area <= 0:  # it lies outside: nobody is ever in it
        drawn = shapely.Polygon(np.array(flat, np.float64).reshape(-1, 2) * [width, height])
    seen = drawn.intersection(frame)
    polygon = seen if seen.area > 0 else drawn
    shapely.prepare(polygon)
    return polygon, polygon.boundary.difference(frame.boundary.buffer(0.25))
