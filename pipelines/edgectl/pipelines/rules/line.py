"""Line crossing with a dead band and a hold time, counted in and out per class.

A track has a side once it is farther than ``band_px`` from the line, or than it wobbles: a box that stands on
the line and trembles by more than the band is no traffic. How much it wobbles is what its last seconds leave
over from a steady walk. It has crossed when it stays on the other side for ``hold_s`` and its way went
through the segment, not around its ends. One crossing needs the other side again to count anew. An end that
lies at the frame's edge is no end: there is no way around it, and a box that the edge cuts off has its foot
on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from edgectl.pipelines.rules.base import RuleConfig, RuleType
from edgectl.pipelines.rules.observation import (
    Observation,
    Seconds,
    at_edge,
    describe,
    pixels,
    wanted,
)
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.video.polygon import Relative

__all__ = ["RULE", "LineConfig", "LineRule"]

_WOBBLE_S = 3.0
_WOBBLE_SAMPLES = 48
"""The stretch over which wobble is measured, and how many sightings of it are kept."""
_WOBBLES = 2.5
"""Standard deviations of its own wobble that a track must be away from the line."""


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
    recent: list[list[float]] = field(default_factory=list)
    """Time and distance from the line (pixels) over the last seconds."""


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
        self._size: tuple[int, int] | None = None

    def step(self, now: Observation) -> list[Event]:
        tracks, t = now.tracks, now.t
        events: list[Event] = []
        for track in sorted(self._walks.keys() - {int(i) for i in tracks.ids}):
            walk = self._walks.pop(track)
            # It went out of sight before the hold time was over, twice seen on the other side: it is through.
            if walk.pending is not None and walk.crossed and walk.seen >= 2 and walk.about is not None:
                events.append(self._crossing(-walk.side, t, walk.about))
        a, b = pixels(self._config.line, tracks.width, tracks.height)
        along = b - a
        length = float(np.hypot(*along))
        points = tracks.anchor(self._config.anchor).astype(np.float64)
        # y is down: > 0 is right
        offset = (along[0] * (points[:, 1] - a[1]) - along[1] * (points[:, 0] - a[0])) / length
        size = np.array([tracks.width, tracks.height], np.float64)
        if self._size not in (None, (tracks.width, tracks.height)):  # pixels are other pixels now
            for walk in self._walks.values():
                walk.recent.clear()
        self._size = (tracks.width, tracks.height)
        for row in np.nonzero(tracks.seen)[0]:
            if int(tracks.cls[row]) not in self._classes:
                continue
            walk = self._walks.setdefault(int(tracks.ids[row]), _LineWalk())
            d = float(offset[row])
            height = float(tracks.xyxy[row, 3] - tracks.xyxy[row, 1])
            side = 0 if abs(d) <= self._band(walk, d, t, height) else 1 if d > 0 else -1
            if side and walk.side in (0, side):
                walk.side, (walk.x, walk.y) = side, (points[row] / size).tolist()
                walk.pending, walk.crossed, walk.about, walk.seen = None, False, None, 0
            elif side:
                if walk.pending is None:
                    walk.pending = t
                    walk.crossed = _through(np.array([walk.x, walk.y]) * size, points[row], *self._ends(a, b))
                walk.seen += 1
                walk.about = describe(tracks, int(row), self._labels)
                if t - walk.pending >= self._config.hold_s - 1e-9:
                    if walk.crossed:
                        events.append(self._crossing(side, t, walk.about))
                    x, y = (points[row] / size).tolist()
                    self._walks[int(tracks.ids[row])] = _LineWalk(side, x, y, recent=walk.recent)
            else:
                # back in the band: it has to stay on the other side for the whole hold time
                walk.pending, walk.seen = None, 0
        return events

    def snapshot(self) -> dict[str, Any]:
        counts = {k: dict(v) for k, v in self.counts.items()}
        return {"counts": counts, "walks": {str(i): asdict(w) for i, w in self._walks.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        self.counts = {k: dict(state["counts"].get(k, {})) for k in ("in", "out")}
        self._walks = {int(i): _LineWalk(**w) for i, w in state["walks"].items()}

    def _band(self, walk: _LineWalk, d: float, t: float, height: float) -> float:
        """Pixels on either side of the line that belong to no side, for a track at the distance ``d``; at
        most half its height."""
        recent = walk.recent
        if not recent or t - recent[-1][0] >= _WOBBLE_S / _WOBBLE_SAMPLES - 1e-9:
            recent.append([t, d])
        while t - recent[0][0] > _WOBBLE_S:
            recent.pop(0)
        band, most = self._config.band_px, height / 2
        if abs(d) <= band or abs(d) > most or len(recent) < 4:
            return band
        return max(band, min(most, _WOBBLES * _wobble(recent)))

    def _ends(
        self, a: NDArray[np.float64], b: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The ends of the segment in pixels, far outside where they lie at the frame's edge."""
        x1, y1, x2, y2 = self._config.line
        far = 1e3 * (b - a)
        return (a - far if at_edge(x1, y1) else a), (b + far if at_edge(x2, y2) else b)

    def _crossing(self, side: int, t: float, about: dict[str, Any]) -> Event:
        direction = "in" if side > 0 else "out"
        label = about["label"]
        self.counts[direction][label] = self.counts[direction].get(label, 0) + 1
        counts = {k: dict(sorted(v.items())) for k, v in self.counts.items()}
        return Event("line_crossing", t, None, self.name, {**about, "direction": direction, "counts": counts})


def _through(p: Any, q: Any, a: Any, b: Any) -> bool:
    """Whether the way p → q meets the segment a → b (p and q lie on different sides of its line)."""

    def cross(u: Any, v: Any) -> float:
        return float(u[0] * v[1] - u[1] * v[0])

    way = q - p
    return cross(way, a - p) * cross(way, b - p) <= 0


def _wobble(recent: Sequence[Sequence[float]]) -> float:
    """Standard deviation of distances from the straight line through them over time (least squares)."""
    t, d = np.array(recent, np.float64).T
    t, d = t - t.mean(), d - d.mean()
    rest = d - t * (t @ d) / max(t @ t, 1e-9)
    return float(np.sqrt(rest @ rest / (len(t) - 2)))


RULE = RuleType(
    LineConfig,
    lambda config, context: LineRule(config, context.labels),
    "a track crosses a line: `line_crossing` with `direction` and the `counts` so far",
)
