"""What a machine's clock says, as words: where something is found to be over, the clock may be what is wrong."""

from __future__ import annotations

import time

__all__ = ["clock_says"]


def clock_says(wall_s: float | None = None) -> str:
    """``this machine's clock says 2030-01-01 12:00 UTC``; ``wall_s``: Unix time, None: now."""
    now = time.time() if wall_s is None else wall_s
    try:
        said = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    except (OverflowError, ValueError, OSError):  # further than the calendar goes
        said = f"{now:.0f} s after 1970"
    return f"this machine's clock says {said}"
