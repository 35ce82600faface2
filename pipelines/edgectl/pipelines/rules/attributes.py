"""Rules for some tracks only: those of which a second stage has decided that they are what is asked for.

Such a rule sees the other tracks no more than if they were not there, from the frame on in which an attribute is
another one. What is not decided yet is never what is asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field

from edgectl.core.schema import Name
from edgectl.pipelines.rules.observation import Observation
from edgectl.pipelines.rules.predicate import Predicate
from edgectl.pipelines.video.attribute import Attribute

__all__ = ["AttributesAsked", "asked_of", "only_with"]


def _one_or_many(asked: Any) -> Any:
    """``gear: no-helmet`` is a list of one."""
    if not isinstance(asked, dict):
        return asked
    return {part: (values,) if isinstance(values, str) else values for part, values in asked.items()}


_Values = Annotated[tuple[str, ...], Field(min_length=1, max_length=256)]
AttributesAsked = Annotated[dict[Name, _Values], BeforeValidator(_one_or_many), Field(max_length=4)]
"""Part of a second stage → the values that count. Of several parts each is asked."""


def only_with(now: Observation, asked: Mapping[str, Sequence[str]]) -> Observation:
    """What a rule sees that asks for attributes."""
    of = now.tracks.attributes
    keep = [_has(of.get(track, {}), asked) for track in now.ids]
    if all(keep):
        return now
    mask = np.array(keep, np.bool_)
    return dataclasses.replace(
        now,
        tracks=now.tracks.select(mask),
        motion=None if now.motion is None else now.motion.select(mask),
        others=frozenset(track for track, kept in zip(now.ids, keep, strict=True) if not kept),
    )


def asked_of(found: Mapping[str, Attribute], asked: Mapping[str, Sequence[str]]) -> tuple[Predicate, ...]:
    """That each attribute of a track is one of those that count, in words."""
    said = []
    for part, values in asked.items():
        has = found.get(part)
        what = f"{part} is {' or '.join(values)}"
        if has is None or has.value not in values:
            what += f" (it is {'undecided' if has is None else has.value})"
        said.append(Predicate(what, has is not None and has.value in values))
    return tuple(said)


def _has(found: Mapping[str, Attribute], asked: Mapping[str, Sequence[str]]) -> bool:
    return all((has := found.get(part)) is not None and has.value in values for part, values in asked.items())
