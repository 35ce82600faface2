"""Multi-object tracking in seconds: ByteTrack's two stages over a batched Kalman filter that knows the time
between frames.

Every parameter is in seconds or scaled by box size, so dropped frames change nothing but the uncertainty.
High-score detections are matched first, low-score ones keep known tracks alive (Zhang et al., ECCV 2022). A
model that calls one object two things is believed to see one object: see :attr:`TrackConfig.one_object_iou`.
Where a box is expected is :mod:`edgectl.pipelines.video.box_filter`'s, who goes on with whom is
:mod:`edgectl.pipelines.video.association`'s. Left out: appearance (re-identification).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from edgectl.core.schema import Config
from edgectl.pipelines.video.association import best_pairs, box_overlap, likeness
from edgectl.pipelines.video.attribute import Attribute
from edgectl.pipelines.video.box_filter import BoxFilter, to_cxcywh
from edgectl.pipelines.video.class_map import ClassMap
from edgectl.pipelines.video.decode import Detections
from edgectl.pipelines.video.duplicates import one_label_each
from edgectl.pipelines.video.keypoints import Keypoints
from edgectl.pipelines.video.masks import InstanceMasks

__all__ = ["ObjectTracker", "TrackConfig", "Tracker", "Tracks"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
B = NDArray[np.bool_]


class TrackConfig(Config):
    """Seconds, never frames."""

    confirm_s: float = Field(default=0.05, ge=0, le=60)
    """A track must be seen over this time, and twice, before anyone hears of it; but at once where
    pictures come more than ``lost_s`` apart: nothing could be seen twice then."""
    lost_s: float = Field(default=1.0, gt=0, le=600)
    """How long a track is carried on without being seen. After twice that without a frame everybody
    has a new number."""
    high: float = Field(default=0.5, ge=0, le=1)
    """Scores from here start tracks and are matched first."""
    low: float = Field(default=0.1, ge=0, le=1)
    """Scores from here only keep known tracks alive."""
    min_iou: float = Field(default=0.1, ge=0, le=1)
    """A box that overlaps a track's place by less is not matched. Boxes are widened by how well the place is
    known."""
    one_object_iou: float | None = Field(default=0.7, gt=0, le=1)
    """Boxes of different labels that overlap by so much are one object, whose label is what most of its
    scores say. None: each label is an object of its own, and a track never changes its label."""

    camera_motion: bool = False
    """The camera pans, shakes or zooms: how its picture moved is taken off before boxes are matched. Costs about
    2 ms a frame. Zones and lines stay where they are drawn."""

    @model_validator(mode="after")
    def _ordered(self) -> TrackConfig:
        if self.low > self.high:
            raise ValueError("low must not be above high")
        return self


@dataclass(frozen=True, slots=True)
class Tracks:
    """Every confirmed track at one time, seen or carried on, in order of its id. Coordinates are frame
    pixels."""

    ids: I64  # (N,), counted from 1, never used again
    xyxy: NDArray[np.float32]  # (N, 4)
    score: NDArray[np.float32]  # (N,), of the last detection
    cls: NDArray[np.int32]  # (N,)
    seen: B  # (N,), detected in this very frame
    width: int
    height: int
    past: Mapping[int, F64] = field(default_factory=dict)
    """Id → its sightings before it was confirmed, in the one frame in which it is confirmed: (K, 5) of
    time and xyxy, the oldest first. What it did in that time it has done."""
    keypoints: Keypoints | None = None
    """As they were detected, with a confidence of 0 where a track was not seen; None: the model finds none."""
    masks: InstanceMasks | None = None
    """As they were detected, no map where a track was not seen; None: the model finds none."""
    attributes: Mapping[int, Mapping[str, Attribute]] = field(default_factory=dict)
    """Id → part of a second stage → what its votes have decided up to this frame."""
    scene: Mapping[str, Attribute] = field(default_factory=dict)
    """Part → what its votes have decided of the whole picture up to this frame."""
    class_maps: Mapping[str, ClassMap] = field(default_factory=dict)
    """Part → what each pixel of the picture is, by its last answer."""
    foot_at: NDArray[np.float32] | None = None
    """(N, 2): x and y, 0..1, of where in its box each object stands; None: in the middle of the lower edge."""

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, keep: B) -> Tracks:
        """Those of a mask (N,)."""
        ids = self.ids[keep]
        kept = set(ids.tolist())
        return Tracks(
            ids,
            self.xyxy[keep],
            self.score[keep],
            self.cls[keep],
            self.seen[keep],
            self.width,
            self.height,
            {track: past for track, past in self.past.items() if track in kept},
            None if self.keypoints is None else self.keypoints.select(keep),
            None if self.masks is None else self.masks.select(keep),
            {track: found for track, found in self.attributes.items() if track in kept},
            self.scene,
            self.class_maps,
            None if self.foot_at is None else self.foot_at[keep],
        )

    def foot_in_box(self, track: int) -> tuple[float, float]:
        """Where in its box a track stands, 0..1."""
        if self.foot_at is None:
            return 0.5, 1.0
        x, y = self.foot_at[np.searchsorted(self.ids, track)].tolist()
        return x, y

    def anchor(self, kind: str = "bottom_center") -> NDArray[np.float32]:
        """Points (N, 2) that stand for the objects: ``bottom_center``, where they stand, or ``center`` of the box."""
        if kind == "bottom_center" and self.foot_at is not None:
            return self.xyxy[:, :2] + self.foot_at * (self.xyxy[:, 2:] - self.xyxy[:, :2])
        x = (self.xyxy[:, 0] + self.xyxy[:, 2]) / 2
        y = self.xyxy[:, 3] if kind == "bottom_center" else (self.xyxy[:, 1] + self.xyxy[:, 3]) / 2
        return np.stack([x, y], axis=1)


_PATIENCE = 2.0
"""Times ``lost_s``: so long nobody is given up where no frame came, and so nobody was looked for."""
_LOW_LIKENESS, _LOW_LIKENESS_LOST = 0.2, 0.3
"""What a detection of a low score must be like a track, and like one that was not seen in the last frame."""
_YOUNG_LIKENESS = 0.15
"""What a detection must be like a track that is not confirmed yet."""

_LEAP_HITS = 3
_LEAP_AFTER_S = 0.1
_LEAP_SPEED = 4.0  # box heights per s
_LEAP_MOST = 1.5  # box heights
_LEAP_SIZE = 0.3  # of the logarithm of width and height
"""What something fast can do between two of its first sightings."""
_START_LEAP_SPEED = 2.0  # box heights per s
"""What can come to the speed of a known track between two frames that are more than ``_LEAP_AFTER_S`` apart."""

_TREMBLES = 4.0
"""Standard deviations of its own tremble that a box may leap at any time."""

_MOST_PAST = 64
"""Sightings that a track is remembered with before it is confirmed. Of more, the first and the latest."""

_OTHER_LABEL_IOU = 0.5
"""What a detection of another label must overlap with a track to go on with it: half the object, as for
low scores."""
_OTHER_LABEL_WORTH = 0.8
"""A detection of the track's own label is preferred up to this ratio of overlaps."""


