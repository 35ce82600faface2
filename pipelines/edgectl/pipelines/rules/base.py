"""What a rule is: a pure function with memory, (tracks, t) → events. No clock, no IO; seconds of capture
time only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.video.tracker import Tracks

__all__ = ["EDGE", "Rule", "at_edge", "describe", "pixels", "wanted"]

EDGE = 0.01
"""What is drawn so near to the frame's edge (relative to the frame) is meant to reach it."""


class Rule(Protocol):
    def step(self, tracks: Tracks, t: float) -> list[Event]:
        """What these tracks at time ``t`` make happen. ``t`` grows from call to call; state of vanished
        tracks is dropped."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """The state as JSON values."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot. Track ids in it must still mean the same objects."""
        ...


def pixels(flat: Sequence[float], width: int, height: int) -> NDArray[np.float64]:
    """Relative x, y, x, y, … as points (N, 2) in pixels."""
    return np.array(flat, np.float64).reshape(-1, 2) * [width, height]


def at_edge(x: float, y: float) -> bool:
    """Whether a point, relative to the frame, lies at the frame's edge or beyond."""
    return min(x, y) <= EDGE or max(x, y) >= 1 - EDGE


def wanted(classes: Sequence[str], labels: Sequence[str]) -> frozenset[int]:
    """Class numbers of some labels; of all labels if none are named."""
    return frozenset(i for i, label in enumerate(labels) if not classes or label in classes)


def describe(tracks: Tracks, row: int, labels: Sequence[str]) -> dict[str, Any]:
    """The object in row ``row`` as an event shows it; ``box`` is xyxy in pixels of the frame."""
    return {
        "track": int(tracks.ids[row]),
        "label": labels[int(tracks.cls[row])],
        "score": round(float(tracks.score[row]), 3),
        "box": [round(float(v), 1) for v in tracks.xyxy[row]],
        "frame_size": [tracks.width, tracks.height],
    }
