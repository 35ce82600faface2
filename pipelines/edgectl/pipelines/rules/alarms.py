"""What many rules share: something holds of a track for a while (phase ``start``), and no longer (``end``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgectl.pipelines.rules.observation import Observation, describe
from edgectl.pipelines.rules.predicate import Explained, Predicate, lasts
from edgectl.pipelines.stream.events import Event

__all__ = ["Alarms", "Judged"]


@dataclass(frozen=True, slots=True)
class Judged:
    """Of one track in one frame."""

    row: int
    """Of the observation."""
    asked: tuple[Predicate, ...]
    """What decides."""
    data: Mapping[str, Any]
    """What the event says besides the description of the object: ``because`` and more."""

    @property
    def holds(self) -> bool:
        return all(predicate.holds for predicate in self.asked)


@dataclass(slots=True)
class _Alarm:
    on: bool = False
    since: float = 0.0
    """On: when it began to hold."""
    pending: float | None = None
    """Since when the opposite is seen."""
    cls: int = 0


class Alarms:
    """One alarm for each track. It starts when it has held for ``hold_s``, and ends when it has not held for
    ``clear_s`` or the track has ended (``reason`` ``lost``; ``attribute``: it is none of those that count any more)."""

    def __init__(
        self, type_: str, rule: str, labels: Sequence[str], *, hold_s: float, clear_s: float
    ) -> None:
        self._type = type_
        self._labels = labels
        self._rule = rule
        self._hold_s = hold_s
        self._clear_s = clear_s
        self._alarms: dict[int, _Alarm] = {}
        self._judged: dict[int, Judged] = {}
        """Track → what was judged of it in the last step."""

    @property
    def on(self) -> list[int]:
        """Tracks whose alarm is on."""
        return [track for track, alarm in self._alarms.items() if alarm.on]

    def step(self, now: Observation, judged: Iterable[Judged]) -> list[Event]:
        """Nothing changes for a track that is not judged; its alarm ends with the track."""
        t = now.t
        events: list[Event] = []
        self._judged = {}
        for track in sorted(self._alarms.keys() - now.alive):
            alarm = self._alarms.pop(track)
            if alarm.on:
                events.append(self._end(t, track, alarm, "attribute" if track in now.others else "lost"))
        for one in judged:
            track = now.ids[one.row]
            self._judged[track] = one
            alarm = self._alarms.get(track, _OFF)
            if one.holds == alarm.on:
                if alarm is not _OFF and not alarm.on:
                    del self._alarms[track]
                alarm.pending = None
                continue
            if alarm is _OFF:
                alarm = self._alarms[track] = _Alarm()
            alarm.cls = now.cls[one.row]
            if alarm.pending is None:
                alarm.pending = t
            if t - alarm.pending < (self._clear_s if alarm.on else self._hold_s) - 1e-9:
                continue
            if alarm.on:
                events.append(self._end(t, track, self._alarms.pop(track), "over", one.data))
            else:
                alarm.on, alarm.since, alarm.pending = True, alarm.pending, None
                about = describe(now.tracks, one.row, self._labels)
                events.append(Event(self._type, t, "start", self._rule, {**about, **one.data}))
        return events

    def end(self, t: float, reason: str) -> list[Event]:
        """End all alarms: the rule is switched off, or blind."""
        alarms, self._alarms, self._judged = self._alarms, {}, {}
        return [self._end(t, track, alarm, reason) for track, alarm in sorted(alarms.items()) if alarm.on]

    def explain(
        self, now: Observation, before: Callable[[int], tuple[Predicate, ...]] | None = None
    ) -> list[Explained]:
        """Of every track that is seen, what was asked. ``before``: row → what the rule asks before it judges a track."""
        found = []
        for row in now.rows:
            track = now.ids[row]
            alarm, one = self._alarms.get(track, _OFF), self._judged.get(track)
            asked = () if before is None else before(row)
            if one is None:
                asked += (Predicate("seen well enough to be judged", False),) * all(p.holds for p in asked)
            else:
                asked += one.asked
                if self._hold_s:
                    begin = alarm.since if alarm.on else alarm.pending
                    asked += (lasts("it stays so", begin if one.holds else None, now.t, self._hold_s),)
            found.append(Explained(track, alarm.on, asked))
        return found

    def snapshot(self) -> dict[str, Any]:
        return {str(track): asdict(alarm) for track, alarm in self._alarms.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._alarms = {int(track): _Alarm(**alarm) for track, alarm in state.items()}

    def _end(
        self, t: float, track: int, alarm: _Alarm, reason: str, data: Mapping[str, Any] | None = None
    ) -> Event:
        about = {"track": track, "label": self._labels[alarm.cls], "reason": reason}
        lasted = {"seconds": round(t - alarm.since, 3)}
        return Event(self._type, t, "end", self._rule, {**about, **(data or {}), **lasted})


_OFF = _Alarm()
