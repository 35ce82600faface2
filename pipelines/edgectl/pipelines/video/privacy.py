"""What of a picture must not be seen: painted masks, and objects and zones that are made unrecognisable.

:class:`Privacy` decides, frame by frame, from what the detector found; it does no IO and takes the time as an
argument. :mod:`.shown` does what it says. Left out: what a detector does not know. A mask hides a place whatever is
there; a class is hidden where the detector sees it, and for a while after it saw it last.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from pydantic import Field, model_validator

from edgectl.core.errors import UsageError
from edgectl.core.nearest import did_you_mean
from edgectl.core.schema import Config, Name
from edgectl.pipelines.stream.frame import Frame
from edgectl.pipelines.video.decode import Detections
from edgectl.pipelines.video.keypoints import Keypoints
from edgectl.pipelines.video.labels import LabelConfig
from edgectl.pipelines.video.polygon import Polygon
from edgectl.pipelines.video.shown import Hidden, fill_polygon
from edgectl.pipelines.video.tracker import Tracks

__all__ = ["BlurConfig", "MaskConfig", "Privacy", "PrivacyConfig"]

_SAME_IOU = 0.1
"""Boxes of two frames that overlap by so much are one object."""
_GROW_PER_S = 0.5
"""Of a box's size, on each side: where something may have gone since it was seen."""
_MAX_HELD = 512
"""More places than that are the whole picture."""


class MaskConfig(Config):
    polygon: Polygon
    """x, y, x, y, … relative to the frame. It is painted black."""
    detect: bool = True
    """False: the detector does not see what is there, either."""


class BlurConfig(Config):
    classes: tuple[str, ...] = ()
    """Labels of the model whose objects are made unrecognisable: ``person``, ``face``, ``license_plate`` …"""
    zones: tuple[str, ...] = ()
    """Names of zones in which everything is."""
    mode: Literal["blur", "pixelate", "fill"] = "blur"
    """``blur`` and ``pixelate`` keep ``cells`` colours along the longer side, ``fill`` none."""
    cells: int = Field(default=6, ge=1, le=32)
    """How many colours stay along the longer side. A cell has at least 8 pixels."""
    margin: float = Field(default=0.15, ge=0, le=2)
    """Of the box's size, on each side of it."""
    hold_s: float = Field(default=2.0, ge=0, le=600)
    """How long a place stays hidden after an object was seen there last; it grows meanwhile. One detection that is
    missed unveils nobody."""
    tell: tuple[Name, ...] = ()
    """Parts of `second_stage` that look at what is hidden all the same, and whose attributes are told. The others look at
    no crop in which something is hidden: what nobody recognises nobody reads out."""

    @model_validator(mode="after")
    def _hides_something(self) -> BlurConfig:
        if not self.classes and not self.zones:
            raise ValueError("it names neither classes nor zones")
        return self


class PrivacyConfig(Config):
    masks: tuple[MaskConfig, ...] = Field(default=(), max_length=64)
    """Areas that are painted black."""
    blur: BlurConfig | None = None
    """Objects and zones that nobody recognises."""

    @property
    def hides(self) -> bool:
        """Whether a picture leaves another than it came."""
        return bool(self.masks) or self.blur is not None


