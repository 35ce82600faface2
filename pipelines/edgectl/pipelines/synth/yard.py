"""``synth://yard``: a yard with a lane, seen from a fixed camera. People walk by, vehicles drive through."""

from __future__ import annotations

import math
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from edgectl.pipelines.synth.scene import BGR, Scene, SceneTruth, arrivals, noise_texture

__all__ = ["YardScene"]

PERSON, VEHICLE = 0, 1
_SHIFT = 4  # cv2 draws with 4 fractional bits
_HORIZON = 0.30


class _Actor:
    """One person or vehicle at one moment: where it stands on the picture and how large it is there."""

    def __init__(
        self,
        kind: int,
        ident: int,
        x: float,
        foot: float,
        height: float,
        phase: float,
        direction: int,
        rng: np.random.Generator,
    ) -> None:
        self.kind, self.ident, self.x, self.foot, self.height, self.phase, self.direction = (
            kind,
            ident,
            x,
            foot,
            height,
            phase,
            direction,
        )
        self.colour = tuple(int(c) for c in rng.integers(20, 235, 3))
        self.trousers = tuple(int(c) for c in rng.integers(10, 140, 3))
        self.skin = tuple(int(c) for c in np.array((120, 150, 200)) * rng.uniform(0.4, 1.1))
        self.width = height * (0.36 if kind == PERSON else float(rng.uniform(1.9, 2.6)))
        self.cargo = kind == VEHICLE and bool(rng.random() < 0.3)

    def box(self) -> tuple[float, float, float, float]:
        return self.x - self.width / 2, self.foot - self.height, self.x + self.width / 2, self.foot