class ObjectTracker(Protocol):
    """What follows objects from frame to frame. See :class:`Tracker`."""

    def update(
        self,
        found: Detections,
        t: float,
        width: int,
        height: int,
        camera: NDArray[np.float64] | None = None,
    ) -> Tracks: ...

    def adopt(self, config: TrackConfig, period_s: float | None) -> None: ...


class Tracker:
    """State of one stream. Time must grow from call to call."""

    def __init__(self, config: TrackConfig | None = None, *, period_s: float | None = None) -> None:
        """``period_s``: between two frames, where the source tells."""
        self.adopt(config or TrackConfig(), period_s)
        self.reset()

    def adopt(self, config: TrackConfig, period_s: float | None) -> None:
        """Other settings from the next frame on; tracks go on with their ids."""
        self.config = config
        # where pictures come further apart than that, nothing would ever be found again
        self._patience_s = max(_PATIENCE * config.lost_s, 1.5 * (period_s or 0.0))
        self._at_once = period_s is not None and period_s > config.lost_s

    def reset(self) -> None:
        """Forget every track; ids go on counting from 1."""
        self._filter = BoxFilter()
        self._t: float | None = None
        self._size: tuple[int, int] | None = None
        self._next = 1
        self._ids: I64 = np.empty(0, np.int64)  # 0: not confirmed yet
        self._cls = np.empty(0, np.int32)
        self._score = np.empty(0, np.float32)
        self._first: F64 = np.empty(0)
        self._last: F64 = np.empty(0)
        self._hits = np.empty(0, np.int64)
        self._votes: F64 = np.empty((0, 1))  # score by class, since the start
        self._past = np.empty(0, object)  # lists of (t, x1, y1, x2, y2), until it is confirmed
        self._row: I64 = np.empty(0, np.int64)  # of the detection in this frame; -1: not seen

    def update(
        self, found: Detections, t: float, width: int, height: int, camera: F64 | None = None
    ) -> Tracks:
        """Match one frame's detections, taken at ``t`` seconds in a frame of ``width`` × ``height``. ``camera``: how
        it moved since the last update, as :class:`~edgectl.pipelines.video.camera_motion.CameraMotion` says.

        Raises ValueError if ``t`` does not grow.
        """
        if self._t is not None and t <= self._t:
            raise ValueError(f"tracker time must grow: {t} after {self._t}")
        if self._size is not None and self._size != (width, height):
            self._scale(width / self._size[0], height / self._size[1])
        self._size = (width, height)
        previous = self._t
        self._keep(t - self._last <= self._patience_s)
        if previous is not None:
            self._filter.predict(t - previous)
        if camera is not None:
            self._filter.move(camera)
        self._t = t
        if self.config.one_object_iou is not None:
            found = one_label_each(found, self.config.one_object_iou)
        z = to_cxcywh(found.xyxy)
        detected = found.xyxy.astype(np.float64)
        high = found.score >= self.config.high
        low = ~high & (found.score >= self.config.low)
        confirmed = self._ids > 0
        recent = confirmed & (self._last == previous) if previous is not None else confirmed

        boxes = self._filter.boxes()
        overlap, liking = likeness(self._filter, boxes, detected, z)
        other = self._cls[:, None] != found.cls[None, :]
        # one label as another, where most of the object is the same
        either = ~other
        if self.config.one_object_iou is not None:
            either |= overlap >= _OTHER_LABEL_IOU
            liking = np.where(other, _OTHER_LABEL_WORTH * liking, liking)
        free = np.ones(len(boxes), np.bool_)
        open_ = np.ones(len(detected), np.bool_)
        pairs: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []
        for rows, columns, labels, least in (
            (confirmed, high, either, self.config.min_iou),
            (recent, low, ~other, _LOW_LIKENESS),
            (confirmed & ~recent, low, ~other, _LOW_LIKENESS_LOST),
            (~confirmed, high, either, _YOUNG_LIKENESS),
        ):
            r, c = best_pairs(liking, labels & (liking >= least), rows & free, columns & open_)
            free[r], open_[c] = False, False
            pairs.append((r, c))
        gap = previous is not None and t - previous > _LEAP_AFTER_S
        pairs.append(self._leaps(boxes, detected, free, high & open_, found.cls, t, recent & gap))
        open_[pairs[-1][1]] = False
        r, c = (np.concatenate(part) for part in zip(*pairs, strict=True))
        self._filter.update(r, z[c], found.score[c])
        self._row[:] = -1
        self._row[r] = c
        self._score[r] = found.score[c]
        self._last[r] = t
        self._hits[r] += 1
        self._vote(r, found, c)
        self._expire(t)
        self._start(found, z, t, high & open_, detected)
        confirmed_now = self._confirm(t)
        return self._tracks(found, t, width, height, confirmed_now)

    def _leaps(
        self,
        boxes: F64,
        detected: F64,
        free: B,
        open_: B,
        cls: NDArray[np.int32],
        t: float,
        over_gap: B,
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Pairs of tracks with detections that they can have come to though the boxes do not touch: of tracks whose
        speed nobody knows yet, (``over_gap``) of those that frames are missing of and whose speed may be another
        one since, and of any confirmed one as far as its boxes tremble.

        A pair must be of one class and size, within reach, and the only choice for both: in a crowd nothing is
        guessed.
        """
        young = (self._hits <= _LEAP_HITS) & (t - self._last > _LEAP_AFTER_S)
        unsure = young | over_gap
        rows, columns = np.nonzero(free & (unsure | (self._ids > 0)))[0], np.nonzero(open_)[0]
        if not len(rows) or not len(columns):
            return np.empty(0, np.intp), np.empty(0, np.intp)
        a, b = to_cxcywh(boxes[rows])[:, None, :], to_cxcywh(detected[columns])[None, :, :]
        height = np.maximum(a[..., 3], 1.0)
        speed = np.where(young[rows], _LEAP_SPEED, np.where(over_gap[rows], _START_LEAP_SPEED, 0.0))
        reach = np.minimum(_LEAP_MOST, speed * (t - self._last[rows]))[:, None] * height
        reach = np.maximum(reach, _TREMBLES * self._filter.reach()[rows, None])
        near = np.hypot(b[..., 0] - a[..., 0], b[..., 1] - a[..., 1]) <= reach
        ratio = b[..., 2:] / np.maximum(a[..., 2:], 1.0)
        fits = near & (np.abs(np.log(np.maximum(ratio, 1e-3))) <= _LEAP_SIZE).all(axis=-1)
        fits &= self._cls[rows][:, None] == cls[columns][None, :]
        only = fits & (near.sum(axis=1, keepdims=True) == 1) & (near.sum(axis=0, keepdims=True) == 1)
        r, c = np.nonzero(only)
        return rows[r], columns[c]

    def _scale(self, x: float, y: float) -> None:
        self._filter.scale(x, y)
        factors = np.array([1.0, x, y, x, y])
        for past in self._past:
            past[:] = [tuple((np.array(sighting) * factors).tolist()) for sighting in past]

    def _remember(self, t: float) -> None:
        """What is seen and not confirmed yet."""
        rows = np.nonzero((self._ids == 0) & (self._last == t))[0]
        if not len(rows):
            return
        for row, box in zip(rows.tolist(), self._filter.boxes()[rows].tolist(), strict=True):
            past = self._past[row]
            if len(past) == _MOST_PAST:
                del past[1]
            past.append((t, *box))

    def _expire(self, t: float) -> None:
        """Confirmed tracks live ``lost_s`` without being seen; others end with the first miss."""
        self._keep(np.where(self._ids > 0, t - self._last <= self.config.lost_s, self._last == t))

    def _keep(self, keep: B) -> None:
        if keep.all():
            return
        self._filter.keep(keep)
        for name in ("_ids", "_cls", "_score", "_first", "_last", "_hits", "_votes", "_past", "_row"):
            setattr(self, name, getattr(self, name)[keep])

    def _start(self, found: Detections, z: F64, t: float, candidates: B, detected: F64) -> None:
        """New tracks from unmatched high scores, unless one of that class (or, where labels mix, any) is
        already there."""
        if candidates.any() and len(self._ids):
            current = self._last == t
            overlap = box_overlap(self._filter.boxes()[current], detected)
            if self.config.one_object_iou is None:
                overlap[self._cls[current][:, None] != found.cls[None, :]] = 0
            candidates = candidates & ~(overlap > 0.7).any(axis=0)
        n = int(candidates.sum())
        if not n:
            return
        self._filter.add(z[candidates])
        self._ids = np.concatenate([self._ids, np.zeros(n, np.int64)])
        self._cls = np.concatenate([self._cls, found.cls[candidates]])
        self._score = np.concatenate([self._score, found.score[candidates]])
        self._first = np.concatenate([self._first, np.full(n, t)])
        self._last = np.concatenate([self._last, np.full(n, t)])
        self._hits = np.concatenate([self._hits, np.ones(n, np.int64)])
        self._votes = np.concatenate([self._votes, np.zeros((n, self._votes.shape[1]))])
        self._past = np.concatenate([self._past, _lists(n)])
        self._row = np.concatenate([self._row, np.nonzero(candidates)[0]])
        self._vote(np.arange(len(self._ids) - n, len(self._ids)), found, np.nonzero(candidates)[0])

    def _vote(self, rows: NDArray[np.intp], found: Detections, columns: NDArray[np.intp]) -> None:
        """Each detection votes for its label with its score; a track bears the label that has most, and
        keeps it in a tie."""
        if not len(rows):
            return
        cls = found.cls[columns]
        if (missing := int(cls.max()) + 1 - self._votes.shape[1]) > 0:
            self._votes = np.pad(self._votes, ((0, 0), (0, missing)))
        self._votes[rows, cls] += found.score[columns]
        votes = self._votes[rows]
        mine = votes[np.arange(len(rows)), self._cls[rows]]
        best = votes.argmax(axis=1)
        self._cls[rows] = np.where(votes.max(axis=1) > mine, best, self._cls[rows])

    def _confirm(self, t: float) -> dict[int, F64]:
        """Who is confirmed now, with what was seen of it before."""
        ripe = (self._ids == 0) & (self._hits >= 2) & (t - self._first >= self.config.confirm_s - 1e-9)
        if self._at_once:
            ripe = self._ids == 0
        n = int(ripe.sum())
        self._ids[ripe] = np.arange(self._next, self._next + n)
        self._next += n
        past = {
            int(self._ids[row]): np.array(self._past[row], np.float64)
            for row in np.nonzero(ripe)[0]
            if self._past[row]
        }
        self._past[ripe] = _lists(n)
        self._remember(t)
        return past

    def _tracks(
        self, found: Detections, t: float, width: int, height: int, past: Mapping[int, F64]
    ) -> Tracks:
        rows = np.nonzero(self._ids > 0)[0]
        rows = rows[np.argsort(self._ids[rows])]
        boxes = np.clip(self._filter.boxes()[rows], 0, [width, height, width, height]).astype(np.float32)
        return Tracks(
            self._ids[rows],
            boxes,
            self._score[rows],
            self._cls[rows],
            self._last[rows] == t,
            width,
            height,
            {track: _inside(sightings, width, height) for track, sightings in past.items()},
            keypoints=None if found.keypoints is None else found.keypoints.of_rows(self._row[rows]),
            masks=None if found.masks is None else found.masks.of_rows(self._row[rows]),
        )


def _lists(n: int) -> NDArray[np.object_]:
    """``n`` empty lists."""
    out = np.empty(n, object)
    out[:] = [[] for _ in range(n)]
    return out


def _inside(sightings: F64, width: int, height: int) -> F64:
    return np.concatenate([sightings[:, :1], np.clip(sightings[:, 1:], 0, [width, height] * 2)], axis=1)
