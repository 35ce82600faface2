"""Too many in a zone: one event when the count reaches ``high``, one when it is back at ``low``."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from edgectl.core.schema import Config
from edgectl.pipelines.rules.base import RuleConfig, RuleType
from edgectl.pipelines.rules.observation import Observation, because
from edgectl.pipelines.rules.predicate import Explained, Predicate
from edgectl.pipelines.rules.zone import ZoneRule
from edgectl.pipelines.stream.events import Event

__all__ = ["RULE", "OccupancyConfig", "OccupancyRule"]


class OccupancyConfig(RuleConfig):
    class Occupancy(Config):
        zone: str
        """Name of the zone."""
        high: int = Field(ge=1, le=10_000)
        """So many are too many."""
        low: int | None = Field(default=None, ge=0)
        """So few are no longer too many. None: ``high - 1``."""

        @model_validator(mode="after")
        def _apart(self) -> OccupancyConfig.Occupancy:
            if self.low is not None and self.low >= self.high:
                raise ValueError("low must be below high")
            return self

    occupancy: Occupancy

    def zone_names(self) -> tuple[str, ...]:
        return (self.occupancy.zone,)


class OccupancyRule:
    """Events ``occupancy`` with phase ``start`` and ``end``. Steps after its zone; the zone's hysteresis
    is the debounce."""

    def __init__(self, config: OccupancyConfig, zone: ZoneRule) -> None:
        self.name = config.id
        self._high = config.occupancy.high
        self._low = self._high - 1 if config.occupancy.low is None else config.occupancy.low
        self._zone = zone
        self._full = False

    def step(self, now: Observation) -> list[Event]:
        n = len(self._zone.inside)
        if n >= self._high if not self._full else n <= self._low:
            self._full = not self._full
            limit = self._high if self._full else self._low
            data = {
                "zone": self._zone.name,
                "count": n,
                "limit": self._high,
                "because": because("in the zone", n, limit, "objects"),
            }
            return [Event("occupancy", now.t, "start" if self._full else "end", self.name, data)]
        return []

    def explain(self, now: Observation) -> list[Explained]:
        n = len(self._zone.inside)
        asked = Predicate(f"enough in zone {self._zone.name}", n >= self._high, n, self._high, "objects")
        return [Explained(None, self._full, (asked,))]

    def snapshot(self) -> dict[str, Any]:
        return {"full": self._full}

    def restore(self, state: dict[str, Any]) -> None:
        self._full = bool(state["full"])


RULE = RuleType(
    OccupancyConfig,
    lambda config, context: OccupancyRule(config, context.zones[config.occupancy.zone]),
    "too many in a zone: `occupancy`, phase `start`, `end`",
)
