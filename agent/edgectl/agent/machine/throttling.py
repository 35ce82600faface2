"""How long a machine was slowed down, and why. Pure: looks are values, time is an argument."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

__all__ = ["ThrottleMeter", "Throttled"]

_REASONS = 16
"""That are told of a window."""


@dataclass(frozen=True)
class Throttled:
    share: float | None
    """Of the time that was looked at; None: nobody looked, or the machine does not tell."""
    reasons: tuple[str, ...]


class ThrottleMeter:
    """What holds at a look is taken to have held since the look before; a counter that grew since then, too."""

    def __init__(self) -> None:
        self._last_s: float | None = None
        self._counts: dict[str, int] = {}
        self._seen_s = self._slow_s = 0.0
        self._reasons: dict[str, float] = {}

    def look(self, now_s: float, holds: Collection[str] | None, counts: Mapping[str, int]) -> None:
        """``holds``: what slows the machine down now; None: it does not tell."""
        if holds is None:
            self._last_s = None
            return
        grown = {why for why, n in counts.items() if n > self._counts.get(why, n)}
        self._counts = dict(counts)
        if self._last_s is not None:
            passed = max(0.0, now_s - self._last_s)
            self._seen_s += passed
            for why in {*holds, *grown}:
                self._reasons[why] = self._reasons.get(why, 0.0) + passed
            self._slow_s += passed if holds or grown else 0.0
        self._last_s = now_s

    def window(self) -> Throttled:
        """Since the last call."""
        longest = sorted(self._reasons, key=lambda why: (-self._reasons[why], why))
        found = Throttled(
            min(1.0, self._slow_s / self._seen_s) if self._seen_s else None, tuple(longest[:_REASONS])
        )
        self._seen_s = self._slow_s = 0.0
        self._reasons = {}
        return found
