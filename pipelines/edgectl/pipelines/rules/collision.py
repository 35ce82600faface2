"""Forward collision warning from the growth of boxes: time to contact = 1 / d(ln width)/dt. Pure; seconds of
capture time.

The slope of a line through ln(width) over a window belongs to the window's middle: half the window is taken
off. Boxes narrower than ``min_px`` say too little (5–95 % of 1.8–5.2 s at 33 px). Boxes cut by the frame's
edge are not measured.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgectl.core.schema import Config
from edgectl.pipelines.rules.base import RuleConfig, RuleType
from edgectl.pipelines.rules.capability import Capability
from edgectl.pipelines.rules.observation import Observation
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.video.lanes import Lanes
from edgectl.pipelines.video.tracker import Tracks

__all__ = ["RULE", "CollisionConfig", "CollisionRule", "in_path", "time_to_contact"]

_LEVELS = ("preliminary", "imminent")
_HOLD_S = 0.2
_CLEAR_S = 0.6


class CollisionConfig(RuleConfig):
    class Collision(Config):
        min_px: float = Field(default=45.0, gt=0)
        """A narrower box is not measured."""
        window_s: float = Field(default=0.5, ge=0.3, le=3)
        """Over which a box's growth is measured."""
        warn_s: float = Field(default=2.7, gt=0)
        """Time to contact for the phase ``preliminary``."""
        alert_s: float = Field(default=1.6, gt=0)
        """Time to contact for the phase ``imminent``."""
        v_min_mps: float = Field(default=5.0, ge=0)
        """A slower car is not warned."""

    collision: Collision


@dataclass
class _Target:
    widths: deque[tuple[float, float]] = field(default_factory=deque)
    level: int = 0
    """0: no warning, 1: preliminary, 2: imminent."""
    pending: tuple[int, float] | None = None
    ttc: tuple[float, float, float] | None = None


def time_to_contact(t: NDArray[np.float64], width: NDArray[np.float64]) -> tuple[float, float, float] | None:
    """Seconds to contact at the last sample: (best, low, high of about 90 %). None if the box does not grow
    clearly.

    ``t`` seconds, ``width`` pixels, at least 4 samples.
    """
    x, y = t - t.mean(), np.log(width)
    sxx = float((x * x).sum())
    slope = float((x * y).sum()) / sxx
    residual = y - y.mean() - slope * x
    error = math.sqrt(float((residual * residual).sum()) / (len(t) - 2) / sxx)
    if slope - 1.7 * error <= 0.02:
        return None
    half = float(t[-1] - t.mean())
    best, low, high = (1 / s - half for s in (slope, slope + 1.7 * error, slope - 1.7 * error))
    return max(0.0, best), max(0.0, low), max(0.0, high)


