"""Known walks for rules: what moves where, drawn as tracks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.rules import RuleSet
from edgectl.pipelines.rules.observation import Wall
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.video.keypoints import COCO_NAMES, COCO_SKELETON, KeypointLayout, Keypoints
from edgectl.pipelines.video.tracker import Tracks

LABELS = ("person", "vehicle", "suitcase")
SQUARE = {"polygon": [0.2, 0.2, 0.8, 0.2, 0.8, 0.8, 0.2, 0.8]}

Thing = tuple[int, float, float, int, float, float]
"""Track, x and y of the foot, class, width and height; pixels."""


def thing(track: int, x: float, y: float, cls: int = 0, width: float = 40, height: float = 80) -> Thing:
    return track, x, y, cls, width, height


def seen(*things: Thing) -> Tracks:
    """Tracks in a frame of 1000 × 1000."""
    rows = np.array([t[1:] for t in things], np.float64).reshape(len(things), 5)
    x, y, width, height = rows[:, 0], rows[:, 1], rows[:, 3], rows[:, 4]
    boxes = np.stack([x - width / 2, y - height, x + width / 2, y], axis=1).astype(np.float32)
    n = len(things)
    return Tracks(
        np.array([t[0] for t in things], np.int64),
        boxes,
        np.full(n, 0.9, np.float32),
        rows[:, 2].astype(np.int32),
        np.ones(n, np.bool_),
        1000,
        1000,
    )


def rule_set(*rules: dict[str, Any], labels: Sequence[str] = LABELS, **more: Any) -> RuleSet:
    """With the zone ``yard``, the middle of the picture."""
    zones = {"yard": SQUARE, **more.pop("zones", {})}
    return RuleSet(parse_config("surveillance", {"zones": zones, "rules": list(rules), **more}), labels)


def play(
    rules: RuleSet,
    where: Callable[[float], Iterable[Thing]],
    seconds: float,
    *,
    start: float = 0.0,
    fps: float = 10.0,
    wall: float | None = None,
    drop: float = 0.0,
    sigma: float = 0.0,
    seed: int = 0,
) -> list[Event]:
    """What the rules make of ``where(t)``. ``wall``: Unix time at ``t`` 0. ``sigma``: noise of the foot, pixels."""
    rng = np.random.default_rng(seed)
    events = []
    for frame in range(round(seconds * fps)):
        t = start + frame / fps
        things = [
            (i, x + rng.normal(0, 1) * sigma, y + rng.normal(0, 1) * sigma, *rest)
            for i, x, y, *rest in where(t)
        ]
        if rng.random() >= drop:
            day = None if wall is None else Wall(wall + t, "arrival")
            events += rules.step(seen(*things), t, wall=day)  # type: ignore[arg-type]
    return events


def of(events: Iterable[Event], type_: str) -> list[Event]:
    return [e for e in events if e.type == type_]


def phases(events: Iterable[Event], type_: str) -> list[tuple[str | None, float]]:
    """Phase and time of the events of a type."""
    return [(e.phase, round(e.t_s, 3)) for e in of(events, type_)]


def person(
    track: int, x: float, y: float, *, tall: float = 170, lean: float = 0, legs: float | None = None
) -> tuple[Thing, NDArray[np.float32]]:
    """Somebody with keypoints whose foot is at ``x``, ``y``; ``tall`` pixels; the torso leans ``lean`` degrees to the
    right, the legs ``legs`` (as the torso, unless given) around the foot. Shares of the stature as they are of
    people."""
    spine, thighs = (np.radians(a) for a in (lean, lean if legs is None else legs))
    foot = np.array([x, y])
    leg, up = (np.array([np.sin(a), -np.cos(a)]) * tall for a in (thighs, spine))
    hips = foot + 0.530 * leg
    places = {"ankle": foot + 0.039 * leg, "knee": foot + 0.285 * leg, "hip": hips}
    places |= {"shoulder": hips + 0.288 * up, "ear": hips + 0.4 * up, "nose": hips + 0.41 * up}
    points = np.zeros((17, 3), np.float32)
    for i, name in enumerate(COCO_NAMES):
        if (joint := name.split("_")[-1]) in places:
            points[i] = (*places[joint], 0.9)
    shown = points[points[:, 2] > 0, :2]
    low, high = np.minimum(shown.min(0), foot) - 10, np.maximum(shown.max(0), foot) + 10
    width, height = (high - low).tolist()
    return (track, (low[0] + high[0]) / 2, high[1], 0, width, height), points


def seen_people(*people: tuple[Thing, NDArray[np.float32]]) -> Tracks:
    """Tracks with keypoints, in a frame of 1000 × 1000."""
    points = np.stack([p for _, p in people]) if people else np.zeros((0, 17, 3), np.float32)
    layout = KeypointLayout(COCO_NAMES, COCO_SKELETON)
    return dataclasses.replace(seen(*(t for t, _ in people)), keypoints=Keypoints(points, layout))