class Privacy:
    """Of one stream; for one thread. Step it once a frame, in order of time."""

    def __init__(
        self,
        config: PrivacyConfig,
        found: Sequence[str],
        labels: LabelConfig,
        tracked: Sequence[str],
        zones: Mapping[str, Sequence[float]],
        *,
        still: bool = False,
    ) -> None:
        """``found`` and ``tracked``: labels by class number of what the detector gives and of the tracks;
        ``labels``: what makes the second of the first. ``zones``: polygons by name. ``still``: pictures have
        nothing to do with those before them.

        Raises :class:`UsageError` for a label that the model does not have.
        """
        self._config = config
        self._blur = config.blur
        classes = frozenset(config.blur.classes if config.blur else ())
        if unknown := classes - set(found) - set(labels.merge):
            raise UsageError(
                f"privacy.blur.classes names {min(unknown)!r}, which the model does not know",
                hint=did_you_mean(min(unknown), found, there_are="it knows "),
                key=("privacy", "blur", "classes"),
            )
        merged = {old: new for new, olds in labels.merge.items() for old in olds}
        private = {label for label in found if {label, merged.get(label)} & classes}
        self._found = [i for i, label in enumerate(found) if label in private]
        shown_as = private | classes | {merged[label] for label in private if label in merged}
        self._tracked = [i for i, label in enumerate(tracked) if label in shown_as]
        self._zones = tuple(zones[name] for name in (config.blur.zones if config.blur else ()))
        self._shapes = [shapely.Polygon(np.reshape(zone, (-1, 2))) for zone in self._zones]
        self._hold_s = 0.0 if still or config.blur is None else config.blur.hold_s
        self._held = np.empty((0, 4), np.float32)
        self._last_s = np.empty(0, np.float64)
        """When each of the held boxes was seen last, without the time in which nobody looked there."""
        self._stepped_s: float | None = None

    def go_on_from(self, before: Privacy) -> None:
        """Take over from one with other settings: what it held hidden stays hidden as long."""
        if self._blur is not None:
            self._held, self._last_s = before._held, before._last_s

    def unread(
        self, tracks: Tracks, hidden: Hidden | None
    ) -> Callable[[str, float], NDArray[np.bool_]] | None:
        """Which tracks (N,) a part of the second stage must not look at, from its name and by how much of a box's size its
        crops are larger on each side. ``hidden``: of the same frame. None: every track may be looked at."""
        if hidden is None or not self._config.hides:
            return None
        masked = self.masked(tracks)
        tell = self._blur.tell if self._blur is not None else ()
        private = np.isin(tracks.cls, self._tracked)
        scale = np.array([tracks.width, tracks.height] * 2)

        def of(part: str, margin: float) -> NDArray[np.bool_]:
            if self._blur is None or part in tell:
                return masked
            crops = _grown(tracks.xyxy, np.full(len(tracks), margin))
            into = np.zeros(len(crops), np.bool_)
            for zone in self._shapes:
                into |= shapely.intersects(zone, shapely.box(*(crops / scale).T))
            return masked | private | into | _overlap(crops, hidden.boxes)

        return of

    def unlooked(self) -> Hidden | None:
        """What is hidden in a frame in which nobody has looked for objects. None: there might be some that must not be
        seen."""
        if self._blur is not None:
            return None
        return Hidden((1, 1), tuple(m.polygon for m in self._config.masks))

    def blind(self, frame: Frame) -> Frame:
        """What the detector may see: the frame, or a copy in which some masks are painted."""
        return _painted(frame, [m.polygon for m in self._config.masks if not m.detect])

    def closed(self, frame: Frame) -> Frame:
        """What a further model may see: the frame, or a copy in which every mask is painted."""
        return _painted(frame, [m.polygon for m in self._config.masks])

    def step(
        self,
        found: Detections | None,
        tracks: Tracks,
        t: float,
        looked: Sequence[tuple[int, int, int, int]] | None = None,
    ) -> Hidden | None:
        """What must not be seen in the frame of ``t`` (seconds). None: everything may.

        ``found``: all that the detector gave, before labels are merged or left out. None: it did not look at
        this frame; then objects may be anywhere in it. ``looked``: the regions that it did look at (x, y, width, height
        in pixels); None: all of the frame.
        """
        if not self._config.hides:
            return None
        size = (tracks.width, tracks.height)
        masks = tuple(m.polygon for m in self._config.masks)
        blur = self._blur
        if blur is None:
            return Hidden(size, masks)
        boxes = np.empty((0, 4), np.float32)
        if blur.classes:
            boxes = self._boxes(found, tracks, t, blur.margin, looked)
        return Hidden(size, masks, self._zones, boxes, blur.mode, blur.cells, bool(blur.classes))

    def clean_record(self, record: dict[str, Any]) -> dict[str, Any]:
        """An event without the boxes and keypoints of what lies in a mask: ``box`` is None there."""
        return self._clean(record, record.get("frame_size")) if self._config.masks else record

    def clean_tracks(self, tracks: Tracks) -> Tracks:
        """The tracks whose middle lies in no mask."""
        if not self._config.masks or not len(tracks):
            return tracks
        kept = tracks.select(~self.masked(tracks))
        past = {track: self._clean_past(p, tracks) for track, p in kept.past.items()}
        return dataclasses.replace(kept, past=past, keypoints=self._clean_keypoints(kept))

    def masked(self, tracks: Tracks) -> NDArray[np.bool_]:
        """Which tracks (N,) have their middle in a mask."""
        middle = tracks.anchor("center") / np.array([tracks.width, tracks.height], np.float32)
        return np.array([self._masked(float(x), float(y)) for x, y in middle], np.bool_)

    def _clean_keypoints(self, tracks: Tracks) -> Keypoints | None:
        """What lies in a mask has no confidence and no place."""
        if tracks.keypoints is None:
            return None
        points = tracks.keypoints.points.copy()
        for row, k in np.argwhere(points[..., 2] > 0).tolist():
            x, y = points[row, k, :2].tolist()
            if self._masked(x / tracks.width, y / tracks.height):
                points[row, k] = 0
        return Keypoints(points, tracks.keypoints.layout)

    def _clean_past(self, past: NDArray[np.float64], tracks: Tracks) -> NDArray[np.float64]:
        """The sightings (K, 5) whose middle lies in no mask."""
        middle = (past[:, 1:3] + past[:, 3:5]) / 2 / [tracks.width, tracks.height]
        return past[[not self._masked(x, y) for x, y in middle.tolist()]]

    def _boxes(
        self,
        found: Detections | None,
        tracks: Tracks,
        t: float,
        margin: float,
        looked: Sequence[tuple[int, int, int, int]] | None,
    ) -> NDArray[Any]:
        if found is None:
            return np.array([[0, 0, tracks.width, tracks.height]], np.float32)
        now = found.xyxy[np.isin(found.cls, self._found)]
        private = np.isin(tracks.cls, self._tracked)
        # What the tracker calls private and the detector, this once, something else.
        now = np.concatenate([now, tracks.xyxy[private & tracks.seen]])
        if looked is not None and self._stepped_s is not None:
            # where nobody looks nothing moves, and nothing is known to have gone
            unseen = ~_within(self._held, looked)
            self._last_s = self._last_s + unseen * max(0.0, t - self._stepped_s)
        self._stepped_s = t
        self._hold(now, t)
        age = np.maximum(t - self._last_s, 0)
        carried = tracks.xyxy[private & ~tracks.seen]
        if len(self._held) + len(carried) > _MAX_HELD:
            return np.array([[0, 0, tracks.width, tracks.height]], np.float32)
        return np.concatenate(
            [_grown(self._held, margin + _GROW_PER_S * age), _grown(carried, np.full(len(carried), margin))]
        )

    def _hold(self, now: NDArray[np.float32], t: float) -> None:
        """Each place that is seen again moves there; one that is not stays for a while."""
        last = np.minimum(self._last_s, t)  # a clock that was set back makes nothing stay for ever
        keep = t - last <= self._hold_s
        held, last = self._held[keep], last[keep]
        gone = _unmatched(held, now)
        self._held = np.concatenate([now, held[gone]])
        self._last_s = np.concatenate([np.full(len(now), t), last[gone]])

    def _masked(self, x: float, y: float) -> bool:
        point = (x, y)
        return any(
            cv2.pointPolygonTest(np.array(m.polygon, np.float32).reshape(-1, 1, 2), point, False) >= 0
            for m in self._config.masks
        )

    def _clean(self, value: Any, size: Any) -> Any:
        if isinstance(value, dict):
            size = value.get("frame_size", size)
            cleaned = {
                k: self._clean_box(v, size)
                if k == "box"
                else self._clean_points(v, size)
                if k == "keypoints"
                else self._clean(v, size)
                for k, v in value.items()
            }
            if cleaned.get("box", True) is None:
                cleaned.pop("keypoints", None)
            return cleaned
        if isinstance(value, list | tuple):
            return [self._clean(v, size) for v in value]
        return value

    def _clean_points(self, points: Any, size: Any) -> Any:
        """Keypoints by name, without those that lie in a mask."""
        try:
            width, height = size
            return {n: p for n, p in points.items() if not self._masked(p[0] / width, p[1] / height)}
        except (TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError):
            return {}  # of what are no points nobody can say where they are

    def _clean_box(self, box: Any, size: Any) -> Any:
        try:
            (x1, y1, x2, y2), (width, height) = box, size
            inside = self._masked((x1 + x2) / 2 / width, (y1 + y2) / 2 / height)
        except (TypeError, ValueError, ZeroDivisionError):
            return None  # of what is no box nobody can say where it is
        return None if inside else box


