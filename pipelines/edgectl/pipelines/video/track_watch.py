"""What is known of a stream's objects after each frame, for who decides how the next one is looked at: where they will
be, how long ago each was seen, whether all of them go on as they did.

Fed by the analysis thread, read by the capture thread. Decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgectl.pipelines.video.decode import Detections
from edgectl.pipelines.video.tracker import Tracks

__all__ = ["Known", "TrackWatch"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_STEADY_S = 1.0
"""A track is steady once it has gone on as it did for so long."""
_STEADY_SHARE = 0.25
"""It goes on when its middle and its sides are where they were expected to be, to this share of its shorter side."""
_SPEED_S = 0.3
"""Speeds are averaged over so much time."""
_OVERLAPS = 0.3

_NO_BOXES: F32 = np.empty((0, 4), np.float32)


@dataclass(frozen=True, slots=True)
class Known:
    """After one frame. Boxes are (N, 4) xyxy in pixels of ``width`` × ``height``."""

    t_s: float = 0.0
    width: int = 0
    height: int = 0
    ids: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    boxes: F32 = field(default_factory=lambda: _NO_BOXES)
    """Of the tracks, seen or carried on."""
    speed: F64 = field(default_factory=lambda: np.empty((0, 2)))
    """Of their middles, pixels a second."""
    seen_s: F64 = field(default_factory=lambda: np.empty(0))
    """When each was seen last."""
    steady: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))
    """Those that have gone on as they did for a while, and were seen."""
    fresh: F32 = field(default_factory=lambda: _NO_BOXES)
    """What was found and is no track yet."""
    cut: F32 = field(default_factory=lambda: _NO_BOXES)
    """What a region's border has cut, and no track is."""

    def boxes_at(self, t_s: float) -> F32:
        """Where the tracks are at a later time, if they go on as they do."""
        step = self.speed * (t_s - self.t_s)
        return np.asarray(self.boxes + np.concatenate([step, step], axis=1), np.float32)

    @property
    def calm(self) -> bool:
        """Every object is a steady track: nothing new is to be found out about any of them."""
        return bool(self.steady.all()) and not len(self.fresh) and not len(self.cut)


class TrackWatch:
    def __init__(self, high: float) -> None:
        """``high``: score from which a detection starts a track."""
        self.known = Known()
        """Replaced as a whole after each frame."""
        self._high = high
        self._steady_since: dict[int, float] = {}

    def see(self, t_s: float, found: Detections, tracks: Tracks, cut: F32 = _NO_BOXES) -> None:
        """One frame that was looked at: what was found in it, and the tracks after it."""
        before = self.known
        if (before.width, before.height) != (tracks.width, tracks.height):
            before = Known()
        boxes = tracks.xyxy.astype(np.float64)
        row_before = {track: row for row, track in enumerate(before.ids.tolist())}
        speed, seen_s = np.zeros((len(tracks), 2)), np.full(len(tracks), t_s)
        steady = np.zeros(len(tracks), np.bool_)
        expected, dt = before.boxes_at(t_s).astype(np.float64), t_s - before.t_s
        since: dict[int, float] = {}
        for row, (track, seen) in enumerate(zip(tracks.ids.tolist(), tracks.seen.tolist(), strict=True)):
            old = row_before.get(track)
            if old is None or dt <= 0:
                continue
            share = dt / (dt + _SPEED_S)
            moved = _middle(boxes[row]) - _middle(before.boxes[old].astype(np.float64))
            speed[row] = (1 - share) * before.speed[old] + share * moved / dt
            if not seen:
                # carried on: by the tracker's own speed
                seen_s[row], speed[row] = before.seen_s[old], before.speed[old]
                continue
            side = max(1.0, float((boxes[row][2:] - boxes[row][:2]).min()))
            if np.abs(boxes[row] - expected[old]).max() <= _STEADY_SHARE * side:
                since[track] = self._steady_since.get(track, t_s)
                steady[row] = t_s - since[track] >= _STEADY_S
        self._steady_since = since
        likely = found.xyxy[found.score >= self._high]
        self.known = Known(
            t_s,
            tracks.width,
            tracks.height,
            tracks.ids,
            tracks.xyxy,
            speed,
            seen_s,
            steady,
            likely[~_covered(likely, tracks.xyxy)],
            cut[~_covered(cut, tracks.xyxy)],
        )


def _middle(box: F64) -> F64:
    return (box[:2] + box[2:]) / 2


def _covered(boxes: F32, by: F32) -> NDArray[np.bool_]:
    """Which boxes (N, 4) have so much of their area in one of the others."""
    corner = np.minimum(boxes[:, None, 2:], by[None, :, 2:]) - np.maximum(boxes[:, None, :2], by[None, :, :2])
    shared = np.maximum(corner, 0).prod(axis=2)
    area = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1e-9)
    return np.asarray((shared >= _OVERLAPS * area[:, None]).any(axis=1))
