"""Something that moved stops within a moment, and stays."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import Field

from edgectl.core.schema import Config
from edgectl.pipelines.rules.base import RuleConfig, RuleContext, RuleType
from edgectl.pipelines.rules.observation import Observation, Seconds, because, describe, wanted
from edgectl.pipelines.rules.predicate import Explained, Predicate, counts_as, lasts
from edgectl.pipelines.stream.events import Event

__all__ = ["RULE", "SuddenStopConfig", "SuddenStopRule"]

_SLOW = 0.2
"""Of the speed before: slower is a stop."""
_WINDOW_S = 0.4
"""Over which a speed is measured."""
_STILL = 0.15
"""Heights a second: slower is no movement at all."""


class SuddenStopConfig(RuleConfig):
    class HardStop(Config):
        zone: str | None = None
        """Name of the zone. none: everywhere."""
        min_heights_s: float = Field(default=0.7, gt=0, le=50)
        """Who was slower before, in its own heights a second, does not stop suddenly."""
        within_s: float = Field(default=1.2, gt=0, le=10)
        """A stop that takes longer is not sudden."""
        stay_s: Seconds = 1.0
        """How long it must stay."""
        classes: tuple[str, ...] = ()
        """Labels that count; empty: all."""

    sudden_stop: HardStop

    def zone_names(self) -> tuple[str, ...]:
        return () if self.sudden_stop.zone is None else (self.sudden_stop.zone,)

    def label_names(self) -> tuple[str, ...]:
        return self.sudden_stop.classes


@dataclass(slots=True)
class _Pace:
    recent: list[tuple[float, float, float]]
    """Time and place of the last sightings, over :data:`_WINDOW_S`."""
    fast: float = -math.inf
    """When it was last as fast as a sudden stop needs."""
    speed: float = 0.0
    """Heights a second, then."""
    slow: float | None = None
    """Since when it stands."""
    took: float = 0.0


class SuddenStopRule:
    """Events ``sudden_stop``, one for each stop, once it has stayed."""

    def __init__(self, config: SuddenStopConfig, context: RuleContext) -> None:
        c = config.sudden_stop
        self._c = c
        self._id = config.id
        self._zone = None if c.zone is None else context.zones[c.zone]
        self._labels = context.labels
        self._classes = wanted(c.classes, context.labels)
        self._paces: dict[int, _Pace] = {}
        self._stood: dict[int, Explained] = {}
        """Track → what was asked, of those who had stood for long enough in the last step."""

    def step(self, now: Observation) -> list[Event]:
        for track in [track for track in self._paces if track not in now.alive]:
            del self._paces[track]
        events = []
        self._stood = {}
        feet = now.points("bottom_center").tolist()
        for row in now.rows:
            if now.cls[row] not in self._classes:
                continue
            pace = self._paces.setdefault(now.ids[row], _Pace([]))
            speed = self._speed(pace, now.t, feet[row], now.heights[row])
            if speed is None or not self._stands(pace, now.t, speed):
                continue
            asked = (
                *self._asked(pace, now.t, True),
                Predicate(
                    "stopped soon enough", pace.took <= self._c.within_s, pace.took, self._c.within_s, "s"
                ),
                *(() if self._zone is None else (self._zone.predicate(now.ids[row]),)),
            )
            told = all(predicate.holds for predicate in asked)
            self._stood[now.ids[row]] = Explained(now.ids[row], told, asked)
            if not told:
                continue
            data = {
                **describe(now.tracks, row, self._labels),
                "heights_s": round(pace.speed, 2),
                "because": because("stopped within", pace.took, self._c.within_s, "s"),
            }
            events.append(Event("sudden_stop", now.t, None, self._id, data))
        return events

    def explain(self, now: Observation) -> list[Explained]:
        found = []
        for row in now.rows:
            track, counts = now.ids[row], counts_as(now.cls[row], self._classes, self._labels)
            pace = self._paces.get(track)
            asked = () if pace is None else self._asked(pace, now.t, pace.fast > -math.inf)
            found.append(self._stood.get(track) or Explained(track, False, (counts, *asked)))
        return found

    def _asked(self, pace: _Pace, t: float, fast: bool) -> tuple[Predicate, ...]:
        """``fast``: whether it was since its last stop."""
        return (
            Predicate("was fast", fast, pace.speed, self._c.min_heights_s, "heights/s"),
            lasts("stands since", pace.slow, t, self._c.stay_s),
        )

    def snapshot(self) -> dict[str, Any]:
        paces = {str(track): asdict(pace) for track, pace in self._paces.items()}
        for pace in paces.values():
            pace["fast"] = None if pace["fast"] == -math.inf else pace["fast"]
        return paces

    def restore(self, state: dict[str, Any]) -> None:
        self._paces = {
            int(track): _Pace(
                **{
                    **pace,
                    "recent": [tuple(at) for at in pace["recent"]],
                    "fast": -math.inf if pace["fast"] is None else pace["fast"],
                }
            )
            for track, pace in state.items()
        }

    def _speed(self, pace: _Pace, t: float, foot: list[float], height: float) -> float | None:
        """Heights a second over the window; None where too little was seen."""
        (x, y), recent = foot, pace.recent
        recent.append((t, x, y))
        while len(recent) > 2 and t - recent[1][0] >= _WINDOW_S:
            recent.pop(0)
        t0, x0, y0 = recent[0]
        if t - t0 < _WINDOW_S / 2:
            return None
        return math.hypot(x - x0, y - y0) / (t - t0) / height

    def _stands(self, pace: _Pace, t: float, speed: float) -> bool:
        """Advance one track; True once it has stopped and stayed."""
        if speed >= self._c.min_heights_s:
            pace.fast, pace.speed, pace.slow = t, speed, None
        if speed > max(_SLOW * pace.speed, _STILL):
            pace.slow = None
        elif pace.fast > -math.inf:
            if pace.slow is None:
                pace.slow, pace.took = t, t - pace.fast
            if t - pace.slow >= self._c.stay_s - 1e-9:
                pace.fast = -math.inf
                return True
        return False


RULE = RuleType(
    SuddenStopConfig,
    SuddenStopRule,
    "something that moved stops within a moment and stays: `sudden_stop`",
)
