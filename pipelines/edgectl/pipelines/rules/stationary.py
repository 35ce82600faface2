"""Something stands still too long: a car that is parked, a pallet in a gateway."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from edgectl.core.schema import Config
from edgectl.pipelines.rules.alarms import Alarms, Judged
from edgectl.pipelines.rules.base import RuleConfig, RuleContext, RuleType
from edgectl.pipelines.rules.observation import Observation, because, wanted
from edgectl.pipelines.rules.predicate import Explained, counts_as, lasts
from edgectl.pipelines.rules.still import Stillness
from edgectl.pipelines.stream.events import Event

__all__ = ["RULE", "StationaryConfig", "StationaryRule"]


class StationaryConfig(RuleConfig):
    class Standstill(Config):
        zone: str
        """Name of the zone."""
        seconds: float = Field(gt=0, le=86400)
        """Longer is too long."""
        classes: tuple[str, ...] = ()
        """Labels that count; empty: those of the zone."""

    stationary: Standstill

    def zone_names(self) -> tuple[str, ...]:
        return (self.stationary.zone,)

    def label_names(self) -> tuple[str, ...]:
        return self.stationary.classes


class StationaryRule:
    """Events ``stationary`` with phase ``start`` and ``end``."""

    def __init__(self, config: StationaryConfig, context: RuleContext) -> None:
        c = config.stationary
        self._zone = context.zones[c.zone]
        self._seconds = c.seconds
        self._classes = wanted(c.classes, context.labels)
        self._still = Stillness()
        self._alarms = Alarms("stationary", config.id, context.labels, hold_s=0.0, clear_s=0.0)

    def step(self, now: Observation) -> list[Event]:
        self._still.step(now)
        return self._alarms.step(now, self._judge(now))

    def explain(self, now: Observation) -> list[Explained]:
        return self._alarms.explain(now)

    def snapshot(self) -> dict[str, Any]:
        return {"still": self._still.snapshot(), "alarms": self._alarms.snapshot()}

    def restore(self, state: dict[str, Any]) -> None:
        self._still.restore(state["still"])
        self._alarms.restore(state["alarms"])

    def _judge(self, now: Observation) -> Iterator[Judged]:
        for row in now.rows:
            track = now.ids[row]
            since = self._still.tracks[track].since
            asked = (
                counts_as(now.cls[row], self._classes, self._zone.labels),
                self._zone.predicate(track),
                lasts("stands still", since, now.t, self._seconds),
            )
            stood = now.t - since if asked[0].holds and asked[1].holds else 0.0
            why = because("stands still", stood, self._seconds, "s")
            yield Judged(row, asked, {"zone": self._zone.name, "because": why})


RULE = RuleType(
    StationaryConfig,
    StationaryRule,
    "something stands still too long in a zone: `stationary`, phase `start`, `end`",
)
