"""A crowd: more than so many people to a square metre of a zone, for a while."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from edgectl.core.errors import UsageError
from edgectl.core.schema import Config
from edgectl.pipelines.rules.base import RuleConfig, RuleContext, RuleType
from edgectl.pipelines.rules.observation import Observation, Seconds, because
from edgectl.pipelines.rules.predicate import Explained, Predicate, lasts
from edgectl.pipelines.stream.events import Event

__all__ = ["RULE", "DensityConfig", "DensityRule"]


class DensityConfig(RuleConfig):
    class Density(Config):
        zone: str
        """Name of the zone."""
        area_m2: float | None = Field(default=None, gt=0, le=1e6)
        """Of the zone. none: from `ground`."""
        high: float = Field(default=2.0, gt=0, le=20)
        """So many to a square metre are a crowd."""
        low: float | None = Field(default=None, ge=0)
        """So few are none any more. none: 0.8 of `high`."""
        hold_s: Seconds = 5.0
        """How long it must be so."""

        @model_validator(mode="after")
        def _low_below_high(self) -> DensityConfig.Density:
            if self.low is not None and self.low >= self.high:
                raise ValueError("low must be below high")
            return self

    density: Density

    def zone_names(self) -> tuple[str, ...]:
        return (self.density.zone,)

    def needs_ground(self) -> bool:
        return self.density.area_m2 is None


class DensityRule:
    """Events ``crowd`` with phase ``start`` and ``end``: ``count``, ``area_m2``, ``per_m2``."""

    def __init__(self, config: DensityConfig, context: RuleContext) -> None:
        c = config.density
        self._id = config.id
        self._zone = context.zones[c.zone]
        area = c.area_m2
        if area is None:
            assert context.ground is not None
            area = context.ground.area_m2(self._zone.polygon)
            if not area > 0:
                raise UsageError(
                    f"rule {config.id!r}: the zone {c.zone!r} reaches the horizon of `ground`: it has no area",
                    hint="make the zone smaller, or say its area_m2",
                )
        self._area_m2 = area
        self._high, self._low = c.high, 0.8 * c.high if c.low is None else c.low
        self._hold_s = c.hold_s
        self._on = False
        self._pending: float | None = None
        self._since: float | None = None
        """Since when it is a crowd."""

    def step(self, now: Observation) -> list[Event]:
        n = len(self._zone.inside)
        dense = n / self._area_m2
        turned = dense <= self._low if self._on else dense >= self._high
        if not turned:
            self._pending = None
            return []
        if self._pending is None:
            self._pending = now.t
        if now.t - self._pending < self._hold_s - 1e-9:
            return []
        self._on, self._since, self._pending = not self._on, self._pending, None
        data = {
            "zone": self._zone.name,
            "count": n,
            "area_m2": round(self._area_m2, 2),
            "per_m2": round(dense, 3),
            "because": because("in the zone", dense, self._high if self._on else self._low, "1/m²"),
        }
        return [Event("crowd", now.t, "start" if self._on else "end", self._id, data)]

    def explain(self, now: Observation) -> list[Explained]:
        per_m2 = len(self._zone.inside) / self._area_m2
        dense = Predicate(
            f"crowded in zone {self._zone.name}", per_m2 >= self._high, per_m2, self._high, "1/m²"
        )
        begin = self._since if self._on else self._pending
        stays = lasts("it stays so", begin if dense.holds else None, now.t, self._hold_s)
        return [Explained(None, self._on, (dense, stays))]

    def snapshot(self) -> dict[str, Any]:
        return {"on": self._on, "pending": self._pending, "since": self._since}

    def restore(self, state: dict[str, Any]) -> None:
        self._on, self._pending, self._since = state["on"], state["pending"], state["since"]


RULE = RuleType(
    DensityConfig,
    DensityRule,
    "a crowd, by people to a square metre of a zone: `crowd`, phase `start`, `end`",
)
