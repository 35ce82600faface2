"""A 1080p scene of small things whose places are known: people and cars cut out of real clips, made small, walk and drive
over the empty car park of one of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["CutOut", "SmallObjects", "cut_outs", "pictures"]

U8 = NDArray[np.uint8]

SIZE = (1920, 1080)
_DIFFERS = 28
"""Grey levels from the empty scene."""


@dataclass(frozen=True)
class CutOut:
    label: str
    image: U8
    """BGR."""
    alpha: NDArray[np.float32]


@dataclass(frozen=True)
class _Actor:
    look: CutOut
    size: tuple[int, int]
    start: tuple[float, float]
    speed: tuple[float, float]
    """Pixels a second."""


def pictures(path: Path, every: int = 1) -> list[U8]:
    with av.open(str(path)) as container:
        return [
            np.asarray(frame.to_ndarray(format="bgr24"), np.uint8)
            for i, frame in enumerate(container.decode(video=0))
            if i % every == 0
        ]


def empty_scene(frames: list[U8]) -> U8:
    """Where nothing stands still for half of the clip."""
    return np.asarray(np.median(np.stack(frames), axis=0), np.uint8)


def cut_outs(label: str, frames: list[U8], empty: U8, least: int) -> list[CutOut]:
    """The largest thing of each frame that is not in the empty scene, where it is whole and at least ``least`` pixels
    tall."""
    found = []
    for frame in frames:
        away = cv2.absdiff(frame, empty).max(axis=2)
        mask = cv2.morphologyEx(
            (away > _DIFFERS).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8)
        )
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        outline = max(outlines, key=cv2.contourArea, default=None)
        if outline is None:
            continue
        x, y, w, h = cv2.boundingRect(outline)
        if h < least or x <= 1 or y <= 1 or x + w >= frame.shape[1] - 1 or y + h >= frame.shape[0] - 1:
            continue
        # what is as grey as the ground, inside, belongs to it, too
        filled = cv2.drawContours(np.zeros(mask.shape, np.float32), [outline], -1, 1.0, -1)
        alpha = filled[y : y + h, x : x + w]
        found.append(CutOut(label, frame[y : y + h, x : x + w].copy(), cv2.GaussianBlur(alpha, (5, 5), 0)))
    return found


class SmallObjects:
    """``px``: the longer side of each, from … to."""

    def __init__(
        self, ground: U8, looks: list[CutOut], *, seed: int, objects: int, px: tuple[int, int], seconds: float
    ) -> None:
        rng = np.random.default_rng(seed)
        self._ground = np.asarray(cv2.resize(ground, SIZE, interpolation=cv2.INTER_CUBIC), np.uint8)
        self._grain = [rng.normal(0, 2.0, (SIZE[1], SIZE[0], 1)).astype(np.int16) for _ in range(4)]
        self.actors: list[_Actor] = []
        rows = rng.permutation(objects)
        for i in range(objects):
            look = looks[int(rng.integers(len(looks)))]
            tall, wide = look.image.shape[:2]
            scale = float(rng.uniform(*px)) / max(tall, wide)
            speed = float(rng.uniform(12, 30) if look.label == "person" else rng.uniform(40, 90))
            speed *= float(rng.choice([-1, 1]))
            middle = float(rng.uniform(0.2, 0.8)) * SIZE[0]
            start = (middle - speed * seconds / 2, (0.06 + 0.86 * rows[i] / objects) * SIZE[1])
            drift = float(rng.uniform(-3, 3))
            size = (max(3, round(wide * scale)), max(3, round(tall * scale)))
            self.actors.append(_Actor(look, size, start, (speed, drift)))

    def render(self, t_s: float, seq: int) -> U8:
        image = self._ground.copy()
        for actor in self.actors:
            _paste(image, actor, t_s)
        return np.asarray(
            cv2.add(image, np.repeat(self._grain[seq % 4], 3, axis=2), dtype=cv2.CV_8U), np.uint8
        )

    def truth(self, t_s: float) -> NDArray[np.float32]:
        """(N, 4) xyxy in pixels, in the order of the actors; those that have left are empty."""
        boxes = np.array([_box(a, t_s) for a in self.actors], np.float32)
        inside = (boxes[:, 0] >= 0) & (boxes[:, 2] <= SIZE[0]) & (boxes[:, 1] >= 0) & (boxes[:, 3] <= SIZE[1])
        boxes[~inside] = 0
        return boxes

    def write(self, path: Path, *, fps: int, seconds: float) -> Path:
        """H.264 as a camera of good quality sends it."""
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream(
                "libx264", rate=fps, options={"crf": "20", "preset": "veryfast"}
            )
            stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
            for seq in range(round(fps * seconds)):
                frame = av.VideoFrame.from_ndarray(self.render(seq / fps, seq), format="bgr24")
                for packet in stream.encode(frame):
                    container.mux(packet)
            for packet in stream.encode(None):
                container.mux(packet)
        return path


def _box(actor: _Actor, t_s: float) -> tuple[float, float, float, float]:
    x, y = (s + v * t_s for s, v in zip(actor.start, actor.speed, strict=True))
    return x, y, x + actor.size[0], y + actor.size[1]


def _paste(image: U8, actor: _Actor, t_s: float) -> None:
    """At whole pixels, antialiased by the resizing."""
    x, y = (round(v) for v in _box(actor, t_s)[:2])
    w, h = actor.size
    if x < 0 or y < 0 or x + w > image.shape[1] or y + h > image.shape[0]:
        return
    look = cv2.resize(actor.look.image, (w, h), interpolation=cv2.INTER_AREA)
    alpha = cv2.resize(actor.look.alpha, (w, h), interpolation=cv2.INTER_AREA)[..., None]
    # they face where they go to
    if actor.speed[0] < 0:
        look, alpha = look[:, ::-1], alpha[:, ::-1]
    part = image[y : y + h, x : x + w]
    part[:] = np.rint(alpha * look + (1 - alpha) * part).astype(np.uint8)
