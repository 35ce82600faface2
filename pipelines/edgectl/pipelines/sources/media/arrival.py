"""Capture time of a camera's pictures by their arrival. Pure: no IO, no clock of its own.

A network that stalls, a server that sends segments, or a machine that was busy hands over all at once what was taken over
seconds. By arrival somebody would stand still and then cross the picture in a moment; so what comes in such a burst is as
far apart as the camera says.
"""

from __future__ import annotations

__all__ = ["ArrivalClock"]

_LATE_NS = 300_000_000
"""A picture that comes so much later than the one before and the camera's times say was held up."""
_STEP_NS = 1_000_000_000
"""Two pictures of a camera are not further apart: its times have jumped."""
_FASTER = 0.75
"""In a burst pictures come in less than this of the time in which they were taken …"""
_SLACK_NS = 150_000_000
"""… and of a pause in between."""


class ArrivalClock:
    """Call :meth:`step` once per picture, in order.

    >>> clock = ArrivalClock()
    >>> [clock.step(*at) for at in ((1_000_000_000, 0), (4_000_000_000, 100_000_000))]
    [1000000000, 1100000000]
    """

    def __init__(self) -> None:
        self._t_ns = 0
        self._last: tuple[int, int] | None = None
        """When the picture before arrived, and its own time."""
        self._burst: tuple[int, int] | None = None
        """When a burst began: arrival and capture time of its first picture."""

    def join(self) -> None:
        """What comes next comes over another connection: its own times are others."""
        self._last = self._burst = None

    def step(self, arrived_ns: int, pts_ns: int | None) -> int:
        """``pts_ns``: the camera's own time. Returns a strictly growing time that is never later than the arrival of a
        picture, unless it arrived with the one before."""
        own_ns = self._held_up(arrived_ns, pts_ns)
        self._last = None if pts_ns is None else (arrived_ns, pts_ns)
        if own_ns is None:
            self._burst = None
        self._t_ns = max(self._t_ns + 1, arrived_ns if own_ns is None else own_ns)
        return self._t_ns

    def _held_up(self, arrived_ns: int, pts_ns: int | None) -> int | None:
        """When it was taken, of a picture that was held up; None: it came when it was taken."""
        if self._last is None or pts_ns is None:
            return None
        step_ns = pts_ns - self._last[1]
        own_ns = self._t_ns + step_ns
        if not 0 < step_ns <= _STEP_NS or own_ns >= arrived_ns:
            return None
        if self._catches_up(arrived_ns, own_ns):
            return own_ns
        if arrived_ns - self._last[0] - step_ns < _LATE_NS:
            return None
        self._burst = arrived_ns, own_ns
        return own_ns

    def _catches_up(self, arrived_ns: int, own_ns: int) -> bool:
        """Whether it comes in a burst, faster than it was taken."""
        if self._burst is None:
            return False
        came_ns, taken_ns = arrived_ns - self._burst[0], own_ns - self._burst[1]
        return came_ns <= _FASTER * taken_ns + _SLACK_NS
