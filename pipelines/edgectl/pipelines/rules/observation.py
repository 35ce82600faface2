"""What a rule is: a pure function with memory from what was observed to events. No clock, no IO; seconds of
capture time only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.video.lanes import Lanes
from edgectl.pipelines.video.tracker import Tracks

__all__ = ["EDGE", "Observation", "Rule", "Seconds", "at_edge", "describe", "pixels", "wanted"]

EDGE = 0.01
"""What is drawn so near to the frame's edge (relative to the frame) is meant to reach it."""

Seconds = Annotated[float, Field(ge=0, le=86400)]


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known at one time of one stream."""

    tracks: Tracks
    t: float
    """Capture time, seconds; grows from step to step."""
    lanes: Lanes | None = None
    """The own lane; None where none is seen, and in a kind of pipeline that looks for none."""
    speed_mps: float | None = None
    """Of the own car; None where it is not known."""


class Rule(Protocol):
    def step(self, now: Observation) -> list[Event]:
        """What this makes happen. State of vanished tracks is dropped."""
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
