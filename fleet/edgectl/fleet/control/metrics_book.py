"""What devices count, added up over the fleet since the controller began, for ``/metrics``. Pure, bounded.

Latencies come from what the store has counted (:meth:`edgectl.fleet.store.inventory.Inventory.count_telemetry`): each
message once. Counters of streams are compared with those of the message before; late messages say nothing that the
next live one does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from edgectl.core.histogram import Histogram
from edgectl.core.wire import StreamStats, Telemetry
from edgectl.fleet.store.rollup import LatencyClass
from edgectl.fleet.telemetry.families import OTHER, SERIES

__all__ = ["MetricsBook"]

_KINDS = 32
_CAUSES = 64
_NAME = 100
"""Characters of a label."""


@dataclass(frozen=True)
class _StreamCounters:
    kind: str
    processed: int
    errors: int
    dropped: Mapping[str, int]


class MetricsBook:
    """One thread at a time."""

    def __init__(self) -> None:
        self._last: dict[str, dict[str, _StreamCounters]] = {}
        """Device → stream → …"""
        self._kinds: dict[str, None] = {}
        self._causes: dict[str, None] = {}
        self.latency: dict[tuple[str, ...], Histogram] = {}
        """(slot, engine digest, profile, stage) → since the controller began."""
        self.processed: Counter[tuple[str, ...]] = Counter()
        self.dropped: Counter[tuple[str, ...]] = Counter()
        self.errors: Counter[tuple[str, ...]] = Counter()
        self.messages = self.replays = 0
        self.ticks = Histogram()

    def add(self, device: str, t: Telemetry) -> None:
        """Take one message that is new."""
        if t.replay:
            self.replays += 1
            return
        self.messages += 1
        before = self._last.get(device, {})
        now = {name: _counted(s) for name, s in t.streams.items()}
        self._last[device] = now
        for name, s in now.items():
            last = before.get(name)
            if last is None:
                continue
            # smaller: the worker was started anew
            anew = s.processed < last.processed
            kind = _one_of(self._kinds, s.kind, _KINDS)
            self.processed[kind,] += _grown(last.processed, s.processed, anew)
            self.errors[kind,] += _grown(last.errors, s.errors, anew)
            for cause, n in s.dropped.items():
                named = _one_of(self._causes, cause, _CAUSES)
                self.dropped[kind, named] += _grown(last.dropped.get(cause, 0), n, anew)

    def count(self, counted: Mapping[LatencyClass, Histogram]) -> None:
        """What a lighter variant took in an engine's place is left out: it says nothing of that engine."""
        for of, histogram in counted.items():
            if of.preference:
                continue
            key: tuple[str, ...] = (of.slot, of.digest, of.profile, of.stage)
            if key not in self.latency and len(self.latency) >= SERIES:
                key = (OTHER,) * 4
            self.latency.setdefault(key, Histogram()).merge(histogram)

    def remove(self, device: str) -> None:
        self._last.pop(device, None)


def _counted(s: StreamStats) -> _StreamCounters:
    return _StreamCounters(
        s.kind[:_NAME], s.frames.processed, s.errors, dict(list(s.frames.dropped.items())[:_CAUSES])
    )


def _grown(before: int, now: int, anew: bool) -> int:
    """Never less than nothing: a counter only grows."""
    return max(0, now if anew else now - before)


def _one_of(known: dict[str, None], name: str, most: int) -> str:
    name = name[:_NAME]
    if name not in known and len(known) >= most:
        return OTHER
    known[name] = None
    return name
