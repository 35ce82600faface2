"""Drawing on BGR pictures, with OpenCV alone: boxes, zones, lines, text. Runs in the sink thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgectl.pipelines.video.tracker import Tracks

__all__ = ["colour", "draw_label", "draw_polyline", "draw_tracks"]

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


def colour(number: int) -> tuple[int, int, int]:
    """A colour that stays with a number."""
    return _PALETTE[number % len(_PALETTE)]


def draw_tracks(image: Image, tracks: Tracks, labels: Sequence[str]) -> None:
    """Each object's box, label, id, score and attributes; thin where it is carried on without being seen."""
    for row in range(len(tracks)):
        x1, y1, x2, y2 = (round(float(v)) for v in tracks.xyxy[row])
        paint = colour(int(tracks.ids[row]))
        cv2.rectangle(image, (x1, y1), (x2, y2), paint, 2 if tracks.seen[row] else 1, cv2.LINE_AA)
        track = int(tracks.ids[row])
        text = f"{labels[int(tracks.cls[row])]} {track} {float(tracks.score[row]):.2f}"
        for _, attribute in sorted(tracks.attributes.get(track, {}).items()):
            text += f" {attribute.value}"
        draw_label(image, text, (x1, max(14, y1)), paint)


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
