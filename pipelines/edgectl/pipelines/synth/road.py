"""``synth://road``: a dash camera on a three-lane road with lane lines, curves and other vehicles, pinhole
geometry.

``markings`` says which lines there are: ``lanes`` (all), ``none``, or ``left`` / ``right`` (only that line of
the own lane). ``clutter=1`` adds what looks like lines and is none: tar seams, patches, a guard rail, a kerb,
the shadows of poles and trees.

Coordinates on the road: ``z`` metres ahead, ``x`` metres to the right of the camera. A point on the ground
appears at ``u = cx + f·x/z``, ``v = horizon + f·h/z`` with camera height ``h``.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import cv2
import numpy as np

from edgectl.pipelines.synth.clutter import paint_clutter
from edgectl.pipelines.synth.scene import BGR, Scene, SceneTruth, arrivals, noise_texture

__all__ = ["Markings", "RoadScene"]

_LANE_M = 3.6
_CAMERA_M = 1.35
_NEAR_M, _FAR_M = 3.0, 120.0
_SPEED = 25.0  # m/s, of the camera car
Markings = Literal["lanes", "none", "left", "right"]
# In lanes to the right of the own lane's middle: edges are solid, the others dashed.
_LINES: dict[Markings, tuple[float, ...]] = {
    "lanes": (-1.5, 1.5, -0.5, 0.5),
    "none": (),
    "left": (-0.5,),
    "right": (0.5,),
}


class RoadScene(Scene):
    name: ClassVar[str] = "road"
    labels: ClassVar[tuple[str, ...]] = ("vehicle",)
    options: ClassVar[frozenset[str]] = frozenset({"markings", "clutter"})

    def __init__(
        self,
        *,
        seed: int,
        width: int,
        height: int,
        fps: float,
        markings: Markings = "lanes",
        clutter: bool = False,
    ) -> None:
        super().__init__(seed=seed, width=width, height=height, fps=fps)
        self._lines = _LINES[markings]
        self._clutter = clutter
        rng = np.random.default_rng((seed, 1))
        self.focal = 0.9 * width
        self.horizon = height * float(rng.uniform(0.42, 0.48))
        self._phase = float(rng.uniform(0, 6.28))
        self.asphalt = float(rng.uniform(70, 115))
        self._verge = (float(rng.uniform(40, 70)), float(rng.uniform(85, 130)), float(rng.uniform(60, 90)))
        self._verge_texture: BGR = noise_texture(rng, width, height, self._verge, 8.0)
        self._sky: BGR = self._paint_sky(rng)

    def paint(self, t: float) -> BGR:
        image: BGR = self._sky.copy()
        z = np.geomspace(_NEAR_M, _FAR_M, 60)
        ground = int(self.horizon) + 1
        image[ground:] = self._verge_texture[ground:]
        cv2.fillPoly(
            image,
            [self._ribbon(t, z, -1.5 * _LANE_M - 0.5, 1.5 * _LANE_M + 0.5)],
            (self.asphalt,) * 3,
            cv2.LINE_AA,
            4,
        )
        if self._clutter:
            paint_clutter(self, image, t, self.asphalt, 1.5 * _LANE_M + 0.5, _SPEED)
        for line in self._lines:
            solid = abs(line) > 1
            for start in (
                (0.0,) if solid else np.arange(-math.fmod(t * _SPEED, 12.0), _FAR_M, 12.0)
            ):  # dashes: 6 m long every 12 m
                a, b = max(_NEAR_M, start), _FAR_M if solid else min(_FAR_M, start + 6.0)
                if b > a:
                    self.strip(
                        image,
                        t,
                        (a, b),
                        line * _LANE_M,
                        0.16 if solid else 0.14,
                        (215, 220, 225),
                        60 if solid else 4,
                    )
        for _, distance, lane, rng in self._vehicles(t):
            self._draw_vehicle(image, t, distance, lane, rng)
        return image

    def truth(self, seq: int) -> SceneTruth:
        t = seq / self.fps
        kept: list[tuple[int, tuple[float, float, float, float]]] = []
        for ident, distance, lane, rng in reversed(self._vehicles(t)):  # the nearest first
            x1, y1, x2, y2 = self._vehicle_box(t, distance, lane, _vehicle_size(rng))
            box = max(0.0, x1), max(0.0, y1), min(float(self.width), x2), min(float(self.height), y2)
            whole = (x2 - x1) * (y2 - y1)
            hidden = max((_overlap(box, nearer) for _, nearer in kept), default=0.0)
            if x2 - x1 >= 0.03 * self.width and _area(box) - hidden >= 0.35 * whole:
                kept.append((ident, box))
        boxes, ids = [box for _, box in kept], [ident for ident, _ in kept]
        bottom = self.focal * _CAMERA_M / (self.height - self.horizon)
        values = {
            "left_x": self._u(t, np.array([bottom]), -0.5 * _LANE_M)[0],
            "right_x": self._u(t, np.array([bottom]), 0.5 * _LANE_M)[0],
            "offset_m": self._offset(t),
            "speed_mps": _SPEED,
        }
        return SceneTruth(
            boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
            cls=np.zeros(len(boxes), dtype=np.int32),
            ids=np.array(ids, dtype=np.int64),
            values={k: float(v) for k, v in values.items()},
        )

    def strip(
        self,
        image: BGR,
        t: float,
        reach: tuple[float, float],
        x: float,
        width: float,
        colour: tuple[float, ...],
        points: int = 8,
    ) -> None:
        """Paint a strip of the ground ``width`` metres wide about lateral position ``x``, from one
        distance to another."""
        ribbon = self._ribbon(t, np.geomspace(*reach, points), x - width / 2, x + width / 2)
        cv2.fillPoly(image, [ribbon], colour, cv2.LINE_AA, 4)

    def upright(
        self,
        image: BGR,
        t: float,
        reach: tuple[float, float],
        x: float,
        low: float,
        high: float,
        colour: tuple[float, ...],
    ) -> None:
        """Paint a band that stands beside the road at ``x``, between two heights above the ground in
        metres."""
        z = np.geomspace(*reach, 40)
        u = self._u(t, z, x)
        edges = [np.stack([u, self.horizon + self.focal * (_CAMERA_M - y) / z], 1) for y in (low, high)]
        cv2.fillPoly(
            image,
            [(np.concatenate([edges[0], edges[1][::-1]]) * 16).astype(np.int32)],
            colour,
            cv2.LINE_AA,
            4,
        )

    def _offset(self, t: float) -> float:
        """Metres to the right of the lane's middle: a careful driver."""
        return 0.25 * math.sin(t / 3.7 + self._phase)

    def _curvature(self, t: float) -> float:
        return 0.0011 * math.sin(t / 7.0 + self._phase)

    def _u(self, t: float, z: np.ndarray, x: float) -> np.ndarray:
        lateral = x - self._offset(t) + 0.5 * self._curvature(t) * z**2
        return np.asarray(self.width / 2 + self.focal * lateral / z)

    def _v(self, z: np.ndarray) -> np.ndarray:
        return np.asarray(self.horizon + self.focal * _CAMERA_M / z)

    def _ribbon(self, t: float, z: np.ndarray, left: float, right: float) -> np.ndarray:
        """A strip of the road between two lateral positions (metres) as a polygon in 1/16 pixels."""
        v = self._v(z)
        points = np.concatenate(
            [np.stack([self._u(t, z, left), v], 1), np.stack([self._u(t, z, right), v], 1)[::-1]]
        )
        return np.asarray((points * 16).astype(np.int32))

    def _vehicles(self, t: float) -> list[tuple[int, float, int, np.random.Generator]]:
        """``(id, metres ahead, lane -1/0/1, generator for looks)``, the farthest first, lanes kept free of
        pile-ups."""
        found = []
        for lane in (-1, 0, 1):
            for ident, start, rng in arrivals(
                self.seed, 10 + lane, t, every_s=6.0, chance=0.8, longest_s=48.0
            ):
                faster = float(rng.uniform(-3.0, -1.0) if lane >= 0 else rng.uniform(1.0, 3.5))
                # in our lane: come near, keep a distance, fall behind into view again
                if lane == 0:
                    distance = 60.0 + 38.0 * math.cos((t - start) / 48.0 * 2 * math.pi)
                    if ident % 3:
                        continue
                else:
                    distance = (95.0 if faster < 0 else 6.0) + faster * (t - start) * 2.2
                if 5.0 < distance < 95.0:
                    found.append((ident, distance, lane, rng))
        found.sort(key=lambda f: -f[1])
        kept: list[tuple[int, float, int, np.random.Generator]] = []
        for f in found:
            if all(k[2] != f[2] or abs(k[1] - f[1]) > 9.0 for k in kept):
                kept.append(f)
        return kept

    def _vehicle_box(
        self, t: float, z: float, lane: int, size: tuple[float, float]
    ) -> tuple[float, float, float, float]:
        at = np.array([z])
        u, v = float(self._u(t, at, lane * _LANE_M)[0]), float(self._v(at)[0])
        half, tall = self.focal * size[0] / z / 2, self.focal * size[1] / z
        return u - half, v - tall, u + half, v

    def _draw_vehicle(self, image: BGR, t: float, z: float, lane: int, rng: np.random.Generator) -> None:
        size = _vehicle_size(rng)
        x1, y1, x2, y2 = self._vehicle_box(t, z, lane, size)
        w, h = x2 - x1, y2 - y1
        colour = tuple(int(c) for c in rng.integers(25, 230, 3))
        dark = tuple(int(c * 0.3) + 20 for c in colour)
        haze = min(1.0, max(0.0, (z - 30) / 130))

        def put(fx1: float, fy1: float, fx2: float, fy2: float, c: tuple[int, ...]) -> None:
            mixed = tuple(int(v * (1 - haze) + 190 * haze) for v in c)
            a = (round((x1 + fx1 * w) * 16), round((y1 + fy1 * h) * 16))
            b = (round((x1 + fx2 * w) * 16), round((y1 + fy2 * h) * 16))
            cv2.rectangle(image, a, b, mixed, -1, cv2.LINE_AA, 4)

        put(-0.03, 0.93, 1.03, 1.04, (30, 30, 30))  # shadow on the road
        put(0.04, 0.85, 0.22, 1.0, (20, 20, 20))  # tyres
        put(0.78, 0.85, 0.96, 1.0, (20, 20, 20))
        if size[1] > 2.0:  # a van or lorry
            put(0.0, 0.0, 1.0, 0.9, colour)
            put(0.08, 0.1, 0.92, 0.35, dark)
        else:
            put(0.0, 0.38, 1.0, 0.9, colour)
            put(0.12, 0.0, 0.88, 0.42, colour)
            put(0.18, 0.08, 0.82, 0.38, dark)
        put(0.02, 0.5, 0.16, 0.62, (40, 40, 220))  # tail lights
        put(0.84, 0.5, 0.98, 0.62, (40, 40, 220))
        put(0.35, 0.66, 0.65, 0.76, (220, 220, 220))  # plate

    def _paint_sky(self, rng: np.random.Generator) -> BGR:
        w, h = self.width, self.height
        image = np.zeros((h, w, 3), dtype=np.uint8)
        top, low = rng.uniform(120, 255, 3), rng.uniform(190, 250, 3)
        ramp = np.linspace(0, 1, int(self.horizon) + 1)[:, None, None]
        image[: int(self.horizon) + 1] = (top * (1 - ramp) + low * ramp).astype(np.uint8)
        x = np.arange(w)
        hills = sum(
            float(rng.uniform(3, 9)) * np.sin(x / w * k * 6.28 + float(rng.uniform(0, 6.28)))
            for k in (1, 2, 5)
        )
        for column, ridge in enumerate(np.asarray(self.horizon - h * 0.05 + hills * h / 360)):
            image[int(ridge) : int(self.horizon) + 1, column] = (70, 95, 80)
        return image


def _vehicle_size(rng: np.random.Generator) -> tuple[float, float]:
    """Width and height in metres, the same for a vehicle in every frame: taken from a copy of its
    generator."""
    own = np.random.default_rng(int(rng.bit_generator.state["state"]["state"]) & 0xFFFFFFFF)
    return (
        (2.4, 2.9) if own.random() < 0.25 else (float(own.uniform(1.7, 1.95)), float(own.uniform(1.4, 1.65)))
    )


def _area(box: tuple[float, float, float, float]) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    return _area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
