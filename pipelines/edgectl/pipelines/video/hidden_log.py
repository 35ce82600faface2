"""What must not be seen in the frames of the last while, for who shows them later. No IO.

A frame that was looked at hides what was found in it. Between two such frames something may be anywhere on its way from
the one to the other: all of that is hidden. Where they lie too far apart, and before the first and behind the last, nobody
knows, and nothing is shown.

    >>> log = HiddenLog(60)
    >>> log.add(1.0, Hidden((640, 480)))
    >>> log.at(1.0).boxes.shape
    (0, 4)
"""

from __future__ import annotations

import dataclasses
import threading
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgectl.pipelines.video.shown import Hidden

__all__ = ["HiddenLog"]

_SAME_S = 0.002
"""Two times that are no further apart are those of one frame: containers round them."""
_GAP_S = 0.5
"""Between two frames that are further apart, nobody knows what went on."""
_NEAR = 2.0
"""So many times their size two boxes may be apart, and be of one object in two frames."""
_MAX_BOXES = 256
"""More places than that are the whole picture."""
_MAX_BEGINNINGS = 2
"""The source's last ones: a clip of the one before may be written yet when it has begun anew."""
_MAX_ENTRIES = 20_000
_MAX_HELD = 1 << 20
"""Boxes, of all frames: 16 MiB."""


@dataclass
class _Beginning:
    """What came since a source began."""

    seq: int
    """Of its first frame."""
    entries: deque[tuple[float, Hidden]] = field(default_factory=deque)


class HiddenLog:
    """Of one source; usable from several threads. Times are the container's, in seconds. Where they go back the source has
    begun anew: the frames of the beginning before are known yet, and those before that are not."""

    def __init__(self, seconds: float) -> None:
        """``seconds``: how long it remembers."""
        self._seconds = seconds
        self._lock = threading.Lock()
        self._beginnings: deque[_Beginning] = deque()
        self._held = 0

    def add(self, pts_s: float, hidden: Hidden, seq: int = 0) -> None:
        """What of a frame must not be seen, in the order of the frames. ``seq``: its number."""
        with self._lock:
            if not self._beginnings or pts_s <= self._beginnings[-1].entries[-1][0]:
                self._beginnings.append(_Beginning(seq))
            entries = self._beginnings[-1].entries
            entries.append((pts_s, hidden))
            self._held += len(hidden.boxes)
            while len(self._beginnings) > _MAX_BEGINNINGS or self._is_too_much():
                self._forget(self._beginnings[0])
            while entries and entries[0][0] < pts_s - self._seconds:
                self._forget(self._beginnings[-1])

    def _is_too_much(self) -> bool:
        entries = sum(len(beginning.entries) for beginning in self._beginnings)
        return bool(self._beginnings) and (self._held > _MAX_HELD or entries > _MAX_ENTRIES)

    def _forget(self, beginning: _Beginning) -> None:
        """Its first frame."""
        self._held -= len(beginning.entries.popleft()[1].boxes)
        if not beginning.entries:
            self._beginnings.remove(beginning)

    def at(self, pts_s: float, seq: int = 0) -> Hidden | None:
        """What of the frame at that time must not be seen; None: nothing of it may. ``seq``: number of a frame of the same
        beginning, because the times of another one may be the same."""
        with self._lock:
            entries = next((b.entries for b in reversed(self._beginnings) if b.seq <= seq), None)
            if entries is None:
                return None
            i = bisect_left(entries, pts_s - _SAME_S, key=lambda e: e[0])
            after = entries[i] if i < len(entries) else None
            before = entries[i - 1] if i else None
        if after is not None and after[0] <= pts_s + _SAME_S:
            return after[1]
        known = after or before
        if known is None:
            return None
        if not known[1].objects:
            return known[1]  # the same in every frame
        if before is None or after is None or after[0] - before[0] > _GAP_S:
            return None
        return _between(before[1], after[1])


def _between(a: Hidden, b: Hidden) -> Hidden | None:
    if a.size != b.size or len(a.boxes) + len(b.boxes) > _MAX_BOXES:
        return None
    return dataclasses.replace(a, boxes=np.concatenate([a.boxes, b.boxes, _ways(a.boxes, b.boxes)]))


def _ways(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Boxes (N, 4) around each pair of them that may be one object."""
    if not len(a) or not len(b):
        return np.empty((0, 4), np.float32)
    low = np.minimum(a[:, None, :2], b[None, :, :2])
    high = np.maximum(a[:, None, 2:], b[None, :, 2:])
    sides = np.maximum((a[:, 2:] - a[:, :2]).max(axis=1)[:, None], (b[:, 2:] - b[:, :2]).max(axis=1)[None])
    apart = np.linalg.norm((a[:, None, :2] + a[:, None, 2:] - b[None, :, :2] - b[None, :, 2:]) / 2, axis=2)
    # of what is no number nobody knows where it is: it stays as it is, which hides everything
    near = ~(apart > _NEAR * sides)
    return np.asarray(np.concatenate([low, high], axis=2)[near], np.float32)
