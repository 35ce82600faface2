"""What is known of the own car: its speed, and how old that is. And which warnings can be given at all."""

from __future__ import annotations

from collections.abc import Mapping

from edgectl.pipelines.config import EgoConfig
from edgectl.pipelines.stream.events import Event

__all__ = ["Capability", "Speed"]


class Speed:
    """Speed in m/s from the frames' sensors, or the configured constant. Pure: time comes as an argument."""

    def __init__(self, config: EgoConfig) -> None:
        self._constant = config.speed_mps
        self._max_age_s = config.max_age_ms / 1000
        self._value: float | None = None
        self._t = 0.0

    def at(self, t: float, sensors: Mapping[str, float]) -> float | None:
        """Speed at ``t``; None if it is not known or too old."""
        value = sensors.get("speed_mps")
        if value is not None:
            self._value, self._t = value, t
        if self._value is not None and t - self._t <= self._max_age_s:
            return self._value
        return self._constant


class Capability:
    """Says once when a warning becomes unavailable, and why; and once when it is back. A changed reason is
    told after ``hold_s``."""

    def __init__(self, name: str, *, hold_s: float = 1.0) -> None:
        self.name = name
        self.available: bool | None = None
        self._reason: str | None = None
        self._pending: tuple[str | None, float] | None = None
        self._hold_s = hold_s

    def step(self, reason: str | None, t: float) -> list[Event]:
        """``reason``: what is missing now (``speed_missing``, ``lanes_missing``, ``calibration_missing``),
        or None."""
        if self.available is not None and reason == self._reason:
            self._pending = None
            return []
        if self.available is not None:
            if self._pending is None or self._pending[0] != reason:
                self._pending = (reason, t)
            if t - self._pending[1] < self._hold_s:
                return []
        self.available, self._reason, self._pending = reason is None, reason, None
        data = {"name": self.name, "available": self.available, "reason": reason}
        return [Event("capability", t, "end" if self.available else "start", None, data)]
