"""Latency the way MLPerf LoadGen counts it: from the moment at which a query was *scheduled*, so that nothing
waits unseen.

SingleStream: a query is scheduled when the one before is done; what happens in between belongs to the
latency. At a rate: query ``k`` is scheduled at ``k / rate`` whatever became of those before it, as frames of
a camera are; an engine that falls behind shows its queue instead of hiding it (no coordinated omission).
Source: MLCommons inference rules and ``loadgen/early_stopping.cc``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgectl.engines.timing import Samples

__all__ = ["Stream", "at_most", "overruns_allowed", "single_stream"]

_CONFIDENCE = 0.99
_WARM_UP = 3


@dataclass(frozen=True)
class Stream:
    """``latencies``: of each query, ms. ``late``: how late this machine's own timer was when it had
    nothing to do, ms; no latency can be told from less (empty without a rate)."""

    latencies: Samples
    late: Samples
    seconds: float


def single_stream(
    query: Callable[[], object],
    *,
    seconds: float,
    min_queries: int = 64,
    max_queries: int = 1_000_000,
    rate: float | None = None,
    clock: Callable[[], int] = time.perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> Stream:
    """Issue queries for ``seconds`` (at least ``min_queries``). ``rate``: queries per second; None: each
    when the last one is done."""
    for _ in range(_WARM_UP):
        query()
    latencies: list[float] = []
    late: list[float] = []
    start = scheduled = clock()
    for k in range(max_queries):
        if k >= min_queries and (scheduled - start) / 1e9 >= seconds:
            break
        if rate is not None:
            scheduled = start + round(k * 1e9 / rate)
            if (ahead := scheduled - clock()) > 0:
                sleep(ahead / 1e9)
                late.append((clock() - scheduled) / 1e6)
        query()
        done = clock()
        latencies.append((done - scheduled) / 1e6)
        if rate is None:
            scheduled = done
    return Stream(np.asarray(latencies), np.asarray(late), (clock() - start) / 1e9)


def overruns_allowed(n: int, percentile: float) -> int:
    """How many of ``n`` queries may exceed a bound for it to be an upper bound of the percentile with 99 %
    confidence; -1: n is too few.

    The largest ``t`` with P[Binomial(n, 1 - percentile / 100) ≤ t] ≤ 1 %. 64 queries allow one at p90, 662
    one at p99.
    """
    over = 1 - percentile / 100
    total, t = 0.0, -1
    while t < n:
        k = t + 1
        log_p = (
            math.lgamma(n + 1)
            - math.lgamma(k + 1)
            - math.lgamma(n - k + 1)
            + k * math.log(over)
            + (n - k) * math.log1p(-over)
        )
        total += math.exp(log_p)
        if total > 1 - _CONFIDENCE:
            return t
        t = k
    return t


def at_most(samples: Samples, percentile: float) -> float | None:
    """The early-stopping estimate: what the percentile does not exceed, with 99 % confidence. None where
    fewer than one overrun is allowed."""
    t = overruns_allowed(len(samples), percentile)
    return float(np.sort(samples)[len(samples) - 1 - t]) if t >= 1 else None
