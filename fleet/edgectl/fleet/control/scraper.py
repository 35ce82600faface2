"""What ``/metrics`` tells of a controller: collected when somebody asks, kept for a moment, so that many who ask cost as
much as one."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

from edgectl.core.histogram import Histogram
from edgectl.fleet.control.controller import Controller
from edgectl.fleet.telemetry.exposition import answer
from edgectl.fleet.telemetry.families import MetricFamily, alone, bounded

__all__ = ["Scraper"]

_KEPT_S = 2.0
_SLOW_S = 15.0
"""What is read from the database: rollouts, its size."""
_NAME = 100


class Scraper:
    """Thread-safe."""

    def __init__(self, controller: Controller, clock: Callable[[], float] = time.monotonic) -> None:
        self._controller = controller
        self._clock = clock
        self._lock = threading.Lock()
        self._answers: dict[str, tuple[float, bytes]] = {}
        self._slow_s = -_SLOW_S
        self._slow: list[MetricFamily] = []

    def answer(self, form: str) -> bytes:
        """In one of the forms of :mod:`edgectl.fleet.telemetry.exposition`."""
        with self._lock:
            kept = self._answers.get(form)
            if kept is None or self._clock() >= kept[0] + _KEPT_S:
                kept = self._clock(), answer(self.families(), form)
                self._answers[form] = kept
            return kept[1]

    def families(self) -> list[MetricFamily]:
        c = self._controller
        if self._clock() >= self._slow_s + _SLOW_S:
            states = Counter(p.state.value for _, p in c.inventory.rollouts().values())
            self._slow = [
                bounded("edgectl_rollouts", (((s,), n) for s, n in sorted(states.items()))),
                alone("edgectl_database_bytes", c.inventory.database_bytes()),
            ]
            self._slow_s = self._clock()
        names = {r.digest: r.release for r in c.inventory.releases().values()}
        devices: Counter[tuple[str, ...]] = Counter()
        for d in c.devices():
            there = "online" if d.conn and d.conn.online else "offline" if d.conn else "never"
            devices[there, ((d.conn.profile if d.conn else None) or "")[:_NAME]] += 1
        with c.reading_metrics() as book:
            latency: dict[tuple[str, ...], Histogram] = {}
            for (slot, digest, profile, stage), h in book.latency.items():
                key = slot, names.get(digest, digest[:19]), profile, stage
                latency[key] = Histogram.merged([h, *([latency[key]] if key in latency else [])])
            counted = [
                bounded("edgectl_frames_processed_total", book.processed.items()),
                bounded("edgectl_frames_dropped_total", book.dropped.items()),
                bounded("edgectl_stream_errors_total", book.errors.items()),
                alone("edgectl_telemetry_messages_total", book.messages),
                alone("edgectl_telemetry_replays_total", book.replays),
                alone("edgectl_tick_microseconds", Histogram.merged([book.ticks])),
            ]
        return [
            bounded("edgectl_devices", devices.items()),
            bounded("edgectl_stage_latency_microseconds", latency.items()),
            *counted,
            bounded("edgectl_queue_length", (((queue,), n) for queue, n in c.queues().items())),
            alone("edgectl_broker_connected", int(c.connected)),
            alone("edgectl_frozen", int(bool(c.frozen))),
            *self._slow,
        ]
