"""A forbidden turn: out of one zone and into another within a time."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from edgectl.core.schema import Config
from edgectl.pipelines.rules.base import RuleConfig, RuleContext, RuleType
from edgectl.pipelines.rules.observation import Observation, because, describe
from edgectl.pipelines.rules.predicate import Explained, Predicate
from edgectl.pipelines.stream.events import Event

__all__ = ["RULE", "TurnConfig", "TurnRule"]


class TurnConfig(RuleConfig):
    class Turn(Config):
        start: str
        """Name of the zone where it begins."""
        end: str
        """Name of the zone where it must not end."""
        seconds: float = Field(default=10.0, gt=0, le=3600)
        """So long after it was last in the first zone it is no longer a turn."""

        @model_validator(mode="after")
        def _two_zones(self) -> TurnConfig.Turn:
            if self.start == self.end:
                raise ValueError("start and end must be two zones")
            return self

    turn: Turn

    def zone_names(self) -> tuple[str, ...]:
        return (self.turn.start, self.turn.end)


class TurnRule:
    """Events ``forbidden_turn``, one for each turn."""

    def __init__(self, config: TurnConfig, context: RuleContext) -> None:
        self._id = config.id
        self._start, self._end = context.zones[config.turn.start], context.zones[config.turn.end]
        self._seconds = config.turn.seconds
        self._labels = context.labels
        self._since: dict[int, float] = {}
        """Track → when it was last in the first zone."""
        self._took: dict[int, float] = {}
        """Track → seconds, of those who came from zone to zone in the last step."""

    def step(self, now: Observation) -> list[Event]:
        for track in [track for track in self._since if track not in now.alive]:
            del self._since[track]
        events = []
        self._took = {}
        for row in now.rows:
            track = now.ids[row]
            if track in self._start.inside:
                self._since[track] = now.t
            if track not in self._since or track not in self._end.inside:
                continue
            entered = self._end.inside[track].since
            took = self._took[track] = entered - self._since.pop(track)
            if 0 <= took <= self._seconds:
                why = because("from zone to zone", took, self._seconds, "s")
                data = {"from": self._start.name, "to": self._end.name, "because": why}
                about = describe(now.tracks, row, self._labels)
                events.append(Event("forbidden_turn", now.t, None, self._id, {**about, **data}))
        return events

    def explain(self, now: Observation) -> list[Explained]:
        found = []
        for row in now.rows:
            track = now.ids[row]
            took = self._took.get(track)
            known = took is not None or track in self._since
            last = self._since.get(track)
            asked = [
                Predicate(f"was in zone {self._start.name}", known, since=last),
                self._end.predicate(track),
            ]
            soon = took is not None and 0 <= took <= self._seconds
            if took is not None:
                asked.append(Predicate("soon enough after it", soon, took, self._seconds, "s"))
            found.append(Explained(track, soon, tuple(asked)))
        return found

    def snapshot(self) -> dict[str, Any]:
        return {str(track): t for track, t in self._since.items()}

    def restore(self, state: dict[str, Any]) -> None:
        self._since = {int(track): float(t) for track, t in state.items()}


RULE = RuleType(
    TurnConfig,
    TurnRule,
    "something goes from one zone to another within a time: `forbidden_turn`",
)
