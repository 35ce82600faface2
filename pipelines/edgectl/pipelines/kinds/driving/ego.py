"""What is known of the own car: its speed, and how old that is."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from edgectl.core.schema import Config

__all__ = ["EgoConfig", "Speed"]


class EgoConfig(Config):
    speed_mps: float | None = Field(default=None, ge=0, le=120)
    """A constant, for bench work; otherwise speed comes with the frames, if the source has it."""
    max_age_ms: float = Field(default=500, gt=0)
    """A speed that is older is not known."""


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
