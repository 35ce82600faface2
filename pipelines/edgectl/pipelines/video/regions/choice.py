"""Which regions of its frames a stream's detector sees: what moves and what is known put together, and as many calls as
fit. Belongs to the capture thread.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgectl.pipelines.stream.frame import Frame
from edgectl.pipelines.video.motion import SceneMotion
from edgectl.pipelines.video.regions.budget import calls_that_fit
from edgectl.pipelines.video.regions.cover import Interest, Region, RegionConfig, RegionCover
from edgectl.pipelines.video.track_watch import Known

__all__ = ["CallTimes", "RegionChoice"]

F32 = NDArray[np.float32]

_DUE = 3
"""What stands still is looked at so often in the time after which a track is given up."""
_PERIODS = 8
_NONE = np.empty((0, 4), np.float32)


class CallTimes:
    """What is measured of a live stream, for :func:`calls_that_fit`."""

    def __init__(self, left_ns: Callable[[Frame], int | None], engine: Callable[[], tuple[int, int]]) -> None:
        """``left_ns``: how long a frame's engine may take until its events are due. ``engine``: what a call takes,
        in ns, and how many streams share it."""
        self._left_ns = left_ns
        self._engine = engine
        self._last_ns: int | None = None
        self._period_ns: float | None = None

    def calls(self, frame: Frame, most: int) -> int:
        """How many calls the next frame may cost; frames in order."""
        last, self._last_ns = self._last_ns, frame.stamp.t_ns
        if last is not None:
            step = frame.stamp.t_ns - last
            before = self._period_ns
            # frames after a pause say nothing of how fast they come
            self._period_ns = step if before is None else before + (min(step, 4 * before) - before) / _PERIODS
        call_ns, streams = self._engine()
        period_ns = None if self._period_ns is None else round(self._period_ns)
        return calls_that_fit(most, call_ns, self._left_ns(frame), period_ns, streams)


class RegionChoice:
    """One per stream."""

    def __init__(
        self,
        config: RegionConfig,
        known: Callable[[], Known],
        lost_s: float,
        times: CallTimes | None,
    ) -> None:
        """``known``: what the frames before have shown. ``lost_s``: the tracker's. ``times``: of a live source; a
        recording has any."""
        self.on = True
        """False: the whole picture of every frame. Set from any thread."""
        self._config = config
        self._known = known
        self._due_s = lost_s / _DUE
        self._times = times
        self._cover = RegionCover(config)

    def regions(
        self, frame: Frame, motion: SceneMotion | None, tensor: tuple[int, int], *, whole: bool
    ) -> tuple[Region | None, ...]:
        """What the detector sees of a frame; None is the whole picture. ``tensor``: width and height of the
        detector's input. ``whole``: the whole picture is wanted first, whatever else."""
        calls = self._config.most if self._times is None else self._times.calls(frame, self._config.most)
        if not self.on or motion is None or not motion.settled:
            return (None,)
        size = (frame.width, frame.height)
        regions = self._cover.choose(
            frame.stamp.t_s, size, tensor, self._interest(frame, motion), max(1, calls - whole)
        )
        return (None, *regions) if whole and regions[0] is not None else regions

    def _interest(self, frame: Frame, motion: SceneMotion) -> Interest:
        known = self._known()
        moves = motion.boxes * np.array([frame.width, frame.height] * 2, np.float32)
        if (known.width, known.height) != (frame.width, frame.height):
            return Interest(moves, _NONE, _NONE)
        t_s = frame.stamp.t_s
        boxes = known.boxes_at(t_s)
        due = (t_s - known.seen_s >= self._due_s) | _touched(boxes, moves)
        return Interest(moves, np.concatenate([boxes[due], known.fresh]), known.cut)


def _touched(boxes: F32, by: F32) -> NDArray[np.bool_]:
    """Which boxes (N, 4) one of the others overlaps."""
    upper = np.maximum(boxes[:, None, :2], by[None, :, :2])
    lower = np.minimum(boxes[:, None, 2:], by[None, :, 2:])
    return np.asarray(np.any(np.all(lower > upper, axis=2), axis=1))
