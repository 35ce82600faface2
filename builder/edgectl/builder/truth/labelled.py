"""What a labelled set is, whatever layout it came in: pictures or recordings, and what is true of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgectl.builder.truth.shapes import TrueShape

__all__ = ["BODY_OF_BOX", "LabelledItem", "LabelledSet", "TrueClasses", "TrueObjects", "Truth", "TruthKind"]

BODY_OF_BOX = 0.53
"""Of a person's box that is the person: COCO measures keypoints by the area of the mask."""

TruthKind = Literal["boxes", "masks", "keypoints", "pixels", "class", "text"]


@dataclass(frozen=True)
class TrueObjects:
    """The objects of one picture. ``relative``: coordinates are 0..1 of the picture, and not pixels of it."""

    boxes: NDArray[np.float64]  # (N, 4): xyxy
    cls: NDArray[np.int32]  # (N,): index into the task's labels
    crowd: NDArray[np.bool_]  # (N,): a region of many objects, neither found nor missed
    areas: NDArray[np.float64]  # (N,): px² (or of the picture); of the mask, where the labels say it
    keypoints: NDArray[np.float64] | None = None  # (N, K, 3): x, y, 0 unknown, 1 hidden, 2 seen
    shapes: tuple[TrueShape | None, ...] | None = None
    relative: bool = False

    def __len__(self) -> int:
        return len(self.cls)

    def in_pixels(self, width: int, height: int) -> TrueObjects:
        """The same in pixels of a picture of ``width`` × ``height``."""
        if not self.relative:
            return self
        scale = np.asarray([width, height], np.float64)
        keypoints = None
        if self.keypoints is not None:
            keypoints = self.keypoints.copy()
            keypoints[..., :2] *= scale
        shapes = None
        if self.shapes is not None:
            shapes = tuple(None if s is None else s.scaled(width, height) for s in self.shapes)
        return replace(
            self,
            boxes=self.boxes * np.tile(scale, 2),
            areas=self.areas * width * height,
            keypoints=keypoints,
            shapes=shapes,
            relative=False,
        )

    @classmethod
    def of_boxes(
        cls, rows: Sequence[tuple[float, float, float, float, int]], *, relative: bool = False
    ) -> TrueObjects:
        """(x1, y1, x2, y2, class) each."""
        table = np.asarray(rows, np.float64).reshape(-1, 5)
        size = table[:, 2:4] - table[:, :2]
        return cls(
            table[:, :4],
            table[:, 4].astype(np.int32),
            np.zeros(len(table), bool),
            size.prod(axis=1),
            relative=relative,
        )


@dataclass(frozen=True)
class TrueClasses:
    """What each pixel of a picture is: a PNG file of class numbers (:mod:`edgectl.builder.truth.class_maps`), which is read when
    it is asked for. ``to``: number → index of the task's labels, -1 for one that is not judged; None: the same.
    ``moved``: added to each index."""

    file: Path
    to: tuple[int, ...] | None = None
    moved: int = 0


Truth = TrueObjects | TrueClasses | int | str
"""Objects of a picture, what its pixels are, the class of a picture or recording (index of the task's labels), or a line of
text."""


@dataclass(frozen=True)
class LabelledItem:
    """``size``: width and height of the picture as the labels state it; None where they do not."""

    path: Path
    truth: Truth
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class LabelledSet:
    """``layout``: what people call it. ``classes``: indices of the task's labels that the labels speak of: others are
    not judged. ``notes``: for the user."""

    layout: str
    kind: TruthKind
    items: tuple[LabelledItem, ...]
    classes: tuple[int, ...]
    notes: tuple[str, ...] = ()

    @property
    def objects(self) -> int:
        """How many there are to find, crowds left out; of classes and texts, how many items."""
        found = [i.truth for i in self.items]
        return sum(int((~t.crowd).sum()) if isinstance(t, TrueObjects) else 1 for t in found)
