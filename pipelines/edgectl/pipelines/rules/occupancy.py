"""Too many in a zone: one event when the count reaches ``high``, one when it is back at ``low``."""

from __future__ import annotations

from typing import Any

from edgectl.pipelines.config import OccupancyConfig
from edgectl.pipelines.rules.zone import ZoneRule
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.video.tracker import Tracks

__all__ = ["OccupancyRule"]


class OccupancyRule:
    """Events ``occupancy`` with phase ``start`` and ``end``. Steps after its zone; the zone's hysteresis
    is the debounce."""

    def __init__(self, config: OccupancyConfig, zone: ZoneRule) -> None:
        self.name = config.id
        self._high = config.occupancy.high
        self._low = self._high - 1 if config.occupancy.low is None else config.occupancy.low
        self._zone = zone
        self._full = False

    def step(self, tracks: Tracks, t: float) -> list[Event]:
        n = len(self._zone.inside)
        if n >= self._high if not self._full else n <= self._low:
            self._full = not self._full
            data = {"zone": self._zone.name, "count": n, "limit": self._high}
            return [Event("occupancy", t, "start" if self._full else "end", self.name, data)]
        return []

    def snapshot(self) -> dict[str, Any]:
        return {"full": self._full}

    def restore(self, state: dict[str, Any]) -> None:
        self._full = bool(state["full"])
