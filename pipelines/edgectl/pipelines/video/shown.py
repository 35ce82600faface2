"""A frame as it may be shown. Everything with pictures behind the pipeline (snapshots, videos, a live page, other
packages' sinks) gets a :class:`ShownFrame` and nothing else.

It is painted when somebody first looks at it, in his thread and not in the stream's.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edgectl.core.errors import DataError
from edgectl.pipelines.stream.colour import to_bgr
from edgectl.pipelines.stream.frame import Frame, Stamp

__all__ = ["Draw", "Hidden", "ShownFrame", "encode_jpeg", "fill_polygon"]

Draw = Callable[[NDArray[Any]], None]
"""Draws what was found into a BGR picture (H, W, 3)."""

_MIN_CELL = 8
"""Pixels: a small object must not be left as it is for being small."""
_GREY = (128, 128, 128)


def _no_boxes() -> NDArray[np.float32]:
    return np.empty((0, 4), np.float32)


@dataclass(frozen=True, slots=True)
class Hidden:
    """What must not be seen in one frame."""

    size: tuple[int, int]
    """Width and height of the frame that the boxes are of, in pixels."""
    masks: tuple[Sequence[float], ...] = ()
    """Polygons x, y, x, y, … relative to the frame: black."""
    zones: tuple[Sequence[float], ...] = ()
    """Polygons: unrecognisable."""
    boxes: NDArray[np.float32] = field(default_factory=_no_boxes)
    """(N, 4) xyxy, pixels: unrecognisable."""
    mode: Literal["blur", "pixelate", "fill"] = "blur"
    cells: int = 6
    objects: bool = False
    """Whether objects are hidden at all: then another frame has other boxes."""

    def hide(self, image: NDArray[Any]) -> None:
        """Paint into a BGR picture (H, W, 3) of the frame, of any size."""
        height, width = image.shape[:2]
        scale = np.array([width / self.size[0], height / self.size[1]] * 2)
        for box in self.boxes * scale:
            if np.all(np.isfinite(box)):
                low, high = np.floor(box[:2]), np.ceil(box[2:])
                self._obscure(image, (int(low[0]), int(low[1]), int(high[0]), int(high[1])))
            else:
                self._obscure(image, (0, 0, width, height))
        for zone in self.zones:
            inside = np.zeros((height, width), np.uint8)
            fill_polygon(inside, zone, (255,))
            x, y, w, h = cv2.boundingRect(inside)
            self._obscure(image, (x, y, x + w, y + h), inside)
        self.mask(image)

    def mask(self, image: NDArray[Any]) -> None:
        """Paint the masks alone: over what was drawn, because a box that sticks out of a mask tells what is in
        it."""
        for polygon in self.masks:
            fill_polygon(image, polygon, (0, 0, 0))

    def _obscure(
        self, image: NDArray[Any], box: tuple[int, int, int, int], inside: NDArray[Any] | None = None
    ) -> None:
        """``inside``: only where it is not 0."""
        height, width = image.shape[:2]
        x1, y1, x2, y2 = max(0, box[0]), max(0, box[1]), min(width, box[2]), min(height, box[3])
        if x2 <= x1 or y2 <= y1:
            return
        part = image[y1:y2, x1:x2]
        painted = self._unrecognisable(part)
        if inside is None:
            part[:] = painted
        else:
            cv2.copyTo(painted, inside[y1:y2, x1:x2], part)

    def _unrecognisable(self, part: NDArray[Any]) -> NDArray[Any]:
        """The same size, with a few colours: whatever is drawn between them, no more is known."""
        height, width = part.shape[:2]
        if self.mode == "fill":
            return np.full_like(part, _GREY)
        cell = max(_MIN_CELL, math.ceil(max(width, height) / self.cells))
        few = cv2.resize(part, (max(1, width // cell), max(1, height // cell)), interpolation=cv2.INTER_AREA)
        between = cv2.INTER_NEAREST if self.mode == "pixelate" else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(few, (width, height), interpolation=between))


class ShownFrame:
    """Usable from several threads. What it gives must not be written into."""

    __slots__ = (
        "__draw",
        "__frame",
        "__hidden",
        "__lock",
        "_annotated",
        "_bgr",
        "height",
        "name",
        "stamp",
        "width",
    )

    def __init__(self, frame: Frame, hidden: Hidden | None = None, draw: Draw | None = None) -> None:
        """``hidden``: what nobody may see, as :class:`~edgectl.pipelines.video.privacy.Privacy` says; ``draw``: what
        was found."""
        self.stamp: Stamp = frame.stamp
        self.width, self.height = frame.width, frame.height
        self.name = frame.name
        """The picture's file, where each has its own."""
        self.__frame: Frame | None = frame
        self.__hidden = hidden
        self.__draw = draw
        self.__lock = threading.Lock()
        self._bgr: NDArray[np.uint8] | None = None
        self._annotated: NDArray[np.uint8] | None = None

    def bgr(self) -> NDArray[np.uint8]:
        """BGR (H, W, 3), uint8, without what nobody may see."""
        with self.__lock:
            return self._plain()

    def annotated(self) -> NDArray[np.uint8]:
        """The same with what was found drawn in."""
        with self.__lock:
            if self._annotated is None:
                image = self._plain()
                if self.__draw is not None:
                    image = image.copy()
                    self.__draw(image)
                    if self.__hidden is not None:
                        self.__hidden.mask(image)
                    image.flags.writeable = False
                self._annotated = image
            return self._annotated

    def jpeg(self, quality: int = 80, *, annotated: bool = True, max_width: int | None = None) -> bytes:
        """As a JPEG; a picture wider than ``max_width`` is made smaller. Raises :class:`DataError`."""
        image = self.annotated() if annotated else self.bgr()
        return encode_jpeg(image, quality, max_width)

    def _plain(self) -> NDArray[np.uint8]:
        if self._bgr is None:
            frame = self.__frame
            assert frame is not None
            image = frame.planes[0] if frame.fmt == "BGR" else to_bgr(frame.planes, frame.colour)
            if self.__hidden is not None:
                image = image.copy() if frame.fmt == "BGR" else image
                self.__hidden.hide(image)
            image = image.view()
            image.flags.writeable = False
            # the decoder may have its memory back
            self._bgr, self.__frame = image, None
        return self._bgr


def encode_jpeg(image: NDArray[np.uint8], quality: int = 80, max_width: int | None = None) -> bytes:
    """A BGR picture as a JPEG. Raises :class:`DataError`."""
    if max_width is not None and image.shape[1] > max_width:
        height = max(1, round(image.shape[0] * max_width / image.shape[1]))
        image = np.asarray(cv2.resize(image, (max_width, height), interpolation=cv2.INTER_AREA), np.uint8)
    ok, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise DataError(f"OpenCV could not encode a JPEG of {image.shape[1]}x{image.shape[0]}")
    return data.tobytes()


def fill_polygon(image: NDArray[Any], polygon: Sequence[float], paint: tuple[int, ...]) -> None:
    """With its outline, so that no pixel that it touches is left."""
    points = np.rint(np.array(polygon, np.float64).reshape(-1, 2) * image.shape[1::-1]).astype(np.int32)
    cv2.fillPoly(image, [points], paint)
    cv2.polylines(image, [points], True, paint, 2)
