"""Which of two engines is faster, in each way in which a device runs them. Pure: blocks of calls in, one word
out.

A device runs an engine *alone*, back to back, or *paced* by its camera, with a rest before each call;
*beside* another process that computes is measured and shown, too. Those are different questions: an engine of
0.03 ms a call may be 4 % faster in one and slower in another, and measured call by call among others it only
shows who empties whose caches. So an engine is called in blocks, several times in a row, the blocks of the
engines take turns in processes of their own, and what is compared is the medians of neighbouring blocks.

Within 5 %, or within their spread, two engines are equal. On a busy machine only what is clear by far more
than a neighbour can do counts; the rest is undecided::

    ratio = block_ratio(int8, float, runs=3)                    # of one context
    found = standing(ratio, busy=bool(busy_because(evidence)), reference_ms=2.1)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgectl.core.measured import Context, Standing
from edgectl.engines.timing import Ratio, Samples, paired_ratio

__all__ = [
    "DECIDING",
    "EQUAL",
    "PERIOD_S",
    "Load",
    "block_ratio",
    "busy_because",
    "calls_in_a_row",
    "medians",
    "overall",
    "spread",
    "standing",
]

EQUAL = 0.05
"""Of the reference's latency: what is closer than that is equal."""
DECIDING = (Context.ALONE, Context.PACED)
"""The contexts of a device; a quantized engine ships only if it is slower in none of them."""
PERIOD_S = 1 / 30
"""Of the camera that paces."""

_CLEAR = 0.75
_CLEAR_MS = 1.0
"""A neighbour empties caches: that costs a call up to about 0.2 ms, more of it the engine with more
weights. A ratio below 0.75 (or above its inverse) of calls that take a millisecond does not come from
that."""
_OTHERS, _OTHERS_MOST = 0.15, 1.0
_STEAL = 0.02
_SPREAD = 0.10
_BLOCK_MS = 3.0
_BLOCK = (4, 64)
_LONG_MS = 100.0


@dataclass(frozen=True)
class Load:
    """How busy the machine was with other things while it measured. None: the machine does not tell."""

    others: float | None
    """Cores that computed for other processes than those that were measured."""
    cores: int
    steal: float | None
    """Share of the cores' time that the hypervisor gave to others."""
    spread: float
    """Of the reference's blocks, alone: distance of their quartiles, as a share of the median."""


def busy_because(e: Load) -> tuple[str, ...]:
    """Why a measurement is not to be trusted alone, in words; empty on a quiet machine."""
    found = []
    if e.others is not None and e.others > min(_OTHERS_MOST, _OTHERS * e.cores):
        found.append(f"other processes took {e.others:.1f} of {e.cores} cores")
    if e.steal is not None and e.steal > _STEAL:
        found.append(f"the hypervisor took {e.steal:.0%} of the time")
    if e.spread > _SPREAD:
        found.append(f"the float engine's own blocks differ by {e.spread:.0%}")
    return tuple(found)


def calls_in_a_row(call_ms: float) -> int:
    """How many calls make a block: about 3 ms of them, 4 to 64; fewer where they take longer than 100 ms together,
    and one that does so alone: it evens out by itself what disturbs a short one."""
    fewest, most = _BLOCK
    fewest = max(1, min(fewest, math.ceil(_LONG_MS / max(call_ms, 1e-6))))
    return int(np.clip(math.ceil(_BLOCK_MS / max(call_ms, 1e-6)), fewest, most))


def medians(samples: Samples, block: int) -> Samples:
    """The median of each block of ``block`` calls in a row; calls that fill none are left out."""
    whole = len(samples) // block * block
    return np.asarray(np.median(np.asarray(samples[:whole]).reshape(-1, block), axis=1))


def spread(blocks: Samples, *, runs: int = 1) -> float:
    """Distance of the quartiles as a share of the median: 0 if all are alike or there are fewer than four.

    Of ``runs`` (new processes) each counts against its own median: that one runs faster than another all the time, by
    where its memory lies or by the clock, disturbs nothing that is called in turn, and :func:`block_ratio` has the
    ratio of each run in its interval.
    """
    if len(blocks) < 4:
        return 0.0
    parts = [part for part in np.array_split(blocks, max(1, runs)) if len(part)]
    low, high = np.percentile(np.concatenate([part / np.median(part) for part in parts]), [25, 75])
    return float(high - low)


def block_ratio(blocks: Samples, reference: Samples, *, runs: int = 1) -> Ratio:
    """Median of the ratios of neighbouring blocks; the interval holds the median of each run (a new process
    may be lucky), too.

    Both have the same length ≥ 3, the blocks of a run one after the other.
    """
    ratio = paired_ratio(blocks, reference)
    each = [float(np.median(part)) for part in np.array_split(blocks / reference, max(1, runs)) if len(part)]
    return Ratio(ratio.median, min(ratio.low, *each), max(ratio.high, *each), ratio.n)


def standing(ratio: Ratio, *, busy: bool, reference_ms: float, min_speedup: float = 1.0) -> Standing:
    """Where a candidate stands in one context. ``min_speedup``: what the profile asks for, if that is more
    than 5 %."""
    if busy and not (reference_ms >= _CLEAR_MS and (ratio.high <= _CLEAR or ratio.low >= 1 / _CLEAR)):
        return Standing.UNDECIDED
    if ratio.median < min(1 - EQUAL, 1 / min_speedup) and ratio.high < 1:
        return Standing.FASTER
    if ratio.median > 1 + EQUAL and ratio.low > 1:
        return Standing.SLOWER
    return Standing.EQUAL


def overall(found: Mapping[Context, tuple[Standing, Ratio]]) -> Standing:
    """Of the contexts of a device: slower if it is so in any; faster if it is so in one and in none surely
    slower, however little."""
    each = [found[c] for c in DECIDING if c in found]
    standings = {s for s, _ in each}
    if Standing.SLOWER in standings:
        return Standing.SLOWER
    if Standing.UNDECIDED in standings or not each:
        return Standing.UNDECIDED
    if Standing.FASTER in standings and all(r.low <= 1 for _, r in each):
        return Standing.FASTER
    return Standing.EQUAL
