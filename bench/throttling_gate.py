"""How often does the gate of throttling stop a release that heats no more, and one that does? Simulated, for ``gates.py``.

A device is slowed down in spells, six blocks long on average, for an evenly drawn part of each block; how much of the time
it is in such a spell says how hot its place is. The gate takes eight blocks together; of the history 85 minutes count.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from statistics import fmean

import numpy as np

from edgectl.fleet.rollouts.gates.blocks import BLOCK_S, COARSE, drift
from edgectl.fleet.rollouts.gates.throttling import ThrottlingTerms
from edgectl.fleet.rollouts.gates.wealth import RankBets, mixed, pooled, share

ALPHA, IN_ALL = 0.01, 5
"""The usual four, and this one."""
BEFORE, AFTER, SPELL = 512, 120, 6.0
ALLOWED = ThrottlingTerms().max_increase


def spells(chance: np.random.Generator, blocks: int, hot: float) -> list[float]:
    """Of each block, what part the device is slowed down; in all ``hot`` of them are of a spell."""
    found, is_on = [], bool(chance.random() < hot)
    for _ in range(blocks):
        found.append(float(chance.random()) if is_on else 0.0)
        leave = 1 / SPELL if is_on else hot / (1 - hot) / SPELL
        is_on = not is_on if chance.random() < leave else is_on
    return found


def eights(figures: list[float]) -> list[float]:
    n = COARSE[0]
    return [fmean(figures[i : i + n]) for i in range(0, len(figures) - n + 1, n)]


def stopped_s(before: list[float], after: list[float]) -> float:
    """Seconds until the gate stops it; inf: never."""
    own, later = eights(before), eights(after)
    slack, known = drift(own, [(COARSE[0], eights(own))]), sorted(own)
    bets = RankBets(len(own))
    for i, x in enumerate(later):
        bets.add(bisect_left(known, x - ALLOWED - slack))
        won = pooled([math.log(share(0)) + mixed(bets.logs)], bets.logs, 1)
        if won >= -math.log(ALPHA / IN_ALL * share(0)):
            return (i + 1) * COARSE[0] * BLOCK_S
    return math.inf


def throttling(runs: int) -> Iterator[tuple[str, ...]]:
    yield (
        "slowed down before",
        "the same: stopped within 20 min",
        "always in a spell: stopped within 20 min",
        "after, median",
    )
    for hot in (0.0, 0.02, 0.1, 0.3):
        chance = np.random.default_rng(11)
        same, hotter = [], []
        for _ in range(runs):
            series = spells(chance, BEFORE + AFTER, hot)
            same.append(stopped_s(series[:BEFORE], series[BEFORE:]))
            hotter.append(stopped_s(series[:BEFORE], [float(chance.random()) for _ in range(AFTER)]))
        false, found = (float(np.mean(np.isfinite(times))) for times in (same, hotter))
        after = float(np.quantile(hotter, 0.5, method="higher"))
        yield (
            f"{hot / 2:.0%} of the time",
            f"{false:.1%}" if false else "0",
            f"{found:.1%}" if found else "0",
            "never" if math.isinf(after) else f"{after:g} s",
        )
