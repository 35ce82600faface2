"""Whether a frame goes on at the border of a stage: its age, its deadline, and what is still to come.

Pure: time is an argument. One object serves one stream; its methods may be called from several threads.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

from edgectl.pipelines.stream.ledger import Cause

__all__ = ["Border", "Borders"]

Border = Literal["pre", "engine", "analysis"]
"""Before preprocessing, before the engine, before what follows it."""

_LAST = 64
_LEAST = 16
_EVERY = 8
_SHARE = 0.95


class Borders:
    def __init__(self, budget_ms: float | None, max_age_ms: float | None) -> None:
        """``budget_ms``: from the frame's availability to its events. None: any time will do."""
        self.limit(budget_ms, max_age_ms)
        self._took: dict[str, deque[int]] = {}
        self._rest_ns: dict[str, int] = {}
        self._dropped_late = False
        self._frames = 0

    def limit(self, budget_ms: float | None, max_age_ms: float | None) -> None:
        """Other limits from now on."""
        self.budget_ns = None if budget_ms is None else round(budget_ms * 1e6)
        self._max_age_ns = None if max_age_ms is None else round(max_age_ms * 1e6)

    def cross(self, border: Border, avail_ns: int, now_ns: int) -> Cause | None:
        """None: go on; else why the frame is dropped.

        ``stale``: it is older than it may be. ``deadline``: its events would come too late, as far as the p95
        of what comes behind this border tells; where even that is more than the budget, dropping would not help,
        and only a frame whose time is up goes. Never two in a row for the deadline, so that a slow engine still
        makes progress.
        """
        age_ns = now_ns - avail_ns
        if self._max_age_ns is not None and age_ns > self._max_age_ns:
            return "stale"
        if self.budget_ns is None or self._dropped_late:
            return None
        rest_ns = self._rest_ns.get(border, 0)
        if age_ns + (rest_ns if rest_ns < self.budget_ns else 0) <= self.budget_ns:
            return None
        self._dropped_late = True
        return "deadline"

    def left_ns(self, border: Border, avail_ns: int, now_ns: int) -> int | None:
        """How long it may take from now to ``border`` until a frame's events are due: less than 0 where they are
        late already. None: any time will do."""
        if self.budget_ns is None:
            return None
        return self.budget_ns - (now_ns - avail_ns) - self._rest_ns.get(border, 0)

    def through(self, crossed: dict[Border, int], done_ns: int) -> None:
        """A frame is through: when it crossed each border, and when its events were there."""
        self._dropped_late = False
        self._frames += 1
        for border, at_ns in crossed.items():
            took = self._took.setdefault(border, deque(maxlen=_LAST))
            took.append(done_ns - at_ns)
            if len(took) >= _LEAST and self._frames % _EVERY == 0:
                self._rest_ns[border] = sorted(took)[int(_SHARE * len(took))]
