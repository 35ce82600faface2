"""Merges the workers' windows into one telemetry message per device."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from edgectl.agent.machine.watch import MachineWindow
from edgectl.core.clock import CLOCK_SET_S
from edgectl.core.histogram import Histogram
from edgectl.core.wire import ENGINE_STAGE, StreamStats, Telemetry
from edgectl.link.spool import SpoolRow
from edgectl.pipelines.host.protocol import Stats

__all__ = ["TelemetryCollector", "by_slot", "machine_health", "telemetry_payload"]

_REPLAY_AFTER_S = 120.0


def machine_health(disk: Path) -> dict[str, float]:
    """How the machine is: load, memory, disk, hottest sensor. Absent figures are absent, not zero."""
    memory = psutil.virtual_memory()
    found = {
        "load1": os.getloadavg()[0],
        "memory_used_mb": memory.used / 2**20,
        "memory_available_mb": memory.available / 2**20,
        "disk_free_mb": shutil.disk_usage(disk).free / 2**20,
    }
    groups = psutil.sensors_temperatures().values()
    if hottest := [s.current for group in groups for s in group if s.current is not None]:
        found["temperature_c"] = max(hottest)
    return found


def by_slot(stats: Stats, slot_of: Mapping[str, str]) -> Stats:
    """A worker speaks of parts, the fleet of slots: rename the keys of ``slots``, ``releases``, ``stand_ins``, ``crops``
    and the engine stages."""
    s = stats.stats

    def stage(name: str) -> str:
        kind, _, part = name.partition(":")
        return f"{kind}:{slot_of[part]}" if kind == ENGINE_STAGE and part in slot_of else name

    renamed = s.model_copy(
        update={
            "slots": {slot_of.get(part, part): digest for part, digest in s.slots.items()},
            "releases": {slot_of.get(part, part): release for part, release in s.releases.items()},
            "stand_ins": {slot_of.get(part, part): name for part, name in s.stand_ins.items()},
            "crops": {slot_of.get(part, part): crops for part, crops in s.crops.items()},
            "stages": {stage(name): h for name, h in s.stages.items()},
        }
    )
    return stats.model_copy(update={"stats": renamed})


class TelemetryCollector:
    """Merges workers' windows until the next message. Thread-safe."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._seq = 0
        self._lock = threading.Lock()
        self._last: dict[str, Stats] = {}
        self._rss_mb: dict[str, float] = {}
        """Of each worker that was heard since the last message."""
        self._stages: dict[str, dict[str, Histogram]] = {}
        self._stand_ins: dict[str, dict[str, str]] = {}
        """Stream → what stood in for an engine in any of the windows."""
        # processed at the last message, seconds covered since
        self._busy: dict[str, tuple[int, float]] = {}

    def record(self, stream: str, stats: Stats, worker: str) -> None:
        """``worker``: the name of the one that the stream is in."""
        with self._lock:
            self._last[stream] = stats
            self._rss_mb[worker] = stats.rss_mb
            stages = self._stages.setdefault(stream, {})
            for name, data in stats.stats.stages.items():
                stages.setdefault(name, Histogram()).merge(Histogram.of(data))
            self._stand_ins.setdefault(stream, {}).update(stats.stats.stand_ins)
            processed, covered = self._busy.get(stream, (0, 0.0))
            self._busy[stream] = (processed, covered + stats.window_s)

    def window(
        self,
        window_s: float,
        states: Mapping[str, tuple[str, str | None]],
        kinds: Mapping[str, str],
        measured: dict[str, float],
        dropped: int,
        machine: MachineWindow,
    ) -> Telemetry:
        """Everything since the last call as one message. A stream without a worker's word is there with
        its state."""
        with self._lock:
            self._seq += 1
            streams = {s: self._stream(s, kinds[s], state, reason) for s, (state, reason) in states.items()}
            self._stages.clear()
            self._stand_ins.clear()
            measured |= {f"rss_mb.{worker}": rss_mb for worker, rss_mb in self._rss_mb.items()}
            self._rss_mb.clear()
            for stream, last in self._last.items():
                self._busy[stream] = (last.stats.frames.processed, 0.0)
            wall = time.time()
            return Telemetry(
                epoch=self._epoch,
                seq=self._seq,
                wall_s=wall if wall > CLOCK_SET_S else None,
                window_s=window_s,
                streams=streams,
                health=measured,
                resources=machine.resources,
                power_mode=machine.power_mode,
                throttled=machine.throttled,
                spool_dropped=dropped,
            )

    def _stream(self, stream: str, kind: str, state: str, reason: str | None) -> StreamStats:
        last = self._last.get(stream)
        if last is None:
            return StreamStats(kind=kind, state=state, reason=reason)
        before, covered_s = self._busy[stream]
        processed = last.stats.frames.processed
        # smaller: the worker was started anew
        done = processed - before if processed >= before else processed
        update: dict[str, object] = {
            "stages": {name: h.data() for name, h in self._stages.get(stream, {}).items()},
            "stand_ins": self._stand_ins.get(stream, {}),
            "fps": done / covered_s if covered_s else 0.0,
        }
        if state != "running":
            update |= {"state": state, "reason": reason}
        return last.stats.model_copy(update=update)


def telemetry_payload(row: SpoolRow, now_s: float) -> bytes:
    """What is sent of a row of the spool: telemetry that waited is marked as such. Raises ValueError for what is
    none any more."""
    if row.kind != "tele" or now_s - row.created_s < _REPLAY_AFTER_S:
        return row.payload
    return Telemetry.model_validate_json(row.payload).model_copy(update={"replay": True}).encode()
