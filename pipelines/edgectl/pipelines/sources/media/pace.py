"""When the next frame of a paced source is due, and a wait that another thread can cut short."""

from __future__ import annotations

import threading
import time

__all__ = ["Pacer"]


class Pacer:
    """Hands out due times ``start + seq / fps``. A reader that is late gets the frame that is due *now*: a
    camera does not wait."""

    def __init__(self, fps: float) -> None:
        self.period_ns = round(1e9 / fps)
        self._start_ns: int | None = None
        self._interrupted = threading.Event()

    def wait(self, tick: int, timeout_s: float) -> int | None:
        """Wait until frame ``tick`` is due. Returns its due time in CLOCK_MONOTONIC ns, or None after
        ``timeout_s`` or an interrupt."""
        now = time.monotonic_ns()
        if self._start_ns is None:
            self._start_ns = now - tick * self.period_ns
        due = self._start_ns + tick * self.period_ns
        remaining_s = (due - now) / 1e9
        if remaining_s > timeout_s:
            self._interrupted.wait(timeout_s)
            return None
        if remaining_s > 0 and self._interrupted.wait(remaining_s):
            return None
        return due

    def due_tick(self) -> int:
        """The newest tick that is already due."""
        return (
            0 if self._start_ns is None else max(0, (time.monotonic_ns() - self._start_ns) // self.period_ns)
        )

    def interrupt(self) -> None:
        self._interrupted.set()
