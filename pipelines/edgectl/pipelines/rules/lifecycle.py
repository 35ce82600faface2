"""The life of each tracked object: new, update (a zone changed, or time passed), end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from edgectl.pipelines.rules.observation import Observation, describe
from edgectl.pipelines.rules.zone import ZoneRule
from edgectl.pipelines.stream.events import Event

__all__ = ["LifecycleRule"]


@dataclass
class _Life:
    start: float
    told: float
    last: float
    top_score: float = 0.0
    zones: list[str] = field(default_factory=list)
    entered: list[str] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)


class LifecycleRule:
    """Events ``tracked_object``. Steps after the zones, with the same tracks."""

    def __init__(self, labels: Sequence[str], zones: Sequence[ZoneRule], update_s: float) -> None:
        self._labels = labels
        self._zones = zones
        self._update_s = update_s
        self._lives: dict[int, _Life] = {}

    def step(self, now: Observation) -> list[Event]:
        tracks, t = now.tracks, now.t
        events: list[Event] = []
        inside = [(z.name, z.inside) for z in self._zones]
        for track in sorted(self._lives.keys() - {int(i) for i in tracks.ids}):
            life = self._lives.pop(track)
            events.append(self._event("end", life.last, life))
        for row, track in enumerate(tracks.ids.tolist()):
            if not tracks.seen[row]:
                continue
            phase = None if track in self._lives else "new"
            life = self._lives.setdefault(track, _Life(t, t, t))
            life.last = t
            life.about = describe(tracks, row, self._labels)
            life.top_score = max(life.top_score, life.about["score"])
            zones = [name for name, ids in inside if track in ids]
            if phase is None and (zones != life.zones or t - life.told >= self._update_s):
                phase = "update"
            life.zones = zones
            life.entered += [z for z in zones if z not in life.entered]
            if phase is not None:
                life.told = t
                events.append(self._event(phase, t, life))
        return events

    def snapshot(self) -> dict[str, Any]:
        return {"lives": {str(i): asdict(life) for i, life in self._lives.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        self._lives = {int(i): _Life(**life) for i, life in state["lives"].items()}

    def _event(self, phase: str, t: float, life: _Life) -> Event:
        data = {
            **life.about,
            "top_score": life.top_score,
            "start_s": round(life.start, 6),
            "age_s": round(t - life.start, 3),
        }
        return Event(
            "tracked_object",
            t,
            phase,
            None,
            {**data, "zones": list(life.zones), "entered_zones": list(life.entered)},
        )
