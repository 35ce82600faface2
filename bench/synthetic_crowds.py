"""Crowds with known truth, as a detector sees them: five scenes, drawn by a seed.

Whoever stands nearer hides who is behind. With what is hidden, scores fall, boxes tremble more and detections go
missing, in runs and not frame by frame, as those of a network do; of two boxes that overlap much, one is suppressed.
False positives are single flashes, clutter that comes back at its place, and parts of somebody. Nothing here knows the
trackers that are measured with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["SCENES", "Sequence", "crowd", "dropped"]

F64 = NDArray[np.float64]
WIDTH, HEIGHT = 1280, 720
SECONDS = 14.0


@dataclass(frozen=True)
class Sequence:
    """Some seconds of one camera, in pixels. Rows are in the order of the frames, which count from 0."""

    name: str
    fps: float
    width: int
    height: int
    frames: NDArray[np.int64]
    """(F,) numbers of the frames that were looked at; frame ``n`` was taken at ``n / fps`` seconds."""
    detections: F64
    """(D, 6): frame, x1, y1, x2, y2, score."""
    truth: F64
    """(T, 6): frame, id, x1, y1, x2, y2; also what is wholly hidden."""


@dataclass(frozen=True)
class _Way:
    """Where one object's foot is, frame by frame, and how large it is."""

    foot: F64  # (F, 2) pixels, also outside of the picture
    size: F64  # (F, 2) width and height, pixels


@dataclass(frozen=True)
class _Scene:
    fps: float
    ways: Callable[[np.random.Generator, F64], list[_Way]]
    tremble: float = 0.035
    """Standard deviation of a box's edges, of its size."""
    score: float = 0.85
    """Of who stands alone, in the middle."""
    missing: float = 0.03
    """Share of detections that is missing though nothing hides them."""
    flashes: float = 0.15
    """False positives a frame that are gone in the next."""


def crowd(scene: str, seed: int) -> Sequence:
    """Every frame of one run of a scene of :data:`SCENES`."""
    s = _SCENES[scene]
    rng = np.random.default_rng((sorted(_SCENES).index(scene), seed))
    t = np.arange(round(SECONDS * s.fps)) / s.fps
    ways = s.ways(rng, t)
    boxes = np.stack([_box(w) for w in ways])
    truth, found = [], []
    quality = rng.normal(0, 1, len(ways))
    drift = rng.normal(0, 1, (len(ways), 4))
    clutter = _clutter(rng)
    # the network's opinion of somebody, and the error of a box, change slowly
    keep, hold = np.exp(-1 / (0.25 * s.fps)), np.exp(-1 / (0.1 * s.fps))
    for frame in range(len(t)):
        quality = keep * quality + np.sqrt(1 - keep**2) * rng.normal(0, 1, len(ways))
        drift = hold * drift + np.sqrt(1 - hold**2) * rng.normal(0, 1, drift.shape)
        whole = boxes[:, frame]
        here = _clip(whole)
        inside = _area(here) >= 0.3 * _area(whole)
        rows = np.nonzero(inside)[0]
        truth.append(np.column_stack([np.full(len(rows), frame), rows, here[rows]]))
        visible = _visible(whole[rows])
        seen = _look(rng, s, whole[rows], visible, quality[rows], drift[rows])
        found.append(_frame(frame, np.concatenate([seen, _parts(rng, seen), _false(rng, s, clutter, frame)])))
    return Sequence(
        scene, s.fps, WIDTH, HEIGHT, np.arange(len(t)), np.concatenate(found), np.concatenate(truth)
    )


def dropped(sequence: Sequence, share: float, seed: int) -> Sequence:
    """The same with a share of the frames gone, at random."""
    rng = np.random.default_rng((round(1000 * share), seed))
    kept = sequence.frames[rng.random(len(sequence.frames)) >= share]
    rows = [part[np.isin(part[:, 0], kept)] for part in (sequence.detections, sequence.truth)]
    return Sequence(sequence.name, sequence.fps, sequence.width, sequence.height, kept, *rows)


def _look(rng: np.random.Generator, s: _Scene, boxes: F64, visible: F64, quality: F64, drift: F64) -> F64:
    """(N, 5) boxes and scores of those who are detected."""
    hidden = 1 - visible
    score = s.score * (1 - 0.75 * hidden**1.5) + 0.08 * quality + rng.normal(0, 0.03, len(boxes))
    missed = rng.random(len(boxes)) < s.missing * (1 + 10 * (quality < -1.3)) + 0.85 * hidden**3
    sigma = s.tremble * (1 + 2 * hidden)[:, None] * (boxes[:, 2:] - boxes[:, :2])
    error = 0.7 * drift + 0.7 * rng.normal(0, 1, drift.shape)
    seen = _clip(boxes + error * np.tile(sigma, 2))
    rows = np.column_stack([seen, np.clip(score, 0, 0.99)])[~missed & (score > 0.1)]
    return _suppress(rows[_area(rows) > 16])


