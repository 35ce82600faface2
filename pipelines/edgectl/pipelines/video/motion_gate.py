"""Which frames a detector sees: those in which something moves, those that keep known tracks alive, and one
now and then. Decides; the pictures are looked at by :mod:`edgectl.pipelines.video.motion`.
"""

from __future__ import annotations

from pydantic import Field

from edgectl.core.schema import Config
from edgectl.pipelines.video.motion import SceneMotion

__all__ = ["MotionGate", "MotionGateConfig"]


class MotionGateConfig(Config):
    motion: bool = False
    """Frames in which nothing moves are not looked at (``gated``)."""
    threshold: float = Field(default=15, ge=2, le=128)
    """The least difference from the background that is motion, in grey levels (of 255)."""
    min_area: float = Field(default=0.0005, gt=0, le=0.5)
    """Share of the picture below which a thing that moves does not count."""
    hold_s: float = Field(default=1.0, ge=0, le=60)
    """How long frames are looked at after the last motion."""
    keep_alive_s: float = Field(default=10.0, gt=0, le=3600)
    """A frame is looked at at least so often, whatever moves."""
    steady_s: float | None = Field(default=None, gt=0, le=60)
    """While all that moves are tracks that go on as they did, a frame is looked at only so often, at most three times in
    ``track.lost_s``. None: every frame in which something moves."""


class MotionGate:
    """One per stream. Times are seconds of capture time, in order."""

    def __init__(self, config: MotionGateConfig, lost_s: float) -> None:
        """``lost_s``: a track that is not seen for so long is given up. While there is one that stands still,
        a frame is looked at often enough to see it again."""
        self._config = config
        self._steady_s = None if config.steady_s is None else min(config.steady_s, lost_s / 3)
        self._tracked_s = min(config.keep_alive_s, lost_s / 3)
        self._moved_s = self._looked_s = float("-inf")

    @property
    def intervals(self) -> bool:
        """Whether it asks if all that moves is steady."""
        return self._steady_s is not None

    def opens(self, t_s: float, motion: SceneMotion, *, tracked: bool, steady: bool = False) -> bool:
        """Whether the frame of ``t_s`` is looked at. ``tracked``: something is being tracked. ``steady``: all that
        moves is, and goes on as it did."""
        if len(motion.boxes) or not motion.settled:
            self._moved_s = t_s
            if steady and self._steady_s is not None and t_s - self._looked_s < self._steady_s:
                return False
        rest_s = self._tracked_s if tracked else self._config.keep_alive_s
        idle = t_s - self._moved_s > self._config.hold_s
        if idle and t_s - self._looked_s < rest_s:
            return False
        self._looked_s = t_s
        return True
