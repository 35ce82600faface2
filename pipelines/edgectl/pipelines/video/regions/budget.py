"""How many calls of the engine a frame may cost. Pure."""

from __future__ import annotations

__all__ = ["calls_that_fit"]

_BUSY = 0.7
"""Of an engine's time: one that is busier answers late now and then."""


def calls_that_fit(most: int, call_ns: int, left_ns: int | None, period_ns: int | None, streams: int) -> int:
    """At least 1 and at most ``most``.

    ``call_ns``: what one takes; 0: nobody knows yet. ``left_ns``: until the frame's events are due, without what
    comes behind the engine. ``period_ns``: until the next frame, which wants the engine again. ``streams``: how many
    share it, each of which has the same part of its time.
    """
    if call_ns <= 0:
        return 1
    fit = most
    if left_ns is not None:
        fit = min(fit, left_ns // call_ns)
    if period_ns is not None:
        fit = min(fit, int(_BUSY * period_ns / max(1, streams)) // call_ns)
    return max(1, fit)
