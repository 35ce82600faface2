"""Somebody goes where, or as, nobody usually does.

The rule learns (:mod:`~edgectl.pipelines.rules.usual`) from every track that has ended. While a track goes on, each
new place on its way is more or less of a surprise. Surprises in a row add up (a cumulative sum, Page, Biometrika
1954), usual places take away from it; the highest sum so far is the track's score.

How high a score must be follows from the scores of the tracks before, each of which was computed before the track
was learned: with the limit at the m-th highest of D days, m / D tracks a day are expected above it if nothing has
changed (a conformal prediction: Vovk et al., Algorithmic Learning in a Random World, 2005). m is as large as
``alarms_per_day`` allows. What is above the limit moves it by a small step only (as in adaptive conformal inference,
Gibbs and Candès, NeurIPS 2021), however far above it is: a day of odd ones does not hide those of the next day. Such
tracks are learned as less than one: what comes again and again becomes usual, but not at once. The first days only
fill the memory, and nothing is told before ``1 / alarms_per_day`` days more were watched.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import Field

from edgectl.core.schema import Config
from edgectl.pipelines.rules.base import RuleConfig, RuleContext, RuleType
from edgectl.pipelines.rules.capability import Capability
from edgectl.pipelines.rules.observation import Observation, because, describe, wanted
from edgectl.pipelines.rules.predicate import Explained, Predicate, counts_as
from edgectl.pipelines.rules.usual import COLUMNS, ROWS, STOOD_S, UsualPaths, Visit
from edgectl.pipelines.stream.events import Event

__all__ = ["RULE", "UnusualPathConfig", "UnusualPathRule"]

_DAY_S = 86400.0
_FIRST_DAYS = 2.0
"""What is new then is not odd: there is nothing yet to compare it with."""
_WINDOW_DAYS = 5.0
"""Scores that are older are forgotten."""
_USUAL = 0.6
"""A surprise that neither adds to the sum nor takes from it."""
_RAISE = 0.03
"""How far one track can move the limit up."""
_TOLD_WORTH = 0.25
"""What was told is learned as so many tracks."""
_MOST_SCORES = 64
_MOST_VISITS = 96
"""Of one track that are learned."""
_MOST_LABELS = 4
_SMOOTH = 3
"""Sightings that a place is the mean of."""
_FADE_EVERY_S = 3600.0
_LONGEST_GAP_S = 60.0
"""What passes between two frames beyond this was not watched."""


class UnusualPathConfig(RuleConfig):
    class Unusual(Config):
        alarms_per_day: float = Field(default=0.8, gt=0, le=24)
        """So many tracks a day are told though nothing is wrong. It learns for the inverse, in days, at least."""
        half_life_days: float = Field(default=14.0, gt=0, le=365)
        """What was learned fades to half in so many days that it watched."""
        classes: tuple[str, ...] = ()
        """Labels that count; empty: all."""

    unusual_path: Unusual

    def label_names(self) -> tuple[str, ...]:
        return self.unusual_path.classes


@dataclass(slots=True)
class _Path:
    """Of one track. Places are relative to the frame."""

    label: str
    x: float
    y: float
    t: float
    """The place and time of the last visit; of who stands, the mean of the sightings."""
    recent: list[list[float]] = field(default_factory=list)
    """The last sightings: one box that jumps is no way."""
    n: int = 1
    """Sightings in this place."""
    since: float = 0.0
    """Since when it stands there, to within a step."""
    stood: int = 0
    """How many of :data:`STOOD_S` were noted."""
    sum_: float = 0.0
    score: float = 0.0
    told: bool = False
    visits: list[list[float | int | None]] = field(default_factory=list)


class UnusualPathRule:
    """Events ``unusual_path``, one for each track; ``capability`` while it has not watched long enough."""

    def __init__(self, config: UnusualPathConfig, context: RuleContext) -> None:
        self._c = config.unusual_path
        self._id = config.id
        self._labels = context.labels
        self._classes = wanted(self._c.classes, context.labels)
        self._usual: dict[str, UsualPaths] = {}
        self._paths: dict[int, _Path] = {}
        self._scores: list[tuple[float, float]] = []
        """The highest of the last days, with when they were, the highest first."""
        self._watched_s = 0.0
        self._faded_s = 0.0
        self._t: float | None = None
        self._capability = Capability(config.id, hold_s=0.0)

    @property
    def limit(self) -> float | None:
        """The score from which a track is unusual; None while too little was watched."""
        days = min(self._watched_s / _DAY_S - _FIRST_DAYS, _WINDOW_DAYS)
        m = math.floor(self._c.alarms_per_day * days + 1e-9)
        if m < 1:
            return None
        recent = [score for score, at in self._scores if self._watched_s - at <= days * _DAY_S]
        return recent[m - 1] if len(recent) >= m else None

    def step(self, now: Observation) -> list[Event]:
        if self._t is not None:
            self._watched_s += min(now.t - self._t, _LONGEST_GAP_S)
        self._t = now.t
        self._fade()
        for track in sorted(self._paths.keys() - now.alive):
            self._learn(self._paths.pop(track))
        limit = self.limit
        events = self._capability.step("learning" if limit is None else None, now.t)
        feet = now.points("bottom_center").tolist()
        width, height = now.tracks.width, now.tracks.height
        for row in now.rows:
            if now.cls[row] not in self._classes:
                continue
            x, y = feet[row][0] / width, feet[row][1] / height
            path = self._paths.get(now.ids[row])
            if path is None:
                label = self._labels[now.cls[row]]
                self._paths[now.ids[row]] = _Path(label, x, y, now.t, [[x, y, now.t]], since=now.t)
                continue
            for visit in _visits(path, x, y, now.t, height / width, now.heights[row] / width):
                self._judge(path, visit)
            if limit is not None and path.score > limit and not path.told:
                path.told = True
                events.append(self._event(now, row, path, limit))
        return events

    def explain(self, now: Observation) -> list[Explained]:
        limit = self.limit
        watched, needed = self._watched_s / _DAY_S, _FIRST_DAYS + 1 / self._c.alarms_per_day
        found = []
        for row in now.rows:
            path = self._paths.get(now.ids[row])
            asked = [
                Predicate("watched long enough to know", limit is not None, watched, needed, "days"),
                counts_as(now.cls[row], self._classes, self._labels),
            ]
            if path is not None and limit is not None:
                asked.append(Predicate("surprise on its way", path.score > limit, path.score, limit))
            found.append(Explained(now.ids[row], path is not None and path.told, tuple(asked)))
        return found

    def snapshot(self) -> dict[str, Any]:
        paths = {str(track): asdict(path) for track, path in self._paths.items()}
        return {**self.lasting(), "paths": paths, "t": self._t, "capability": self._capability.snapshot()}

    def restore(self, state: dict[str, Any]) -> None:
        self.recall(state)
        self._paths = {int(track): _Path(**path) for track, path in state["paths"].items()}
        self._t = state["t"]
        self._capability.restore(state["capability"])

    def lasting(self) -> dict[str, Any]:
        return {
            "usual": {label: paths.dump() for label, paths in self._usual.items()},
            "scores": [list(score) for score in self._scores],
            "watched_s": self._watched_s,
            "faded_s": self._faded_s,
        }

    def recall(self, state: dict[str, Any]) -> None:
        usual = {str(label): UsualPaths.of(paths) for label, paths in state["usual"].items()}
        scores = [(float(score), float(at)) for score, at in state["scores"][:_MOST_SCORES]]
        self._watched_s, self._faded_s = float(state["watched_s"]), float(state["faded_s"])
        self._usual, self._scores = usual, scores

    def _judge(self, path: _Path, visit: Visit) -> None:
        usual = self._of(path.label)
        surprise = usual.surprise(visit) if usual.tracks >= 1 else 0.0
        path.sum_ = max(0.0, path.sum_ + surprise - _USUAL)
        path.score = max(path.score, path.sum_)
        if len(path.visits) < _MOST_VISITS:
            path.visits.append([visit.x, visit.y, visit.dx, visit.dy, visit.stood])

    def _learn(self, path: _Path) -> None:
        """A track has ended."""
        if not path.visits:
            return
        limit = self.limit
        if self._watched_s >= _FIRST_DAYS * _DAY_S:
            score = path.score if limit is None else min(path.score, limit + _RAISE)
            oldest = self._watched_s - _WINDOW_DAYS * _DAY_S
            scores = [s for s in self._scores if s[1] >= oldest]
            self._scores = sorted([*scores, (score, self._watched_s)], reverse=True)[:_MOST_SCORES]
        visits = [Visit(*visit) for visit in path.visits]  # type: ignore[arg-type]
        self._of(path.label).learn(visits, _TOLD_WORTH if path.told else 1.0)

    def _of(self, label: str) -> UsualPaths:
        """Beyond a few labels, all others are one."""
        known = self._usual.get(label)
        if known is None:
            label = label if len(self._usual) < _MOST_LABELS - 1 else "*"
            known = self._usual.setdefault(label, UsualPaths())
        return known

    def _fade(self) -> None:
        passed = self._watched_s - self._faded_s
        if passed >= _FADE_EVERY_S:
            self._faded_s = self._watched_s
            share = 0.5 ** (passed / _DAY_S / self._c.half_life_days)
            for usual in self._usual.values():
                usual.fade(share)

    def _event(self, now: Observation, row: int, path: _Path, limit: float) -> Event:
        data = {
            **describe(now.tracks, row, self._labels),
            "alarms_per_day": self._c.alarms_per_day,
            "because": because("surprise on its way", path.score, limit, ""),
        }
        return Event("unusual_path", now.t, None, self._id, data)


def _visits(path: _Path, x: float, y: float, t: float, shape: float, size: float) -> list[Visit]:
    """What is new on a way, half a cell at a time, and after so long in one place.

    ``shape``: height over width of the frame; ``size``: height of the object over the frame's width.
    """
    path.recent = [*path.recent[1 - _SMOOTH :], [x, y, t]]
    x, y, t = (sum(values) / len(path.recent) for values in zip(*path.recent, strict=True))
    cells = math.hypot((x - path.x) * COLUMNS, (y - path.y) * ROWS)
    found: list[Visit] = []
    if cells >= 0.5:
        dt = max(t - path.t, 1e-3)
        dx, dy = (x - path.x) / size / dt, (y - path.y) * shape / size / dt
        steps = min(int(cells / 0.5), 16)
        for i in range(1, steps + 1):
            share = i / steps
            found.append(Visit(path.x + share * (x - path.x), path.y + share * (y - path.y), dx, dy))
        path.x, path.y, path.t, path.since, path.stood, path.n = x, y, t, t, 0, 1
        return found
    while path.stood < len(STOOD_S) and t - path.since >= STOOD_S[path.stood]:
        found.append(Visit(path.x, path.y, stood=path.stood))
        path.stood += 1
    if path.stood:
        path.t = t  # a speed is not measured over the time that it stood
        path.n += 1
        path.x, path.y = path.x + (x - path.x) / path.n, path.y + (y - path.y) / path.n
    return found


RULE = RuleType(
    UnusualPathConfig,
    UnusualPathRule,
    "somebody goes where, or as fast, or stands where nobody usually does, learned from the place: `unusual_path`",
)
