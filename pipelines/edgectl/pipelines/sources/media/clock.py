"""Container times as a clock that only goes forward, and what must be told of them. Pure: no IO, no clock of
its own.

Times of a recording restart where two were joined or a camera was started anew; they jump, go missing, stand
still, and wrap after 33 bits. A rule that counts seconds must see none of it: the clock goes on with the
period it knows, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgectl.pipelines.stream.frame import Notice

__all__ = ["BestTime", "MediaClock"]

_S = 1_000_000_000
_JUMP_NS = 10 * _S
"""A step forward by more than this, and by more than ``_JUMP_PERIODS``, is no pause between two pictures."""
_JUMP_PERIODS = 20
_PAUSE_NS = 3600 * _S
"""Containers whose times do not restart by design may hold a pause as long as this; it is kept."""
_DISORDER_PERIODS = 2
"""A step back by no more than this is a picture out of order, not a clock that was set back."""
_STUCK = 3
"""Pictures without a time, or with the same one, after which there is no clock."""
_WRAP_NS = round((1 << 33) / 90_000 * _S)
"""Times of transport and program streams have 33 bits of 1/90000 s: they begin again after 26.5 hours."""
_TELL_NS = {"clock_restarted": _S, "clock_jumped": _S, "clock_unordered": 60 * _S}
"""The same thing is told again after this much time; what was left out in between is counted."""


@dataclass
class _Reported:
    at_ns: int
    left_out: int = 0


class MediaClock:
    """Call :meth:`step` once per picture, in order."""

    def __init__(self, period_ns: int, *, start_ns: int = 0, jumps_expected: bool = False) -> None:
        """``period_ns``: between two pictures, as the container says. ``start_ns``: container time that is 0
        here.

        ``jumps_expected``: the format is one whose times restart and jump by design (MPEG-TS): every jump of
        10 s is bridged. In others, a pause of up to an hour is believed.
        """
        self._period_ns = period_ns
        self._offset_ns = -start_ns
        self._bridge_ns = _JUMP_NS if jumps_expected else _PAUSE_NS
        self._last_ns: int | None = None
        self._pts_ns: int | None = None
        self._stuck = 0
        self._timeless = True
        """No picture had a time yet."""
        self._lost = False
        self._joining = False
        self._told: dict[str, _Reported] = {}

    def join(self) -> None:
        """What comes next begins a new count on purpose (a loop, a camera connected again): it follows
        without a word."""
        self._joining = True

    def step(self, pts_ns: int | None, missed: int = 0) -> tuple[int, tuple[Notice, ...]]:
        """``pts_ns`` of the next picture → strictly growing time from about 0 on, and what is to be told
        before it.

        ``missed``: damaged pictures that were left out before it: the time that they took has passed.
        """
        timeless = pts_ns is None or pts_ns == self._pts_ns
        self._stuck = self._stuck + 1 if timeless else 0
        self._pts_ns = pts_ns
        last = self._last_ns
        if pts_ns is None or self._stuck >= _STUCK:
            t = 0 if last is None else last + self._period_ns
            notices = self._lose(t)
        else:
            t, notices = self._place(pts_ns, last, 2 * missed * self._period_ns)
        self._last_ns = t
        return t, notices

    def _lose(self, t: int) -> tuple[Notice, ...]:
        if self._lost or self._stuck < _STUCK:
            return ()
        self._lost = True
        return (
            Notice("clock", "clock_missing", False, "start", {"period_s": round(self._period_ns / _S, 6)}),
        )

    def _place(self, pts_ns: int, last: int | None, missed_ns: int) -> tuple[int, tuple[Notice, ...]]:
        found: tuple[Notice, ...] = ()
        if self._lost:
            # What was counted meanwhile stands; the container's times go on from there.
            self._lost, self._joining = False, True
            found = (Notice("clock", "clock_missing", True, "end"),)
        t = pts_ns + self._offset_ns
        first, self._timeless = self._timeless, False
        if last is None:
            # The container states its start wrongly, or not at all, or rounded to a microsecond.
            if not 1000 <= t < _PAUSE_NS:
                self._offset_ns, t = -pts_ns, 0
            return t, found
        step = t - last
        if self._joining or (first and step <= 0):
            # the pictures before it were counted from 0: a camera gives its first packet no time, and what is said to be
            # the start may lie behind it, by as much as pictures are reordered
            self._joining = False
            return self._bridge(step, last), found
        if step <= 0:
            if 0 < step + _WRAP_NS <= _JUMP_NS:
                self._offset_ns += _WRAP_NS
                return t + _WRAP_NS, found
            if step >= -_DISORDER_PERIODS * self._period_ns:
                if step == 0 or self._stuck:  # a picture shown twice is no disorder
                    return last + self._crumb(), found
                return last + self._crumb(), found + self._tell("clock_unordered", step, last)
            t = self._bridge(step, last)
            return t, found + self._tell("clock_restarted", step - self._period_ns, t)
        if step > max(_JUMP_NS, _JUMP_PERIODS * self._period_ns) + missed_ns:
            if step > self._bridge_ns + missed_ns:
                t = self._bridge(step, last)
                return t, found + self._tell("clock_jumped", step - self._period_ns, t)
            return t, (*found, Notice("clock", "clock_paused", data={"pause_s": round(step / _S, 3)}))
        if step < 4 * self._period_ns:
            # follow a rate that the container states wrongly
            self._period_ns += (step - self._period_ns) // 8
        return t, found

    def _bridge(self, step: int, last: int) -> int:
        """The next picture comes one period after the last one, whatever its container says."""
        self._offset_ns += self._period_ns - step
        return last + self._period_ns

    def _crumb(self) -> int:
        """A step so small that the times behind a picture out of order still lie ahead."""
        return max(1, self._period_ns // 16)

    def _tell(self, reason: str, jump_ns: int, t: int) -> tuple[Notice, ...]:
        told = self._told.get(reason)
        if told is not None and t - told.at_ns < _TELL_NS[reason]:
            told.left_out += 1
            return ()
        data: dict[str, float | int] = {"jump_s": round(jump_ns / _S, 3) or 0.0}  # not -0
        if told is not None and told.left_out:
            data["not_told"] = told.left_out
        self._told[reason] = _Reported(t)
        return (Notice("clock", reason, data=data),)


class BestTime:
    """Presentation time, or decoding time where the container's presentation times are less in order (AVI has
    none of its own).

    FFmpeg's own guess (``best_effort_timestamp``), which PyAV does not hand out.
    """

    def __init__(self) -> None:
        self._last_pts: int | None = None
        self._last_dts: int | None = None
        self._faulty_pts = self._faulty_dts = 0

    def of(self, pts: int | None, dts: int | None) -> int | None:
        if dts is not None:
            self._faulty_dts += self._last_dts is not None and dts <= self._last_dts
        if pts is not None:
            self._faulty_pts += self._last_pts is not None and pts <= self._last_pts
        self._last_dts = pts if dts is None else dts
        self._last_pts = dts if pts is None else pts
        return pts if pts is not None and (dts is None or self._faulty_pts <= self._faulty_dts) else dts
