"""Latency, measured so that it can be compared: interleaved rounds, percentiles with their sample size,
paired ratios.

Two candidates measured one after the other see two different machines (clock, neighbours, page cache);
measured in turn, they see the same one, and the *ratio of neighbours* is stable where both times are not.
Calls of a millisecond take turns one by one; shorter ones in blocks of several in a row, or what is measured
is who emptied whose caches.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgectl.engines.base import Engine, Feeds

__all__ = [
    "LEAST_ROUNDS",
    "LONG_ROUND_S",
    "WARM_UP",
    "Latency",
    "Ratio",
    "Samples",
    "bench",
    "interleave",
    "load_1m",
    "median_interval",
    "paired_ratio",
    "percentile",
    "summarise",
]

# Percentile → fewest samples from which it is reported. From the 90th on: what LoadGen's early
# stopping asks for, with 99 % confidence and one sample beyond.
_ENOUGH = {10: 20, 50: 10, 90: 64, 95: 130, 99: 662}
_BLOCK_MS = 1.0
_MOST_IN_A_ROW = 64
_FEW_ROUNDS, _FEW_OF_LONG = 10, 6
"""That are enough where rounds are long; the range of six holds the median with 97 %."""
_LONG_MS = 100.0
_RESAMPLED_FROM = 10
"""Pairs. A bootstrap of fewer gives an interval that is too narrow."""

WARM_UP, LEAST_ROUNDS = 3, 3
"""Calls of each candidate before the first round; rounds that are measured whatever the time is, of which a paired
ratio is made."""
LONG_ROUND_S = 4.0
"""How long a round of a search may take for the sake of more calls than the fewest that tell something."""

Samples = NDArray[np.float64]
"""Milliseconds, in the order of measurement."""


@dataclass(frozen=True)
class Latency:
    """One distribution. A percentile is None where the samples are too few for it."""

    n: int
    p10_ms: float | None
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True)
class Ratio:
    """Median of paired latency ratios with its 95 % bootstrap interval; < 1: faster than the reference."""

    median: float
    low: float
    high: float
    n: int


def percentile(samples: Samples, p: int) -> float | None:
    """The p-th percentile in ms, or None if the samples are too few to say."""
    return float(np.percentile(samples, p)) if len(samples) >= _ENOUGH[p] else None


def summarise(samples: Samples) -> Latency:
    return Latency(len(samples), *(percentile(samples, p) for p in (10, 50, 90, 99)))


def paired_ratio(samples: Samples, reference: Samples, *, seed: int = 0) -> Ratio:
    """Compare samples that were taken in turn with a reference. Both have the same length ≥ 3; of fewer than ten the
    interval is their range, because a bootstrap of so few is too narrow (six: 97 %)."""
    ratios = samples / reference
    if len(ratios) < _RESAMPLED_FROM:
        return Ratio(float(np.median(ratios)), float(ratios.min()), float(ratios.max()), len(ratios))
    rng = np.random.default_rng(seed)
    resampled = np.median(ratios[rng.integers(0, len(ratios), (500, len(ratios)))], axis=1)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Ratio(float(np.median(ratios)), float(low), float(high), len(ratios))


def median_interval(values: Samples) -> tuple[float, float]:
    """The 95 % interval of a median from its order statistics (no resampling: cheap enough to ask again
    and again)."""
    n = len(values)
    # 1.96 standard deviations of a binomial with p = 1/2
    reach = 0.98 * math.sqrt(n)
    ordered = np.sort(values)
    low, high = math.floor(n / 2 - reach) - 1, math.ceil(n / 2 + reach)
    return float(ordered[max(0, low)]), float(ordered[min(n - 1, high)])


def interleave(
    runs: Mapping[str, Callable[[], object]],
    *,
    seconds: float,
    min_rounds: int = 20,
    max_rounds: int = 2000,
    long_s: float = math.inf,
    warm_up: int = WARM_UP,
    clock: Callable[[], int] = time.perf_counter_ns,
    settled: Callable[[Mapping[str, Samples]], bool] | None = None,
    enough: Callable[[], bool] = lambda: False,
) -> dict[str, Samples]:
    """Call every candidate once a round until ``seconds`` have passed (and ``min_rounds``); ms per call.
    After ``long_s``, if that is more, ten rounds are enough, too, or six where some call takes 0.1 s or more: that
    evens out by itself what disturbs a short one.

    One whose calls are shorter than a millisecond is called several times in a row, one call more than fill a
    millisecond (at most 64): the first is not timed, and the figure of the round is the median of the others.

    ``settled`` is asked after every ``min_rounds`` rounds whether more would tell anything; ``enough`` before the fourth
    round and each one after it whether there is no time for more, however few they are.

    The order is drawn anew for each round (the same draws every time), so that no candidate always runs in
    the cache that the same other one left. Rotating is not enough: the neighbours stay neighbours, and 0.06
    ms models differ by a third for it.
    """
    names = list(runs)
    in_a_row = {}
    few = _FEW_ROUNDS
    for name in names:
        shortest = math.inf
        for _ in range(warm_up):
            shortest = min(shortest, _timed(runs[name], clock))
        few = _FEW_OF_LONG if shortest >= _LONG_MS else few
        in_a_row[name] = (
            1 if shortest >= _BLOCK_MS else min(_MOST_IN_A_ROW, math.ceil(_BLOCK_MS / max(shortest, 1e-6)))
        )
    times: dict[str, list[float]] = {name: [] for name in names}
    rng = random.Random(0)
    start = clock()
    for turn in range(max_rounds):
        took_s = (clock() - start) / 1e9
        if turn >= min_rounds and took_s >= seconds:
            break
        if turn >= few and took_s >= max(seconds, long_s):
            break
        if turn >= LEAST_ROUNDS and enough():
            break
        if (
            settled is not None
            and turn
            and turn % min_rounds == 0
            and settled({n: np.asarray(t) for n, t in times.items()})
        ):
            break
        for name in rng.sample(names, len(names)):
            if in_a_row[name] > 1:
                runs[name]()
            block = [_timed(runs[name], clock) for _ in range(in_a_row[name])]
            times[name].append(block[0] if len(block) == 1 else float(np.median(block)))
    return {name: np.asarray(values) for name, values in times.items()}


def _timed(run: Callable[[], object], clock: Callable[[], int]) -> float:
    before = clock()
    run()
    return (clock() - before) / 1e6


def bench(
    engine: Engine,
    feeds: Sequence[Feeds],
    *,
    seconds: float = 3.0,
    min_runs: int = 64,
    max_runs: int = 100_000,
) -> Samples:
    """One stream, one query at a time (MLPerf LoadGen's SingleStream): the next starts when the last one
    is done."""
    turn = iter(range(max_runs + 10))
    runs = {"engine": lambda: engine.run(feeds[next(turn) % len(feeds)])}
    return interleave(runs, seconds=seconds, min_rounds=min_runs, max_rounds=max_runs)["engine"]


def load_1m() -> float:
    """Load average over one minute: part of the context of every measurement."""
    return round(os.getloadavg()[0], 2)
