"""The engine of a part while a stream runs: switched between two frames, the old one kept warm until commit
or revert.

The engine thread calls :meth:`HotSwap.apply` between frames and :meth:`HotSwap.frame_done` after each;
everybody else asks through :meth:`switch`, :meth:`commit` and :meth:`revert`, which wait for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from edgectl.core.errors import EngineError
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.video.detector import Detector

__all__ = ["HotSwap"]

_POLL_S = 0.2
# the answer does not wait longer for frames of a camera that is away
_SETTLE_S = 2.0
_SETTLE_FRAMES = 3


@dataclass
class _Request:
    detector: Detector
    slot: PartVariant
    applied: threading.Event = field(default_factory=threading.Event)
    settled: threading.Event = field(default_factory=threading.Event)
    gap_ns: int = 0
    frames: int = 0


class HotSwap:
    """``detector`` and ``slot`` are what runs now; they change in the engine thread only."""

    def __init__(self, detector: Detector, slot: PartVariant, over: Callable[[], bool]) -> None:
        """``over``: whether the engine thread has come to its end."""
        self.detector = detector
        self.slot = slot
        self._over = over
        self._lock = threading.Lock()
        self._previous: tuple[Detector, PartVariant] | None = None
        self._pending: _Request | None = None
        self._watched: _Request | None = None

    # -- engine thread --

    def apply(self) -> bool:
        """Switch if somebody asked. True if the engine has changed."""
        request, self._pending = self._pending, None
        if request is None:
            return False
        # a second swap before a commit: the one in between goes
        if self._previous is not None:
            self._previous[0].close()
        self._previous = (self.detector, self.slot)
        self.detector, self.slot = request.detector, request.slot
        request.applied.set()
        return True

    def frame_done(self, period_ns: int | None) -> None:
        """A frame is through, ``period_ns`` after the one before."""
        watched = self._watched
        if watched is None:
            return
        watched.gap_ns = max(watched.gap_ns, period_ns or 0)
        if watched.applied.is_set():
            watched.frames += 1
            if watched.frames >= _SETTLE_FRAMES:
                watched.settled.set()

    # -- everybody else --

    def switch(self, detector: Detector, slot: PartVariant) -> float:
        """Take over an engine that is warm. Returns the longest time between two frames around the switch, in
        ms.

        Raises :class:`EngineError` if no engine thread is there to switch; the new engine is closed then.
        """
        with self._lock:
            request = _Request(detector, slot)
            self._watched = self._pending = request
            if not self._wait_applied(request):
                self._pending = self._watched = None
                detector.close()
                raise EngineError("the stream is not running: the engine was not switched")
            request.settled.wait(_SETTLE_S)
            self._watched = None
            return request.gap_ns / 1e6

    def commit(self) -> None:
        """Close the engine that the last switch replaced."""
        with self._lock:
            if self._previous is not None:
                self._previous[0].close()
                self._previous = None

    def revert(self) -> None:
        """Go back to the engine that the last switch replaced, and close the other; nothing to do without
        one."""
        with self._lock:
            if self._previous is None:
                return
            request = _Request(*self._previous)
            self._previous = None
            self._pending = request
            if not self._wait_applied(request):
                self._pending = None
                self._previous = (request.detector, request.slot)
                raise EngineError("the stream is not running: the engine was not switched back")
            replaced, self._previous = self._previous, None
            if replaced is not None:
                replaced[0].close()

    def close(self) -> None:
        """Close every engine. After the engine thread has ended."""
        self.detector.close()
        self.commit()

    def _wait_applied(self, request: _Request) -> bool:
        while not request.applied.wait(_POLL_S):
            if self._over():
                return request.applied.is_set()
        return True
