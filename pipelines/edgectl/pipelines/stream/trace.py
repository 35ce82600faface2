"""How long each stage takes: one histogram per stage, for the current window and since the start."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Literal, NewType

from edgectl.core.histogram import Histogram, HistogramData
from edgectl.core.wire import ENGINE_STAGE

__all__ = ["Stage", "Tracer", "engine_stage"]

Stage = Literal[
    "wait",
    "pre",
    "engine",
    "first_after_idle",
    "decode",
    "track",
    "rules",
    "publish",
    "avail_to_event",
    "glass_to_event",
    "avail_to_vote",
    "period",
    "engine:vad",
    "engine:keyword",
]
"""``wait``: all the time in which a frame that was processed waited between two stages.
``first_after_idle``: what ``engine`` is, of a call after a pause; such a call is not in ``engine``. ``publish``: offered → written by the sinks. ``avail_to_event``: available
→ events ready. ``glass_to_event``: from exposure, only of a live source that knows when a frame was taken.
``avail_to_vote``: the frame of a crop is available → its answer is counted. ``period``: between processed frames."""

EngineStage = NewType("EngineStage", str)
"""``engine:<part>``: the calls for a part of a second stage."""


def engine_stage(part: str) -> EngineStage:
    return EngineStage(f"{ENGINE_STAGE}:{part}")


class Tracer:
    """Thread-safe. :meth:`window` starts a new window; nothing recorded is lost between windows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._window: dict[str, Histogram] = {}
        self._total: dict[str, Histogram] = {}

    def record(self, stage: Stage | EngineStage, ns: int) -> None:
        self.record_all(((stage, ns),))

    def record_all(self, times: Iterable[tuple[Stage | EngineStage, int]]) -> None:
        """Stages and how long they took, ns."""
        with self._lock:
            for stage, ns in times:
                histogram = self._window.get(stage)
                if histogram is None:
                    histogram = self._window[stage] = Histogram()
                histogram.record_ns(ns)

    def window(self) -> dict[str, HistogramData]:
        """The histograms since the last call."""
        with self._lock:
            window, self._window = self._window, {}
            self._fold(window)
        return {stage: h.data() for stage, h in window.items()}

    def totals(self) -> dict[str, Histogram]:
        """Everything since the start, as copies."""
        with self._lock:
            self._fold(self._window)
            self._window = {}
            return {stage: Histogram.merged([h]) for stage, h in self._total.items()}

    def _fold(self, window: dict[str, Histogram]) -> None:
        for stage, h in window.items():
            self._total.setdefault(stage, Histogram()).merge(h)
