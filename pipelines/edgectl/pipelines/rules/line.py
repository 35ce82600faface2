"""Line crossing with a dead band and a hold time, counted in and out per class.

A track has a side once it is farther than ``band_px`` from the line, or than it trembles: a box that stands on
the line and trembles by more than the band is no traffic. It has crossed when it stays on the other side for
``hold_s`` and its way went through the segment, not around its ends. What it did before the tracker was sure of
it counts, too. One crossing needs the other side again to count anew. An end that lies at the frame's edge is no
end: there is no way around it, and a box that the edge cuts off has its foot on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from edgectl.pipelines.rules.base import RuleConfig, RuleType
from edgectl.pipelines.rules.motion import Motion
from edgectl.pipelines.rules.observation import (
    Observation,
    Seconds,
    anchors,
    at_edge,
    because,
    describe,
    pixels,
    wanted,
)
from edgectl.pipelines.rules.predicate import Explained, Predicate, counts_as, lasts
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.video.polygon import Relative
from edgectl.pipelines.video.tracker import Tracks

if TYPE_CHECKING:
    from edgectl.pipelines.rules import RuleSet

__all__ = ["RULE", "LineConfig", "LineRule", "counted"]

_TREMBLES = 3.5
"""Standard deviations of its own tremble that a track must be away from the line."""
_SURE = 3.0
"""Standard deviations above 0 of a speed that is believed."""


class LineConfig(RuleConfig):
    line: tuple[Relative, Relative, Relative, Relative]
    """From a to b. Going to the right of that arrow, as seen in the picture, is ``in``; to the left is
    ``out``."""
    anchor: Literal["bottom_center", "center"] = "bottom_center"
    """The point of a box that must cross."""
    band_px: float = Field(default=6.0, ge=0, le=1000)
    """On this side and that of the line is no side."""
    hold_s: Seconds = 0.15
    """How long it must stay on the other side."""
    classes: tuple[str, ...] = ()
    """Labels that count; empty: all."""

    @field_validator("line")
    @classmethod
    def _has_length(cls, line: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        if line[:2] == line[2:]:
            raise ValueError("a line needs two different ends")
        return line

    def label_names(self) -> tuple[str, ...]:
        return self.classes


@dataclass
class _LineWalk:
    side: int = 0
    """-1 left, +1 right of the arrow a → b; 0 not known yet."""
    x: float = 0.0
    y: float = 0.0
    """Where it was last seen on ``side``, relative to the frame: a camera may change its resolution on the
    way."""
    pending: float | None = None
    """Since when it is seen on the other side."""
    crossed: bool = False
    """Whether the way to the other side went through the segment."""
    about: dict[str, Any] | None = None
    seen: int = 0
    """Sightings on the other side."""
    on: bool = False
    """Whether it surely moves on to the other side, farther from the line."""


class LineRule:
    """Events ``line_crossing`` with ``direction`` (``in``: to the right of a → b) and the ``counts`` so
    far."""

    def __init__(self, config: LineConfig, labels: Sequence[str]) -> None:
        self.name = config.id
        self.counts: dict[str, dict[str, int]] = {"in": {}, "out": {}}
        self._config = config
        self._labels = labels
        self._classes = wanted(config.classes, labels)
        self._walks: dict[int, _LineWalk] = {}
        self._crossed: dict[int, Explained] = {}
        """Of those who have crossed in the last step."""
        self._measure(1, 1)

    def step(self, now: Observation) -> list[Event]:
        tracks, t = now.tracks, now.t
        events: list[Event] = []
        self._crossed = {}
        for track in sorted(self._walks.keys() - now.alive):
            walk = self._walks.pop(track)
            # It went out of sight before the hold time was over: it is through if there is no doubt.
            if walk.pending is not None and walk.crossed and (walk.seen >= 2 or walk.on) and walk.about:
                events.append(self._crossing(-walk.side, t, walk.about))
                beyond = self._asked(walk, t)[:-1]
                gone = Predicate("beyond doubt when it went out of sight", True, walk.seen, 2, "sightings")
                self._crossed[track] = Explained(track, True, (*beyond, gone))
        if not now.rows:
            return events
        if self._size != (tracks.width, tracks.height):
            self._measure(tracks.width, tracks.height)
        a, normal, size = self._a, self._normal, self._corner
        points, motion = now.points(self._config.anchor), now.moving
        offset = _along(points - a, normal).tolist()
        # so far on either side of the line is no side
        trembles = np.sqrt(_along(motion.jitter**2, normal**2))
        band = np.maximum(self._config.band_px, _TREMBLES * trembles).tolist()
        places = (points / size).tolist()
        for row in now.rows:
            if now.cls[row] not in self._classes:
                continue
            track = now.ids[row]
            walk = self._walks.get(track) or self._first(tracks, track, band[row])
            side = _side(offset[row], band[row])
            crossed = self._advance(walk, side, places[row], t)
            if walk.pending is not None:
                walk.on = self._moves_on(motion, row, -walk.side * normal)
                walk.about = describe(tracks, row, self._labels) | {
                    "because": because("beyond the line", abs(offset[row]), band[row], "px")
                }
            if crossed and walk.about is not None:
                events.append(self._crossing(side, t, walk.about))
                self._crossed[track] = Explained(track, True, self._asked(walk, t))
            if walk.pending is not None and t - walk.pending >= self._config.hold_s - 1e-9:
                self._walks[track] = _LineWalk(side, *places[row])
        return events

    def explain(self, now: Observation) -> list[Explained]:
        found = list(self._crossed.values())
        for row in now.rows:
            track, counts = now.ids[row], counts_as(now.cls[row], self._classes, self._labels)
            walk = self._walks.get(track)
            if track not in self._crossed:
                asked = () if walk is None or not counts.holds else self._asked(walk, now.t)
                found.append(Explained(track, False, (counts, *asked)))
        return found

    def _asked(self, walk: _LineWalk, t: float) -> tuple[Predicate, ...]:
        known = Predicate("seen on one side first", walk.side != 0)
        if walk.pending is None:
            return known, Predicate("seen beyond the line", False)
        why = None if walk.about is None else walk.about["because"]
        value, limit = (None, None) if why is None else (why["value"], why["limit"])
        return (
            known,
            Predicate("seen beyond the line", True, value, limit, "px", walk.pending),
            Predicate("its way went between the ends of the line", walk.crossed),
            lasts("stays beyond", walk.pending, t, self._config.hold_s),
        )

    def _advance(self, walk: _LineWalk, side: int, place: list[float], t: float) -> bool:
        """One sighting on ``side`` of the line at ``place``, relative to the frame. True if it has crossed
        now."""
        if not side:
            # in the band: it has to stay on the other side for the whole hold time
            walk.pending, walk.seen, walk.about = None, 0, None
            return False
        if walk.side in (0, side):
            walk.side, (walk.x, walk.y) = side, place
            walk.pending, walk.crossed, walk.about, walk.seen = None, False, None, 0
            return False
        if walk.pending is None:
            walk.pending = t
            size = self._corner
            walk.crossed = _through(np.array([walk.x, walk.y]) * size, np.array(place) * size, *self._ends)
        walk.seen += 1
        return t - walk.pending >= self._config.hold_s - 1e-9 and walk.crossed

    def _first(self, tracks: Tracks, track: int, band: float) -> _LineWalk:
        """A new track, with what it did before it was confirmed."""
        walk = self._walks[track] = _LineWalk()
        sightings = tracks.past.get(track)
        if sightings is not None:
            points = anchors(sightings[:, 1:], self._config.anchor, tracks.foot_in_box(track))
            offset = _along(points - self._a, self._normal).tolist()
            places = (points / self._corner).tolist()
            for t, place, d in zip(sightings[:, 0].tolist(), places, offset, strict=True):
                self._advance(walk, _side(d, band), place, t)
        return walk

    def _moves_on(self, motion: Motion, row: int, way: NDArray[np.float64]) -> bool:
        speed = float(_along(motion.velocity[row], way))
        error = float(_along(motion.velocity_error[row], np.abs(way)))
        return speed > _SURE * error

    def snapshot(self) -> dict[str, Any]:
        counts = {k: dict(v) for k, v in self.counts.items()}
        return {"counts": counts, "walks": {str(i): asdict(w) for i, w in self._walks.items()}}

    def reset(self) -> dict[str, Any]:
        was, self.counts = self.counts, {"in": {}, "out": {}}
        return {"counts": was}

    def lasting(self) -> dict[str, Any]:
        return {"counts": {k: dict(v) for k, v in self.counts.items()}}

    def recall(self, state: dict[str, Any]) -> None:
        self.counts = _counts(state["counts"], self._labels)

    def restore(self, state: dict[str, Any]) -> None:
        self.counts = {k: dict(state["counts"].get(k, {})) for k in ("in", "out")}
        self._walks = {int(i): _LineWalk(**w) for i, w in state["walks"].items()}

    def _measure(self, width: int, height: int) -> None:
        """The line in pixels of this frame size; its ends lie far outside where they are at the frame's edge."""
        a, b = pixels(self._config.line, width, height)
        self._size, self._corner, self._a = (width, height), np.array([width, height], np.float64), a
        self._normal = np.array([a[1] - b[1], b[0] - a[0]]) / float(
            np.hypot(*(b - a))
        )  # y is down: > 0 is right
        x1, y1, x2, y2 = self._config.line
        far = 1e3 * (b - a)
        self._ends = (a - far if at_edge(x1, y1) else a, b + far if at_edge(x2, y2) else b)

    def _crossing(self, side: int, t: float, about: dict[str, Any]) -> Event:
        direction = "in" if side > 0 else "out"
        label = about["label"]
        self.counts[direction][label] = self.counts[direction].get(label, 0) + 1
        counts = {k: dict(sorted(v.items())) for k, v in self.counts.items()}
        return Event("line_crossing", t, None, self.name, {**about, "direction": direction, "counts": counts})


