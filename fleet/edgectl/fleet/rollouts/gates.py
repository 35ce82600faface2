"""Measured conditions between the parts of a rollout. Pure; each returns why to stop, or None."""

from __future__ import annotations

import math
from collections.abc import Callable

from edgectl.core.histogram import Histogram

__all__ = ["failure_gate", "latency_gate", "lower_bound", "upper_bound"]


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


def latency_gate(before: Histogram, after: Histogram, *, percentile: float, max_ratio: float) -> str | None:
    """Is the new engine slower than the old one over the devices that run it? Nothing is said from too few
    samples."""
    old, new = before.percentile_ms(percentile), after.percentile_ms(percentile)
    if old is None or new is None or new <= max_ratio * old:
        return None
    return f"p{percentile:g} latency rose from {old:.2f} to {new:.2f} ms, {max_ratio:g} times are allowed"


def upper_bound(failed: int, n: int, confidence: float = 0.95) -> float:
    """Largest failure rate that still explains ``failed`` of ``n`` (one-sided, exact: Clopper–Pearson).

    0 of 59 → 0.05: no failure in 59 devices only shows that fewer than 5 % fail.
    """
    if n == 0 or failed >= n:
        return 1.0
    return _bisect(lambda p: _at_most(failed, n, p) > 1 - confidence)


def lower_bound(failed: int, n: int, confidence: float = 0.95) -> float:
    """Smallest failure rate that still explains ``failed`` of ``n``."""
    return 1.0 - upper_bound(n - failed, n, confidence) if n and failed else 0.0


def _at_most(k: int, n: int, p: float) -> float:
    """P(X ≤ k) of a binomial distribution, by logarithms: n may be 100 000."""
    if p <= 0:
        return 1.0
    log_p, log_q = math.log(p), math.log1p(-p)
    total = 0.0
    for i in range(k + 1):
        log_choose = math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1)
        total += math.exp(log_choose + i * log_p + (n - i) * log_q)
    return min(1.0, total)


def _bisect(below: Callable[[float], bool]) -> float:
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return high
