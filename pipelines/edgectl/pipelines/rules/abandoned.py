"""A thing that was left: it stands still, and whoever brought it is gone.

The owner is who was nearest when the thing was first seen standing, within ``reach`` of the owner's own heights.
Without one the rule does not guess: such a thing is told after ``unowned_s``, or never.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import Field

from edgectl.core.schema import Config
from edgectl.pipelines.rules.alarms import Alarms, Judged
from edgectl.pipelines.rules.base import RuleConfig, RuleContext, RuleType
from edgectl.pipelines.rules.observation import Observation, Seconds, because, wanted
from edgectl.pipelines.rules.predicate import Explained, Predicate, counts_as
from edgectl.pipelines.rules.still import Stillness
from edgectl.pipelines.stream.events import Event

__all__ = ["RULE", "AbandonedConfig", "AbandonedRule"]


class AbandonedConfig(RuleConfig):
    class LeftBehind(Config):
        zone: str
        """Name of the zone."""
        things: tuple[str, ...] = Field(min_length=1)
        """Labels of what can be left: suitcase, backpack."""
        owners: tuple[str, ...] = ("person",)
        """Labels of who can leave it."""
        seconds: float = Field(default=30.0, gt=0, le=86400)
        """So long after its owner has gone."""
        reach: float = Field(default=1.5, gt=0, le=20)
        """Within so many of the owner's heights it belongs to the owner; farther, and the owner is gone."""
        unowned_s: Seconds | None = None
        """So long a thing stands that nobody was seen to bring. none: it is not told."""

    abandoned: LeftBehind

    def zone_names(self) -> tuple[str, ...]:
        return (self.abandoned.zone,)

    def label_names(self) -> tuple[str, ...]:
        return (*self.abandoned.things, *self.abandoned.owners)


@dataclass(slots=True)
class _Thing:
    owner: int | None
    near: float
    """When the owner was last near; of a thing without owner when it was first seen standing."""
    since: float
    """When it came to stand here: who carries it on is seen, too."""


class AbandonedRule:
    """Events ``abandoned`` with phase ``start`` and ``end``; ``owner`` is the owner's track, or null."""

    def __init__(self, config: AbandonedConfig, context: RuleContext) -> None:
        c = config.abandoned
        self._c = c
        self._zone = context.zones[c.zone]
        self._things, self._owners = wanted(c.things, context.labels), wanted(c.owners, context.labels)
        self._still = Stillness()
        self._known: dict[int, _Thing] = {}
        self._alarms = Alarms("abandoned", config.id, context.labels, hold_s=0.0, clear_s=1.0)

    def step(self, now: Observation) -> list[Event]:
        self._still.step(now)
        for track in [track for track in self._known if track not in now.alive]:
            del self._known[track]
        return self._alarms.step(now, self._judge(now))

    def explain(self, now: Observation) -> list[Explained]:
        labels = self._zone.labels
        return self._alarms.explain(now, lambda row: (counts_as(now.cls[row], self._things, labels),))

    def snapshot(self) -> dict[str, Any]:
        known = {str(track): asdict(thing) for track, thing in self._known.items()}
        return {"still": self._still.snapshot(), "known": known, "alarms": self._alarms.snapshot()}

    def restore(self, state: dict[str, Any]) -> None:
        self._still.restore(state["still"])
        self._known = {int(track): _Thing(**thing) for track, thing in state["known"].items()}
        self._alarms.restore(state["alarms"])

    def _judge(self, now: Observation) -> Iterator[Judged]:
        feet = now.points("bottom_center").tolist()
        owners = [(row, now.ids[row]) for row in range(len(now.ids)) if now.cls[row] in self._owners]
        for row in now.rows:
            track = now.ids[row]
            if now.cls[row] not in self._things:
                continue
            here = self._zone.predicate(track)
            if not here.holds:  # it was carried out
                known = self._known.get(track)
                owner = None if known is None else known.owner
                yield Judged(row, (here,), {"zone": self._zone.name, "owner": owner})
                continue
            near = {
                owner: apart
                for at, owner in owners
                if (apart := math.dist(feet[row], feet[at])) <= self._c.reach * now.heights[at]
            }
            standing = self._still.tracks[track]
            thing = self._known.get(track)
            if thing is None or thing.since != standing.since:  # new, or carried on
                nearest = min(near, key=lambda owner: near[owner], default=None)
                thing = self._known[track] = _Thing(nearest, now.t, standing.since)
            elif thing.owner is None and near and now.t - thing.since <= 1.0:
                thing.owner = min(near, key=lambda owner: near[owner])
            if thing.owner in near:
                thing.near = now.t
            limit = self._c.seconds if thing.owner is not None else self._c.unowned_s
            alone = now.t - thing.near
            what = "nobody brought it" if thing.owner is None else "its owner has gone"
            why = (
                because(what, alone, math.inf if limit is None else limit, "s") if limit is not None else None
            )
            data = {"zone": self._zone.name, "owner": thing.owner, "because": why}
            told = limit is not None and alone >= limit - 1e-9
            yield Judged(
                row,
                (
                    here,
                    Predicate(what, told, alone, limit, "s", thing.near),
                ),
                data,
            )


RULE = RuleType(
    AbandonedConfig,
    AbandonedRule,
    "a thing stands still and its owner has gone: `abandoned`, phase `start`, `end`, with the `owner`'s track",
)
