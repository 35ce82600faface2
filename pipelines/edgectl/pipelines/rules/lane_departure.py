"""Lane departure warning: the line is reached within ``ttlc_s``, or was crossed. Pure; seconds of capture
time.

Metres come from the lane's own width in the picture (3.6 m unless configured) at the row of the bonnet: no
camera height is needed, and events say ``"calibration": "lane_width"``.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from pydantic import Field

from edgectl.core.schema import Config
from edgectl.pipelines.rules.base import RuleConfig, RuleType
from edgectl.pipelines.rules.capability import Capability
from edgectl.pipelines.rules.observation import Observation, Seconds
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.video.lanes import CameraConfig, Lanes

__all__ = ["RULE", "DepartureRule", "LaneDepartureConfig"]

_HALF_CAR_M = 0.9
_WINDOW_S = 0.6  # over which lateral speed is measured
_STABLE_S = 1.0  # of lanes, before their width is believed
_SUPPORT = 0.35
# a jump of the offset by more is a lane change (or a wrong lane), not a drift
_CHANGE_M = 1.0
_LOST_S = 0.5


class LaneDepartureConfig(RuleConfig):
    class LaneDeparture(Config):
        v_min_mps: float = Field(default=16.7, ge=0)
        """A slower car is not warned."""
        ttlc_s: float = Field(default=0.7, gt=0)
        """Time until a wheel is on the line."""
        hold_s: Seconds = 0.2
        """How long that must last."""

    lane_departure: LaneDeparture


class DepartureRule:
    """Events ``lane_departure`` with phase ``start`` / ``end`` and ``side``, ``offset_m``, ``ttlc_s``;
    ``capability`` when it cannot."""

    def __init__(self, config: LaneDepartureConfig, camera: CameraConfig) -> None:
        self.name = config.id
        self._c = config.lane_departure
        self._lane_m = camera.lane_width_m
        self._capability = Capability("lane_departure")
        self._offsets: deque[tuple[float, float]] = deque()
        self._since: float | None = None
        self._last_t = -1e9
        self._warning: str | None = None
        self._pending: tuple[str | None, float] | None = None
        self.offset_m: float | None = None
        """Metres of the camera to the right of the lane's middle."""

    def step(self, now: Observation) -> list[Event]:
        t, speed_mps = now.t, now.speed_mps
        self._measure(now.lanes, now.tracks.width, now.tracks.height, t)
        stable = self._since is not None and t - self._since >= _STABLE_S and t - self._last_t <= _LOST_S
        reason = "speed_missing" if speed_mps is None else None if stable else "lanes_missing"
        events = self._capability.step(reason, t)
        if reason is not None or speed_mps is None or speed_mps < self._c.v_min_mps:
            return events + self._turn(None, t, 0.0)
        side, ttlc = self._drift()
        return events + self._turn(side, t, ttlc)

    def snapshot(self) -> dict[str, Any]:
        return {
            "capability": self._capability.snapshot(),
            "offsets": list(self._offsets),
            "since": self._since,
            "last_t": self._last_t,
            "warning": self._warning,
            "pending": self._pending,
            "offset_m": self.offset_m,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._capability.restore(state["capability"])
        self._offsets = deque((t, offset) for t, offset in state["offsets"])
        self._since, self._last_t = state["since"], state["last_t"]
        self._warning, self.offset_m = state["warning"], state["offset_m"]
        self._pending = None if state["pending"] is None else tuple(state["pending"])

    def _measure(self, lanes: Lanes | None, width: int, height: int, t: float) -> None:
        if lanes is None or min(lanes.support) < _SUPPORT:
            if t - self._last_t > _LOST_S:
                self._offsets.clear()
                self._since = None
                self.offset_m = None
            return
        left, right = (float(x) for x in lanes.at(float(height)))
        offset = (width / 2 - (left + right) / 2) / (right - left) * self._lane_m
        if self._offsets and abs(offset - self._offsets[-1][1]) > _CHANGE_M:
            self._offsets.clear()
        self._offsets.append((t, offset))
        while self._offsets[0][0] < t - _WINDOW_S:
            self._offsets.popleft()
        self._since = t if self._since is None else self._since
        self._last_t = t
        self.offset_m = offset

    def _drift(self) -> tuple[str | None, float]:
        """The side whose line is near in time, and the seconds until the wheel is on it (0 or less: it
        is)."""
        if len(self._offsets) < 4:
            return None, 0.0
        t, x = np.array(self._offsets).T
        span = t[-1] - t[0]
        if span < 0.5 * _WINDOW_S:
            return None, 0.0
        speed, now = np.polyfit(t - t[-1], x, 1)
        room = self._lane_m / 2 - _HALF_CAR_M
        for side, sign in (("right", 1.0), ("left", -1.0)):
            distance = room - sign * now
            towards = sign * speed
            if distance <= 0 and towards > -0.15:  # moving away from it: a lane change is ending
                return side, 0.0
            if distance > 0 and towards > 0.05 and distance / towards < self._c.ttlc_s:
                return side, float(distance / towards)
        return None, 0.0

    def _turn(self, side: str | None, t: float, ttlc: float) -> list[Event]:
        """Report a change once it has lasted ``hold_s``."""
        if side == self._warning:
            self._pending = None
            return []
        if self._pending is None or self._pending[0] != side:
            self._pending = (side, t)
        if t - self._pending[1] < self._c.hold_s - 1e-9:
            return []
        before, self._warning, self._pending = self._warning, side, None
        data: dict[str, Any] = {
            "side": side or before,
            "offset_m": None if self.offset_m is None else round(self.offset_m, 2),
        }
        if side is not None:
            data |= {"ttlc_s": round(ttlc, 2), "calibration": "lane_width"}
        return [Event("lane_departure", t, "end" if side is None else "start", self.name, data)]


RULE = RuleType(
    LaneDepartureConfig,
    lambda config, context: DepartureRule(config, context.camera),
    "a line of the own lane is reached soon, or was crossed: `lane_departure`, phase `start`, `end`",
    frozenset({"lanes", "speed"}),
)
