"""What a number of devices can show, and what it cannot. Pure; exact binomial probabilities."""

from __future__ import annotations

import math
from functools import lru_cache

from edgectl.fleet.rollouts.gates import at_most, bisect, lower_bound

__all__ = ["detectable_by_canary", "detectable_by_rate", "devices_to_tell"]

_POWER = 0.9
"""How often what can be found is found."""


def detectable_by_canary(devices: int, allowed: int = 0, power: float = _POWER) -> float | None:
    """The smallest failure rate that a canary finds with probability ``power``, where more than ``allowed`` failures
    stop the rollout; None: it can find nothing. 1 device → 0.9: only what nearly always fails."""
    if devices <= allowed:
        return None
    return bisect(lambda rate: 1 - at_most(allowed, devices, rate) < power)


def detectable_by_rate(devices: int, max_rate: float, power: float = _POWER) -> float | None:
    """The smallest failure rate at which the lower bound of ``devices`` results is over ``max_rate`` with probability
    ``power``; None: not even if all fail."""
    least = _failures_to_stop(devices, max_rate)
    if least is None:
        return None
    return bisect(lambda rate: 1 - at_most(least - 1, devices, rate) < power)


@lru_cache(maxsize=64)
def devices_to_tell(good: float, bad: float, *, level: float = 0.05, power: float = _POWER) -> int:
    """How many devices tell a failure rate of ``bad`` from ``good`` by a one-sided exact test at ``level`` with
    ``power``. Needs 0 < good < bad < 1. 1 % from 5 % → 132."""
    if not 0 < good < bad < 1:
        raise ValueError("rates have to be 0 < good < bad < 1")
    n = 1
    while not _tells(n, good, bad, level, power):
        n += max(1, n // 200)
    while n > 1 and _tells(n - 1, good, bad, level, power):
        n -= 1
    return n


def _tells(n: int, good: float, bad: float, level: float, power: float) -> bool:
    limit = next(k for k in range(n + 1) if 1 - at_most(k, n, good) <= level)
    return 1 - at_most(limit, n, bad) >= power


@lru_cache(maxsize=256)
def _failures_to_stop(n: int, max_rate: float) -> int | None:
    """The fewest failures of ``n`` that surely are more than ``max_rate``."""
    low, high = math.ceil(max_rate * n), n
    if n == 0 or lower_bound(n, n) <= max_rate:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if lower_bound(middle, n) > max_rate else (middle + 1, high)
    return low
