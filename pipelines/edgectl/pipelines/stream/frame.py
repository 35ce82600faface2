"""One picture and when it was taken. Planes are views of the decoder's own memory; nothing is converted
before it is needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edgectl.pipelines.stream.colour import VIDEO, Colour, to_bgr

__all__ = ["ClockQuality", "Frame", "Notice", "Stamp"]

ClockQuality = Literal["sensor", "rtcp", "pts", "arrival", "synthetic"]
"""How good ``Stamp.t_ns`` is: exposure time from the sensor or sender, the container's time, arrival here,
or made by us."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """When a frame was taken.

    ``t_ns`` is capture time, strictly increasing: CLOCK_MONOTONIC for cameras and paced sources; media time
    from 0 for a file that is read as fast as it is consumed. Rules and trackers know no other time.
    """

    seq: int
    """Counted by us from 0, 64 bit; never the camera's own numbers."""
    t_ns: int
    avail_ns: int
    """CLOCK_MONOTONIC when the decoded frame became available."""
    pts_s: float | None = None
    wall_offset_ns: int | None = None
    """Unix time minus ``t_ns``; None where wall time means nothing (a file)."""
    quality: ClockQuality = "arrival"

    @property
    def t_s(self) -> float:
        return self.t_ns / 1e9


@dataclass(frozen=True, slots=True)
class Notice:
    """What a reader of the events must know about the source. It becomes a ``capability`` event before
    those of its frame."""

    name: Literal["source", "clock", "picture"]
    reason: str
    """A code, e.g. ``clock_restarted``."""
    available: bool = True
    phase: Literal["start", "end"] | None = None
    """Of something that lasts; None for what happened in one moment."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """JSON values."""


@dataclass(slots=True)
class Frame:
    """``I420``: planes Y (H, W), U and V of sizes of their own, whose colours are ``colour``; ``BGR``: one
    plane (H, W, 3).

    uint8, upright (a rotation in the metadata is already done), rows may be strided.

    Do not write into planes: they may belong to the decoder.
    """

    stamp: Stamp
    width: int
    height: int
    fmt: Literal["I420", "BGR"]
    planes: tuple[NDArray[np.uint8], ...]
    sensors: Mapping[str, float] = field(default_factory=dict)
    """What the source measured at the same time, e.g. ``speed_mps``."""
    colour: Colour = VIDEO
    notices: tuple[Notice, ...] = ()
    """What happened to the source between the frame before and this one."""
    name: str = ""
    """The picture's file, where each has its own."""
    view: str | None = None
    """What is wrong with what the camera sees (``covered``, ``dark`` …): rules that depend on it are blind."""
    _bgr: NDArray[np.uint8] | None = field(default=None, repr=False)

    @classmethod
    def of_bgr(
        cls, image: NDArray[np.uint8], stamp: Stamp, sensors: Mapping[str, float] | None = None
    ) -> Frame:
        """Wrap a BGR image (H, W, 3)."""
        return cls(stamp, image.shape[1], image.shape[0], "BGR", (image,), sensors or {})

    def crop(self, box: Sequence[float]) -> tuple[Frame, tuple[int, int]] | None:
        """The part of the picture in a box (xyxy, pixels) as a frame of views, and where its upper left corner lies. It
        is made larger to whole samples of colour. None: nothing of the picture is in the box."""
        if not all(math.isfinite(v) for v in box):
            return None
        small = self.planes[-1]
        # one sample for the whole picture is cut anywhere: it is grey
        step_x = step_y = 1
        if small.size > 1:
            step_x, step_y = -(-self.width // small.shape[1]), -(-self.height // small.shape[0])
        x1, y1 = (
            max(0, math.floor(v / step)) * step for v, step in zip(box[:2], (step_x, step_y), strict=True)
        )
        x2 = min(self.width, math.ceil(box[2] / step_x) * step_x)
        y2 = min(self.height, math.ceil(box[3] / step_y) * step_y)
        if x2 <= x1 or y2 <= y1:
            return None
        return self.part(x1, y1, x2 - x1, y2 - y1), (x1, y1)

    def luma(self) -> NDArray[np.uint8]:
        """Brightness (H, W): the Y plane as it is, or computed from BGR."""
        return (
            self.planes[0]
            if self.fmt == "I420"
            else np.asarray(cv2.cvtColor(self.planes[0], cv2.COLOR_BGR2GRAY), np.uint8)
        )

    def part(self, x: int, y: int, width: int, height: int) -> Frame:
        """The part of the picture whose upper left corner is ``x``, ``y``: views of the same memory. Of planes
        that have fewer samples of colour, ``x`` and ``y`` must be multiples of what one of them stands for; 4
        does for every format of video."""
        planes = []
        for plane in self.planes:
            across, down = -(-self.width // plane.shape[1]), -(-self.height // plane.shape[0])
            planes.append(
                plane[y // down : -(-(y + height) // down), x // across : -(-(x + width) // across)]
            )
        return replace(self, width=width, height=height, planes=tuple(planes), _bgr=None)

    def bgr(self) -> NDArray[np.uint8]:
        """The whole picture as BGR (H, W, 3): converted on first use, for snapshots and video only. Do not
        write into it."""
        if self._bgr is None:
            self._bgr = self.planes[0] if self.fmt == "BGR" else to_bgr(self.planes, self.colour)
        return self._bgr
