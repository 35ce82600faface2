"""What a rule is: a pure function with memory from what was observed to events. No clock, no IO; seconds of
capture time only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgectl.pipelines.rules.motion import Motion, still
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.stream.frame import Stamp
from edgectl.pipelines.video.attribute import Attribute
from edgectl.pipelines.video.lanes import Lanes
from edgectl.pipelines.video.tracker import Tracks

__all__ = [
    "EDGE",
    "Lasting",
    "Observation",
    "Resettable",
    "Rule",
    "Seconds",
    "Switchable",
    "Wall",
    "anchors",
    "at_edge",
    "because",
    "describe",
    "pixels",
    "shown_attributes",
    "wanted",
]

EDGE = 0.01
"""What is drawn so near to the frame's edge (relative to the frame) is meant to reach it."""

Seconds = Annotated[float, Field(ge=0, le=86400)]


@dataclass(frozen=True, slots=True)
class Wall:
    """The time of day of a frame, as far as its source knows it."""

    unix_s: float
    quality: str
    """As :data:`edgectl.pipelines.stream.frame.ClockQuality`."""

    @classmethod
    def of(cls, stamp: Stamp) -> Wall | None:
        """None where wall time means nothing (a file)."""
        offset = stamp.wall_offset_ns
        return None if offset is None else cls((stamp.t_ns + offset) / 1e9, stamp.quality)


@dataclass(frozen=True)
class Observation:
    """What is known at one time of one stream."""

    tracks: Tracks
    t: float
    """Capture time, seconds; grows from step to step."""
    lanes: Lanes | None = None
    """The own lane; None where none is seen, and in a kind of pipeline that looks for none."""
    speed_mps: float | None = None
    """Of the own car; None where it is not known."""
    wall: Wall | None = None
    """The time of day; None where it means nothing (a file)."""
    events: Sequence[Event] = ()
    """What the rules before this one made of this observation."""
    motion: Motion | None = None
    """How the tracks move; a :class:`RuleSet` gives it. None: nothing is known of them."""
    others: frozenset[int] = frozenset()
    """Tracks that are there and that the rule does not look at: it asks for other attributes."""

    @cached_property
    def ids(self) -> list[int]:
        """Of all tracks."""
        found: list[int] = self.tracks.ids.tolist()
        return found

    @cached_property
    def alive(self) -> frozenset[int]:
        """The same as a set."""
        return frozenset(self.ids)

    @cached_property
    def cls(self) -> list[int]:
        """Class numbers of all tracks."""
        found: list[int] = self.tracks.cls.tolist()
        return found

    @cached_property
    def rows(self) -> list[int]:
        """Rows of the tracks that are detected in this very frame."""
        found: list[int] = np.nonzero(self.tracks.seen)[0].tolist()
        return found

    @cached_property
    def moving(self) -> Motion:
        """:attr:`motion`, or that of tracks of which nothing is known."""
        return self.motion or still(self.tracks)

    def points(self, anchor: str) -> NDArray[np.float64]:
        """Anchors (N, 2) of all tracks, pixels."""
        return self._feet if anchor == "bottom_center" else self._centres

    @cached_property
    def heights(self) -> list[float]:
        """Of all boxes, pixels."""
        xyxy = self.tracks.xyxy
        found: list[float] = (xyxy[:, 3] - xyxy[:, 1]).tolist()
        return found

    @cached_property
    def trembles(self) -> list[float]:
        """Of all tracks: standard deviation of the foot's place in the direction in which it trembles more, pixels."""
        jitter = self.moving.jitter
        found: list[float] = np.maximum(jitter[:, 0], jitter[:, 1]).tolist()
        return found

    @cached_property
    def _feet(self) -> NDArray[np.float64]:
        return self.tracks.anchor("bottom_center").astype(np.float64)

    @cached_property
    def _centres(self) -> NDArray[np.float64]:
        return self.tracks.anchor("center").astype(np.float64)


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


