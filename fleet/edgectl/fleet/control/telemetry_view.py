"""Fold what devices say into rows for people: one per stream, with state and latency percentiles. Pure,
bounded."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import islice

from edgectl.core.histogram import Histogram
from edgectl.core.states import State
from edgectl.core.wire import ENGINE_STAGE, Conn, Reported, Telemetry
from edgectl.fleet.control.alert_watch import AlertWatch
from edgectl.fleet.control.block_book import BlockBook
from edgectl.fleet.control.metrics_book import MetricsBook

__all__ = ["LatencyBook", "StreamRow", "rows"]

_WINDOWS = 30
# of one device: whoever makes names up crowds out nobody but himself
_ENGINES = 32
_SLOTS = 64  # of one stream


@dataclass(frozen=True)
class StreamRow:
    """One stream of one device. Latencies in milliseconds, None without enough samples."""

    device: str
    online: bool
    stream: str
    kind: str
    state: str
    """Of the stream: running, waiting, starting, restarting."""
    slot_state: str
    release: str
    fps: float
    p50_ms: float | None
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    dropped: int
    processed: int
    error: str | None


@dataclass
class _Windows:
    """The last ones of a stream, all of the engines in ``serving`` (slot → digest)."""

    serving: dict[str, str]
    last: deque[Histogram] = field(default_factory=lambda: deque(maxlen=_WINDOWS))


class LatencyBook:
    """Telemetry of the whole fleet: the last windows of each stream, and totals per (slot, engine).
    Bounded for each device."""

    def __init__(self) -> None:
        self._windows: dict[str, dict[str, _Windows]] = {}
        """Device → stream → …: those of its last message."""
        self._engines: dict[str, dict[tuple[str, str], Histogram]] = {}
        """Device → (slot, engine) → …: those it used last."""
        self._seen: dict[str, tuple[int, int]] = {}
        self.latest: dict[str, Telemetry] = {}
        self.blocks = BlockBook()
        """The same in blocks, for the gates of rollouts."""
        self.alerts = AlertWatch()
        """What rules of alerts look at."""
        self.metrics = MetricsBook()
        """What ``/metrics`` tells."""

    def add(self, device: str, t: Telemetry) -> bool:
        """Take one message. False for one that was counted before, or is older than what is known of this
        device.

        A replay counts in the totals, but never replaces what is live.
        """
        if not t.replay:
            if (t.epoch, t.seq) <= self._seen.get(device, (-1, -1)):
                return False
            self._seen[device] = (t.epoch, t.seq)
            self.latest[device] = t
            before = self._windows.get(device, {})
            self._windows[device] = {stream: before.get(stream, _Windows({})) for stream in t.streams}
        totals = self._engines.setdefault(device, {})
        for stream, s in t.streams.items():
            engines = {
                name: Histogram.of(h) for name, h in s.stages.items() if name.split(":")[0] == ENGINE_STAGE
            }
            if engines and not t.replay:
                # another engine: its latency is not the old one's
                if self._windows[device][stream].serving != s.slots:
                    self._windows[device][stream] = _Windows(s.slots)
                # a second stage is not the stream's own latency
                own = [h for name, h in engines.items() if name.partition(":")[2] not in s.crops]
                self._windows[device][stream].last.append(Histogram.merged(own))
            for slot, digest in islice(s.slots.items(), _SLOTS):
                window = engines.get(f"{ENGINE_STAGE}:{slot}")
                if window is None and slot not in s.crops:
                    window = engines.get(ENGINE_STAGE)
                # how long a lighter variant took says nothing of the engine
                if window is not None and slot not in s.stand_ins:
                    total = totals.pop((slot, digest), None) or Histogram()
                    total.merge(window)
                    totals[slot, digest] = total
        while len(totals) > _ENGINES:
            totals.pop(next(iter(totals)))
        return True

    def forget(self, device: str) -> None:
        """A device counts its messages anew: its next one is not late. What it measured stays."""
        self._seen.pop(device, None)

    def remove(self, device: str) -> None:
        """It has left the fleet: what it measured counts nowhere any more."""
        for of_devices in (self._windows, self._engines, self._seen, self.latest):
            of_devices.pop(device, None)
        self.blocks.remove(device)
        self.alerts.remove(device)
        self.metrics.remove(device)

    def stream(self, device: str, stream: str) -> Histogram:
        """Engine latency over the last windows of the engine that serves now."""
        windows = self._windows.get(device, {}).get(stream)
        return Histogram.merged(windows.last if windows else ())

    def engine(self, slot: str, digest: str, devices: frozenset[str] | None = None) -> Histogram:
        """Engine latency of one bundle in one slot, over all (or these) devices."""
        of = self._engines if devices is None else devices & self._engines.keys()
        return Histogram.merged(h for d in of if (h := self._engines[d].get((slot, digest))) is not None)

    def engines(self) -> dict[tuple[str, str], Histogram]:
        """(slot, digest) → latency over the fleet."""
        total: dict[tuple[str, str], Histogram] = {}
        for mine in self._engines.values():
            for key, h in mine.items():
                total.setdefault(key, Histogram()).merge(h)
        return total


def rows(devices: dict[str, tuple[Conn | None, Reported | None]], book: LatencyBook) -> list[StreamRow]:
    """One row per stream, sorted; a device that never sent telemetry has a row for each stream of its
    birth."""
    found = []
    for name, (conn, reported) in sorted(devices.items()):
        telemetry = book.latest.get(name)
        streams = dict.fromkeys(conn.streams if conn else {}) | (dict(telemetry.streams) if telemetry else {})
        for stream, s in sorted(streams.items()):
            slots = reported.slots if reported else {}
            mine = [slots[x] for x in (s.slots if s else slots) if x in slots] or list(slots.values())
            h = book.stream(name, stream)
            busiest = next((r for r in mine if r.state is not State.COMMITTED), mine[0] if mine else None)
            error = busiest.error if busiest else None
            found.append(
                StreamRow(
                    device=name,
                    online=bool(conn and conn.online),
                    stream=stream,
                    kind=s.kind if s else (conn.streams[stream] if conn else ""),
                    state=s.state if s else "unknown",
                    slot_state=busiest.state.value if busiest else State.IDLE.value,
                    release=", ".join(sorted({r.active_release for r in mine if r.active_release})),
                    fps=s.fps if s else 0.0,
                    p50_ms=h.percentile_ms(50),
                    p90_ms=h.percentile_ms(90),
                    p95_ms=h.percentile_ms(95),
                    p99_ms=h.percentile_ms(99),
                    dropped=sum(s.frames.dropped.values()) if s else 0,
                    processed=s.frames.processed if s else 0,
                    error=(error.detail or error.code) if error else (s.reason if s else None),
                )
            )
    return found
