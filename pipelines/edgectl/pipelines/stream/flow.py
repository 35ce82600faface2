"""What becomes of frames that come faster than they are looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from edgectl.core.schema import Config

__all__ = ["FlowConfig", "Room", "room"]

_READ_AHEAD = 2


class FlowConfig(Config):
    mode: Literal["auto", "latest", "fifo", "every"] = "auto"
    """``latest``: a newer frame takes the place of one that waits for the engine. ``fifo``: frames wait in order,
    and where too many wait the oldest goes. ``every``: the source waits, no frame is lost. ``auto``: cameras and
    paced sources latest, files every frame."""
    max_queue: int = Field(default=8, ge=1, le=64)
    """How many frames wait at most with ``fifo``; each takes the memory of an input tensor."""
    max_age_ms: float | None = Field(default=None, gt=0, le=600_000)
    """A frame older than this at the border of a stage is dropped (``stale``)."""
    target_fps: float | None = Field(default=None, gt=0, le=1000)
    """Frames beyond that are dropped (``gated``); None: none are."""


@dataclass(frozen=True)
class Room:
    """Where the frames of a stream wait for an engine."""

    size: int
    waits: bool
    """Whether the source waits for room. Else the oldest frame goes (``superseded``)."""
    results: int
    """Results that may wait for their analysis; then the stream's turn at the engine waits, too."""


def room(config: FlowConfig, realtime: bool) -> Room:
    mode = config.mode if config.mode != "auto" else "latest" if realtime else "every"
    if mode == "every":
        return Room(_READ_AHEAD, True, _READ_AHEAD)
    return Room(1 if mode == "latest" else config.max_queue, False, 1)
