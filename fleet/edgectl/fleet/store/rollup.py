"""What a message of telemetry measured, and how what many measured is merged into hours and days. Pure.

Merging is exact: counts add up, and a percentile of the whole is as good as of the parts (1.1 %,
:mod:`edgectl.core.histogram`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from edgectl.core.histogram import Histogram, HistogramData
from edgectl.core.wire import ENGINE_STAGE, StreamStats, Telemetry

__all__ = [
    "DAY_S",
    "HOUR_S",
    "Key",
    "LatencyClass",
    "Totals",
    "by_class",
    "measured",
    "merge",
    "packed",
    "start_of",
    "stored",
    "unpacked",
]

HOUR_S, DAY_S = 3600, 86400
_STAGE = 200
"""Characters of a name that are kept."""
_CLASS_STAGE = 100
"""The same where it is one name of seven: a database bounds a key as a whole."""


@dataclass(frozen=True, order=True)
class Key:
    """What a histogram is of. ``slot`` and ``digest``: of the engine whose frames went through the stage; empty
    where a stream has none."""

    slot: str
    digest: str
    stage: str


@dataclass(frozen=True, order=True)
class LatencyClass:
    """What may be merged over devices: calls of one engine under one set of conditions. What is not known is empty."""

    slot: str
    digest: str
    profile: str
    stage: str
    preference: str = ""
    """Of a lighter variant that made some of the calls in the engine's place."""
    power_mode: str = ""
    throttled: bool = False
    """In any part of the window."""


Totals = dict[tuple[Key, int], Histogram]
"""(what, start of the span in Unix seconds) → merged."""


def start_of(wall_s: float, span_s: int) -> int:
    """Of the hour or day (UTC) that holds ``wall_s``."""
    return int(wall_s // span_s) * span_s


def measured(t: Telemetry) -> dict[Key, Histogram]:
    """Streams that share an engine add up. What a lighter variant took in an engine's place is left out: it says
    nothing of that engine."""
    found: dict[Key, Histogram] = {}
    for s in t.streams.values():
        for name, data in s.stages.items():
            key = _key(s, name)
            if key.stage == ENGINE_STAGE and key.slot in s.stand_ins:
                continue
            found.setdefault(key, Histogram()).merge(Histogram.of(data))
    return found


def by_class(t: Telemetry, profile: str) -> Iterator[tuple[LatencyClass, Histogram]]:
    """The same for totals over devices of ``profile``; what a lighter variant took is a class of its own. A class may
    come more than once."""
    power_mode = stored(t.power_mode or "", 64)
    for s in t.streams.values():
        for name, data in s.stages.items():
            key = _key(s, name)
            of = LatencyClass(
                key.slot,
                key.digest,
                stored(profile, 64),
                key.stage[:_CLASS_STAGE],
                stored(s.stand_ins.get(key.slot, ""), 32),
                power_mode,
                bool(t.throttled),
            )
            yield of, Histogram.of(data)


def merge(totals: Totals, parts: Iterable[tuple[Key, int, Histogram]]) -> None:
    """Add histograms to the spans that they begin in."""
    for key, start_s, histogram in parts:
        totals.setdefault((key, start_s), Histogram()).merge(histogram)


def packed(h: Histogram) -> bytes:
    return zlib.compress(h.data().encode(), 6)


def unpacked(data: bytes) -> Histogram:
    return Histogram.of(HistogramData.model_validate_json(zlib.decompress(data)))


def _key(s: StreamStats, name: str) -> Key:
    stage, _, of = name.partition(":")
    if of not in s.slots:
        own = next((slot for slot in s.slots if slot not in s.crops), "")
        stage, of = name, own
    return Key(stored(of, 64), stored(s.slots.get(of, ""), 80), stored(stage, _STAGE))


def stored(text: str, characters: int) -> str:
    """As a database takes it: whoever makes names up stops nobody's telemetry. PostgreSQL stores no NUL."""
    return text.replace("\0", "")[:characters]
