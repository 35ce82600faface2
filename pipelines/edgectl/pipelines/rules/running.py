"""Somebody runs. In metres a second where four points of the ground were measured, else by how tall somebody is in the
picture: by the box, or by the torso where keypoints show that the box holds less than the whole of somebody."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from pydantic import Field

from edgectl.core.schema import Config
from edgectl.pipelines.rules.alarms import Alarms, Judged
from edgectl.pipelines.rules.base import RuleConfig, RuleContext, RuleType
from edgectl.pipelines.rules.body import body
from edgectl.pipelines.rules.observation import Observation, Seconds, because, wanted
from edgectl.pipelines.rules.predicate import Explained, Predicate, counts_as
from edgectl.pipelines.stream.events import Event

__all__ = ["RULE", "RunningConfig", "RunningRule"]

_SURE = 2.0
"""Standard deviations that a speed must be above the limit."""


class RunningConfig(RuleConfig):
    class Runner(Config):
        zone: str | None = None
        """Name of the zone. none: everywhere."""
        faster_mps: float = Field(default=2.5, gt=0, le=50)
        """Faster is running."""
        tall_m: float = Field(default=1.7, gt=0, le=5)
        """How tall they are, where there is no `ground`."""
        hold_s: Seconds = 0.7
        """How long somebody must be so fast."""
        classes: tuple[str, ...] = ("person",)
        """Labels that count."""

    running: Runner

    def zone_names(self) -> tuple[str, ...]:
        return () if self.running.zone is None else (self.running.zone,)

    def label_names(self) -> tuple[str, ...]:
        return self.running.classes


class RunningRule:
    """Events ``running`` with phase ``start`` and ``end``."""

    def __init__(self, config: RunningConfig, context: RuleContext) -> None:
        c = config.running
        self._c = c
        self._labels = context.labels
        self._zone = None if c.zone is None else context.zones[c.zone]
        self._ground = context.ground
        self._classes = wanted(c.classes, context.labels)
        self._alarms = Alarms("running", config.id, context.labels, hold_s=c.hold_s, clear_s=1.0)

    def step(self, now: Observation) -> list[Event]:
        return self._alarms.step(now, self._judge(now))

    def explain(self, now: Observation) -> list[Explained]:
        return self._alarms.explain(now, lambda row: (counts_as(now.cls[row], self._classes, self._labels),))

    def _before(self, now: Observation, row: int) -> tuple[Predicate, ...]:
        """What is asked before the speed."""
        return () if self._zone is None else (self._zone.predicate(now.ids[row]),)

    def snapshot(self) -> dict[str, Any]:
        return self._alarms.snapshot()

    def restore(self, state: dict[str, Any]) -> None:
        self._alarms.restore(state)

    def _judge(self, now: Observation) -> Iterator[Judged]:
        rows = []
        known = np.isfinite(now.moving.velocity_error[:, 0])
        for row in now.rows:
            if now.cls[row] in self._classes:
                if self._zone is not None and now.ids[row] not in self._zone.inside:
                    yield Judged(row, self._before(now, row), {})
                elif known[row]:
                    rows.append(row)
        if not rows:
            return
        velocity, errors = now.moving.velocity[rows], now.moving.velocity_error[rows]
        if self._ground is not None:
            size = np.array([now.tracks.width, now.tracks.height], np.float64)
            per = self._ground.metres_per(now.points("bottom_center")[rows] / size)
            speeds = np.hypot(*np.moveaxis((per * (velocity / size)[:, None, :]).sum(axis=2), 1, 0))
            doubt = np.sqrt(((per * (errors / size)[:, None, :]) ** 2).sum(axis=(1, 2)))
            by = ["ground"] * len(rows)
        else:
            heights = [max(now.heights[row], 1.0) for row in rows]
            bodies = [body(now.tracks, row) for row in rows]
            torsos = [0.0 if held is None else held.stature_px for held in bodies]
            by = [
                "pose" if torso > height else "height" for torso, height in zip(torsos, heights, strict=True)
            ]
            metres = self._c.tall_m / np.maximum(heights, torsos)
            speeds = np.hypot(velocity[:, 0], velocity[:, 1]) * metres
            doubt = np.hypot(errors[:, 0], errors[:, 1]) * metres
        for row, speed, error, how in zip(rows, speeds.tolist(), doubt.tolist(), by, strict=True):
            sure = speed - _SURE * error
            if not math.isfinite(sure):
                continue
            why = because("surely faster than", sure, self._c.faster_mps, "m/s")
            data = {"speed_mps": round(speed, 2), "measured_by": how, "because": why}
            fast = sure >= self._c.faster_mps
            asked = (
                *self._before(now, row),
                Predicate("surely faster", fast, sure, self._c.faster_mps, "m/s"),
            )
            yield Judged(row, asked, data)


RULE = RuleType(
    RunningConfig,
    RunningRule,
    "somebody runs: `running`, phase `start`, `end`, with `speed_mps`",
)
