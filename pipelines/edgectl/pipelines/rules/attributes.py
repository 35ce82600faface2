"""Rules for some tracks only: those of which a second stage has decided that they are what is asked for.

Such a rule sees the other tracks no more than if they were not there, from the frame on in which an attribute is
another one. What is not decided yet is never what is asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Protocol

import numpy as np
from pydantic import BeforeValidator, Field

from edgectl.core.schema import Name
from edgectl.pipelines.rules.observation import Observation
from edgectl.pipelines.rules.predicate import Explained, Predicate
from edgectl.pipelines.video.attribute import Attribute

__all__ = ["AttributeFilter", "AttributesAsked"]


def _one_or_many(asked: Any) -> Any:
    """``gear: no-helmet`` is a list of one."""
    if not isinstance(asked, dict):
        return asked
    return {part: (values,) if isinstance(values, str) else values for part, values in asked.items()}


_Values = Annotated[tuple[str, ...], Field(min_length=1, max_length=256)]
AttributesAsked = Annotated[dict[Name, _Values], BeforeValidator(_one_or_many), Field(max_length=4)]
"""Part of a second stage → the values that count. Of several parts each is asked."""


class ZoneView(Protocol):
    """A zone as a rule sees it (:class:`~edgectl.pipelines.rules.zone.ZoneRule`)."""

    def show(self, whole: Any, tracks: Collection[int]) -> None: ...


class AttributeFilter:
    """What one rule sees that asks for attributes."""

    def __init__(self, asked: Mapping[str, Sequence[str]], zones: Mapping[str, ZoneView]) -> None:
        """``zones``: as the rule sees them, by name."""
        self._asked = asked
        self._zones = zones
        self._seen: frozenset[int] = frozenset()
        """Tracks that it saw in the last step: it still sees them go."""

    def step(self, now: Observation, zones: Mapping[str, Any]) -> Observation:
        """Before the rule's own step. ``zones``: those of all tracks, which have taken theirs."""
        seen = self.seen(now)
        visible = (self._seen - now.alive) | seen.alive
        for name, zone in self._zones.items():
            zone.show(zones[name], visible)
        self._seen = seen.alive
        return seen

    def seen(self, now: Observation) -> Observation:
        of = now.tracks.attributes
        keep = [_has(of.get(track, {}), self._asked) for track in now.ids]
        if all(keep):
            return now
        mask = np.array(keep, np.bool_)
        return dataclasses.replace(
            now,
            tracks=now.tracks.select(mask),
            motion=None if now.motion is None else now.motion.select(mask),
            others=frozenset(track for track, kept in zip(now.ids, keep, strict=True) if not kept),
        )

    def explain(self, now: Observation, found: Sequence[Explained]) -> list[Explained]:
        """What the rule said of the tracks that it sees, with what was asked before that; and of the others why it
        does not see them."""
        of = now.tracks.attributes
        said = [
            one
            if one.track is None
            else dataclasses.replace(one, asked=(*self._predicates(of.get(one.track, {})), *one.asked))
            for one in found
        ]
        unseen = {now.ids[row] for row in now.rows} - self._seen
        return [*said, *(Explained(i, False, self._predicates(of.get(i, {}))) for i in sorted(unseen))]

    def snapshot(self) -> list[int]:
        return sorted(self._seen)

    def restore(self, state: Sequence[int]) -> None:
        self._seen = frozenset(state)

    def _predicates(self, found: Mapping[str, Attribute]) -> tuple[Predicate, ...]:
        """That each attribute of a track is one of those that count, in words."""
        said = []
        for part, values in self._asked.items():
            has = found.get(part)
            what = f"{part} is {' or '.join(values)}"
            if has is None or has.value not in values:
                what += f" (it is {'undecided' if has is None else has.value})"
            said.append(Predicate(what, has is not None and has.value in values))
        return tuple(said)


def _has(found: Mapping[str, Attribute], asked: Mapping[str, Sequence[str]]) -> bool:
    return all((has := found.get(part)) is not None and has.value in values for part, values in asked.items())
