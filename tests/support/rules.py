"""Known walks for rules: what moves where, drawn as tracks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.rules import RuleSet
from edgectl.pipelines.rules.observation import Wall
from edgectl.pipelines.stream.events import Event
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
