"""Where every frame went: ``captured == processed + Σ dropped[cause] + in_flight``, always, per stream."""

from __future__ import annotations

import threading
from typing import Literal, get_args

from edgectl.core.wire import Frames

__all__ = ["CAUSES", "Cause", "Ledger"]

Cause = Literal[
    "superseded",
    "gated",
    "deadline",
    "stale",
    "decode_error",
    "corrupt",
    "engine_error",
    "paused",
    "degraded",
    "shutdown",
]
"""``decode_error``: a packet that gave no picture. ``corrupt``: a picture that the decoder flags as
damaged.

``sink_full`` is not among them: a sink that is full loses its copy of a frame that was processed; it is a
counter beside."""

CAUSES: tuple[str, ...] = get_args(Cause)


class Ledger:
    """Counts frames (or audio blocks). ``in_flight`` is counted, not computed: a frame booked twice shows."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._captured = self._processed = self._in_flight = 0
        self._dropped: dict[str, int] = {}

    def capture(self, n: int = 1) -> None:
        with self._lock:
            self._captured += n
            self._in_flight += n

    def process(self, n: int = 1) -> None:
        with self._lock:
            self._processed += n
            self._leave(n)

    def drop(self, cause: Cause, n: int = 1) -> None:
        with self._lock:
            self._dropped[cause] = self._dropped.get(cause, 0) + n
            self._leave(n)

    def wait_for_others(self, timeout_s: float) -> bool:
        """Until every frame but one is processed or dropped. For who has just booked that one as captured."""
        with self._lock:
            return self._lock.wait_for(lambda: self._in_flight <= 1, timeout_s)

    def _leave(self, n: int) -> None:
        self._in_flight -= n
        if self._in_flight <= 1:
            self._lock.notify_all()

    def frames(self) -> Frames:
        """A consistent copy. Raises AssertionError if a frame was booked twice: that is a defect of ours."""
        with self._lock:
            assert self._in_flight >= 0, "a frame left the ledger twice"
            assert self._captured == self._processed + sum(self._dropped.values()) + self._in_flight
            return Frames(
                captured=self._captured,
                processed=self._processed,
                in_flight=self._in_flight,
                dropped=dict(sorted(self._dropped.items())),
            )
