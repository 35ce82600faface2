"""A lower bound of the time, on a device whose clock may be wrong. Pure.

A clock that is behind makes old metadata look fresh, one that is ahead makes fresh metadata look old. Here a
clock may be late or early for a while, but cannot be for ever: the only times that are kept are *attested*
ones (the time at which the controller signed the last verified timestamp metadata) and the time that has run
since on a monotonic clock. The wall clock itself is never kept, so one that was years ahead leaves no trace
once it is right.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["RELEASED_S", "TOLERANCE_S", "TimeFloor"]

TOLERANCE_S = 300.0
"""Clocks of device and controller may differ by this much before the device's is called untrusted."""

RELEASED_S = 1_793_491_200.0
"""No clock is right that says it is earlier than this code: 2026-11-01, moved on with each release. Not
the time of a file, which whatever clock the device was installed under has set."""


@dataclass(frozen=True)
class TimeFloor:
    """A lower bound of the real time, and the attestation it rests on."""

    attested_s: float
    """Unix time; 0: nothing is attested yet."""
    bound_s: float
    """Unix time at ``steady_s``."""
    steady_s: float
    """Monotonic seconds at which ``bound_s`` was right. Counts suspend."""

    def at(self, steady_s: float) -> float:
        """The lower bound now."""
        return self.bound_s + max(0.0, steady_s - self.steady_s)

    def now(self, wall_s: float, steady_s: float) -> float:
        """The time to judge expiry by: the wall clock, but never earlier than the bound."""
        return max(wall_s, self.at(steady_s))

    def trusts(self, wall_s: float, steady_s: float) -> bool:
        """Whether the wall clock can be right."""
        return wall_s >= self.at(steady_s) - TOLERANCE_S

    def attest(self, attested_s: float, steady_s: float, *, built_s: float) -> TimeFloor:
        """With the attestation of a *newer, verified* timestamp.

        Attestations go up. One that goes down says that the controller's own clock was ahead before, and
        takes back what rested on it; nobody else can say so, because versions never go down and the signature
        is the controller's.
        """
        if attested_s <= 0:
            return self  # it does not say
        if attested_s < self.attested_s:
            return TimeFloor(attested_s, max(attested_s, built_s), steady_s)
        return replace(
            self, attested_s=attested_s, bound_s=max(self.at(steady_s), attested_s), steady_s=steady_s
        )