def _counts(told: Mapping[str, Mapping[str, int]], labels: Sequence[str]) -> dict[str, dict[str, int]]:
    """Counts of labels that the model still knows. Raises ValueError for what is no count."""
    counts = {d: {str(k): int(n) for k, n in told[d].items() if k in labels} for d in ("in", "out")}
    if any(n < 0 for c in counts.values() for n in c.values()):
        raise ValueError("a count is below 0")
    return counts


def counted(rules: RuleSet) -> dict[str, dict[str, int]]:
    """Line → direction → how many crossed it."""
    lines = [rule for rule in rules.rules.values() if isinstance(rule, LineRule)]
    return {line.name: {way: sum(n.values()) for way, n in line.counts.items()} for line in lines}


def _side(distance: float, band: float) -> int:
    return 0 if abs(distance) <= band else 1 if distance > 0 else -1


def _along(vectors: NDArray[np.float64], way: NDArray[np.float64]) -> NDArray[np.float64]:
    """Dot products (N,), the same to the last bit on every machine."""
    out: NDArray[np.float64] = vectors[..., 0] * way[0] + vectors[..., 1] * way[1]
    return out


def _through(p: Any, q: Any, a: Any, b: Any) -> bool:
    """Whether the way p → q meets the segment a → b (p and q lie on different sides of its line)."""

    def cross(u: Any, v: Any) -> float:
        return float(u[0] * v[1] - u[1] * v[0])

    way = q - p
    return cross(way, a - p) * cross(way, b - p) <= 0


RULE = RuleType(
    LineConfig,
    lambda config, context: LineRule(config, context.labels),
    "a track crosses a line: `line_crossing` with `direction` and the `counts` so far",
)
