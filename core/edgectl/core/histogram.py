"""Latency as a base-2 exponential histogram, scale 5: any quantile within 1.1 %, merge is integer addition.

Bucket ``i`` holds ``(b^i, b^(i+1)]`` with ``b = 2^(2^-5)``, the boundaries of an OTLP ExponentialHistogram
data point with scale 5 and of a Prometheus native histogram with schema 5. Values are microseconds; below 1
µs they count as zero.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable

from pydantic import Field, model_validator

from edgectl.core.schema import Message

__all__ = ["MIN_SAMPLES", "SCALE", "Histogram", "HistogramData"]

SCALE = 5
_PER_OCTAVE = 1 << SCALE
# what a peer says has to fit a float: quantiles are fractions of it
_MAX_COUNT = (1 << 53) - 1
_MAX_SUM_US = 1e24
"""More than all devices of all fleets will ever measure. Sums and counts stay there: a peer that lies spoils no sum of
others."""
_MAX_INDEX = 36 * _PER_OCTAVE  # 2^36 µs: 19 hours
MIN_SAMPLES = {50.0: 7, 90.0: 64, 95.0: 130, 99.0: 662, 99.9: 6636}
"""Samples below which a percentile is not reported (LoadGen early stopping, 99 % confidence, one
over-latency sample)."""


class HistogramData(Message):
    """Wire form. ``counts[k]`` belongs to bucket ``offset + k``; ``us`` are microseconds."""

    scale: int = Field(default=SCALE, ge=SCALE, le=SCALE)
    zero: int = Field(default=0, ge=0)
    offset: int = Field(default=0, ge=0, le=_MAX_INDEX)
    counts: tuple[int, ...] = Field(default=(), max_length=_MAX_INDEX + 1)
    sum_us: float = Field(default=0.0, ge=0, le=_MAX_SUM_US)
    min_us: float | None = None
    max_us: float | None = None

    @model_validator(mode="after")
    def _counts_are_counts(self) -> HistogramData:
        if (
            any(not 0 <= c <= _MAX_COUNT for c in (self.zero, *self.counts))
            or self.offset + len(self.counts) > _MAX_INDEX + 1
        ):
            raise ValueError("histogram counts are out of range")
        return self


class Histogram:
    """Counts of microseconds. Recording appends to an array (55 ns); buckets are made when somebody asks."""

    def __init__(self) -> None:
        self._pending = array("d")
        self._counts: dict[int, int] = {}
        self._zero = 0
        self._sum = 0.0
        self._min = math.inf
        self._max = -math.inf

    def record(self, us: float) -> None:
        """Add one value in microseconds; negative values are a caller's mistake and count as zero."""
        self._pending.append(us)
        if len(self._pending) >= 8192:
            self._fold()

    def record_ns(self, ns: int) -> None:
        self.record(ns / 1000)

    @property
    def n(self) -> int:
        self._fold()
        return self._zero + sum(self._counts.values())

    @property
    def mean_us(self) -> float | None:
        return self._sum / self.n if self.n else None

    @property
    def max_us(self) -> float | None:
        return self._max if self.n else None

    def quantile_us(self, q: float) -> float | None:
        """The value in microseconds below which a fraction ``q`` (0..1) of samples lie; None when empty."""
        n = self.n
        if not n:
            return None
        rank = q * (n - 1)
        seen = self._zero
        if rank < seen:
            return max(0.0, min(self._min, 1.0))
        for index in sorted(self._counts):
            seen += self._counts[index]
            if rank < seen:
                centre: float = 2.0 ** ((index + 0.5) / _PER_OCTAVE)
                return min(max(centre, self._min), self._max)
        return self._max

    def percentile_ms(self, p: float) -> float | None:
        """Percentile ``p`` in milliseconds, or None if there are too few samples to say it
        (:data:`MIN_SAMPLES`)."""
        needed = MIN_SAMPLES.get(p, math.ceil(7 / (1 - p / 100)))
        if self.n < needed:
            return None
        us = self.quantile_us(p / 100)
        return None if us is None else float(us) / 1000

    def merge(self, other: Histogram) -> None:
        """Add another histogram's counts. Exact, associative, commutative."""
        self._fold()
        other._fold()
        for index, count in other._counts.items():
            self._counts[index] = self._counts.get(index, 0) + count
        self._zero += other._zero
        self._sum += other._sum
        self._min = min(self._min, other._min)
        self._max = max(self._max, other._max)

    def data(self) -> HistogramData:
        """The wire form."""
        self._fold()
        if not self.n:
            return HistogramData()
        low = min(self._counts, default=0)
        high = max(self._counts, default=-1)
        counts = tuple(min(self._counts.get(i, 0), _MAX_COUNT) for i in range(low, high + 1))
        # a peer may say how many and not between what
        low_us, high_us = (None if math.isinf(v) else v for v in (self._min, self._max))
        return HistogramData(
            zero=min(self._zero, _MAX_COUNT),
            offset=low,
            counts=counts,
            sum_us=min(self._sum, _MAX_SUM_US),
            min_us=low_us,
            max_us=high_us,
        )

    @classmethod
    def of(cls, data: HistogramData) -> Histogram:
        """A histogram from its wire form."""
        h = cls()
        h._counts = {data.offset + k: c for k, c in enumerate(data.counts) if c}
        h._zero = data.zero
        h._sum = data.sum_us
        h._min = math.inf if data.min_us is None else data.min_us
        h._max = -math.inf if data.max_us is None else data.max_us
        return h

    @classmethod
    def merged(cls, parts: Iterable[Histogram]) -> Histogram:
        total = cls()
        for part in parts:
            total.merge(part)
        return total

    def _fold(self) -> None:
        if not self._pending:
            return
        import numpy as np  # here: an agent, which only merges, does without

        values = np.frombuffer(self._pending, dtype=np.float64).copy()
        self._pending = array("d")
        np.maximum(values, 0.0, out=values)
        self._sum += float(values.sum())
        self._min = min(self._min, float(values.min()))
        self._max = max(self._max, float(values.max()))
        positive = values[values >= 1.0]
        self._zero += len(values) - len(positive)
        # (b^i, b^(i+1)]: ceil(log_b v) - 1. OTLP's first bucket starts above 1.
        indices = np.ceil(np.log2(positive) * _PER_OCTAVE).astype(np.int64) - 1
        np.clip(indices, 0, _MAX_INDEX, out=indices)
        for index, count in zip(*np.unique(indices, return_counts=True), strict=True):
            self._counts[int(index)] = self._counts.get(int(index), 0) + int(count)