@runtime_checkable
class Lasting(Protocol):
    """A rule that knows something which outlasts the tracks and the process: counts, what it has learned."""

    def lasting(self) -> dict[str, Any]:
        """As JSON values, of bounded size."""
        ...

    def recall(self, state: dict[str, Any]) -> None:
        """Go on from there. Raises KeyError, TypeError or ValueError for what :meth:`lasting` never said."""
        ...


def pixels(flat: Sequence[float], width: int, height: int) -> NDArray[np.float64]:
    """Relative x, y, x, y, … as points (N, 2) in pixels."""
    return np.array(flat, np.float64).reshape(-1, 2) * [width, height]


@runtime_checkable
class Switchable(Protocol):
    """A rule that can be armed and disarmed while it runs."""

    armed: bool

    def switch(self, on: bool) -> None: ...


@runtime_checkable
class Resettable(Protocol):
    """A rule whose counts can begin anew while it runs."""

    def reset(self) -> dict[str, Any]:
        """Begin anew. Returns what was counted so far, as JSON values."""
        ...


def anchors(
    xyxy: NDArray[np.float64], anchor: str, foot: tuple[float, float] = (0.5, 1.0)
) -> NDArray[np.float64]:
    """Points (N, 2) that stand for boxes (N, 4) of one object, which stands at ``foot`` in them (0..1)."""
    if anchor == "bottom_center" and foot != (0.5, 1.0):
        return xyxy[:, :2] + np.array(foot) * (xyxy[:, 2:] - xyxy[:, :2])
    x = (xyxy[:, 0] + xyxy[:, 2]) / 2
    y = xyxy[:, 3] if anchor == "bottom_center" else (xyxy[:, 1] + xyxy[:, 3]) / 2
    return np.stack([x, y], axis=1)


def at_edge(x: float, y: float) -> bool:
    """Whether a point, relative to the frame, lies at the frame's edge or beyond."""
    return min(x, y) <= EDGE or max(x, y) >= 1 - EDGE


def wanted(classes: Sequence[str], labels: Sequence[str]) -> frozenset[int]:
    """Class numbers of some labels; of all labels if none are named."""
    return frozenset(i for i, label in enumerate(labels) if not classes or label in classes)


def because(what: str, value: float, limit: float | None, unit: str, **more: Any) -> dict[str, Any]:
    """Why an event was made, as it stands in the event: what was measured, and the limit that it passed. ``value`` is
    None where it has no end, such as the depth inside a zone that is the whole picture: JSON has no word for that;
    ``limit`` is None where nothing is compared."""
    return {
        "what": what,
        "value": round(float(value), 3) if math.isfinite(value) else None,
        "limit": None if limit is None else round(float(limit), 3),
        "unit": unit,
        **more,
    }


def describe(tracks: Tracks, row: int, labels: Sequence[str]) -> dict[str, Any]:
    """The object in row ``row`` as an event shows it; ``box`` is xyxy in pixels of the frame. ``keypoints``, of what has
    some in this frame: name → x, y and confidence, of those that are seen. ``attributes``, where a second stage has
    decided some: part → ``value`` and ``score``."""
    track = int(tracks.ids[row])
    about: dict[str, Any] = {
        "track": track,
        "label": labels[int(tracks.cls[row])],
        "score": round(float(tracks.score[row]), 3),
        "box": [round(float(v), 1) for v in tracks.xyxy[row]],
        "frame_size": [tracks.width, tracks.height],
    }
    if tracks.keypoints is not None and (points := tracks.keypoints.named(row)):
        about["keypoints"] = points
    if found := tracks.attributes.get(track):
        about["attributes"] = shown_attributes(found)
    return about


def shown_attributes(found: Mapping[str, Attribute]) -> dict[str, Any]:
    """What is decided of an object, as an event shows it: part → ``value`` and ``score``."""
    return {part: {"value": a.value, "score": round(a.score, 3)} for part, a in sorted(found.items())}
