"""What rules of alerts look at, collected of each device as its telemetry comes. Pure; bounded for each device.

Times are those of :class:`edgectl.core.clock.SteadyWall`. How many frames of a stream were late is kept in 72 bins of five
minutes.
"""

from __future__ import annotations

import functools
import math
import re
from array import array
from collections import deque
from dataclasses import dataclass, field

from edgectl.core.histogram import SCALE, HistogramData
from edgectl.core.wire import StreamStats, Telemetry
from edgectl.fleet.alerts.facts import BurnRates, DeviceFacts, StreamFacts
from edgectl.fleet.store.devices import Device

__all__ = ["AlertWatch", "late_of"]

_EVENT = "avail_to_event"
_BIN_S = 300.0
_BINS = 72
_STREAMS = 64
_HOUR_S = 3600.0
_DROPS = 8
_SITE = 64
_MOST = (1 << 32) - 1
_UNKNOWN_WINDOW_S = 600.0
"""Of a device that has sent nothing since the controller began: some send rarely."""
_LEAST_FRAMES = 30
"""Of a window: fewer say nothing of an objective."""


class _LateBins:
    """Frames and late ones of the last six hours."""

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._newest = 0
        """Number of the bin that counts now."""
        self._late = array("L", bytes(array("L").itemsize * _BINS))
        self._all = array("L", self._late)

    def add(self, late: int, frames: int, now_s: float) -> None:
        self._since_s = now_s if self._since_s is None else self._since_s
        self._go_to(now_s)
        at = self._newest % _BINS
        self._late[at] = min(self._late[at] + late, _MOST)
        self._all[at] = min(self._all[at] + frames, _MOST)

    def rates(self, now_s: float) -> BurnRates:
        """Without a late frame there is nothing to tell, and most streams of a fleet have none."""
        self._go_to(now_s)
        if not any(self._late):
            return BurnRates()
        return BurnRates(*(self._rate(bins, now_s) for bins in (1, 6, 12, 72)))

    def _rate(self, bins: int, now_s: float) -> float | None:
        """The time before the first frame counts as good: what began a minute ago was not late for an hour."""
        covered_s = max(now_s - (self._since_s or 0.0), _BIN_S)
        # the bin that has just begun and the one before: a short window must not be empty
        at = [(self._newest - i) % _BINS for i in range(min(bins + 1, _BINS))]
        frames = sum(self._all[i] for i in at)
        late = sum(self._late[i] for i in at)
        return late / frames * min(1.0, covered_s / (bins * _BIN_S)) if frames >= _LEAST_FRAMES else None

    def _go_to(self, now_s: float) -> None:
        now = int(now_s // _BIN_S)
        for number in range(max(self._newest + 1, now - _BINS + 1), now + 1):
            self._late[number % _BINS] = self._all[number % _BINS] = 0
        self._newest = max(self._newest, now)


@dataclass
class _WatchedDevice:
    heard_s: float
    window_s: float
    epoch: int
    seq: int
    gaps: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_DROPS))
    """(when, how many) of numbers that did not come."""
    spool_dropped: int = 0
    drops: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_DROPS))
    """(when, how many) of what its spool gave up."""
    disk_free_mb: float | None = None
    streams: dict[str, tuple[str, str, _LateBins]] = field(default_factory=dict)


_NOT_HEARD = _WatchedDevice(-math.inf, _UNKNOWN_WINDOW_S, epoch=0, seq=0)


class AlertWatch:
    def __init__(self) -> None:
        self._devices: dict[str, _WatchedDevice] = {}

    def add(self, device: str, t: Telemetry, now_s: float) -> None:
        """Take one message that is new."""
        w = self._devices.get(device)
        if t.replay:
            if w is not None and t.epoch == w.epoch and t.seq < w.seq:
                _found(w.gaps)  # what did not come comes late: it is not missing
            elif w is not None and t.epoch == w.epoch:
                _look_for_gap(w, t.seq, now_s)  # the oldest come first, and those of now behind them
            return
        if w is None or t.epoch != w.epoch:
            streams = {} if w is None else w.streams
            w = _WatchedDevice(
                now_s, t.window_s, t.epoch, t.seq, spool_dropped=t.spool_dropped, streams=streams
            )
            self._devices[device] = w
        _look_for_gap(w, t.seq, now_s)
        if t.spool_dropped > w.spool_dropped:
            w.drops.append((now_s, t.spool_dropped - w.spool_dropped))
        w.heard_s, w.window_s, w.spool_dropped = now_s, min(t.window_s, _HOUR_S), t.spool_dropped
        w.disk_free_mb = t.health.get("disk_free_mb")
        before = w.streams
        w.streams = {}
        for name, s in list(t.streams.items())[:_STREAMS]:
            bins = before[name][2] if name in before else _LateBins()
            late, frames = late_of(s)
            bins.add(late, frames, now_s)
            w.streams[name] = s.state[:32], (s.reason or "")[:200], bins

    def remove(self, device: str) -> None:
        self._devices.pop(device, None)

    def facts(self, d: Device, now_s: float, hears_since_s: float) -> DeviceFacts:
        """``hears_since_s``: since when the controller has been able to hear it."""
        assert d.conn is not None
        w = self._devices.get(d.name) or _NOT_HEARD  # since the controller began
        return DeviceFacts(
            name=d.name,
            site=_site(d.conn.labels.get("site", "")),
            online=d.conn.online,
            clean=d.conn.clean,
            silent_s=now_s - max(w.heard_s, hears_since_s),
            window_s=w.window_s,
            streams={
                name: StreamFacts(state, reason, bins.rates(now_s))
                for name, (state, reason, bins) in w.streams.items()
            },
            clock_wrong=d.reported is not None and d.reported.clock is not None,
            missing=_lately(w.gaps, now_s),
            dropped=_lately(w.drops, now_s),
            disk_free_mb=w.disk_free_mb,
        )


def _look_for_gap(w: _WatchedDevice, seq: int, now_s: float) -> None:
    if seq > w.seq + 1:
        w.gaps.append((now_s, seq - w.seq - 1))
    w.seq = max(w.seq, seq)


def _found(gaps: deque[tuple[float, int]]) -> None:
    for k in reversed(range(len(gaps))):
        at_s, n = gaps[k]
        if n:
            gaps[k] = at_s, n - 1
            return


def _lately(counted: deque[tuple[float, int]], now_s: float) -> int:
    """Within the hour."""
    return sum(n for at_s, n in counted if now_s - at_s < _HOUR_S)


@functools.lru_cache(maxsize=4096)
def _site(label: str) -> str:
    """As a name, which becomes a topic: whatever else is in it is a dash."""
    return re.sub(r"[^a-z0-9._-]", "-", label.lower().strip())[:_SITE].strip(".-_")


def late_of(s: StreamStats) -> tuple[int, int]:
    """Of this window: frames that were over the budget, to a bucket; and all. Without a budget none is late."""
    data = s.stages.get(_EVENT)
    if data is None or s.budget_ms is None or s.budget_ms <= 0:
        return 0, 0
    return min(_above(data, s.budget_ms * 1000), _MOST), min(data.zero + sum(data.counts), _MOST)


def _above(data: HistogramData, us: float) -> int:
    """In buckets that begin at ``us`` or above."""
    return sum(c for k, c in enumerate(data.counts) if 2.0 ** ((data.offset + k) / (1 << SCALE)) >= us)
