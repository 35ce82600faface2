"""Drawing on BGR pictures, with OpenCV alone: boxes, skeletons, zones, lines, text. Runs in the sink thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgectl.pipelines.video.keypoints import Keypoints
from edgectl.pipelines.video.lettering import drawable
from edgectl.pipelines.video.masks import InstanceMasks
from edgectl.pipelines.video.tracker import Tracks

__all__ = [
    "colour",
    "draw_classes",
    "draw_keypoints",
    "draw_label",
    "draw_mask",
    "draw_polyline",
    "draw_scene",
    "draw_tracks",
]

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
_SCENE = (120, 60, 20)
_MOST_SHARES, _LEAST_SHARE = 6, 0.01


def colour(number: int) -> tuple[int, int, int]:
    """A colour that stays with a number."""
    return _PALETTE[number % len(_PALETTE)]


def draw_tracks(image: Image, tracks: Tracks, labels: Sequence[str]) -> None:
    """Each object's box, label, id, score, attributes, skeleton and mask; thin where it is carried on without being
    seen."""
    if tracks.masks is not None:
        for row in range(len(tracks)):
            draw_mask(image, tracks.masks, row, colour(int(tracks.ids[row])))
    for row in range(len(tracks)):
        x1, y1, x2, y2 = (round(float(v)) for v in tracks.xyxy[row])
        paint = colour(int(tracks.ids[row]))
        cv2.rectangle(image, (x1, y1), (x2, y2), paint, 2 if tracks.seen[row] else 1, cv2.LINE_AA)
        track = int(tracks.ids[row])
        text = f"{labels[int(tracks.cls[row])]} {track} {float(tracks.score[row]):.2f}"
        for _, attribute in sorted(tracks.attributes.get(track, {}).items()):
            text += f" {attribute.value}"
        draw_label(image, text, (x1, max(14, y1)), paint)
        if tracks.keypoints is not None:
            draw_keypoints(image, tracks.keypoints, row, paint)


def draw_scene(image: Image, tracks: Tracks) -> None:
    """The states of the scene and how much of it each label takes, in the upper left corner."""
    line = 22
    for part, found in sorted(tracks.scene.items()):
        draw_label(image, f"{part}: {found.value} {found.score:.2f}", (6, line), _SCENE)
        line += 18
    for _, classes in sorted(tracks.class_maps.items()):
        shares = classes.shares()
        for label in np.argsort(-shares)[:_MOST_SHARES].tolist():
            if shares[label] >= _LEAST_SHARE and label not in classes.background:
                draw_label(image, f"{classes.labels[label]} {shares[label]:.0%}", (6, line), colour(label))
                line += 18


def draw_classes(image: Image, tracks: Tracks) -> None:
    """What each pixel is, translucent in the colour of its label. Before anything else is drawn."""
    size = np.array([image.shape[1], image.shape[0]] * 2)
    for _, found in sorted(tracks.class_maps.items()):
        left, top, right, bottom = np.rint(np.array(found.region) * size).astype(int).tolist()
        part = image[top:bottom, left:right]
        if not part.size or not found.classes.size:
            continue
        large = cv2.resize(
            found.classes, (part.shape[1], part.shape[0]), interpolation=cv2.INTER_NEAREST_EXACT
        )
        paint = np.array([colour(label) for label in range(len(found.labels))], np.uint8)
        tinted = cv2.addWeighted(part, 1 - _OPAQUE, paint[large], _OPAQUE, 0)
        cv2.copyTo(tinted, np.isin(large, found.background, invert=True).astype(np.uint8), part)


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
    text = drawable(text)
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
