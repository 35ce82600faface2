"""Keypoints of objects: named points of a body, a hand, a plate, and the skeleton that joins them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["COCO_NAMES", "COCO_SKELETON", "SURE", "KeypointLayout", "Keypoints", "Point"]

SURE = 0.5
"""A point of less confidence is not drawn, not told and asked nothing."""

COCO_NAMES = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear"),
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    *("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
)
"""The 17 points of a person, in the order of COCO."""

COCO_SKELETON = (
    *(("left_ankle", "left_knee"), ("left_knee", "left_hip"), ("right_ankle", "right_knee")),
    *(("right_knee", "right_hip"), ("left_hip", "right_hip"), ("left_shoulder", "left_hip")),
    *(("right_shoulder", "right_hip"), ("left_shoulder", "right_shoulder"), ("left_shoulder", "left_elbow")),
    *(("right_shoulder", "right_elbow"), ("left_elbow", "left_wrist"), ("right_elbow", "right_wrist")),
    *(("left_eye", "right_eye"), ("nose", "left_eye"), ("nose", "right_eye"), ("left_eye", "left_ear")),
    *(("right_eye", "right_ear"), ("left_ear", "left_shoulder"), ("right_ear", "right_shoulder")),
)
"""Points that are joined, as COCO joins them."""


@dataclass(frozen=True)
class KeypointLayout:
    """What the points of a model are. ``names[i]`` names point ``i``; ``skeleton`` joins them by name."""

    names: tuple[str, ...]
    skeleton: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for names that are not there, or there twice."""
        if len(set(self.names)) < len(self.names):
            raise ValueError("keypoints has a name twice")
        if unknown := {name for pair in self.skeleton for name in pair} - set(self.names):
            raise ValueError(f"skeleton names {min(unknown)!r}, which is no keypoint")

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Name → place."""
        return {name: i for i, name in enumerate(self.names)}

    @cached_property
    def bones(self) -> tuple[tuple[int, int], ...]:
        """The skeleton by places."""
        return tuple((self.index[a], self.index[b]) for a, b in self.skeleton)


class Point(NamedTuple):
    """Pixels of the frame."""

    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Keypoints:
    """The points of several objects, a row for each."""

    points: NDArray[np.float32]  # (N, K, 3): x and y in pixels of the frame, confidence 0..1
    layout: KeypointLayout

    def __len__(self) -> int:
        return len(self.points)

    @classmethod
    def joined(cls, parts: Sequence[Keypoints]) -> Keypoints:
        """All rows of one or more of one layout."""
        return cls(np.concatenate([p.points for p in parts]), parts[0].layout)

    @property
    def sure(self) -> NDArray[np.bool_]:
        """(N, K): which points are seen."""
        seen: NDArray[np.bool_] = self.points[..., 2] >= SURE
        return seen

    def select(self, index: NDArray[Any]) -> Keypoints:
        """Rows by boolean mask or index."""
        return Keypoints(self.points[index], self.layout)

    def of_rows(self, rows: NDArray[np.int64]) -> Keypoints:
        """Rows by index; -1 is a row without points: their confidence is 0."""
        points = np.zeros((len(rows), *self.points.shape[1:]), np.float32)
        known = rows >= 0
        points[known] = self.points[rows[known]]
        return Keypoints(points, self.layout)

    def named(self, row: int) -> dict[str, list[float]]:
        """The points of a row that are seen: name → x, y (pixels, to a tenth) and confidence."""
        return {
            name: [round(x, 1), round(y, 1), round(c, 2)]
            for name, (x, y, c) in zip(self.layout.names, self.points[row].tolist(), strict=True)
            if c >= SURE
        }

    def middle(self, row: int, *names: str) -> Point | None:
        """The mean of those of the named points that are seen; None where none of them is."""
        index = self.layout.index
        found = [self.points[row, index[name]].tolist() for name in names if name in index]
        seen = [(x, y) for x, y, c in found if c >= SURE]
        if not seen:
            return None
        return Point(sum(x for x, _ in seen) / len(seen), sum(y for _, y in seen) / len(seen))
