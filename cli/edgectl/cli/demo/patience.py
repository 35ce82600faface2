"""When a wait is given up: once nothing has changed for a while, however long it takes in all.

On a machine with ten times the work the same things happen, ten times as slowly. Only standing still is a
failure.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Patience"]


class Patience:
    """Show it what is waited for, again and again: ``if patience.over(state): give up``."""

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """``seconds``: without any change; ``clock``: monotonic seconds."""
        self._seconds = seconds
        self._clock = clock
        self._last: object = None
        self._since_s = clock()

    def over(self, state: object) -> bool:
        """Whether ``state`` has been the same for too long."""
        now = self._clock()
        if state != self._last:
            self._last, self._since_s = state, now
        return now - self._since_s > self._seconds
