"""The life of each tracked object: new, update (its zones, its label or an attribute changed, or time passed),
end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from edgectl.pipelines.rules.observation import Observation, describe, shown_attributes
from edgectl.pipelines.rules.zone import ZoneRule
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.video.tracker import Tracks

__all__ = ["LifecycleRule"]


@dataclass(slots=True)
class _Life:
    start: float
    told: float
    last: float
    cls: int
    top_score: float = 0.0
    zones: list[str] = field(default_factory=list)
    entered: list[str] = field(default_factory=list)
    row: tuple[Tracks, int] | None = None
    """Where it was last seen: it is described only when there is something to tell."""
    attributes: dict[str, Any] = field(default_factory=dict)
    """What a second stage has decided, as events show it. An answer may come when the object is out of sight."""
    values: dict[str, str] = field(default_factory=dict)
    """Part → what was told of it."""
    about: dict[str, Any] = field(default_factory=dict)
    """The description, where a snapshot was restored and it was not seen since."""


class LifecycleRule:
    """Events ``tracked_object``. Steps after the zones, with the same tracks. An update that tells another
    label than before says which it was: ``label_was``."""

    def __init__(self, labels: Sequence[str], zones: Sequence[ZoneRule], update_s: float) -> None:
        self._labels = labels
        self._zones = zones
        self._update_s = update_s
        self._lives: dict[int, _Life] = {}

    def step(self, now: Observation) -> list[Event]:
        tracks, t = now.tracks, now.t
        events: list[Event] = []
        for track in sorted(self._lives.keys() - now.alive):
            life = self._lives.pop(track)
            events.append(self._event("end", life.last, life))
        scores = tracks.score.tolist()
        for row in now.rows:
            track, cls = now.ids[row], now.cls[row]
            phase = None if track in self._lives else "new"
            life = self._lives.get(track) or self._first(tracks, track, t, cls)
            life.last, life.row, life.top_score = t, (tracks, row), max(life.top_score, scores[row])
            zones = [z.name for z in self._zones if track in z.inside]
            changed = self._decided(life, tracks, track) or zones != life.zones or cls != life.cls
            if phase is None and (changed or t - life.told >= self._update_s):
                phase = "update"
            if phase is not None:
                was, life.cls, life.told = life.cls, cls, t
                life.zones = zones
                life.entered += [z for z in zones if z not in life.entered]
                more = {} if was == cls else {"label_was": self._labels[was]}
                events.append(self._event(phase, t, life, **more))
        for track in sorted(tracks.attributes.keys() & self._lives.keys()):
            life = self._lives[track]
            if life.last != t and self._decided(life, tracks, track):
                life.told = t
                events.append(self._event("update", t, life))
        return events

    def snapshot(self) -> dict[str, Any]:
        return {
            "lives": {
                str(i): {
                    "start": life.start,
                    "told": life.told,
                    "last": life.last,
                    "cls": life.cls,
                    "top_score": life.top_score,
                    "zones": life.zones,
                    "entered": life.entered,
                    "attributes": life.attributes,
                    "values": life.values,
                    "about": self._about(life),
                }
                for i, life in self._lives.items()
            }
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._lives = {int(i): _Life(**life) for i, life in state["lives"].items()}

    def _decided(self, life: _Life, tracks: Tracks, track: int) -> bool:
        """Whether an attribute is another one than was told."""
        found = tracks.attributes.get(track, {})
        life.attributes = shown_attributes(found)
        values = {part: attribute.value for part, attribute in found.items()}
        return values != life.values

    def _first(self, tracks: Tracks, track: int, t: float, cls: int) -> _Life:
        past = tracks.past.get(track)
        start = t if past is None else float(past[0, 0])
        life = self._lives[track] = _Life(start, t, t, cls)
        return life

    def _about(self, life: _Life) -> dict[str, Any]:
        return life.about if life.row is None else describe(*life.row, self._labels)

    def _event(self, phase: str, t: float, life: _Life, **more: Any) -> Event:
        life.values = {part: shown["value"] for part, shown in life.attributes.items()}
        data = {
            **self._about(life),
            **({"attributes": life.attributes} if life.attributes else {}),
            "top_score": round(life.top_score, 3),
            "start_s": round(life.start, 6),
            "age_s": round(t - life.start, 3),
            "zones": list(life.zones),
            "entered_zones": list(life.entered),
        }
        return Event("tracked_object", t, phase, None, data | more)
