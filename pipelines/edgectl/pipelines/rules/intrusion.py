"""Somebody is in a zone at a time of day when nobody may be, while the rule is armed.

The time of day comes with the frame. Where it means nothing (a file) and hours are configured, the rule says that
it is blind, and does not guess.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import field_validator

from edgectl.core.schema import Config
from edgectl.pipelines.rules.alarms import Alarms, Judged
from edgectl.pipelines.rules.base import RuleConfig, RuleContext, RuleType
from edgectl.pipelines.rules.capability import Capability
from edgectl.pipelines.rules.observation import Observation, Seconds, because
from edgectl.pipelines.rules.predicate import Explained, Predicate, lasts
from edgectl.pipelines.rules.schedule import Schedule, check_hours
from edgectl.pipelines.stream.events import Event

__all__ = ["RULE", "IntrusionConfig", "IntrusionRule"]


class IntrusionConfig(RuleConfig):
    class Intrusion(Config):
        zone: str
        """Name of the zone."""
        when: tuple[str, ...] = ()
        """Hours in the site's time zone: `22:00-06:00`, `mon-fri 18:00-07:00`; empty: always."""
        armed: bool = True
        """Whether it is armed at the start; it can be switched while it runs."""
        after_s: Seconds = 0.0
        """How long somebody must be in the zone."""

        @field_validator("when", mode="before")
        @classmethod
        def _one_or_many(cls, when: Any) -> Any:
            return (when,) if isinstance(when, str) else when

        @field_validator("when")
        @classmethod
        def _are_hours(cls, when: tuple[str, ...]) -> tuple[str, ...]:
            return check_hours(when)

    intrusion: Intrusion

    def zone_names(self) -> tuple[str, ...]:
        return (self.intrusion.zone,)


class IntrusionRule:
    """Events ``intrusion`` with phase ``start`` and ``end`` (``reason``: ``over``, ``lost``, ``disarmed``,
    ``hours``, ``blind``); ``capability`` when it does not know the time of day."""

    def __init__(self, config: IntrusionConfig, context: RuleContext) -> None:
        c = config.intrusion
        self.armed = c.armed
        self._after_s = c.after_s
        self._zone = context.zones[c.zone]
        self._schedule = Schedule(c.when, context.time_zone)
        self._timed = bool(c.when)
        self._capability = Capability(config.id, hold_s=0.0)
        self._alarms = Alarms("intrusion", config.id, context.labels, hold_s=0.0, clear_s=0.0)

    def switch(self, on: bool) -> None:
        self.armed = on

    def step(self, now: Observation) -> list[Event]:
        blind = self._timed and now.wall is None
        events = self._capability.step("wall_time_missing" if blind else None, now.t) if self._timed else []
        for reason, asked in self._scene(now).items():
            if not asked.holds:
                return events + self._alarms.end(now.t, reason)
        return events + self._alarms.step(now, self._judge(now))

    def explain(self, now: Observation) -> list[Explained]:
        scene = tuple(self._scene(now).values())
        if not all(asked.holds for asked in scene):
            return [Explained(None, False, scene)]
        return [Explained(one.track, one.on, (*scene, *one.asked)) for one in self._alarms.explain(now)]

    def snapshot(self) -> dict[str, Any]:
        return {
            "armed": self.armed,
            "capability": self._capability.snapshot(),
            "alarms": self._alarms.snapshot(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.armed = state["armed"]
        self._capability.restore(state["capability"])
        self._alarms.restore(state["alarms"])

    def lasting(self) -> dict[str, Any]:
        return {"armed": self.armed}

    def recall(self, state: dict[str, Any]) -> None:
        self.armed = bool(state["armed"])

    def _scene(self, now: Observation) -> dict[str, Predicate]:
        """Reason of an alarm's end → what must hold before anybody is looked at."""
        asked = {"blind": Predicate("the time of day is known", now.wall is not None)} if self._timed else {}
        asked["disarmed"] = Predicate("armed", self.armed)
        if self._timed and now.wall is not None:
            asked["hours"] = Predicate("in its hours", self._schedule.covers(now.wall.unix_s))
        return asked

    def _judge(self, now: Observation) -> Iterator[Judged]:
        clock = {} if now.wall is None else {"clock": now.wall.quality}
        for row in now.rows:
            track = now.ids[row]
            stay = self._zone.inside.get(track)
            if stay is None:
                yield Judged(row, (self._zone.predicate(track),), {"zone": self._zone.name})
                continue
            here_s = now.t - stay.since
            why = because("in the zone", here_s, self._after_s, "s", **clock)
            asked = self._zone.predicate(track), lasts("has been in it", stay.since, now.t, self._after_s)
            yield Judged(row, asked, {"zone": self._zone.name, "because": why})


RULE = RuleType(
    IntrusionConfig,
    IntrusionRule,
    "somebody is in a zone outside its hours, while it is armed: `intrusion`, phase `start`, `end`",
)
