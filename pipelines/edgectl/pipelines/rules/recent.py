"""The last two minutes of tracks: what new rules are warmed on, so that they do not begin blind."""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

from edgectl.pipelines.rules.observation import Wall
from edgectl.pipelines.video.lanes import Lanes
from edgectl.pipelines.video.tracker import Tracks

__all__ = ["WARM_S", "RecentTracks", "SeenFrame"]

WARM_S = 60.0
"""New rules are warmed on so much."""
_KEPT_S = 120.0
_STEP_S = 0.095
"""Rules count seconds, not frames: ten frames a second are enough."""


class SeenFrame(NamedTuple):
    """What the rules were shown of one frame."""

    tracks: Tracks
    t: float
    """Capture time, seconds."""
    lanes: Lanes | None = None
    speed_mps: float | None = None
    wall: Wall | None = None


class RecentTracks:
    """Kept by one thread, looked at by any. Which frames are kept follows from the frames alone, so that a replay keeps
    the same. 1.5 MB with ten objects."""

    def __init__(self) -> None:
        self._frames: deque[SeenFrame] = deque()
        self._lock = threading.Lock()

    def keep(self, frame: SeenFrame) -> None:
        with self._lock:
            last = self._frames[-1] if self._frames else None
            if last is not None and frame.t - last.t < _STEP_S and not _is_news(frame, last):
                return
            self._frames.append(frame)
            while frame.t - self._frames[0].t > _KEPT_S:
                self._frames.popleft()

    def between(self, after_s: float, until_s: float | None = None) -> list[SeenFrame]:
        """Frames later than ``after_s``, and not later than ``until_s``."""
        with self._lock:
            return [f for f in self._frames if f.t > after_s and (until_s is None or f.t <= until_s)]

    @property
    def first_s(self) -> float | None:
        with self._lock:
            return self._frames[0].t if self._frames else None

    @property
    def last_s(self) -> float | None:
        with self._lock:
            return self._frames[-1].t if self._frames else None


def _is_news(frame: SeenFrame, last: SeenFrame) -> bool:
    """Something appeared or vanished."""
    return bool(frame.tracks.past) or frame.tracks.ids.tolist() != last.tracks.ids.tolist()
