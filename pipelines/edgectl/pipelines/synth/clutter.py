"""What looks like a lane line and is none: seams of tar, patches, wheel tracks, a guard rail, a kerb,
shadows.

Everything lies at a fixed place of the world and comes nearer as the car drives; which of it a road has
depends on its seed.
"""

from __future__ import annotations

import math
from typing import Protocol

import cv2
import numpy as np

from edgectl.pipelines.synth.scene import BGR

__all__ = ["paint_clutter"]

_NEAR_M, _FAR_M = 3.0, 90.0


class PaintedRoad(Protocol):
    """What is painted on: :class:`~edgectl.pipelines.synth.road.RoadScene`."""

    seed: int
    fps: float
    horizon: float

    def strip(
        self,
        image: BGR,
        t: float,
        reach: tuple[float, float],
        x: float,
        width: float,
        colour: tuple[float, ...],
        points: int = 8,
    ) -> None: ...

    def upright(
        self,
        image: BGR,
        t: float,
        reach: tuple[float, float],
        x: float,
        low: float,
        high: float,
        colour: tuple[float, ...],
    ) -> None: ...


def paint_clutter(
    scene: PaintedRoad, image: BGR, t: float, asphalt: float, half: float, speed: float
) -> None:
    """``asphalt``: the road's grey level; ``half``: metres from its middle to its edge; ``speed``: m/s."""
    rng = np.random.default_rng((scene.seed, 21))
    travelled = t * speed

    def grey(change: float) -> tuple[float, float, float]:
        return (min(255.0, max(0.0, asphalt + change)),) * 3

    for x in (-0.75, 0.75):  # wheel tracks, polished
        scene.strip(image, t, (_NEAR_M, _FAR_M), x, 0.5, grey(float(rng.uniform(3, 9))), 40)
    for start, own in _along(scene.seed, 22, travelled, every_m=9.0):  # patches
        x, width, length = (
            float(own.uniform(-half, half)),
            float(own.uniform(0.5, 2.5)),
            float(own.uniform(1, 8)),
        )
        _piece(scene, image, t, start, length, x, width, grey(float(own.uniform(-22, 22))))
    for x in rng.uniform(-half, half, 3):  # seams along the road: dark, and one that shines
        shade = float(rng.uniform(-45, -20)) if rng.random() < 0.7 else float(rng.uniform(12, 24))
        scene.strip(image, t, (_NEAR_M, _FAR_M), float(x), float(rng.uniform(0.03, 0.08)), grey(shade), 40)
    for start, own in _along(scene.seed, 23, travelled, every_m=14.0):  # joints across it
        _piece(scene, image, t, start, 0.08, 0.0, 2 * half, grey(float(own.uniform(-40, -20))))
    for start, own in _along(scene.seed, 24, travelled, every_m=25.0):  # a pole's shadow, aslant
        a, b = float(own.uniform(-half, 0)), float(own.uniform(0, half))
        _aslant(scene, image, t, start, float(own.uniform(1, 12)), (a, b), grey(-38))
    if rng.random() < 0.6:
        scene.strip(image, t, (_NEAR_M, _FAR_M), half, 0.15, (165, 170, 172), 60)
        if rng.random() < 0.5:
            scene.strip(image, t, (_NEAR_M, _FAR_M), -half, 0.15, (165, 170, 172), 60)
    if rng.random() < 0.7:
        rail = float(rng.choice((-1, 1))) * (half + float(rng.uniform(0.6, 1.6)))
        scene.upright(image, t, (_NEAR_M, _FAR_M), rail, 0.0, 0.5, (60, 70, 62))
        scene.upright(image, t, (_NEAR_M, _FAR_M), rail, 0.5, 0.82, (168, 172, 175))
    trees = image.copy()
    for start, own in _along(scene.seed, 25, travelled, every_m=11.0):  # spots of light and shade
        for _ in range(6):
            x = float(own.uniform(-half, half))
            _piece(
                scene,
                trees,
                t,
                start + float(own.uniform(0, 8)),
                float(own.uniform(0.3, 3)),
                x,
                float(own.uniform(0.1, 1.2)),
                grey(-30),
            )
    cv2.addWeighted(trees, 0.7, image, 0.3, 0, dst=image)
    coarse = np.random.default_rng((scene.seed, 26, int(t * scene.fps))).normal(
        0, 5.0, (image.shape[0] // 2, image.shape[1] // 2)
    )
    ground = int(scene.horizon) + 1
    grain = cv2.resize(coarse, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR)[
        ground:, :, None
    ]
    image[ground:] = np.clip(image[ground:] + grain, 0, 255).astype(np.uint8)


def _along(
    seed: int, stream: int, travelled: float, *, every_m: float
) -> list[tuple[float, np.random.Generator]]:
    """Things beside or on the road: metres ahead, and a generator that is the same for one thing in every
    frame."""
    first = math.floor(travelled / every_m) - 1
    found = []
    for slot in range(first, first + math.ceil(_FAR_M / every_m) + 2):
        own = np.random.default_rng((seed, stream, slot + 1000))
        found.append(((slot + float(own.random())) * every_m - travelled, own))
    return found


def _piece(
    scene: PaintedRoad,
    image: BGR,
    t: float,
    start: float,
    length: float,
    x: float,
    width: float,
    colour: tuple[float, ...],
) -> None:
    a, b = max(_NEAR_M, start), min(_FAR_M, start + length)
    if b > a:
        scene.strip(image, t, (a, b), x, width, colour)


def _aslant(
    scene: PaintedRoad,
    image: BGR,
    t: float,
    start: float,
    length: float,
    across: tuple[float, float],
    colour: tuple[float, ...],
) -> None:
    """A strip 20 cm wide from one side to the other while the road goes on by ``length``."""
    steps = 12
    for k in range(steps):
        x = across[0] + (across[1] - across[0]) * (k + 0.5) / steps
        _piece(
            scene,
            image,
            t,
            start + length * k / steps,
            0.2 + length / steps,
            x,
            (across[1] - across[0]) / steps,
            colour,
        )
