"""Drawing on BGR pictures, with OpenCV alone: boxes, skeletons, zones, lines, text. Runs in the sink thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgectl.pipelines.video.keypoints import Keypoints
from edgectl.pipelines.video.masks import InstanceMasks
from edgectl.pipelines.video.tracker import Tracks

__all__ = ["colour", "draw_keypoints", "draw_label", "draw_mask", "draw_polyline", "draw_tracks"]

Image = NDArray[Any]
_PALETTE = (
    (80, 175, 76),
    (54, 67, 244),
    (243, 150, 33),
    (7, 193, 255),
    (176, 39, 156),
    (212, 188, 0),
    (72, 85, 121),
    (34, 87, 255),
)  # BGR
_POINT = (255, 255, 255)
_OPAQUE = 0.45


def colour(number: int) -> tuple[int, int, int]:
    """A colour that stays with a number."""
    return _PALETTE[number % len(_PALETTE)]


def draw_tracks(image: Image, tracks: Tracks, labels: Sequence[str]) -> None:
    """Each object's box, label, id, score, skeleton and mask; thin where it is carried on without being seen."""
    if tracks.masks is not None:
        for row in range(len(tracks)):
            draw_mask(image, tracks.masks, row, colour(int(tracks.ids[row])))
    for row in range(len(tracks)):
        x1, y1, x2, y2 = (round(float(v)) for v in tracks.xyxy[row])
        paint = colour(int(tracks.ids[row]))
        cv2.rectangle(image, (x1, y1), (x2, y2), paint, 2 if tracks.seen[row] else 1, cv2.LINE_AA)
        text = f"{labels[int(tracks.cls[row])]} {int(tracks.ids[row])} {float(tracks.score[row]):.2f}"
        draw_label(image, text, (x1, max(14, y1)), paint)
        if tracks.keypoints is not None:
            draw_keypoints(image, tracks.keypoints, row, paint)


def draw_mask(image: Image, found: InstanceMasks, row: int, paint: tuple[int, int, int]) -> None:
    """The pixels of one object in its colour, translucent."""
    x, y, inside = found.pixels(row, image.shape[1], image.shape[0])
    if inside.any():
        part = image[y : y + inside.shape[0], x : x + inside.shape[1]]
        tinted = cv2.addWeighted(part, 1 - _OPAQUE, np.full_like(part, paint), _OPAQUE, 0)
        cv2.copyTo(tinted, inside.astype(np.uint8), part)


def draw_keypoints(image: Image, found: Keypoints, row: int, paint: tuple[int, int, int]) -> None:
    """The points of one object that are seen, and what of its skeleton lies between such."""
    at = np.rint(found.points[row, :, :2]).astype(int).tolist()
    seen = found.sure[row].tolist()
    for a, b in found.layout.bones:
        if seen[a] and seen[b]:
            cv2.line(image, at[a], at[b], paint, 2, cv2.LINE_AA)
    for point, shown in zip(at, seen, strict=True):
        if shown:
            cv2.circle(image, point, 3, _POINT, cv2.FILLED, cv2.LINE_AA)
            cv2.circle(image, point, 3, paint, 1, cv2.LINE_AA)


def draw_label(image: Image, text: str, at: tuple[int, int], paint: tuple[int, int, int]) -> None:
    """White text on a filled box whose lower left corner is ``at``."""
    (w, h), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)
    x, y = at
    cv2.rectangle(image, (x, y - h - base), (x + w + 2, y), paint, cv2.FILLED)
    cv2.putText(
        image, text, (x + 1, y - base + 1), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA
    )


def draw_polyline(
    image: Image, points: NDArray[np.float64], paint: tuple[int, int, int], *, closed: bool, width: int = 2
) -> None:
    """Points (N, 2) in pixels."""
    cv2.polylines(image, [np.rint(points).astype(np.int32)], closed, paint, width, cv2.LINE_AA)
