"""Blocks of telemetry, and how much they differ by themselves. Pure.

Frames are not independent: a slow one comes with others. So gates never count frames. They compare *blocks*: all that one
engine did on one device in about :data:`BLOCK_S`, told in a few numbers. What lasts longer than a block, such as a busy
street, is in the history of the device, if that is long enough: :func:`drift` says how far blocks are apart for that
reason.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from edgectl.core.histogram import SCALE, HistogramData

__all__ = [
    "BLOCK_S",
    "COARSE",
    "PERCENTILES",
    "Block",
    "BlockHistory",
    "drift",
    "log2_quantile",
    "merged",
    "paired",
]

BLOCK_S = 10.0
"""Windows are put together until they cover this much."""
COARSE = (8, 64)
"""So many blocks are one of the coarser levels of a history: 80 s and 640 s."""
PERCENTILES = (50, 90, 95, 99)
_PER_OCTAVE = 1 << SCALE
_ENOUGH = 8
"""Coarse blocks from which something can be said of how much they differ."""
_FOLLOWING = 4
_TOLERANCE = 0.05
"""Of the variance of blocks: so much of it may be common to neighbours without being called drift."""
_MANY = 3.0
"""Standard deviations that the scene of a first device may go from what it was on average."""


@dataclass(frozen=True)
class Block:
    """What one engine did on one device. Absent figures are nan."""

    at_s: float
    """Its end, Unix seconds by the controller's clock."""
    seconds: float = BLOCK_S
    """What it covers."""
    quantiles: tuple[float, ...] = (math.nan,) * 4
    """Latency at :data:`PERCENTILES`, as log2 of microseconds."""
    attempts: float = 0.0
    errors: float = 0.0
    """Of ``attempts``."""
    captured: float = 0.0
    dropped: float = 0.0
    """Of ``captured`` frames."""
    growth_mb: float = math.nan
    """By how much the workers' memory grew since the block before."""
    events: float = math.nan
    """Told, by all streams that use the engine."""
    throttled: float = math.nan
    """What part of it something slowed the device down."""

    _FORM = struct.Struct("<d12f")

    def pack(self) -> bytes:
        """56 bytes: a controller keeps hundreds of them for each device."""
        return self._FORM.pack(
            self.at_s,
            self.seconds,
            *self.quantiles,
            self.attempts,
            self.errors,
            self.captured,
            self.dropped,
            self.growth_mb,
            self.events,
            self.throttled,
        )

    @classmethod
    def unpack(cls, data: bytes) -> Block:
        at_s, seconds, a, b, c, d, *rest = cls._FORM.unpack(data)
        return cls(at_s, seconds, (a, b, c, d), *rest)


@dataclass(frozen=True)
class BlockHistory:
    """What an engine did on a device before the rollout asked it: blocks, oldest first, and for longer ago the same
    merged (:data:`COARSE`)."""

    blocks: tuple[Block, ...]
    coarse: tuple[tuple[Block, ...], ...] = ()

    @property
    def covers_s(self) -> float:
        """How far it goes back."""
        starts = [level[0].at_s for level in (self.blocks, *self.coarse) if level]
        return max((level[-1].at_s for level in (self.blocks,) if level), default=0.0) - min(
            starts, default=0.0
        )


def log2_quantile(data: HistogramData, percentile: float) -> float:
    """log2 of microseconds below which ``percentile`` of the samples lie; nan when empty. Within a bucket samples are
    taken to lie evenly: steps of 2 % would make ties of small differences."""
    n = data.zero + sum(data.counts)
    if not n:
        return math.nan
    rank = percentile / 100 * n
    seen = float(data.zero)
    for k, count in enumerate(data.counts):
        if count and seen + count >= rank:
            return (data.offset + k + max(0.0, rank - seen) / count) / _PER_OCTAVE
        seen += count
    return 0.0


def merged(blocks: Sequence[Block]) -> Block:
    """Several that follow each other, as one: quantiles are the mean of theirs."""
    quantiles = tuple(_mean(b.quantiles[k] for b in blocks) for k in range(len(PERCENTILES)))
    return Block(
        at_s=blocks[-1].at_s,
        seconds=sum(b.seconds for b in blocks),
        quantiles=quantiles,
        attempts=sum(b.attempts for b in blocks),
        errors=sum(b.errors for b in blocks),
        captured=sum(b.captured for b in blocks),
        dropped=sum(b.dropped for b in blocks),
        growth_mb=sum(b.growth_mb for b in blocks),
        events=sum(b.events for b in blocks),
        throttled=_mean(b.throttled for b in blocks),
    )


def paired(block: Block, controls: Sequence[Sequence[Block]]) -> list[Block]:
    """Of each control (its blocks, oldest first) the one of the same time as ``block``, if there is one."""
    found = []
    for blocks in controls:
        near = min(blocks, key=lambda b: abs(b.at_s - block.at_s), default=None)
        if near is not None and abs(near.at_s - block.at_s) <= 0.75 * block.seconds:
            found.append(near)
    return found


def drift(
    blocks: Sequence[float], coarse: Iterable[tuple[int, Sequence[float]]] = (), place: int = 0
) -> float:
    """By how much the mean over some minutes may be above the mean of all, because the scene changes by itself.

    ``blocks``: a figure of each block, oldest first; ``coarse``: the same of coarser levels, each with the number of
    blocks that one of it covers. If blocks were independent, means over m of them would vary by a m-th of their
    variance. What they vary beyond that is the scene's. Three standard deviations of it are the answer, 4.5 for the
    twentieth device (``place`` 19): among many, one goes far. 0 for less than a twentieth of the variance of a block.
    """
    if len(blocks) < 2:
        return 0.0
    own = _variance(blocks)
    whole = len(blocks) - len(blocks) % _FOLLOWING
    four = [fmean(blocks[len(blocks) - whole :][i : i + _FOLLOWING]) for i in range(0, whole, _FOLLOWING)]
    excess = 0.0
    for m, values in [(_FOLLOWING, four), *coarse]:
        if len(values) >= _ENOUGH:
            excess = max(excess, _variance(values) - own / m - _TOLERANCE * own)
    return math.sqrt(excess * (_MANY**2 + 2 * math.log((place + 1) * (place + 2) / 2)))


def _variance(values: Sequence[float]) -> float:
    """That of the standard library is exact, and takes 40 times as long."""
    mean = math.fsum(values) / len(values)
    return math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)


def _mean(values: Iterable[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return fmean(known) if known else math.nan
