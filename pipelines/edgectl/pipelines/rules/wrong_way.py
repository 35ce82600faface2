"""Somebody or something moves against the allowed direction of a zone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from edgectl.core.schema import Config
from edgectl.pipelines.rules.alarms import Alarms, Judged
from edgectl.pipelines.rules.base import RuleConfig, RuleContext, RuleType
from edgectl.pipelines.rules.observation import Observation, Seconds, because
from edgectl.pipelines.rules.predicate import Explained, Predicate
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.video.polygon import Relative

__all__ = ["RULE", "WrongWayConfig", "WrongWayRule"]

_SURE = 3.0
"""Standard deviations above 0 of a speed that is believed."""


class WrongWayConfig(RuleConfig):
    class WrongWay(Config):
        zone: str
        """Name of the zone."""
        allowed: tuple[Relative, Relative, Relative, Relative]
        """An arrow x1, y1, x2, y2 in the allowed direction."""
        min_heights_s: float = Field(default=0.15, gt=0, le=20)
        """Slower than so many of its own heights a second is no direction."""
        hold_s: Seconds = 0.5
        """How long it must move against the arrow."""

        @field_validator("allowed")
        @classmethod
        def _has_length(cls, arrow: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
            if arrow[:2] == arrow[2:]:
                raise ValueError("an arrow needs two different ends")
            return arrow

    wrong_way: WrongWay

    def zone_names(self) -> tuple[str, ...]:
        return (self.wrong_way.zone,)


class WrongWayRule:
    """Events ``wrong_way`` with phase ``start`` and ``end``."""

    def __init__(self, config: WrongWayConfig, context: RuleContext) -> None:
        c = config.wrong_way
        self._zone = context.zones[c.zone]
        self._allowed = np.array(c.allowed, np.float64)
        self._slowest = c.min_heights_s
        self._alarms = Alarms("wrong_way", config.id, context.labels, hold_s=c.hold_s, clear_s=1.0)

    def step(self, now: Observation) -> list[Event]:
        return self._alarms.step(now, self._judge(now))

    def explain(self, now: Observation) -> list[Explained]:
        return self._alarms.explain(now)

    def snapshot(self) -> dict[str, Any]:
        return self._alarms.snapshot()

    def restore(self, state: dict[str, Any]) -> None:
        self._alarms.restore(state)

    def _judge(self, now: Observation) -> Iterator[Judged]:
        size = np.array([now.tracks.width, now.tracks.height])
        arrow = (self._allowed[2:] - self._allowed[:2]) * size
        x, y = (arrow / np.hypot(*arrow)).tolist()
        velocity, errors = now.moving.velocity.tolist(), now.moving.velocity_error.tolist()
        for row in now.rows:
            if now.ids[row] not in self._zone.inside:
                yield Judged(row, (self._zone.predicate(now.ids[row]),), {"zone": self._zone.name})
                continue
            (vx, vy), (ex, ey) = velocity[row], errors[row]
            against, error = -(vx * x + vy * y), ((ex * x) ** 2 + (ey * y) ** 2) ** 0.5
            # more against the arrow than across it, as fast as is worth a word, and beyond doubt
            across = abs(vx * y - vy * x)
            needed = max(self._slowest * now.heights[row], _SURE * error, across)
            why = because("against the arrow", against, needed, "px/s")
            asked = (
                self._zone.predicate(now.ids[row]),
                Predicate("moves against the arrow", against >= needed, against, needed, "px/s"),
            )
            yield Judged(row, asked, {"zone": self._zone.name, "because": why})


RULE = RuleType(
    WrongWayConfig,
    WrongWayRule,
    "something moves against the allowed direction of a zone: `wrong_way`, phase `start`, `end`",
)
