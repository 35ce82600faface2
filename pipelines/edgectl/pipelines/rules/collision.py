"""Forward collision warning from the growth of boxes: time to contact = 1 / d(ln size)/dt. Pure; seconds of
capture time.

What comes nearer grows in width and in height alike. A box of which one grows alone changes its shape: two cars in
one box, a car that comes out from behind another or that turns. So both are measured; where they agree, the mean
counts, else the slower one. A box that leaps from one size to another is no approach either.

The slope of a line through ln(size) over a window belongs to the window's middle: half the window is taken
off. Boxes narrower than ``min_px`` say too little (5–95 % of 1.8–5.2 s at 33 px). Boxes cut by the frame's
left, right or lower edge are not measured; of those cut by the upper one, only the width.
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

F64 = NDArray[np.float64]

_LEVELS = ("preliminary", "imminent")
_HOLD_S = 0.2
_CLEAR_S = 0.6
_WIDE = 1.7
"""Standard errors on both sides: an interval of about 90 %."""
_APART = 2.5
"""Standard errors that width and height may grow apart."""
_LEAST_GROWTH = 0.02  # per s


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
    sizes: deque[tuple[float, float, float | None]] = field(default_factory=deque)
    """Time, width, height; no height where the frame cuts off its top."""
    level: int = 0
    """0: no warning, 1: preliminary, 2: imminent."""
    pending: tuple[int, float] | None = None
    ttc: tuple[float, float, float] | None = None


def time_to_contact(t: F64, width: F64, height: F64 | None = None) -> tuple[float, float, float] | None:
    """Seconds to contact at the last sample: (best, low, high of about 90 %). None if the box does not grow
    clearly, in all that is measured of it.

    ``t`` seconds, ``width`` and ``height`` pixels, at least 4 samples. None: the height is not known.
    """
    x = t - t.mean()
    sizes = [np.log(size) for size in (width, height) if size is not None]
    if _leaps(x, np.sum(sizes, axis=0)):
        return None
    slope, error = _common([_line(x, size) for size in sizes])
    if slope - _WIDE * error <= _LEAST_GROWTH:
        return None
    half = float(x[-1])
    best, low, high = (1 / s - half for s in (slope, slope + _WIDE * error, slope - _WIDE * error))
    return max(0.0, best), max(0.0, low), max(0.0, high)


def _line(x: F64, y: F64) -> tuple[float, float]:
    """The slope of ``y`` over ``x`` (whose mean is 0), and its standard error."""
    sxx = float((x * x).sum())
    slope = float((x * y).sum()) / sxx
    residual = y - y.mean() - slope * x
    return slope, math.sqrt(float((residual * residual).sum()) / (len(x) - 2) / sxx)


def _common(growths: list[tuple[float, float]]) -> tuple[float, float]:
    """How fast width and height grow together: their mean, weighted by how well each is known; the slower one where
    they differ by more than that."""
    slower, faster = min(growths), max(growths)
    if faster[0] - slower[0] > _APART * math.hypot(slower[1], faster[1]):
        return slower
    weights = [1 / max(error, 1e-9) ** 2 for _, error in growths]
    slope = sum(w * s for w, (s, _) in zip(weights, growths, strict=True)) / sum(weights)
    return slope, 1 / math.sqrt(sum(weights))


def _leaps(x: F64, y: F64) -> bool:
    """Whether ``y`` is on one level up to some sample and on another from there on, rather than on a line."""
    _, error = _line(x, y)
    line = error * error * (len(x) - 2) * float((x * x).sum())
    return min(_scatter(y[:k]) + _scatter(y[k:]) for k in range(1, len(y))) < line


def _scatter(y: F64) -> float:
    """Sum of squares around the mean."""
    away = y - y.mean()
    return float((away * away).sum())


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
            str(i): {"sizes": list(t.sizes), "level": t.level, "pending": t.pending}
            for i, t in self._targets.items()
        }
        return {"capability": self._capability.snapshot(), "targets": targets}

    def restore(self, state: dict[str, Any]) -> None:
        self._capability.restore(state["capability"])
        self._targets = {
            int(i): _Target(
                deque((t, width, height) for t, width, height in target["sizes"]),
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
        x1, y1, x2, y2 = (float(v) for v in tracks.xyxy[row])
        whole = x1 > 1 and x2 < tracks.width - 1 and y2 < tracks.height - 1
        if tracks.seen[row] and whole and x2 - x1 >= self._c.min_px:
            target.sizes.append((t, x2 - x1, y2 - y1 if y1 > 1 else None))
        while target.sizes and target.sizes[0][0] < t - self._c.window_s - 1e-9:
            target.sizes.popleft()
        target.ttc = None
        if len(target.sizes) >= 4 and target.sizes[-1][0] - target.sizes[0][0] >= 0.7 * self._c.window_s:
            times, widths, heights = zip(*target.sizes, strict=True)
            tall = None if None in heights else np.array(heights)
            target.ttc = time_to_contact(np.array(times), np.array(widths), tall)

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