def _painted(frame: Frame, polygons: Sequence[Sequence[float]]) -> Frame:
    """The frame, or a copy that is black in these places."""
    if not polygons:
        return frame
    black = (16 if not frame.colour.full else 0, 128, 128)
    planes = []
    for plane, level in zip(frame.planes, black, strict=False):
        plane = plane.copy()
        paint = (0, 0, 0) if plane.ndim == 3 else (level,)
        for polygon in polygons:
            fill_polygon(plane, polygon, paint)
        planes.append(plane)
    return dataclasses.replace(frame, planes=tuple(planes), _bgr=None)


def _grown(boxes: NDArray[np.float32], by: NDArray[np.float64]) -> NDArray[np.float32]:
    """Boxes (N, 4), each larger by ``by`` (N,) of its size on each side."""
    pad = (boxes[:, 2:] - boxes[:, :2]) * by[:, None]
    return np.concatenate([boxes[:, :2] - pad, boxes[:, 2:] + pad], axis=1).astype(np.float32)


def _overlap(boxes: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which boxes (N, 4) have something in common with one of the others (M, 4)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    both: NDArray[np.bool_] = np.all(high > low, axis=2)
    return np.asarray(both.any(axis=1))


def _within(boxes: NDArray[np.float32], regions: Sequence[tuple[int, int, int, int]]) -> NDArray[np.bool_]:
    """Which boxes (N, 4) have their middle in one of the regions (x, y, width, height)."""
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    inside = np.zeros(len(boxes), np.bool_)
    for left, top, width, height in regions:
        inside |= (left <= x) & (x < left + width) & (top <= y) & (y < top + height)
    return inside


def _unmatched(old: NDArray[np.float32], new: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which of the old boxes (N, 4) none of the new ones takes the place of. A new one takes that of one alone."""
    free = np.ones(len(old), np.bool_)
    if not len(old) or not len(new):
        return free
    low = np.maximum(old[:, None, :2], new[None, :, :2])
    high = np.minimum(old[:, None, 2:], new[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    area = [np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (old, new)]
    iou = shared / np.maximum(area[0][:, None] + area[1][None] - shared, 1e-9)
    while iou.size and (best := int(iou.argmax())) >= 0:
        row, column = divmod(best, len(new))
        if iou[row, column] < _SAME_IOU:
            break
        free[row] = False
        iou[row], iou[:, column] = 0, 0
    return free
