"""How fast something went through a zone, in metres a second and with an error bar.

Places on the ground come from four measured points (:mod:`~edgectl.pipelines.rules.ground`). Speed is the slope of
a straight line through the places over the time in the zone (least squares); its error comes from how much the box
trembles, seen on the ground where it was, from what is left over from the line (who stops on the way has a wide one),
and from how few sightings there were. What it leaves out: an error of the four points, and of the foot of a box that does not stand where its object
does.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pydantic import Field

from edgectl.core.schema import Config
from edgectl.pipelines.rules.base import RuleConfig, RuleContext, RuleType
from edgectl.pipelines.rules.observation import Observation, because, describe
from edgectl.pipelines.rules.predicate import Explained, Predicate
from edgectl.pipelines.stream.events import Event

__all__ = ["RULE", "SpeedConfig", "SpeedRule"]

_LEAST = 4
"""Sightings in the zone that a speed needs."""
_ALIKE = 2.5
"""Neighbouring places of a tracker's boxes err alike: so many sightings are worth one."""
_WIDE = 1.96
"""Standard deviations of an error bar that holds the true speed 95 times of 100."""


class SpeedConfig(RuleConfig):
    class ZoneSpeed(Config):
        zone: str
        """Name of the zone."""
        limit_mps: float | None = Field(default=None, gt=0, le=200)
        """Faster is `over` when the whole error bar is above it. none: everything is told."""

    speed: ZoneSpeed

    def zone_names(self) -> tuple[str, ...]:
        return (self.speed.zone,)

    def needs_ground(self) -> bool:
        return True


@dataclass(slots=True)
class _Fit:
    """Sums over the sightings of one track in the zone. Time from the first one, metres from the first place."""

    t0: float
    x0: float
    y0: float
    t: float = 0.0
    x: float = 0.0
    y: float = 0.0
    """Of the last sighting."""
    n: int = 0
    st: float = 0.0
    stt: float = 0.0
    sx: float = 0.0
    sy: float = 0.0
    stx: float = 0.0
    sty: float = 0.0
    sxx: float = 0.0
    syy: float = 0.0
    noise: float = 0.0
    """Sum of the variances (m²) of a place along both axes."""
    about: dict[str, Any] | None = None

    def add(self, t: float, x: float, y: float, noise: float) -> None:
        self.t, self.x, self.y = t - self.t0, x - self.x0, y - self.y0
        self.n += 1
        self.st += self.t
        self.stt += self.t * self.t
        self.sx += self.x
        self.sy += self.y
        self.stx += self.t * self.x
        self.sty += self.t * self.y
        self.sxx += self.x * self.x
        self.syy += self.y * self.y
        self.noise += noise

    def speed(self) -> tuple[float, float] | None:
        """Metres a second, and half the width of the error bar. None of too few sightings."""
        if self.n < _LEAST:
            return None
        spread = self.stt - self.st * self.st / self.n
        if spread <= 1e-9:
            return None
        vx = (self.stx - self.st * self.sx / self.n) / spread
        vy = (self.sty - self.st * self.sy / self.n) / spread
        rest = self.sxx + self.syy - (self.sx**2 + self.sy**2) / self.n - spread * (vx * vx + vy * vy)
        noise, left = self.noise / self.n / 2, max(rest, 0.0) / (self.n - 2) / 2  # of one axis
        # What is left over and is no noise is another way of going, slower here and faster there: many sightings do
        # not make it smaller.
        uneven = max(0.0, left - 2 * noise) * self.n / 3
        error = math.sqrt((_ALIKE * max(noise, min(left, 2 * noise)) + uneven) / spread)
        return math.hypot(vx, vy), _WIDE * error


class SpeedRule:
    """Events ``speed`` when something has left the zone: ``speed_mps``, ``error_mps``, ``distance_m``, ``over``."""

    def __init__(self, config: SpeedConfig, context: RuleContext) -> None:
        assert context.ground is not None
        self._id = config.id
        self._zone = context.zones[config.speed.zone]
        self._limit = config.speed.limit_mps
        self._ground = context.ground
        self._labels = context.labels
        self._fits: dict[int, _Fit] = {}
        self._left: dict[int, _Fit] = {}
        """Of those who have left in the last step."""

    def step(self, now: Observation) -> list[Event]:
        events = []
        inside = self._zone.inside
        self._left = {track: self._fits.pop(track) for track in sorted(self._fits) if track not in inside}
        for fit in self._left.values():
            events += self._told(now.t, fit)
        rows = [row for row in now.rows if now.ids[row] in inside and inside[now.ids[row]].depth > 0]
        if rows:
            size = np.array([now.tracks.width, now.tracks.height], np.float64)
            feet = now.points("bottom_center")[rows] / size
            places = self._ground.metres_of(feet)
            jitter = self._ground.metres_per(feet) * (now.moving.jitter[rows] / size)[:, None, :]
            noise = (jitter**2).sum(axis=(1, 2)).tolist()
            for row, (x, y), error in zip(rows, places.tolist(), noise, strict=True):
                if math.isfinite(x) and math.isfinite(error):
                    fit = self._fits.setdefault(now.ids[row], _Fit(now.t, x, y))
                    fit.add(now.t, x, y, error)
                    fit.about = describe(now.tracks, row, self._labels)
        return events

    def explain(self, now: Observation) -> list[Explained]:
        seen = {now.ids[row] for row in now.rows}
        return [self._explained(track) for track in sorted(seen | self._left.keys())]

    def _explained(self, track: int) -> Explained:
        fit = self._left.get(track) or self._fits.get(track)
        name = self._zone.name
        was = Predicate(f"was in zone {name}", fit is not None)
        if fit is None:
            return Explained(track, False, (was,))
        left, found = track in self._left, fit.speed()
        asked = (
            was,
            Predicate("seen often enough to measure", found is not None, fit.n, _LEAST, "sightings"),
            Predicate(f"has left zone {name}", left),
        )
        return Explained(track, left and found is not None, asked)

    def snapshot(self) -> dict[str, Any]:
        return {str(track): asdict(fit) for track, fit in self._fits.items()}

    def restore(self, state: dict[str, Any]) -> None:
        self._fits = {int(track): _Fit(**fit) for track, fit in state.items()}

    def _told(self, t: float, fit: _Fit) -> list[Event]:
        found = fit.speed()
        if found is None or fit.about is None:
            return []
        speed, error = found
        limit = 0.0 if self._limit is None else self._limit
        data = {
            **fit.about,
            "zone": self._zone.name,
            "speed_mps": round(speed, 2),
            "error_mps": round(error, 2),
            "distance_m": round(math.hypot(fit.x, fit.y), 2),
            "seconds": round(fit.t, 3),
            "over": self._limit is not None and speed - error > limit,
            "because": because("surely faster than", speed - error, limit, "m/s"),
        }
        return [Event("speed", t, None, self._id, data)]


RULE = RuleType(
    SpeedConfig,
    SpeedRule,
    "how fast something went through a zone: `speed` with `speed_mps`, `error_mps` (95 %) and `over`",
)
