"""Watches the view of one camera: measures twice a second, decides, tells, and remembers what is usual."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.stream.frame import Frame
from edgectl.pipelines.video.health.judge import HealthConfig, ViewJudge, ViewTrouble
from edgectl.pipelines.video.health.measure import AVERAGE_S, UsualView, ViewMeter

__all__ = ["CAMERA", "HealthWatch"]

CAMERA = "camera"
"""What events say that made them, as rules do: for `snapshots.on`, `review` and others."""

_EVERY_S = 0.5
_KEEP_S = 120.0
_SCHEMA = "edgectl.view/1"


class HealthWatch:
    """For one thread. Feed it whole frames in order."""

    def __init__(
        self, config: HealthConfig, keep: Callable[[dict[str, Any]], None] | None = None, kept: Any = None
    ) -> None:
        """``keep`` writes down what is usual, now and then; ``kept``: what it wrote before."""
        self._config = config
        self._judge = ViewJudge(config)
        self._meter = ViewMeter(_usual(kept))
        self._keep = keep
        self._due_s = self._kept_s = -math.inf
        self._is_next = False
        """The next frame is measured, against the one before."""

    @property
    def view(self) -> str | None:
        """What is wrong with it now, as events name it; None: nothing that is known."""
        return next(iter(self._judge.troubles), None)

    def adopt(self, config: HealthConfig) -> None:
        """Other settings from the next frame on."""
        self._config = config
        self._judge.adopt(config)

    def look(self, frame: Frame) -> list[Event]:
        """What is to be told before this frame."""
        t = frame.stamp.t_s
        if not self._config.on:
            return [self._event(one, t) for one in self._judge.stop()]
        if not self._is_next:
            if t >= self._due_s:
                self._due_s, self._is_next = t + _EVERY_S, True
                self._meter.pair(frame.luma())
            return []
        self._is_next = False
        measured = self._meter.measure(frame.luma(), t, full_range=frame.fmt == "BGR" or frame.colour.full)
        found, usual = self._judge.step(measured, t)
        if any(one.accepted for one in found):
            self._meter.forget()
        if usual:
            self._meter.learn()
        if usual and self._keep is not None and self._meter.usual.known and t - self._kept_s >= _KEEP_S:
            self._kept_s = t
            self._keep({"schema": _SCHEMA, **self._meter.usual.dump()})
        return [self._event(one, t) for one in found]

    def _event(self, trouble: ViewTrouble, t: float) -> Event:
        data: dict[str, Any] = {"name": "picture", "available": not trouble.on, "reason": trouble.what}
        if trouble.why:
            data["because"] = trouble.why
        if trouble.on and trouble.since_s is not None:
            # what is averaged shows it as late
            data["since_s"] = round(max(0.0, trouble.since_s - AVERAGE_S), 3)
        if trouble.accepted:
            data["accepted"] = True
        return Event("capability", t, "start" if trouble.on else "end", CAMERA, data)


def _usual(kept: Any) -> UsualView | None:
    """None where nothing was kept that is understood: it is learned again."""
    if not isinstance(kept, dict) or kept.get("schema") != _SCHEMA:
        return None
    try:
        return UsualView.of(kept)
    except (KeyError, TypeError, ValueError):
        return None