def _suppress(rows: F64) -> F64:
    """Greedy, at an overlap of 0.65."""
    rows = rows[np.argsort(-rows[:, 4])]
    kept: list[int] = []
    overlap = _iou(rows, rows)
    for i in range(len(rows)):
        if not (overlap[i, kept] > 0.65).any():
            kept.append(i)
    return rows[kept]


def _parts(rng: np.random.Generator, seen: F64) -> F64:
    """The upper half of somebody as a box of its own, now and then."""
    rows = seen[rng.random(len(seen)) < 0.02].copy()
    rows[:, 3] = (rows[:, 1] + rows[:, 3]) / 2 + rng.normal(0, 3, len(rows))
    rows[:, 4] = rng.uniform(0.12, 0.6, len(rows))
    return rows


def _clutter(rng: np.random.Generator) -> list[tuple[F64, float, float]]:
    """Two things that are taken for somebody: box, how often they begin a frame, score."""
    out = []
    for _ in range(2):
        corner, size = rng.uniform([50, 100], [WIDTH - 150, HEIGHT - 250]), rng.uniform([30, 70], [70, 160])
        out.append(
            (np.concatenate([corner, corner + size]), rng.uniform(0.02, 0.06), rng.uniform(0.25, 0.55))
        )
    return out


def _false(rng: np.random.Generator, s: _Scene, clutter: list[tuple[F64, float, float]], frame: int) -> F64:
    rows = []
    for _ in range(rng.poisson(s.flashes)):
        corner, size = rng.uniform([0, 0], [WIDTH - 80, HEIGHT - 160]), rng.uniform([25, 50], [80, 160])
        rows.append([*corner, *(corner + size), rng.beta(1.5, 3) * 0.8 + 0.1])
    for box, often, score in clutter:
        # how long: a fifth of a second; a phase of its own, drawn by the frame's block
        block = np.random.default_rng((int(box[0] * 100), int(frame / s.fps / 0.2)))
        if block.random() < often * 5:
            rows.append([*(box + rng.normal(0, 3, 4)), np.clip(score + rng.normal(0, 0.08), 0.1, 0.9)])
    return np.array(rows).reshape(-1, 5)


def _visible(boxes: F64) -> F64:
    """Share of each box that nobody who stands nearer (whose foot is lower) covers, on a grid of 8 by 12 points."""
    x, y = (np.arange(8) + 0.5) / 8, (np.arange(12) + 0.5) / 12
    size = boxes[:, 2:] - boxes[:, :2]
    px = (boxes[:, 0, None] + size[:, 0, None] * x)[:, None, :, None]
    py = (boxes[:, 1, None] + size[:, 1, None] * y)[:, None, None, :]
    # a person fills the middle of their box
    pad = 0.15 * size[None, :, 0, None, None]
    x1, y1, x2, y2 = (boxes[None, :, i, None, None] for i in range(4))
    covers = (px > x1 + pad) & (px < x2 - pad) & (py > y1) & (py < y2)
    nearer = boxes[None, :, 3] > boxes[:, None, 3]
    hidden = (covers & nearer[..., None, None]).any(axis=1)
    out: F64 = 1 - hidden.mean(axis=(1, 2))
    return out


def _street(rng: np.random.Generator, t: F64) -> list[_Way]:
    """Walkers on both pavements who come and go."""
    return [_walker(rng, t, rng.uniform(-6, t[-1] - 2)) for _ in range(26)]


def _square(rng: np.random.Generator, t: F64) -> list[_Way]:
    """Many who cross in all directions and turn."""
    out = []
    for _ in range(24):
        points = rng.uniform([0, 260], [WIDTH, HEIGHT], (6, 2))
        out.append(_along(rng, t, points, rng.uniform(0.5, 1.0)))
    return out


def _cars(rng: np.random.Generator, t: F64) -> list[_Way]:
    """Two lanes each way; fast, close behind each other, 15 frames a second."""
    out = []
    for lane, (y, direction) in enumerate(((330, -1), (390, -1), (500, 1), (610, 1))):
        height = 0.26 * (y - 120)
        at = rng.uniform(-1.0, 0.0)
        pace = rng.uniform(4.0, 7.0) * height
        while at < t[-1]:
            speed = pace * rng.uniform(0.95, 1.05)
            start = -250.0 if direction > 0 else WIDTH + 250.0
            x = start + direction * speed * (t - at)
            jam = 0.1 * speed * np.sin(1.3 * t + lane)
            size = height * np.array([rng.uniform(1.5, 2.1), rng.uniform(0.9, 1.1)])
            out.append(_Way(np.column_stack([x + jam, np.full_like(t, y)]), np.tile(size, (len(t), 1))))
            at += rng.uniform(2.5, 7.0) * height / speed
    return out


