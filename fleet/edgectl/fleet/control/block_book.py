"""What every engine did, in blocks, for the gates of rollouts. Pure, bounded for each device.

Windows of telemetry are put together until they cover :data:`~edgectl.fleet.rollouts.gates.blocks.BLOCK_S`; eight blocks
make one of the next coarser level, eight of these one of the next. An engine keeps 128, 64 and 32 of them: 21 minutes,
85 minutes and 5.7 hours, 12 KB without Python's own. The first window after a change of engine holds frames of
both, and the first calls of the new one: it counts for neither. Nor does what was measured long ago and sent now.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from edgectl.core.histogram import Histogram
from edgectl.core.wire import ENGINE_STAGE, Frames, StreamStats, Telemetry
from edgectl.fleet.rollouts.gates.blocks import (
    BLOCK_S,
    COARSE,
    PERCENTILES,
    Block,
    BlockHistory,
    log2_quantile,
    merged,
)

__all__ = ["BlockBook", "SlotBlocks"]

_KEPT = (128, 64, 32)
"""Of each level."""
_ENGINES = 8  # of one device, those it used last
_STREAMS = 64
_NO_SOURCE = frozenset({"outage", "waiting", "ended", "stopping", "stopped"})
"""States of a stream that say nothing of an engine: its camera is away, it has come to its end, nobody wants it."""
_STUCK = "engine_stuck"
"""But for this reason of an outage."""
_ENOUGH = 0.95
"""Of :data:`BLOCK_S`: clocks are not exact."""


@dataclass
class _Open:
    """The block that is being made of an engine."""

    seconds: float = 0.0
    latency: Histogram = field(default_factory=Histogram)
    attempts: int = 0
    errors: int = 0
    captured: int = 0
    dropped: int = 0
    events: float = 0.0
    slowed_s: float = 0.0


@dataclass
class _Engine:
    open: _Open = field(default_factory=_Open)
    levels: tuple[deque[bytes], ...] = field(
        default_factory=lambda: tuple(deque(maxlen=kept) for kept in _KEPT)
    )
    made: int = 0
    """Blocks so far."""
    last_s: float = -math.inf
    heard_s: float = -math.inf
    rss_mb: float = math.nan
    """At the end of the last block."""


@dataclass(frozen=True)
class _StreamCounts:
    """Of a stream since it started."""

    slots: Mapping[str, str]
    captured: int
    processed: int
    dropped: int
    errors: int
    crops: Mapping[str, Frames]
    events: int | None
    """None: it does not count them."""


class BlockBook:
    """Blocks of the whole fleet."""

    def __init__(self) -> None:
        self._engines: dict[str, dict[tuple[str, str], _Engine]] = {}
        """Device → (slot, digest) → …, those it used last at the end."""
        self._counted: dict[str, dict[str, _StreamCounts]] = {}
        self.made = 0
        """Blocks so far, of all devices: while it stays, there is nothing new."""

    def add(self, device: str, t: Telemetry, now_s: float) -> None:
        """Take one message that is new and was not late. ``now_s``: when it came."""
        before = self._counted.get(device, {})
        self._counted[device] = {s: _counted(stats) for s, stats in list(t.streams.items())[:_STREAMS]}
        rss = [mb for name, mb in t.health.items() if name.startswith("rss_mb.")]
        engines = self._engines.setdefault(device, {})
        used: dict[tuple[str, str], _Open] = {}
        for stream, now in self._counted[device].items():
            last = before.get(stream)
            if last is None or _has_no_source(t.streams[stream]):
                continue
            for slot, digest in now.slots.items():
                if last.slots.get(slot) == digest:  # the first window holds frames of the engine before
                    _collect(used.setdefault((slot, digest), _Open()), slot, t.streams[stream], last, now)
        share = t.resources.throttled_share if t.resources is not None else None
        for key, window in used.items():
            window.slowed_s = math.nan if share is None else share * t.window_s
            engine = engines.pop(key, None) or _Engine()
            engines[key] = engine
            self.made += _put(engine, window, t.window_s, now_s, sum(rss) if rss else math.nan)
        while len(engines) > _ENGINES:
            engines.pop(next(iter(engines)))

    def remove(self, device: str) -> None:
        self._engines.pop(device, None)
        self._counted.pop(device, None)

    def in_slot(self, slot: str) -> SlotBlocks:
        return SlotBlocks(self._engines, slot)


class SlotBlocks:
    """The engines of one slot, as a judge reads them (:class:`~edgectl.fleet.rollouts.gates.judge.BlockSource`)."""

    def __init__(self, engines: Mapping[str, Mapping[tuple[str, str], _Engine]], slot: str) -> None:
        self._engines = engines
        self._slot = slot

    def last_s(self, device: str, digest: str) -> float:
        engine = self._of(device, digest)
        return -math.inf if engine is None else engine.last_s

    def history(self, device: str, digest: str, until_s: float) -> BlockHistory:
        """Up to ``until_s``."""
        engine = self._of(device, digest)
        if engine is None:
            return BlockHistory(())
        levels = [tuple(b for b in map(Block.unpack, level) if b.at_s <= until_s) for level in engine.levels]
        return BlockHistory(levels[0], tuple(levels[1:]))

    def since(self, device: str, digest: str, at_s: float) -> list[Block]:
        engine = self._of(device, digest)
        found: list[Block] = []
        for data in reversed(engine.levels[0] if engine is not None else ()):
            block = Block.unpack(data)
            if block.at_s <= at_s:
                break
            found.append(block)
        return found[::-1]

    def _of(self, device: str, digest: str) -> _Engine | None:
        return self._engines.get(device, {}).get((self._slot, digest))


def _counted(s: StreamStats) -> _StreamCounts:
    f = s.frames
    return _StreamCounts(
        s.slots, f.captured, f.processed, sum(f.dropped.values()), s.errors, s.crops, s.counters.get("events")
    )


def _has_no_source(s: StreamStats) -> bool:
    return s.state in _NO_SOURCE and s.reason != _STUCK


def _collect(window: _Open, slot: str, s: StreamStats, last: _StreamCounts, now: _StreamCounts) -> None:
    """What a stream did with an engine in this window. A second stage is judged by its crops."""
    crops, before = now.crops.get(slot), last.crops.get(slot)
    if crops is not None:
        was = before if before is not None else Frames()
        window.errors += _grown(was.dropped.get("engine_error", 0), crops.dropped.get("engine_error", 0))
        window.attempts += _grown(was.processed, crops.processed)
        window.captured += _grown(was.captured, crops.captured)
        window.dropped += _grown(sum(was.dropped.values()), sum(crops.dropped.values()))
    else:
        window.errors += _grown(last.errors, now.errors)
        window.attempts += _grown(last.processed, now.processed)
        window.captured += _grown(last.captured, now.captured)
        window.dropped += _grown(last.dropped, now.dropped)
    counts = last.events is not None and now.events is not None
    window.events += _grown(last.events or 0, now.events or 0) if counts else math.nan
    data = s.stages.get(f"{ENGINE_STAGE}:{slot}")
    if data is None and crops is None:
        data = s.stages.get(ENGINE_STAGE)
    # how long a lighter variant took says nothing of the engine
    if data is not None and slot not in s.stand_ins:
        window.latency.merge(Histogram.of(data))


def _grown(before: int, now: int) -> int:
    """A counter that begins anew with its worker."""
    return now - before if now >= before else now


def _put(engine: _Engine, window: _Open, window_s: float, now_s: float, rss_mb: float) -> bool:
    """Whether a block is complete by it."""
    away = now_s - engine.heard_s > window_s + BLOCK_S
    if away:  # what lies on both sides of a gap is not one block
        engine.open, engine.rss_mb = _Open(), math.nan
    engine.heard_s = now_s
    o = engine.open
    o.seconds += window_s
    o.latency.merge(window.latency)
    o.attempts += window.attempts + window.errors
    o.errors += window.errors
    o.captured += window.captured
    o.dropped += window.dropped
    o.events += window.events
    o.slowed_s += window.slowed_s
    if o.seconds < _ENOUGH * BLOCK_S:
        return False
    data = o.latency.data()
    block = Block(
        at_s=now_s,
        seconds=o.seconds,
        quantiles=tuple(log2_quantile(data, p) for p in PERCENTILES),
        attempts=o.attempts,
        errors=o.errors,
        captured=o.captured,
        dropped=o.dropped,
        growth_mb=rss_mb - engine.rss_mb,
        events=o.events,
        throttled=o.slowed_s / o.seconds,
    )
    engine.open, engine.rss_mb, engine.last_s = _Open(), rss_mb, now_s
    engine.levels[0].append(block.pack())
    engine.made += 1
    for k, m in enumerate(COARSE):
        if engine.made % m == 0:
            finer = engine.levels[k]
            several = m if k == 0 else m // COARSE[k - 1]
            engine.levels[k + 1].append(merged(_last(finer, several)).pack())
    return True


def _last(blocks: Iterable[bytes], n: int) -> list[Block]:
    return [Block.unpack(data) for data in list(blocks)[-n:]]
