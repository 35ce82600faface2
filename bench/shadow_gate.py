"""How often do the two gates of agreement stop a release that differs by so much? Simulated shadows, for ``gates.py``.

32 blocks of eight frames with five objects each. An object stays for four blocks, and either all objects are missed alike,
or one is missed again and again and others never (of each the chance is drawn from a beta distribution with the strength
of five trials).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgectl.core.wire import MAX_SHADOW_BLOCKS
from edgectl.fleet.rollouts.gates.agreement import AgreementTerms
from edgectl.fleet.rollouts.gates.wealth import MeanBets, mixed, pooled, share

ALPHA = 0.01
IN_ALL = 6
"""Gates by chance of a rollout whose policy asks for a shadow and names no gates: two of latency, errors, drops, and these."""
FRAMES, OBJECTS, STAYS = 8, 5, 4
ALLOWED = AgreementTerms().max_share


def shares(chance: np.random.Generator, mean: float, *, alike: bool) -> NDArray[np.float64]:
    """Of each block, what share of the objects only one engine found."""
    size = (MAX_SHADOW_BLOCKS // STAYS, OBJECTS)
    each = np.full(size, mean) if alike or mean == 0 else chance.beta(5 * mean, 5 * (1 - mean), size)
    lost = chance.binomial(FRAMES, np.repeat(each, STAYS, axis=0))
    return np.asarray(lost.sum(1) / (FRAMES * OBJECTS), np.float64)


def is_stopped(devices: list[NDArray[np.float64]]) -> bool:
    """Looked at after each block."""
    needed = -math.log(ALPHA / IN_ALL * share(0))
    bets = [MeanBets(ALLOWED) for _ in devices]
    for block in range(MAX_SHADOW_BLOCKS):
        for bet, figures in zip(bets, devices, strict=True):
            bet.add(float(figures[block]))
        staked = [math.log(share(k)) + mixed(bet.logs) for k, bet in enumerate(bets)]
        sums = [sum(logs) for logs in zip(*(bet.logs for bet in bets), strict=True)]
        if pooled(staked, sums, len(bets)) >= needed:
            return True
    return False


def shadow(runs: int) -> Iterator[tuple[str, ...]]:
    yield ("missed, or extra", "devices", "all objects alike", "some again and again")
    for mean in (0.0, 0.01, 0.025, 0.04, 0.05, 0.075, 0.1, 0.15):
        for devices in (1, 5):
            chance = np.random.default_rng(7)
            found = [
                np.mean(
                    [
                        is_stopped([shares(chance, mean, alike=alike) for _ in range(devices)])
                        for _ in range(runs)
                    ]
                )
                for alike in (True, False)
            ]
            yield (f"{mean:.1%}", str(devices), *(f"{f:.1%}" if f else "0" for f in found))
