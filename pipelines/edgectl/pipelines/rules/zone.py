"""Presence in a polygon, with hysteresis in pixels and seconds.

A zone that touches the frame's edge goes on beyond it. A box is cut off there, and so its foot lies on the
edge however far outside the object stands: that edge is no border of the zone, and nobody is less deep in it
for being near.

A box that trembles by more than ``enter_px`` must be deeper, by as much as it trembles, but never deeper than a
narrow zone is. What a track did before the tracker was sure of it counts, too. How long somebody stayed counts
from and to the time on the border, between two sightings.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from pydantic import Field

from edgectl.core.schema import Config
from edgectl.pipelines.rules.attributes import AttributesAsked
from edgectl.pipelines.rules.observation import (
    EDGE,
    Observation,
    Seconds,
    anchors,
    because,
    describe,
    wanted,
)
from edgectl.pipelines.rules.predicate import Explained, Predicate, counts_as, lasts
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.video.polygon import Polygon
from edgectl.pipelines.video.tracker import Tracks

__all__ = ["Stay", "ZoneConfig", "ZoneRule"]

_TREMBLES = 3.0
"""Standard deviations of its own tremble that a track must be away from the border."""


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
    attributes: AttributesAsked = {}
    """Only tracks of which a second stage has decided this: `gear: [no-helmet]`. What is undecided does not count."""


@dataclass(slots=True)
class Stay:
    """One track and one zone."""

    inside: bool = False
    since: float = 0.0
    """When it was on the border, going in or (outside) out; where that was not seen, when it was seen first."""
    pending: float | None = None
    """Since when the opposite is seen."""
    proof: tuple[float, float] = (0.0, 0.0)
    """How far on the opposite side it was seen then, and how far it had to be; pixels."""
    border: float | None = None
    """When it was last on the border."""
    depth: float = 0.0
    """Pixels inside (negative: outside), when it was last seen."""
    needed: float = 0.0
    """Pixels that it had to be inside, or outside, then."""
    seen: float = -1.0
    """When it was last seen, or -1."""
    cls: int = 0
    x: float = 0.0
    y: float = 0.0
    size: float = 0.0
    """Last seen anchor and box height, pixels."""

    @property
    def until(self) -> float:
        """Of somebody who is in: when they were last in, as far as is known."""
        return self.seen if self.pending is None or self.border is None else self.border


class ZoneRule:
    """Events ``zone`` with phase ``enter`` and ``leave`` (``reason``: ``left``, ``lost`` or
    ``attribute``, ``dwell_s``)."""

    def __init__(self, name: str, config: ZoneConfig, labels: Sequence[str]) -> None:
        self.name = name
        self.stays: dict[int, Stay] = {}
        self.inside: dict[int, Stay] = {}
        """Track id → stay, of those who are in."""
        self.gone: dict[int, Stay] = {}
        """The same, of those who were in until this step and whose tracks have ended now."""
        self.labels = labels
        self.polygon = config.polygon
        self._config = config
        self._classes = wanted(config.classes, labels)
        self._size, self._corner = (0, 0), np.zeros(2)
        self._polygon: Any = None
        self._border: Any = None
        """What of the polygon's outline does not run along the frame's edge."""
        self._thick = 0.0
        """Pixels; a zone is nowhere less deep in its middle."""

    def step(self, now: Observation) -> list[Event]:
        tracks, t = now.tracks, now.t
        events: list[Event] = []
        self.gone = {}
        for track in sorted(self.stays.keys() - now.alive):
            stay = self.stays.pop(track)
            if self.inside.pop(track, None) is not None:
                self.gone[track] = stay
                events.append(self._ended(track, stay, t, other=track in now.others))
        rows = [r for r in now.rows if now.cls[r] in self._classes]
        if not rows:
            return events
        points = now.points(self._config.anchor)
        depth = self._depth(points, tracks.width, tracks.height).tolist()
        least = self._config.enter_px
        most = max(least, self._thick)
        places, heights = points.tolist(), now.heights
        for row in rows:
            track = now.ids[row]
            # so many pixels inside or outside are needed to go in or out
            needed = min(max(least, _TREMBLES * now.trembles[row]), most)
            stay = self.stays.get(track) or self._first(tracks, track, needed)
            since = stay.since
            (stay.x, stay.y), stay.size, stay.cls = places[row], heights[row], now.cls[row]
            self._turn(stay, depth[row], needed, t)
            if stay.inside == (track in self.inside):
                continue
            about = describe(tracks, row, self.labels)
            why = because("inside" if stay.inside else "outside", *stay.proof, "px")
            if stay.inside:
                self.inside[track] = stay
                events.append(self._event("enter", t, {**about, "because": why}))
            elif self.inside.pop(track, None) is not None:
                dwell = _s(stay.since - since)
                events.append(
                    self._event("leave", t, {**about, "reason": "left", "dwell_s": dwell, "because": why})
                )
        return events

    def show(self, whole: ZoneRule, tracks: Collection[int]) -> None:
        """Be ``whole``, a zone that has taken its step, as a rule sees it that looks at some tracks only; instead of a
        step."""
        self.gone = {track: stay for track, stay in whole.gone.items() if track in tracks}
        self.stays = {track: stay for track, stay in whole.stays.items() if track in tracks}
        self.inside = {track: stay for track, stay in whole.inside.items() if track in tracks}

    def holds(self, tracks: Tracks) -> NDArray[np.bool_]:
        """Which objects (N,) lie in the zone in this very picture, without hysteresis; the state is left
        alone."""
        wanted_class = np.isin(tracks.cls, sorted(self._classes))
        if not len(tracks):
            return wanted_class
        return wanted_class & (
            self._depth(tracks.anchor(self._config.anchor).astype(np.float64), tracks.width, tracks.height)
            > 0
        )

    def predicate(self, track: int) -> Predicate:
        """That a track is in the zone, as the zone sees it."""
        stay, what = self.stays.get(track), f"in zone {self.name}"
        if stay is None:
            return Predicate(what, False)
        side = "px deep" if stay.depth >= 0 else "px outside"
        if stay.inside and stay.depth < 0:  # for a moment, or by less than counts
            what += " and not gone yet"
        return Predicate(what, stay.inside, abs(stay.depth), None, side, stay.since if stay.inside else None)

    def explain(self, now: Observation) -> list[Explained]:
        found = []
        for row in now.rows:
            track, counts = now.ids[row], counts_as(now.cls[row], self._classes, self.labels)
            stay, asked = self.stays.get(track), [counts]
            if counts.holds and stay is not None and stay.inside:
                in_s = stay.seen - stay.since
                asked += [
                    Predicate("went deep enough in", True, since=stay.since),
                    Predicate("stays in", True, in_s, self._config.enter_s, "s", stay.since),
                ]
            elif counts.holds and stay is not None:
                going_in = stay.pending is not None
                depth, needed = stay.proof if going_in else (stay.depth, stay.needed)
                asked += [
                    Predicate("went deep enough in", going_in, depth, needed, "px", stay.pending),
                    lasts("stays in", stay.pending, stay.seen, self._config.enter_s),
                ]
            found.append(Explained(track, track in self.inside, tuple(asked)))
        return found

    def snapshot(self) -> dict[str, Any]:
        return {"stays": {str(i): asdict(s) for i, s in self.stays.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        self.stays = {int(i): Stay(**s | {"proof": tuple(s["proof"])}) for i, s in state["stays"].items()}
        self.inside = {i: s for i, s in self.stays.items() if s.inside}

    def _turn(self, stay: Stay, depth: float, needed: float, t: float) -> None:
        """Advance one stay, which may go in or out. ``depth``: pixels inside (negative: outside)."""
        c = self._config
        if stay.seen < 0:
            stay.border = t
        elif (depth > 0) != (stay.depth > 0):
            apart = abs(depth) + abs(stay.depth)
            share = abs(stay.depth) / apart if 0 < apart < np.inf else 1.0
            stay.border = stay.seen + share * (t - stay.seen)
        stay.depth, stay.needed, stay.seen = depth, needed, t
        opposite = depth <= -needed if stay.inside else depth >= needed
        same = depth > 0 if stay.inside else depth < 0
        if opposite and stay.pending is None:
            stay.pending, stay.proof = t, (abs(depth), needed)
        elif same and not opposite:
            stay.pending = None
        if stay.pending is None or t - stay.pending < (c.exit_s if stay.inside else c.enter_s) - 1e-9:
            return
        stay.inside, stay.since = not stay.inside, stay.pending if stay.border is None else stay.border
        stay.pending = None

    def _first(self, tracks: Tracks, track: int, needed: float) -> Stay:
        """A new track, with what it did before it was confirmed."""
        stay = self.stays[track] = Stay()
        sightings = tracks.past.get(track)
        if sightings is not None:
            points = anchors(sightings[:, 1:], self._config.anchor, tracks.foot_in_box(track))
            depth = self._depth(points, tracks.width, tracks.height).tolist()
            for t, d in zip(sightings[:, 0].tolist(), depth, strict=True):
                self._turn(stay, d, needed, t)
        return stay

    def _depth(self, points: NDArray[np.float64], width: int, height: int) -> NDArray[np.float64]:
        if self._size != (width, height):
            self._polygon, self._border = _in_frame(self._config.polygon, width, height)
            self._thick = self._polygon.area / self._polygon.length
            self._size, self._corner = (width, height), np.array([width, height], np.float64)
        points = np.minimum(np.maximum(points, 0.0), self._corner)
        within = shapely.intersects_xy(self._polygon, points[:, 0], points[:, 1])
        if self._border.is_empty:  # the zone is the whole picture
            return np.where(within, np.inf, -np.inf)
        distance: NDArray[np.float64] = shapely.distance(self._border, shapely.points(points))
        return np.where(within, distance, -distance)

    def _ended(self, track: int, stay: Stay, t: float, *, other: bool) -> Event:
        """The track of somebody who was in has ended, or is not one of those that count any more (``other``). Who was
        seen outside last has left."""
        data = {
            "track": track,
            "label": self.labels[stay.cls],
            "reason": "attribute" if other else "lost" if stay.pending is None else "left",
            "dwell_s": _s(stay.until - stay.since),
            "because": because("not seen", t - stay.seen, None, "s"),
        }
        return self._event("leave", t, data)

    def _event(self, phase: str, t: float, data: dict[str, Any]) -> Event:
        return Event("zone", t, phase, self.name, {"zone": self.name, **data, "occupancy": len(self.inside)})


def _s(seconds: float) -> float:
    return round(seconds, 3)


def _in_frame(flat: Sequence[float], width: int, height: int) -> tuple[Any, Any]:
    """The part of a zone that can be seen, in pixels, and its border without what lies along the frame's
    edge."""
    corners = np.array(flat, np.float64).reshape(-1, 2)
    near = EDGE + 1e-9  # 1 - 0.99 is a little more than 0.01
    corners = np.where(np.abs(corners) <= near, 0.0, np.where(np.abs(corners - 1) <= near, 1.0, corners))
    drawn = shapely.Polygon(corners * [width, height])
    frame = shapely.box(0, 0, width, height)
    if not drawn.is_valid or drawn.intersection(frame).area <= 0:  # it lies outside: nobody is ever in it
        drawn = shapely.Polygon(np.array(flat, np.float64).reshape(-1, 2) * [width, height])
    seen = drawn.intersection(frame)
    polygon = seen if seen.area > 0 else drawn
    shapely.prepare(polygon)
    return polygon, polygon.boundary.difference(frame.boundary.buffer(0.25))
