"""What bets against "the new engine is no worse" have won. Pure.

A bet begins with a wealth of 1 and is fair, or worse than fair, as long as the claim is true. Then the chance that its
wealth *ever* reaches 1/α is at most α (Ville 1939), however often somebody looks: that is why these gates may be
looked at every second. Wealth is kept as a natural logarithm.

Two kinds, and :class:`CertainBets` for what needs none. :class:`RankBets` compares blocks of the new engine with blocks of the old one on the same device, and knows
nothing of how latency is distributed. :class:`MeanBets` is the bet of Waudby-Smith & Ramdas ("Estimating means of
bounded random variables by betting", 2023) against a mean that the terms allow.

    >>> bets = RankBets(before=30)
    >>> for rank in (30, 30, 30):  # three blocks in a row, each slower than all 30 before
    ...     bets.add(rank)
    >>> round(mixed(bets.logs), 1)  # log wealth; log(1 / 0.01) is 4.6
    7.1
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Literal, TypeAlias

__all__ = [
    "CERTAIN",
    "STAKES",
    "TILTS",
    "Bettings",
    "CertainBets",
    "MeanBets",
    "RankBets",
    "log_sum",
    "mixed",
    "pooled",
    "share",
]

Bettings: TypeAlias = Literal["ranks", "mean", "once"]
CERTAIN = 50.0
"""Log of what is won where nothing is left to chance: enough for the millionth device of a stratum."""


TILTS = ((0.25, 1.0), (0.5, 1.0), (1.0, 1.0), (2.0, 1.0), (4.0, 1.0), (8.0, 1.0), (8.0, 0.25), (8.0, 0.05))
"""(By how much the new engine may be slower, in standard deviations of a block; what share of the wealth is staked on each
block.) Small tilts win on small differences that last, large ones at once where every block is out of the ordinary, and
with a small stake where every tenth is. Each has an eighth of the wealth."""
STAKES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 0.95)
"""The same for means, as shares of all that may be staked."""


class RankBets:
    """Bets on where blocks of the new engine rank among ``before`` blocks of the old one.

    If the engine makes no difference, all blocks are exchangeable. Then the next rank has a known distribution, whatever
    that of latency is and however few blocks there are: each of the ``before + 1`` places between the old blocks is as
    likely as one plus the new blocks that fell there (Pólya's urn). The bet on tilt θ multiplies the wealth by
    ``exp(θ z(rank)) / E[exp(θ z)]``, z being the normal score of the place, as far as it is staked. So the uncertainty about
    the old engine is paid for exactly: no threshold is estimated.
    """

    def __init__(self, before: int) -> None:
        """``before``: blocks of the old engine, at least 1."""
        self._odds = _odds(before)
        self._sums = [sum(odds) for odds in self._odds]
        self._places = before + 1
        self.logs = [0.0] * len(TILTS)
        """Log wealth of each tilt."""

    def add(self, rank: int) -> None:
        """Take the next block. ``rank``: how many of the old ones are below it, 0 to ``before``."""
        for k, (odds, (_, stake)) in enumerate(zip(self._odds, TILTS, strict=True)):
            self.logs[k] += math.log(1 - stake + stake * odds[rank] * self._places / self._sums[k])
            self._sums[k] += odds[rank]
        self._places += 1


class MeanBets:
    """Bets that the mean of values in [0, 1] is above ``allowed`` (0 < ``allowed`` < 1): wealth is a mixture of
    Π (1 + λ (x − ``allowed``)) over λ up to 1/``allowed``. One value is a block's fraction, not a frame's: what is
    alike within a block costs nothing."""

    def __init__(self, allowed: float) -> None:
        self._allowed = allowed
        self.logs = [0.0] * len(STAKES)

    def add(self, x: float) -> None:
        for k, stake in enumerate(STAKES):
            self.logs[k] += math.log1p(stake * (x / self._allowed - 1))


class CertainBets:
    """No bet, but told as one: a figure without chance in it is above what it may be, or it is not."""

    def __init__(self) -> None:
        self.logs = [0.0] * len(TILTS)

    def add(self, *, above: bool) -> None:
        if above:
            self.logs = [CERTAIN] * len(TILTS)


def mixed(logs: Sequence[float]) -> float:
    """Log of the mean of wealths: whoever bets on all tilts alike has that much."""
    return log_sum(logs) - math.log(len(logs))


def share(place: int) -> float:
    """What the one at ``place`` (from 0) gets of a whole, where nobody knows how many will come: ½, ⅙, ¹⁄₁₂ …"""
    return 1 / ((place + 1) * (place + 2))


def pooled(staked: Sequence[float], sums: Sequence[float], devices: int) -> float:
    """Log wealth of a stratum of so many devices, at least one.

    Half of the wealth looks for one device that is worse, and needs no independence. ``staked``: for each device, or for
    some of them together, the log of its wealth times its :func:`share`; what is left for devices to come is not staked.
    The other half looks for what all have in common: there the wealths of independent devices multiply. ``sums``: for
    each tilt the sum of their logs.
    """
    return mixed([log_sum([*staked, -math.log(devices + 1)]), mixed(sums)])


def log_sum(logs: Sequence[float]) -> float:
    """Log of the sum of wealths."""
    top = max(logs)
    return top + math.log(sum(math.exp(log - top) for log in logs))


@lru_cache(maxsize=256)
def _odds(before: int) -> tuple[tuple[float, ...], ...]:
    """For each tilt, exp(θ z) of every place."""
    z = [NormalDist().inv_cdf((place + 0.5) / (before + 1)) for place in range(before + 1)]
    return tuple(tuple(math.exp(tilt * score) for score in z) for tilt, _ in TILTS)