class YardScene(Scene):
    name: ClassVar[str] = "yard"
    labels: ClassVar[tuple[str, ...]] = ("person", "vehicle")

    def __init__(self, *, seed: int, width: int, height: int, fps: float) -> None:
        super().__init__(seed=seed, width=width, height=height, fps=fps)
        self._background = self._paint_background(np.random.default_rng((seed, 1)))

    def paint(self, t: float) -> BGR:
        # Clouds: brightness drifts by ±8 %.
        light = 1.0 + 0.08 * math.sin(t / 11.0 + self.seed)
        image = np.asarray(cv2.convertScaleAbs(self._background, alpha=light), dtype=np.uint8)
        for actor in self._actors(t):
            _shadow(image, actor)
            (_draw_person if actor.kind == PERSON else _draw_vehicle)(image, actor)
        return image

    def truth(self, seq: int) -> SceneTruth:
        kept = []
        for actor in self._actors(seq / self.fps):
            x1, y1, x2, y2 = actor.box()
            clipped = (max(0.0, x1), max(0.0, y1), min(float(self.width), x2), min(float(self.height), y2))
            visible = max(0.0, clipped[2] - clipped[0]) * max(0.0, clipped[3] - clipped[1])
            if visible >= 0.35 * actor.width * actor.height:
                kept.append((clipped, actor.kind, actor.ident))
        return SceneTruth(
            boxes=np.array([k[0] for k in kept], dtype=np.float32).reshape(-1, 4),
            cls=np.array([k[1] for k in kept], dtype=np.int32),
            ids=np.array([k[2] for k in kept], dtype=np.int64),
        )

    def _actors(self, t: float) -> list[_Actor]:
        """Everyone on the scene at ``t``, the farthest first."""
        actors = []
        for ident, start, rng in arrivals(self.seed, 2, t, every_s=3.0, chance=0.75, longest_s=30.0):
            depth = float(rng.uniform(0.15, 0.95))
            direction = 1 if rng.random() < 0.5 else -1
            tall = self._person_height(depth) * float(rng.uniform(0.9, 1.1))
            # pixels per second: 1 m/s is about 0.6 body heights
            speed = tall * float(rng.uniform(0.55, 0.95))
            if rng.random() < 0.1:
                speed *= 2.2  # somebody runs
            travelled = (t - start) * speed - tall
            x = travelled if direction > 0 else self.width - travelled
            # A slightly slanting path.
            foot = self._foot(depth) + float(rng.uniform(-0.08, 0.08)) * travelled
            if -tall < x < self.width + tall and self.height * (_HORIZON + 0.12) < foot < self.height * 1.02:
                actors.append(
                    _Actor(PERSON, ident, x, foot, tall, (t - start) * speed / tall * 4.0, direction, rng)
                )
        for ident, start, rng in arrivals(self.seed, 3, t, every_s=7.0, chance=0.7, longest_s=25.0):
            depth = float(rng.uniform(0.25, 0.85))
            direction = 1 if rng.random() < 0.5 else -1
            tall = self._person_height(depth) * float(rng.uniform(0.8, 1.25))
            speed = tall * float(rng.uniform(1.0, 3.0))
            travelled = (t - start) * speed - 2 * tall
            x = travelled if direction > 0 else self.width - travelled
            if -2 * tall < x < self.width + 2 * tall:
                actors.append(_Actor(VEHICLE, ident, x, self._foot(depth), tall, 0.0, direction, rng))
        return sorted(actors, key=lambda a: a.foot)

    def _foot(self, depth: float) -> float:
        return self.height * (_HORIZON + 0.14 + (0.98 - _HORIZON - 0.14) * depth)

    def _person_height(self, depth: float) -> float:
        return self.height * (0.12 + 0.22 * depth)

    def _paint_background(self, rng: np.random.Generator) -> BGR:
        w, h = self.width, self.height
        horizon = int(h * _HORIZON)
        grey = float(rng.uniform(70, 140))
        image = noise_texture(rng, w, h, (grey + 4, grey, grey - 4), 6.0)
        wall = rng.uniform(60, 200, 3)
        image[:horizon] = noise_texture(
            rng, w, horizon, (float(wall[0]), float(wall[1]), float(wall[2])), 4.0
        )
        for _ in range(int(rng.integers(3, 8))):  # windows and doors
            x, y = int(rng.uniform(0, w * 0.95)), int(rng.uniform(0, horizon * 0.5))
            size = (int(rng.uniform(0.04, 0.12) * w), int(rng.uniform(0.3, 0.6) * horizon))
            cv2.rectangle(
                image, (x, y), (x + size[0], y + size[1]), tuple(int(c) for c in rng.uniform(20, 90, 3)), -1
            )
        verge = int(h * (_HORIZON + 0.1))
        image[horizon:verge] = noise_texture(
            rng, w, verge - horizon, (50, float(rng.uniform(80, 130)), 70), 9.0
        )
        lane = int(h * rng.uniform(0.55, 0.7))
        cv2.line(
            image, (0, lane), (w, lane + int(rng.uniform(-0.05, 0.05) * h)), (190, 200, 200), max(1, h // 180)
        )
        for _ in range(int(rng.integers(2, 6))):  # posts, bins: upright things that are nobody
            x, foot = int(rng.uniform(0, w)), int(rng.uniform(verge, h * 0.95))
            tall, wide = int(h * rng.uniform(0.06, 0.2)), int(w * rng.uniform(0.008, 0.03))
            cv2.rectangle(
                image, (x, foot - tall), (x + wide, foot), tuple(int(c) for c in rng.uniform(20, 160, 3)), -1
            )
        return np.asarray(cv2.GaussianBlur(image, (3, 3), 0), dtype=np.uint8)


def _shadow(image: BGR, a: _Actor) -> None:
    x1, _, x2, _ = (int(v) for v in a.box())
    y1, y2 = int(a.foot - 0.05 * a.height), int(a.foot + 0.06 * a.height)
    x1, x2 = max(0, x1), min(image.shape[1], x2)
    y1, y2 = max(0, y1), min(image.shape[0], y2)
    if x1 < x2 and y1 < y2:
        image[y1:y2, x1:x2] //= 2


def _draw_person(image: BGR, a: _Actor) -> None:
    h, x, foot = a.height, a.x, a.foot
    swing = 0.12 * h * math.sin(a.phase)
    hip, shoulder = foot - 0.47 * h, foot - 0.82 * h
    thick = max(1, round(0.085 * h))
    for side in (1, -1):
        _line(image, (x, hip), (x + side * swing, foot - 0.02 * h), a.trousers, thick)
        _line(image, (x, shoulder + 0.04 * h), (x - side * swing * 0.9, hip), a.colour, max(1, thick - 1))
    _ellipse(image, (x, (hip + shoulder) / 2), (0.12 * h, 0.2 * h), a.colour)
    _ellipse(image, (x, foot - 0.915 * h), (0.065 * h, 0.085 * h), a.skin)


def _draw_vehicle(image: BGR, a: _Actor) -> None:
    h, w, x1, top = a.height, a.width, a.x - a.width / 2, a.foot - a.height
    body = top + (0.05 if a.cargo else 0.42) * h
    _box(image, (x1, body), (x1 + w, a.foot - 0.12 * h), a.colour)
    glass = tuple(int(c * 0.25) + 40 for c in a.colour)
    front = x1 + (0.72 if a.direction > 0 else 0.06) * w
    if a.cargo:
        _box(image, (front, top + 0.15 * h), (front + 0.22 * w, top + 0.5 * h), glass)
    else:
        roof = np.array(
            [[x1 + 0.2 * w, body], [x1 + 0.32 * w, top], [x1 + 0.7 * w, top], [x1 + 0.85 * w, body]]
        )
        cv2.fillPoly(image, [(roof * 16).astype(np.int32)], a.colour, cv2.LINE_AA, _SHIFT)
        inner = np.array(
            [
                [x1 + 0.26 * w, body],
                [x1 + 0.35 * w, top + 0.06 * h],
                [x1 + 0.68 * w, top + 0.06 * h],
                [x1 + 0.79 * w, body],
            ]
        )
        cv2.fillPoly(image, [(inner * 16).astype(np.int32)], glass, cv2.LINE_AA, _SHIFT)
    for wheel in (0.2, 0.8):
        _ellipse(image, (x1 + wheel * w, a.foot - 0.16 * h), (0.16 * h, 0.16 * h), (25, 25, 25))
        _ellipse(image, (x1 + wheel * w, a.foot - 0.16 * h), (0.07 * h, 0.07 * h), (130, 130, 130))


def _fixed(p: tuple[float, float]) -> tuple[int, int]:
    return round(p[0] * 16), round(p[1] * 16)


def _line(
    image: BGR, a: tuple[float, float], b: tuple[float, float], colour: tuple[int, ...], thick: int
) -> None:
    cv2.line(image, _fixed(a), _fixed(b), colour, thick, cv2.LINE_AA, _SHIFT)


def _ellipse(
    image: NDArray[np.uint8], centre: tuple[float, float], axes: tuple[float, float], colour: tuple[int, ...]
) -> None:
    cv2.ellipse(image, _fixed(centre), _fixed(axes), 0, 0, 360, colour, -1, cv2.LINE_AA, _SHIFT)


def _box(image: BGR, a: tuple[float, float], b: tuple[float, float], colour: tuple[int, ...]) -> None:
    cv2.rectangle(image, _fixed(a), _fixed(b), colour, -1, cv2.LINE_AA, _SHIFT)
