"""What time it is, on a machine whose clock may be wrong: as words, and as a time that does not jump."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["CLOCK_SET_S", "SteadyWall", "clock_says"]

CLOCK_SET_S = 1_600_000_000
"""Unix time. A clock that says less was never set: nothing expires by it, and it dates nothing."""


def clock_says(wall_s: float | None = None) -> str:
    """``this machine's clock says 2030-01-01 12:00 UTC``; ``wall_s``: Unix time, None: now. Where
    something is found to be over, this goes first: the clock may be what is wrong."""
    now = time.time() if wall_s is None else wall_s
    try:
        said = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    except (OverflowError, ValueError, OSError):  # further than the calendar goes
        said = f"{now:.0f} s after 1970"
    return f"this machine's clock says {said}"


class SteadyWall:
    """Unix time for deadlines: what the clock said at the start, and the monotonic time since. A clock that
    is set meanwhile, or set wrong for a minute, passes no deadline.

    One that was never set when this began is followed when it is.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        """``steady``: monotonic seconds; counts suspend."""
        self._wall = wall
        self._steady = steady
        self._offset_s = wall() - steady()

    def __call__(self) -> float:
        now, wall = self._steady() + self._offset_s, self._wall()
        if now < CLOCK_SET_S <= wall:
            self._offset_s += wall - now
            return wall
        return now
