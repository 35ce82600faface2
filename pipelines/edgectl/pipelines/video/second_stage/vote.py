"""Votes on one attribute of one track. Pure; time is capture time.

The last votes decide, each with the weight of its score. What was decided stays until another value has the weight
that is needed: a few wrong answers change nothing, and what has truly changed (a helmet that was taken off) does.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from edgectl.pipelines.video.attribute import Attribute

__all__ = ["TrackVotes", "Vote"]


class Vote(NamedTuple):
    t: float
    """Capture time of the crop, seconds."""
    value: str
    score: float
    """Its weight, 0..1."""


class TrackVotes:
    def __init__(self, votes: int, agree: float) -> None:
        """``votes``: how many decide. ``agree``: the share of their weight that a value needs, more than 0.5, so that
        no two have it."""
        self.decided: Attribute | None = None
        self._agree = agree
        self._last: deque[Vote] = deque(maxlen=votes)

    def add(self, vote: Vote) -> None:
        """Raises ValueError for a vote that is not newer than the one before."""
        if self._last and vote.t <= self._last[-1].t:
            raise ValueError(f"votes come in order of time: {vote.t} after {self._last[-1].t}")
        self._last.append(vote)
        if len(self._last) < (self._last.maxlen or 0):
            return
        weights: dict[str, float] = {}
        for one in self._last:
            weights[one.value] = weights.get(one.value, 0.0) + one.score
        value, weight = max(weights.items(), key=lambda item: item[1])
        if weight > 0 and weight >= self._agree * sum(weights.values()) - 1e-9:
            self.decided = Attribute(value, weight / len(self._last))
        elif self.decided is not None and self.decided.value in weights:
            # it stays; how sure that is has changed
            kept = self.decided.value
            self.decided = Attribute(kept, weights[kept] / len(self._last))
