"""A decoder's picture as planes that the pipelines take: upright, eight bits, with the meaning of its
colours beside it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edgectl.pipelines.stream.colour import VIDEO, Colour, Matrix, to_bgr

__all__ = ["Picture", "Upright", "picture_of"]

Plane = NDArray[np.uint8]

# Taken as they are: three planes of eight bits, whatever the size of the chroma.
_PLANAR = frozenset({f"yuv{j}{s}p" for j in ("", "j") for s in (410, 411, 420, 422, 440, 444)})
# Repacked without a change of matrix or range: name begins with → what it becomes. Everything else that is no
# RGB becomes yuv444p.
_REPACKED = (
    ("nv12", "yuv420p"),
    ("nv21", "yuv420p"),
    ("p01", "yuv420p"),
    ("yuyv", "yuv422p"),
    ("uyvy", "yuv422p"),
    ("yvyu", "yuv422p"),
    ("nv16", "yuv422p"),
    ("p21", "yuv422p"),
    ("y21", "yuv422p"),
    ("yuv420", "yuv420p"),
    ("yuva420", "yuv420p"),
    ("yuv422", "yuv422p"),
    ("yuva422", "yuv422p"),
)
_MATRICES: dict[int, Matrix] = {1: "bt709", 4: "fcc", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}
"""H.273 code points; 5 and 6 are BT.601, 2 (unknown) is taken for it."""
_FULL = 2  # AVCOL_RANGE_JPEG

# The linear part of a display matrix, (a, b, c, d) with x' = a x + c y and y' = b x + d y, rows downwards →
# how to get there.
_TURNS: dict[tuple[int, int, int, int], Callable[[Plane], Any]] = {
    (-1, 0, 0, 1): lambda p: cv2.flip(p, 1),
    (1, 0, 0, -1): lambda p: cv2.flip(p, 0),
    (-1, 0, 0, -1): lambda p: cv2.flip(p, -1),
    (0, 1, -1, 0): lambda p: cv2.rotate(p, cv2.ROTATE_90_CLOCKWISE),
    (0, -1, 1, 0): lambda p: cv2.rotate(p, cv2.ROTATE_90_COUNTERCLOCKWISE),
    (0, 1, 1, 0): lambda p: cv2.transpose(p),
    (0, -1, -1, 0): lambda p: cv2.flip(cv2.transpose(p), -1),
}
_UPRIGHT = (1, 0, 0, 1)


@dataclass(frozen=True, slots=True)
class Picture:
    """See :class:`~edgectl.pipelines.stream.frame.Frame`; ``pts_ns`` is the container's time, None where it has
    none."""

    planes: tuple[Plane, ...]
    fmt: Literal["I420", "BGR"]
    width: int
    height: int
    colour: Colour
    pts_ns: int | None
    tilted: bool = False
    """The metadata asks for a turn that is no multiple of 90°: it was not made."""
    arrived_ns: int | None = None
    """CLOCK_MONOTONIC when it was there, if that was before now: in another process."""


class Upright:
    """How to set the pictures of one decoder upright, by their display matrix (ISO/IEC 14496-12, 8.2.2.3).

    The matrix is read of the first picture, and again when its rotation has changed: PyAV ties a frame and its
    side data into a circle, and each frame whose side data was looked at keeps its memory (3 MB at 1080p) until
    Python's garbage collector comes by. So a mirroring that begins in mid-stream without a rotation is not seen.
    """

    def __init__(self) -> None:
        self._rotation: int | None = None
        self._found: tuple[Callable[[Plane], Any] | None, bool] = (None, False)

    def turn_of(self, frame: Any) -> tuple[Callable[[Plane], Any] | None, bool]:
        """How to turn a plane, and whether the matrix asks for what is not possible."""
        rotation = int(frame.rotation)
        if rotation != self._rotation:
            self._rotation, self._found = rotation, _turn_of(frame)
        return self._found


def picture_of(frame: Any, pts: int | None, upright: Upright) -> Picture:
    """An ``av.VideoFrame`` as a picture; ``pts`` counts in its time base. Planes are views of the
    decoder's memory wherever nothing has to be done."""
    planes, colour = _planes(frame)
    turn, tilted = upright.turn_of(frame)
    if turn is not None:
        planes = tuple(np.asarray(turn(p)) for p in planes)
    height, width = planes[0].shape[:2]
    pts_ns = None if pts is None or frame.time_base is None else round(pts * frame.time_base * 1_000_000_000)
    return Picture(planes, "BGR" if len(planes) == 1 else "I420", width, height, colour, pts_ns, tilted)


def _planes(frame: Any) -> tuple[tuple[Plane, ...], Colour]:
    name: str = frame.format.name
    if _is_rgb(frame.format):
        return (_bgr(frame),), VIDEO
    if name.startswith("gray"):
        y = frame if name == "gray" else frame.reformat(format="gray")
        grey = np.full((1, 1), 128, np.uint8)
        return (_view(y.planes[0]), grey, grey), Colour(full=True)  # whatever they say: so FFmpeg reads gray
    colour = Colour(
        _MATRICES.get(int(frame.colorspace), "bt601"),
        int(frame.color_range) == _FULL or name.startswith("yuvj"),
    )
    if name not in _PLANAR:
        target = next((to for prefix, to in _REPACKED if name.startswith(prefix)), "yuv444p")
        # Both sides alike, BT.601 (5) and limited (1): numbers are moved, not converted.
        frame = frame.reformat(
            format=target, src_colorspace=5, dst_colorspace=5, src_color_range=1, dst_color_range=1
        )
    planes = tuple(_view(p) for p in frame.planes[:3])
    if frame.width % 2 or frame.height % 2:  # half a pixel of colour is left at the edge
        return (to_bgr(planes, colour),), VIDEO
    return planes, colour


def _is_rgb(format: Any) -> bool:
    name: str = format.name
    return bool(format.is_rgb) or name.startswith(("pal8", "bayer", "mono", "xyz", "rgb", "bgr", "gbr"))


def _bgr(frame: Any) -> Plane:
    """(H, W, 3) of a frame of any format."""
    return _view(frame.reformat(format="bgr24").planes[0], 3).reshape(frame.height, frame.width, 3)


def _view(plane: Any, channels: int = 1) -> Plane:
    """(height, channels · width) of a plane."""
    data = np.frombuffer(plane, np.uint8)
    rows: Plane = data[: plane.line_size * plane.height].reshape(plane.height, plane.line_size)
    return rows[:, : channels * plane.width]


def _turn_of(frame: Any) -> tuple[Callable[[Plane], Any] | None, bool]:
    """See :class:`Upright`."""
    side = frame.side_data.get("DISPLAYMATRIX")
    if side is None or len(bytes(side)) < 36:
        return None, False
    a, b, _, c, d, *_rest = struct.unpack("<9i", bytes(side)[:36])
    scale = max(abs(a), abs(b), abs(c), abs(d))
    if not scale:
        return None, False
    linear = tuple(round(v / scale) if abs(v / scale - round(v / scale)) < 0.02 else 9 for v in (a, b, c, d))
    if linear == _UPRIGHT:
        return None, False
    turn = _TURNS.get(linear)  # type: ignore[arg-type]
    return turn, turn is None
