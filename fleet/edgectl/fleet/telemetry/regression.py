"""Whether one engine is slower than another: the ratio of a percentile of both, with an interval. Pure.

The ratio, because buckets are even in the logarithm and "a tenth slower" means the same at 3 ms and at 300 ms. Calls
are not independent: a busy street, a hot afternoon are in thousands of them. So the interval comes from how far the
percentile goes from hour to hour (a jackknife that leaves one hour out at a time), where both sides have at least
:data:`HOURS`; and never from less than what chance does to the ranks of as many independent calls. From fewer hours only
the latter is known, and ``by`` says so: that interval is too narrow where conditions changed. Both are widened by
what a bucket hides (1.1 % a side).

Both sides have to be of one class: one profile, stage and power mode, throttled or not. Whoever pools classes
compares how many of each there were.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from edgectl.core.histogram import SCALE, Histogram

__all__ = ["ALPHA", "HOURS", "PERCENTILES", "Regression", "compare"]

PERCENTILES = (50.0, 90.0, 95.0, 99.0)
ALPHA = 0.01
"""Chance that the interval of two equal engines does not hold 1."""
HOURS = 8
_GROUPS = 32
"""Hours in a row are put together where there are more: they are more alike, too."""
_HALF_BUCKET = 0.5 / (1 << SCALE)
"""In log2."""


@dataclass(frozen=True)
class Regression:
    """Of one percentile of one class. None: too few samples to say it."""

    percentile: float
    before_ms: float | None
    after_ms: float | None
    ratio: float | None
    """After : before."""
    low: float | None
    high: float | None
    by: Literal["hours", "calls"] | None
    """What the interval comes from."""

    @property
    def verdict(self) -> Literal["slower", "faster", "cannot tell"]:
        if self.low is not None and self.low > 1:
            return "slower"
        return "faster" if self.high is not None and self.high < 1 else "cannot tell"


def compare(
    before: Sequence[Histogram], after: Sequence[Histogram], percentile: float, alpha: float = ALPHA
) -> Regression:
    """``before`` and ``after``: a histogram of each hour, in order."""
    wholes = Histogram.merged(before), Histogram.merged(after)
    before_ms, after_ms = (h.percentile_ms(percentile) for h in wholes)
    if not before_ms or not after_ms:
        return Regression(percentile, before_ms, after_ms, None, None, None, None)
    hourly = min(len(before), len(after)) >= HOURS
    square, q = 0.0, percentile / 100
    for whole, hours in zip(wholes, (before, after), strict=True):
        by_rank = _by_rank(whole, q, alpha)
        square += max(by_rank, _by_hour(hours, q, alpha) if hourly else 0.0) ** 2
    ratio, wide = math.log2(after_ms / before_ms), math.sqrt(square) + 2 * _HALF_BUCKET
    return Regression(
        percentile,
        before_ms,
        after_ms,
        2**ratio,
        2 ** (ratio - wide),
        2 ** (ratio + wide),
        "hours" if hourly else "calls",
    )


def _by_rank(whole: Histogram, q: float, alpha: float) -> float:
    """Half of an interval, in log2, as the ranks of independent calls give it: the wider half."""
    n, z = whole.n, NormalDist().inv_cdf(1 - alpha / 2)
    off = z * math.sqrt(q * (1 - q) / n)
    low, middle, high = (whole.quantile_us(min(max(x, 0.0), 1.0)) for x in (q - off, q, q + off))
    if not low or not middle or not high:
        return 0.0
    return max(math.log2(middle / low), math.log2(high / middle))


def _by_hour(hours: Sequence[Histogram], q: float, alpha: float) -> float:
    """The same as the hours give it."""
    bounds = np.linspace(0, len(hours), min(len(hours), _GROUPS) + 1).astype(int)
    groups = [Histogram.merged(hours[a:b]) for a, b in itertools.pairwise(bounds)]
    data = [h.data() for h in groups if h.n]
    size = max(d.offset + len(d.counts) for d in data)
    counts = np.zeros((len(data), size + 1))
    for row, d in zip(counts, data, strict=True):
        row[0] = d.zero
        row[1 + d.offset : 1 + d.offset + len(d.counts)] = d.counts
    without = counts.sum(axis=0) - counts
    cumulated = without.cumsum(axis=1)
    rank = q * cumulated[:, -1]
    at = (cumulated < rank[:, None]).sum(axis=1)
    rows = np.arange(len(data))
    below = np.where(at > 0, cumulated[rows, np.maximum(at - 1, 0)], 0.0)
    inside = (rank - below) / np.maximum(without[rows, at], 1.0)
    left_out = (at - 1 + inside) / (1 << SCALE)
    k = len(data)
    error = math.sqrt((k - 1) / k * float(((left_out - left_out.mean()) ** 2).sum()))
    return _t(1 - alpha / 2, k - 1) * error


def _t(p: float, degrees: int) -> float:
    """Quantile of Student's t, to 1 % from 7 degrees on (Cornish and Fisher's expansion)."""
    z = NormalDist().inv_cdf(p)
    return (
        z
        + (z**3 + z) / (4 * degrees)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
    )