def _station(rng: np.random.Generator, t: F64) -> list[_Way]:
    """People who stand, go, stand again, some in pairs; 10 frames a second."""
    out = []
    for _ in range(8):
        way = _along(rng, t, rng.uniform([50, 280], [WIDTH - 50, HEIGHT - 20], (4, 2)), 1.2, stops=2.0)
        out.append(way)
        if rng.random() < 0.6:
            beside = np.array([0.55 * way.size[:, 1].mean(), rng.uniform(-8, 8)])
            sway = 6 * np.column_stack([np.sin(0.9 * t + rng.uniform(0, 6)), np.sin(0.7 * t)])
            out.append(_Way(way.foot + beside + sway, way.size * rng.uniform(0.9, 1.1)))
    out += [_walker(rng, t, rng.uniform(-3, t[-1] - 3)) for _ in range(5)]
    return out


def _dance(rng: np.random.Generator, t: F64) -> list[_Way]:
    """Ten of one size who change places, swing and turn quickly, 30 frames a second."""
    out = []
    for _ in range(10):
        centre = rng.uniform([350, 480], [930, 640])
        foot = np.tile(centre, (len(t), 1))
        for _ in range(3):
            swing, often = rng.uniform([20, 4], [110, 20]), rng.uniform(0.1, 0.4)
            foot = foot + swing * np.sin(2 * np.pi * (often * t[:, None] + rng.uniform(0, 1, 2)))
        height = 0.45 * (foot[:, 1] - 60) * (1 + 0.06 * np.sin(2 * np.pi * rng.uniform(0.3, 0.9) * t))
        out.append(_Way(foot, np.column_stack([(0.4 + 0.08 * np.sin(3 * t)) * height, height])))
    return out


def _walker(rng: np.random.Generator, t: F64, start: float) -> _Way:
    """Straight through the picture, once."""
    y, direction = rng.uniform(300, 700), rng.choice([-1, 1])
    height = _height(y)
    speed = rng.uniform(0.6, 1.1) * height
    x = (-60.0 if direction > 0 else WIDTH + 60.0) + direction * speed * (t - start)
    foot = np.column_stack([x, y + rng.uniform(-8, 8) * (t - start)])
    return _sized(rng, foot, t)


def _along(rng: np.random.Generator, t: F64, points: F64, speed: float, stops: float = 0.0) -> _Way:
    """Through ``points``, back and forth, ``speed`` own heights a second, up to ``stops`` seconds at each corner."""
    times, places, now = [0.0], [points[0]], 0.0
    target = 1
    while now < t[-1]:
        a, b = places[-1], points[target % len(points)]
        pause = rng.uniform(0, stops)
        reach = float(np.hypot(*(b - a))) / (speed * _height((a[1] + b[1]) / 2))
        times += [now + pause + 1e-6, now + pause + reach]
        places += [a, b]
        now, target = times[-1], target + 1
    track = np.array(places)
    fine = np.arange(0, now, 0.02)
    path = np.column_stack([np.interp(fine, times, track[:, i]) for i in (0, 1)])
    # nobody turns at once
    path = np.column_stack(
        [np.convolve(np.pad(path[:, i], 12, "edge"), np.ones(25) / 25, "valid") for i in (0, 1)]
    )
    foot = np.column_stack([np.interp(t, fine, path[:, i]) for i in (0, 1)])
    return _sized(rng, foot, t)


def _sized(rng: np.random.Generator, foot: F64, t: F64) -> _Way:
    height = _height(foot[:, 1]) * rng.uniform(0.88, 1.12)
    stride = 0.36 + 0.07 * np.sin(2 * np.pi * rng.uniform(1.6, 2.0) * t + rng.uniform(0, 6))
    return _Way(foot, np.column_stack([stride * height, height]))


def _height(y: F64 | float) -> F64:
    """Of a person whose foot is in row ``y``."""
    return np.asarray(0.3 * (np.maximum(y, 200.0) - 80.0))


def _box(way: _Way) -> F64:
    half = way.size[:, 0] / 2
    return np.column_stack(
        [way.foot[:, 0] - half, way.foot[:, 1] - way.size[:, 1], way.foot[:, 0] + half, way.foot[:, 1]]
    )


def _clip(boxes: F64) -> F64:
    return np.clip(boxes, 0, [WIDTH, HEIGHT, WIDTH, HEIGHT])


def _area(boxes: F64) -> F64:
    out: F64 = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return out


def _iou(a: F64, b: F64) -> F64:
    corner = np.minimum(a[:, None, 2:4], b[None, :, 2:4]) - np.maximum(a[:, None, :2], b[None, :, :2])
    shared = np.maximum(corner, 0).prod(axis=2)
    out: F64 = shared / (_area(a)[:, None] + _area(b)[None, :] - shared)
    return out


def _frame(frame: int, rows: F64) -> F64:
    return np.column_stack([np.full(len(rows), frame), rows])


_SCENES: dict[str, _Scene] = {
    "street": _Scene(25, _street),
    "square": _Scene(25, _square),
    "cars": _Scene(15, _cars, tremble=0.03, score=0.88),
    "station": _Scene(10, _station, score=0.8, missing=0.05),
    "dance": _Scene(30, _dance, score=0.88),
}

SCENES = tuple(_SCENES)
