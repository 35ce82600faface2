"""Which frames of a stream are looked at, decided in the capture thread before anything is done with them: what
the switch, the governor and the motion gate say, put together.

A frame that is left out goes to no sink either: nobody knows what is in it, and so what would have to be hidden.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgectl.pipelines.stream.frame import Frame
from edgectl.pipelines.stream.ledger import Cause
from edgectl.pipelines.video.motion import MotionDetector, SceneMotion
from edgectl.pipelines.video.motion_gate import MotionGate, MotionGateConfig
from edgectl.pipelines.video.track_watch import Known

__all__ = ["FrameChoice"]

_AROUND = 0.25
"""What moves within so much of a track's size around it belongs to it: its shadow, what it swings."""


class FrameChoice:
    """One per stream. Everything but :attr:`detect_every` belongs to the capture thread."""

    def __init__(
        self,
        *,
        paused: Callable[[], bool] = lambda: False,
        gate: MotionGateConfig | None = None,
        lost_s: float = 1.0,
        known: Callable[[], Known] = Known,
        small_px: int | None = None,
    ) -> None:
        """``paused``: whether frames are not looked at for now. ``gate``: None, or one that is not on: no frame is
        left out for what moves in it. ``lost_s``: the tracker's. ``known``: what the frames before have shown.
        ``small_px``: motion is asked for in any case, of things of so many pixels."""
        self.detect_every = 1
        """Only every n-th frame is looked at. Set from any thread."""
        self._paused = paused
        self._known = known
        self._since_looked = 0
        self.motion: SceneMotion | None = None
        """Of the frame that was asked about last; None where nobody wants it."""
        self._detector: MotionDetector | None = None
        self._gate: MotionGate | None = None
        self._gate_config: MotionGateConfig | None = None
        self._small_px = small_px
        self.gate(gate, lost_s)

    def gate(self, gate: MotionGateConfig | None, lost_s: float) -> None:
        """Another motion gate from the next frame on. What is known of the background stays, where it means the
        same."""
        before, self._gate_config = self._gate_config, gate
        gate = gate or MotionGateConfig()
        self._gate = MotionGate(gate, lost_s) if gate.motion else None
        if not gate.motion and self._small_px is None:
            self._detector = self.motion = None
            return
        same = before is not None and (before.threshold, before.min_area) == (gate.threshold, gate.min_area)
        if self._detector is None or not same:
            self._detector = MotionDetector(gate.threshold, gate.min_area, self._small_px)

    def left_out(self) -> Cause | None:
        """Why the next frame is left out whatever is in it; None: it is not."""
        if self._paused():
            return "paused"
        self._since_looked += 1
        if self._since_looked < self.detect_every:
            return "degraded"
        self._since_looked = 0
        return None

    def idle(self, frame: Frame) -> bool:
        """Whether a frame is left out because nothing moves. ``frame``: as the detector may see it: what is hidden
        from the detector does not move."""
        if self._detector is None:
            return False
        t_s = frame.stamp.t_s
        self.motion = motion = self._detector.step(frame.luma(), t_s)
        if self._gate is None:
            return False
        moves = len(motion.boxes) > 0 or not motion.settled
        if moves:
            steady = motion.settled and self._gate.intervals and _all_steady(frame, motion, self._known())
            return not self._gate.opens(t_s, motion, tracked=False, steady=steady)
        return not self._gate.opens(t_s, motion, tracked=len(self._known().ids) > 0)


def _all_steady(frame: Frame, motion: SceneMotion, known: Known) -> bool:
    """Whether all that moves is tracked, and goes on as it did."""
    if not known.calm or (known.width, known.height) != (frame.width, frame.height):
        return False
    tracks = known.boxes_at(frame.stamp.t_s)
    around = (tracks[:, 2:] - tracks[:, :2]) * _AROUND
    moves = motion.boxes * np.array([frame.width, frame.height] * 2, np.float32)
    middle = (moves[:, None, :2] + moves[:, None, 2:]) / 2
    within = (middle >= tracks[:, :2] - around) & (middle <= tracks[:, 2:] + around)
    return bool(np.all(np.any(np.all(within, axis=2), axis=1)))
