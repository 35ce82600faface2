"""Which frames of a stream are looked at, decided in the capture thread before anything is done with them: what
the switch, the governor and the motion gate say, put together.

A frame that is left out goes to no sink either: nobody knows what is in it, and so what would have to be hidden.
"""

from __future__ import annotations

from collections.abc import Callable

from edgectl.pipelines.stream.frame import Frame
from edgectl.pipelines.stream.ledger import Cause
from edgectl.pipelines.video.motion import MotionDetector
from edgectl.pipelines.video.motion_gate import MotionGate, MotionGateConfig

__all__ = ["FrameChoice"]


class FrameChoice:
    """One per stream. Everything but :attr:`detect_every` belongs to the capture thread."""

    def __init__(
        self,
        *,
        paused: Callable[[], bool] = lambda: False,
        gate: MotionGateConfig | None = None,
        lost_s: float = 1.0,
        tracking: Callable[[], bool] = lambda: False,
    ) -> None:
        """``paused``: whether frames are not looked at for now. ``gate``: None, or one that is not on: motion is
        not asked for. ``lost_s``: the tracker's. ``tracking``: whether there are tracks, asked for frames in
        which nothing moves."""
        self.detect_every = 1
        """Only every n-th frame is looked at. Set from any thread."""
        self._paused = paused
        self._tracking = tracking
        self._since_looked = 0
        self._motion: MotionDetector | None = None
        self._gate_config: MotionGateConfig | None = None
        self.gate(gate, lost_s)

    def gate(self, gate: MotionGateConfig | None, lost_s: float) -> None:
        """Another motion gate from the next frame on. What is known of the background stays, where it means the
        same."""
        before, self._gate_config = self._gate_config, gate
        if gate is None or not gate.motion:
            self._motion = None
            return
        same = before is not None and (before.threshold, before.min_area) == (gate.threshold, gate.min_area)
        if self._motion is None or not same:
            self._motion = MotionDetector(gate.threshold, gate.min_area)
        self._gate = MotionGate(gate, lost_s)

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
        if self._motion is None:
            return False
        t_s = frame.stamp.t_s
        motion = self._motion.step(frame.luma(), t_s)
        moves = len(motion.boxes) > 0 or not motion.settled
        return not self._gate.opens(t_s, motion, tracked=not moves and self._tracking())