class CollisionRule:
    """Events ``collision_warning`` with phase ``preliminary``, ``imminent`` or ``clear``; ``capability``
    when it cannot warn."""

    def __init__(self, config: CollisionConfig) -> None:
        self.name = config.id
        self._c = config.collision
        self._capability = Capability("collision_warning")
        self._targets: dict[int, _Target] = {}

    def step(self, now: Observation) -> list[Event]:
        tracks, t, speed_mps = now.tracks, now.t, now.speed_mps
        path = in_path(tracks, now.lanes)
        events = self._capability.step("speed_missing" if speed_mps is None else None, t)
        active = speed_mps is not None and speed_mps >= self._c.v_min_mps
        for track in sorted(self._targets.keys() - {int(i) for i in tracks.ids}):
            events += self._change(track, self._targets.pop(track), 0, t, None)
        for row, track in enumerate(tracks.ids.tolist()):
            target = self._targets.setdefault(track, _Target())
            self._measure(target, tracks, row, t)
            wanted = self._level(target) if active and bool(path[row]) else 0
            hold = _HOLD_S if wanted > target.level else _CLEAR_S
            if wanted == target.level:
                target.pending = None
                continue
            if target.pending is None or (target.pending[0] > target.level) != (wanted > target.level):
                target.pending = (wanted, t)
            if t - target.pending[1] >= hold - 1e-9:
                events += self._change(
                    track, target, wanted, t, float(tracks.xyxy[row, 2] - tracks.xyxy[row, 0])
                )
        return events

    def snapshot(self) -> dict[str, Any]:
        targets = {
            str(i): {"widths": list(t.widths), "level": t.level, "pending": t.pending}
            for i, t in self._targets.items()
        }
        return {"capability": self._capability.snapshot(), "targets": targets}

    def restore(self, state: dict[str, Any]) -> None:
        self._capability.restore(state["capability"])
        self._targets = {
            int(i): _Target(
                deque((t, width) for t, width in target["widths"]),
                target["level"],
                None if target["pending"] is None else tuple(target["pending"]),
            )
            for i, target in state["targets"].items()
        }

    def nearest(self) -> tuple[int, float] | None:
        """Track and time to contact of the most urgent target that is measured; None without one."""
        known = [(i, target.ttc[0]) for i, target in self._targets.items() if target.ttc is not None]
        return min(known, key=lambda k: k[1], default=None)

    def level(self, track: int) -> int:
        """The warning level of a track: 0 none, 1 preliminary, 2 imminent."""
        return self._targets[track].level if track in self._targets else 0

    def _measure(self, target: _Target, tracks: Tracks, row: int, t: float) -> None:
        x1, _, x2, y2 = (float(v) for v in tracks.xyxy[row])
        whole = x1 > 1 and x2 < tracks.width - 1 and y2 < tracks.height - 1
        if tracks.seen[row] and whole and x2 - x1 >= self._c.min_px:
            target.widths.append((t, x2 - x1))
        while target.widths and target.widths[0][0] < t - self._c.window_s - 1e-9:
            target.widths.popleft()
        target.ttc = None
        if len(target.widths) >= 4 and target.widths[-1][0] - target.widths[0][0] >= 0.7 * self._c.window_s:
            times, widths = np.array(target.widths).T
            target.ttc = time_to_contact(times, widths)

    def _level(self, target: _Target) -> int:
        if target.ttc is None:
            return 0
        loose = 1.25 if target.level else 1.0  # a warning ends later than it starts
        ttc = target.ttc[0]
        return (
            2
            if ttc <= self._c.alert_s * (loose if target.level == 2 else 1)
            else 1
            if ttc <= self._c.warn_s * loose
            else 0
        )

    def _change(self, track: int, target: _Target, level: int, t: float, box_px: float | None) -> list[Event]:
        if level == target.level:
            return []
        target.level, target.pending = level, None
        data: dict[str, Any] = {"track": track}
        if level and target.ttc is not None and box_px is not None:
            data |= {
                "ttc_s": round(target.ttc[0], 2),
                "ttc_ci_s": [round(v, 2) for v in target.ttc[1:]],
                "box_px": round(box_px),
            }
        return [Event("collision_warning", t, _LEVELS[level - 1] if level else "clear", self.name, data)]


def in_path(tracks: Tracks, lanes: Lanes | None) -> NDArray[np.bool_]:
    """Which tracks (N,) stand in the own lane: bottom centre between the lines, or in the middle sixth of
    the frame without lines."""
    foot = tracks.anchor().astype(np.float64)
    if lanes is None:
        return np.asarray(np.abs(foot[:, 0] - tracks.width / 2) < tracks.width / 12)
    row = np.maximum(foot[:, 1], lanes.v0 + 4)
    left, right = lanes.at(row)
    return np.asarray((foot[:, 0] > left) & (foot[:, 0] < right))


RULE = RuleType(
    CollisionConfig,
    lambda config, context: CollisionRule(config),
    "time to contact with what is ahead in the own lane falls below a limit: `collision_warning`, phase `preliminary`, `imminent`, `clear`",
    frozenset({"lanes", "speed"}),
)
