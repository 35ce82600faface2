"""The process that :func:`edgectl.engines.measure.sustained.sustain` measures:
``python -m edgectl.engines.measure.sustained_child MODEL RUNTIME SETTINGS FEEDS``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from edgectl.core.bundle import SessionSettings
from edgectl.core.histogram import Histogram
from edgectl.engines.base import Engine
from edgectl.engines.child import converse
from edgectl.engines.finalise.open import open_model
from edgectl.engines.measure.processes import next_frame, read_feeds

__all__: list[str] = []


class _SustainedChild:
    """Opens the engine when asked, then runs it for as long as asked."""

    def __init__(self, model: str, runtime: str, settings: str, feeds: str) -> None:
        self._model = Path(model)
        self._runtime = runtime
        self._settings = SessionSettings.model_validate_json(settings)
        self._feeds = read_feeds(Path(feeds))
        self._engine: Engine | None = None
        self._turn = 0

    def handle(self, question: dict[str, Any]) -> dict[str, Any]:
        if "open" in question:
            self._engine = open_model(self._model, self._settings, runtime=self._runtime)
            for _ in range(3):
                self._call_ms()
            return {}
        return self._run(question["seconds"], question["rate"], question["rest_s"])

    def _run(self, seconds: float, rate: float | None, rest_s: float | None) -> dict[str, Any]:
        """At least one call. What a rest costs is in ``first_ms`` alone."""
        first = None
        if rest_s is not None:
            time.sleep(rest_s)
            first = round(self._call_ms(), 5)
        latency, frame = Histogram(), 0
        times: list[float] = []
        start, before = time.monotonic(), time.process_time()
        while not times or time.monotonic() - start < seconds:
            if rate is not None:
                frame = next_frame(frame, time.monotonic() - start, 1 / rate)
                time.sleep(max(0.0, start + frame / rate - time.monotonic()))
            ms = self._call_ms()
            times.append(ms)
            latency.record(ms * 1e3)
        return {
            "p50_ms": round(float(np.median(times)), 5),
            "latency": latency.data().model_dump(),
            "first_ms": first,
            "cpu_s": time.process_time() - before,
            "rss_mb": round(psutil.Process().memory_info().rss / 2**20, 2),
        }

    def _call_ms(self) -> float:
        assert self._engine is not None
        self._turn += 1
        feeds = self._feeds[self._turn % len(self._feeds)]
        start = time.perf_counter_ns()
        self._engine.run(feeds)
        return (time.perf_counter_ns() - start) / 1e6


if __name__ == "__main__":
    sys.exit(converse(_SustainedChild(*sys.argv[1:5]).handle))
