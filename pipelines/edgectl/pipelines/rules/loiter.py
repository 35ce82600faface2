"""Somebody stays in a zone too long, in seconds of capture time, also across a lost and found track."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import Field

from edgectl.core.schema import Config
from edgectl.pipelines.rules.base import RuleConfig, RuleType
from edgectl.pipelines.rules.observation import Observation, Seconds, because
from edgectl.pipelines.rules.predicate import Explained, Predicate
from edgectl.pipelines.rules.zone import Stay, ZoneRule
from edgectl.pipelines.stream.events import Event

__all__ = ["RULE", "LoiterConfig", "LoiterRule"]


class LoiterConfig(RuleConfig):
    class Loiter(Config):
        zone: str
        """Name of the zone."""
        seconds: float = Field(gt=0, le=86400)
        """Longer is too long."""
        gap_s: Seconds = 1.5
        """An object that vanishes and is found again nearby within this time is the same one."""

    loiter: Loiter

    def zone_names(self) -> tuple[str, ...]:
        return (self.loiter.zone,)


@dataclass
class _Dwell:
    since: float
    last: float
    cls: int
    x: float
    y: float
    size: float
    fired: bool = False


class LoiterRule:
    """Events ``loitering`` with phase ``start`` and ``end``. Steps after its zone, with the same tracks."""

    def __init__(self, config: LoiterConfig, zone: ZoneRule) -> None:
        self.name = config.id
        self._seconds = config.loiter.seconds
        self._gap_s = config.loiter.gap_s
        self._zone = zone
        self._here: dict[int, _Dwell] = {}
        self._lost: list[tuple[int, _Dwell]] = []
        """Vanished inside the zone: somebody who appears nearby within ``gap_s`` takes their time over."""

    def step(self, now: Observation) -> list[Event]:
        t = now.t
        events: list[Event] = []
        inside = self._zone.inside
        for track in sorted(self._here.keys() - inside.keys()):
            dwell = self._here.pop(track)
            if track in now.others:
                events += self._end(track, dwell, t, t)
                continue
            stay = self._zone.stays.get(track) or self._zone.gone.get(track)
            if stay is not None and not stay.inside:
                events += self._end(track, dwell, t, stay.since)
            elif stay is not None and stay.pending is not None:  # it was seen outside before its track ended
                events += self._end(track, dwell, t, stay.until)
            else:
                self._lost.append((track, dwell))
        for track, stay in sorted(inside.items()):
            dwell = self._here.get(track) or self._found(stay) or _Dwell(stay.since, t, 0, 0, 0, 0)
            self._here[track] = dwell
            if stay.depth > 0 or not dwell.size:
                # On the other side of the border it may have left already: that is not known before it is far enough.
                dwell.last = stay.seen
            dwell.cls, dwell.x, dwell.y, dwell.size = stay.cls, stay.x, stay.y, stay.size
            if not dwell.fired and dwell.last - dwell.since >= self._seconds - 1e-9:
                dwell.fired = True
                events.append(self._event("start", track, dwell, t, dwell.last))
        for track, dwell in [entry for entry in self._lost if t - entry[1].last > self._gap_s]:
            self._lost.remove((track, dwell))
            events += self._end(track, dwell, t, dwell.last)
        return events

    def explain(self, now: Observation) -> list[Explained]:
        found = []
        for row in now.rows:
            track = now.ids[row]
            dwell, asked = self._here.get(track), [self._zone.predicate(track)]
            if dwell is not None:
                stayed = dwell.last - dwell.since
                long = stayed >= self._seconds - 1e-9
                asked.append(Predicate("stayed", long, stayed, self._seconds, "s", dwell.since))
            found.append(Explained(track, dwell is not None and dwell.fired, tuple(asked)))
        return found

    def snapshot(self) -> dict[str, Any]:
        return {
            "here": {str(i): asdict(d) for i, d in self._here.items()},
            "lost": [[i, asdict(d)] for i, d in self._lost],
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._here = {int(i): _Dwell(**d) for i, d in state["here"].items()}
        self._lost = [(int(i), _Dwell(**d)) for i, d in state["lost"]]

    def _found(self, stay: Stay) -> _Dwell | None:
        near = [
            e
            for e in self._lost
            if e[1].cls == stay.cls
            and math.hypot(stay.x - e[1].x, stay.y - e[1].y) <= max(stay.size, e[1].size)
        ]
        if not near:
            return None
        best = min(near, key=lambda e: math.hypot(stay.x - e[1].x, stay.y - e[1].y))
        self._lost.remove(best)
        return best[1]

    def _end(self, track: int, dwell: _Dwell, t: float, until: float) -> list[Event]:
        return [self._event("end", track, dwell, t, until)] if dwell.fired else []

    def _event(self, phase: str, track: int, dwell: _Dwell, t: float, until: float) -> Event:
        stayed = until - dwell.since
        data = {
            "zone": self._zone.name,
            "track": track,
            "label": self._zone.labels[dwell.cls],
            "dwell_s": round(stayed, 3),
            "because": because("stayed", stayed, self._seconds, "s"),
        }
        return Event("loitering", t, phase, self.name, data)


RULE = RuleType(
    LoiterConfig,
    lambda config, context: LoiterRule(config, context.zones[config.loiter.zone]),
    "somebody stays in a zone too long: `loitering`, phase `start`, `end`",
)
