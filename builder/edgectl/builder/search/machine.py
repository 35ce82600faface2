"""Where candidates are opened and measured. The search knows only :class:`TimingMachine`; a test puts one with its
own clock in its place."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from edgectl.builder.search.candidates import Candidate
from edgectl.core.measured import Conditions
from edgectl.engines.base import Engine, Feeds
from edgectl.engines.finalise.guarded import open_guarded
from edgectl.engines.measure.conditions import read_conditions, wait_until_quiet
from edgectl.engines.measure.processes import SECONDS, MeasuredEngine, ProcessTimes, measure_in_processes

__all__ = ["ThisMachine", "TimingMachine"]


class TimingMachine(Protocol):
    summary: str
    """For records; never a host name."""
    feeds: Sequence[Feeds]
    """What is run while the clock ticks."""

    def open(self, c: Candidate) -> Engine:
        """Raises :class:`EdgectlError` for a candidate that does not open."""
        ...

    def clock(self) -> int:
        """Nanoseconds."""
        ...

    def fresh(self, candidates: Sequence[Candidate]) -> dict[str, ProcessTimes]:
        """Name → what it did in processes of its own, in turn with the others."""
        ...

    def conditions(self) -> Conditions: ...

    def quiet(self, seconds: float) -> bool:
        """Wait for a moment in which this machine has little else to do, at most so long; False if none
        comes."""
        ...


class ThisMachine:
    """This machine. ``fresh_s``: how long a process of its own is measured in each context; when
    ``left()`` (seconds) is over, no more are started than the least."""

    def __init__(
        self,
        summary: str,
        feeds: Sequence[Feeds],
        fresh_s: float = SECONDS,
        left: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self.summary = summary
        self.feeds = feeds
        self._fresh_s = fresh_s
        self._left = left

    def open(self, c: Candidate) -> Engine:
        return open_guarded(c.graph.model, c.settings, runtime=c.runtime)

    def clock(self) -> int:
        return time.perf_counter_ns()

    def fresh(self, candidates: Sequence[Candidate]) -> dict[str, ProcessTimes]:
        contenders = {c.name: MeasuredEngine(c.graph.model, c.runtime, c.settings) for c in candidates}
        return measure_in_processes(
            contenders, self.feeds, seconds=self._fresh_s, enough=lambda: self._left() <= 0
        )

    def conditions(self) -> Conditions:
        return read_conditions()

    def quiet(self, seconds: float) -> bool:
        return wait_until_quiet(seconds)
