"""What a gate decided, with all the numbers that it came from: the same numbers give the same verdict again."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from enum import Enum

from pydantic import Field

from edgectl.core.schema import Message
from edgectl.fleet.rollouts.gates.wealth import (
    TILTS,
    Bettings,
    CertainBets,
    MeanBets,
    RankBets,
    mixed,
    pooled,
    share,
)

__all__ = ["Bets", "ControlDevice", "GateDecision", "GateVerdict", "Rest", "logs_of", "recompute", "standing"]


class GateVerdict(str, Enum):
    WORSE = "worse"
    """Than the terms allow; the chance that a gate of the rollout ever says so wrongly is α."""
    OPEN = "open"
    """Nothing speaks against it strongly enough, so far. Not: it is as good."""
    CANNOT_JUDGE = "cannot judge"
    """There is nothing to compare it with; the record says what is missing."""


class ControlDevice(Message):
    """Another device of the stratum, which ran one engine all the time."""

    device: str
    engine: str
    """Digest."""


class Bets(Message):
    """What one device says to one gate."""

    device: str
    place: int = Field(ge=0)
    """In the order in which devices of the stratum began to bet: its wealth is a share of the stratum's."""
    multiplies: bool = True
    """Whether it is independent of those before it: the first of its site, or compared with controls of its own."""
    before: tuple[float, ...] = ()
    """The figure of each block of the old engine, oldest first, less the controls' at the same time where there are any.
    Latency: log2 of microseconds. Empty where the bet is against a fixed bound."""
    after: tuple[float, ...] = ()
    """The same of the new engine."""
    slack: float = 0.0
    """How far ``after`` may be above ``before`` besides what the terms allow: as far as the scene goes by itself."""
    controls: tuple[ControlDevice, ...] = ()
    until_s: float = 0.0
    """End of the last block that counts, Unix seconds."""


class Rest(Message):
    """Devices that a record does not list one by one: those that say least."""

    devices: int = 0
    staked: float | None = None
    """Log of the sum of their wealths, each times its share; None: there are none."""
    sums: tuple[float, ...] = (0.0,) * len(TILTS)
    """For each tilt, the sum of log wealths of those that multiply."""


class GateDecision(Message):
    """One gate, one stratum, one look that changed something."""

    gate: str
    """``latency p99``"""
    kind: str
    """Its name in the policy: ``latency``"""
    bets: Bettings
    stratum: str
    at_s: float
    allowed: float
    """As the terms say, in the figure's unit; of ``mean``, the largest mean."""
    alpha: float = Field(gt=0, lt=1)
    """What the rollout's α leaves for this gate and stratum; of ``once``, nothing is spent of it."""
    verdict: GateVerdict
    log_wealth: float = 0.0
    """Natural logarithm. At -log(alpha) it is WORSE."""
    devices: tuple[Bets, ...] = ()
    """Those that say most, most first."""
    rest: Rest = Rest()
    lacking: tuple[str, ...] = ()
    """Devices of which nothing can be said, a few, each with what is missing."""
    reason: str = ""
    """For people."""


def logs_of(kind: Bettings, bets: Bets, allowed: float) -> list[float]:
    """Log wealth of each tilt, from the figures."""
    if kind == "mean":
        stakes = MeanBets(allowed)
        for x in bets.after:
            stakes.add(x)
        return stakes.logs
    if kind == "once":
        certain = CertainBets()
        for was, now in zip(bets.before, bets.after, strict=False):
            certain.add(above=now > was + allowed + bets.slack)
        return certain.logs
    ranked = RankBets(len(bets.before))
    known = sorted(bets.before)
    for x in bets.after:
        ranked.add(bisect_left(known, x - allowed - bets.slack))
    return ranked.logs


def standing(
    listed: Sequence[tuple[Bets, Sequence[float]]], rest: Rest, alpha: float
) -> tuple[float, GateVerdict]:
    """Log wealth of a stratum, and what follows from it."""
    if not listed:
        return 0.0, GateVerdict.CANNOT_JUDGE
    staked = [math.log(share(bets.place)) + mixed(logs) for bets, logs in listed]
    sums = list(rest.sums)
    for bets, logs in listed:
        if bets.multiplies:
            sums = [total + log for total, log in zip(sums, logs, strict=True)]
    staked += [rest.staked] if rest.staked is not None else []
    log = pooled(staked, sums, len(listed) + rest.devices)
    return log, GateVerdict.WORSE if log >= -math.log(alpha) else GateVerdict.OPEN


def recompute(decision: GateDecision) -> GateVerdict:
    """The verdict, from the figures of the record alone."""
    listed = [(b, logs_of(decision.bets, b, decision.allowed)) for b in decision.devices]
    return standing(listed, decision.rest, decision.alpha)[1]
