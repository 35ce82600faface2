"""When a sample was taken, by this machine's clock, from when blocks arrived. Pure: no clock is read here.

A sound card counts samples with its own crystal, which may run per mille away from ours. A block can arrive
late (scheduling, a burst after a stall) and never early, so the true line from sample index to time runs
along the *lower edge* of the arrivals: the edge of their lower convex hull below their middle (Moon, Skelly
and Towsley, "Estimation and Removal of Clock Skew from Network Delay Measurements", 1999). A late block, or a
minute of them, does not move it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

__all__ = ["ClockFit", "SampleClock"]

# of arrivals that are looked at: crystals drift with temperature
_SPAN_S = 120.0
_SLOT_S = 0.5  # the earliest arrival of each such slot is kept
# below this span a slope says more of the jitter than of the crystal
_LEARN_S = 4.0


@dataclass(frozen=True)
class ClockFit:
    """A straight line from sample index to CLOCK_MONOTONIC."""

    sample: int
    ns: int
    """When ``sample`` was taken."""
    rate: float
    """Samples per second of CLOCK_MONOTONIC."""

    def at(self, sample: float) -> int:
        """When a sample was, or will be, taken: CLOCK_MONOTONIC in ns."""
        return self.ns + round((sample - self.sample) / self.rate * 1e9)

    def index(self, ns: int) -> int:
        """Which sample is taken at ``ns``."""
        return self.sample + round((ns - self.ns) / 1e9 * self.rate)


class SampleClock:
    """Learns the line from arrivals.

    >>> clock = SampleClock(16_000)
    >>> clock.arrived(16_000, 5_000_000_000)       # samples up to index 16000 were here at 5 s
    ClockFit(sample=16000, ns=5000000000, rate=16000)
    """

    def __init__(self, rate: float) -> None:
        """``rate``: nominal samples per second."""
        self._nominal = rate
        self._known: float | None = None  # of this device, from before a restart
        self._slots: deque[tuple[int, int]] = deque()
        self._slot_end = 0
        self._line: ClockFit | None = None  # once there is enough to measure the slope

    def arrived(self, sample: int, ns: int) -> ClockFit:
        """The samples below index ``sample`` have arrived at ``ns``. Both must grow from call to call.
        Returns the line so far."""
        if self._slots and ns < self._slot_end:
            best = self._slots[-1]
            if (ns - best[1]) * self.rate < (sample - best[0]) * 1e9:  # below a line through the slot's best
                self._slots[-1] = (sample, ns)
        else:
            self._line = self._fit() or self._line
            self._slots.append((sample, ns))
            self._slot_end = ns + round(_SLOT_S * 1e9)
        while self._slots[-1][1] - self._slots[0][1] > _SPAN_S * 1e9:
            self._slots.popleft()
        if self._line is not None:
            return self._line
        first, start = self._slots[0]
        return ClockFit(
            *min(self._slots, key=lambda p: (p[1] - start) - (p[0] - first) / self.rate * 1e9), self.rate
        )

    def restart(self) -> None:
        """The device was opened anew: its crystal is the same, where its samples begin is not."""
        self._known = self.rate
        self._line = None
        self._slots.clear()

    @property
    def rate(self) -> float:
        """Samples per second, as far as it is known."""
        return self._line.rate if self._line is not None else self._known or self._nominal

    def _fit(self) -> ClockFit | None:
        """The hull's edge below the middle of the slots; None while they span too little."""
        if len(self._slots) < 3 or self._slots[-1][1] - self._slots[0][1] < _LEARN_S * 1e9:
            return None
        hull: list[tuple[int, int]] = []
        for point in self._slots:
            while len(hull) > 1 and _turn(hull[-2], hull[-1], point) <= 0:
                hull.pop()
            hull.append(point)
        first = hull[0][0]
        middle = first + sum(sample - first for sample, _ in self._slots) / len(self._slots)
        right = next(i for i, point in enumerate(hull) if i and point[0] >= middle)
        (s0, t0), (s1, t1) = hull[right - 1], hull[right]
        return ClockFit(s1, t1, (s1 - s0) / (t1 - t0) * 1e9)


def _turn(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> int:
    """Above 0 where a → b → c turns upwards, in (sample, ns); exact, because Python's integers are."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
