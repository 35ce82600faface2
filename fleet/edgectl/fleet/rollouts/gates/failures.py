"""Devices that could not take the release: an exact binomial bound (Clopper & Pearson 1934). Pure."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

__all__ = ["at_most", "bisect", "failure_gate", "lower_bound", "upper_bound"]


def failure_gate(
    failed: int, finished: int, *, max_rate: float, max_canary: int, canary: bool, confidence: float = 0.95
) -> str | None:
    """Too many failures? In the canary a count decides. Later the *certain* failure rate does: the lower
    bound of it.

    ``finished``: devices that committed or failed.
    """
    if canary:
        return (
            f"{failed} of {finished} canary devices failed, {max_canary} may" if failed > max_canary else None
        )
    certain = lower_bound(failed, finished, confidence)
    if certain > max_rate:
        return f"{failed} of {finished} devices failed: surely more than {certain:.1%}, {max_rate:.1%} may"
    return None


@functools.lru_cache(maxsize=4096)
def upper_bound(failed: int, n: int, confidence: float = 0.95) -> float:
    """Largest failure rate that still explains ``failed`` of ``n`` (one-sided, exact: Clopper–Pearson).

    0 of 59 → 0.05: no failure in 59 devices only shows that fewer than 5 % fail.
    """
    if n == 0 or failed >= n:
        return 1.0
    return bisect(lambda p: at_most(failed, n, p) > 1 - confidence)


def lower_bound(failed: int, n: int, confidence: float = 0.95) -> float:
    """Smallest failure rate that still explains ``failed`` of ``n``."""
    return 1.0 - upper_bound(n - failed, n, confidence) if n and failed else 0.0


def at_most(k: int, n: int, p: float) -> float:
    """P(X ≤ k) of a binomial distribution. The terms of the tail on the side of k, from k outwards, until they no longer
    count: n may be 100 000."""
    if p <= 0 or k >= n:
        return 1.0
    if p >= 1 or k < 0:
        return 0.0
    if k < p * (n + 1):  # below the mode the terms fall towards 0
        return min(1.0, _tail(k, n, p, -1))
    return max(0.0, 1.0 - _tail(k + 1, n, p, 1))


def _tail(first: int, n: int, p: float, step: int) -> float:
    """The sum of P(X = first), P(X = first + step), …, which fall."""
    log_choose = math.lgamma(n + 1) - math.lgamma(first + 1) - math.lgamma(n - first + 1)
    term = math.exp(log_choose + first * math.log(p) + (n - first) * math.log1p(-p))
    total, i, odds = 0.0, first, p / (1 - p)
    while term > total * 1e-17:
        total += term
        term *= (n - i) / (i + 1) * odds if step > 0 else i / ((n - i + 1) * odds)
        i += step
    return total


def bisect(below: Callable[[float], bool]) -> float:
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return high
