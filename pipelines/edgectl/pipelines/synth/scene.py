"""What a scene is, and what all scenes share: actors that come by at random but reproducible times."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from edgectl.pipelines.synth.timecode import burn

__all__ = ["BGR", "Scene", "SceneTruth", "arrivals", "noise_texture"]

BGR = NDArray[np.uint8]
"""``(height, width, 3)``, blue-green-red."""


@dataclass(frozen=True)
class SceneTruth:
    """What is really in a frame.

    ``boxes`` float32 ``(N, 4)`` xyxy in pixels, clipped to the frame; ``cls`` int32 ``(N,)``; ``ids`` int64
    ``(N,)``, stable over frames. ``values`` are scene quantities: the road's ``left_x``/``right_x`` (pixels,
    at the bottom edge), ``offset_m``, ``speed_mps``.
    """

    boxes: NDArray[np.float32]
    cls: NDArray[np.int32]
    ids: NDArray[np.int64]
    values: dict[str, float] = field(default_factory=dict)


class Scene(ABC):
    """``render(seq)`` and ``truth(seq)`` for frame number ``seq`` at time ``seq / fps`` seconds."""

    name: ClassVar[str]
    labels: ClassVar[tuple[str, ...]]
    default_size: ClassVar[tuple[int, int]] = (640, 360)
    options: ClassVar[frozenset[str]] = frozenset()
    """Parameters of its own, beyond those of every scene."""

    def __init__(self, *, seed: int, width: int, height: int, fps: float) -> None:
        self.seed = seed
        self.width = width
        self.height = height
        self.fps = fps

    def render(self, seq: int) -> BGR:
        """Frame ``seq`` with its number burnt in (:mod:`edgectl.pipelines.synth.timecode`)."""
        image = self.paint(seq / self.fps)
        # Sensor noise: different in every frame, the same in every run.
        pick = int(np.random.default_rng((self.seed, 7, seq)).integers(len(self._grain)))
        image = np.asarray(cv2.add(image, self._grain[pick], dtype=cv2.CV_8U), dtype=np.uint8)
        burn(image, seq & 0xFFFFFFFF)
        return image

    @property
    def _grain(self) -> list[NDArray[np.int16]]:
        cached: list[NDArray[np.int16]] | None = self.__dict__.get("_grain_cache")
        if cached is None:
            rng = np.random.default_rng((self.seed, 8))
            cached = [rng.normal(0, 3.0, (self.height, self.width, 3)).astype(np.int16) for _ in range(4)]
            self.__dict__["_grain_cache"] = cached
        return cached

    @abstractmethod
    def paint(self, t: float) -> BGR:
        """The scene at time ``t`` seconds, without noise and time code."""

    @abstractmethod
    def truth(self, seq: int) -> SceneTruth:
        """Ground truth of frame ``seq``."""


def arrivals(
    seed: int, stream: int, t: float, *, every_s: float, chance: float, longest_s: float
) -> Iterator[tuple[int, float, np.random.Generator]]:
    """Actors that may be on the scene at ``t``: ``(id, arrival time, their own random generator)``.

    Time is cut into slots of ``every_s``; in each slot one actor arrives with probability ``chance``. Slots
    older than ``longest_s`` are not looked at, so an actor must have left by then.
    """
    last = int(t // every_s)
    for slot in range(max(0, last - int(longest_s // every_s) - 1), last + 1):
        rng = np.random.default_rng((seed, stream, slot))
        if rng.random() < chance:
            start = (slot + rng.random() * 0.8) * every_s
            if start <= t:
                yield stream * 1_000_000 + slot, start, rng


def noise_texture(
    rng: np.random.Generator, width: int, height: int, colour: tuple[float, float, float], strength: float
) -> BGR:
    """A patch of ground: ``colour`` (BGR) with noise on two scales, standard deviation ``strength`` grey
    levels."""
    fine = rng.normal(0, strength, (height, width, 1))
    coarse = cv2.resize(
        rng.normal(0, strength * 1.5, (height // 16 + 2, width // 16 + 2)),
        (width, height),
        interpolation=cv2.INTER_CUBIC,
    )
    return np.clip(np.array(colour) + fine + coarse[..., None], 0, 255).astype(np.uint8)
