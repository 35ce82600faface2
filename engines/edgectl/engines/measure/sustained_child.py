"""The process that :func:`edgectl.engines.measure.sustained.sustain` measures:
``python -m edgectl.engines.measure.sustained_child MODEL RUNTIME SETTINGS FEEDS``."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import psutil

from edgectl.core.histogram import Histogram
from edgectl.engines.child import converse
from edgectl.engines.measure.called import CalledEngine, FramePacer

__all__: list[str] = []


class _SustainedChild:
    """Opens the engine when asked, then runs it for as long as asked."""

    def __init__(self, engine: CalledEngine) -> None:
        self._engine = engine

    def handle(self, question: dict[str, Any]) -> dict[str, Any]:
        if "open" in question:
            self._engine.open()
            for _ in range(3):
                self._engine.call_ms()
            return {}
        return self._run(question["seconds"], question["rate"], question["rest_s"])

    def _run(self, seconds: float, rate: float | None, rest_s: float | None) -> dict[str, Any]:
        """At least one call. What a rest costs is in ``first_ms`` alone."""
        first = None
        if rest_s is not None:
            time.sleep(rest_s)
            first = round(self._engine.call_ms(), 5)
        latency = Histogram()
        pacer = None if rate is None else FramePacer(1 / rate)
        times: list[float] = []
        start, before = time.monotonic(), time.process_time()
        while not times or time.monotonic() - start < seconds:
            if pacer is not None:
                pacer.wait()
            ms = self._engine.call_ms()
            times.append(ms)
            latency.record(ms * 1e3)
        return {
            "p50_ms": round(float(np.median(times)), 5),
            "latency": latency.data().model_dump(),
            "first_ms": first,
            "cpu_s": time.process_time() - before,
            "rss_mb": round(psutil.Process().memory_info().rss / 2**20, 2),
        }


if __name__ == "__main__":
    sys.exit(converse(_SustainedChild(CalledEngine(*sys.argv[1:5])).handle))
