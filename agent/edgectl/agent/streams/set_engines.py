"""The engines that come into force with a configuration: what a stream runs in the place of what its slots have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from edgectl.agent.config import StreamConfig
from edgectl.core.schema import Message
from edgectl.pipelines.host.protocol import EngineRef

__all__ = ["PartRef", "SetRef", "Wanted", "engines_of"]


class PartRef(Message):
    """One part of a set on this device."""

    part: str
    slot: str
    engine: EngineRef


class SetRef(EngineRef):
    """Where a configuration lies that names the engines of its parts."""

    parts: tuple[PartRef, ...]


class Wanted(NamedTuple):
    """What a stream is to run, as one."""

    config: dict[str, Any]
    engines: Mapping[str, EngineRef]
    """Part → engine, of the parts that the set names; the others run what their slots have."""


def engines_of(stream: StreamConfig, ref: EngineRef | None) -> dict[str, EngineRef]:
    """Part → what it runs by the configuration ``ref`` of its slot; empty where that is no set. A slot that is new in
    ``agent.toml`` has, until the set is installed anew, what another slot has for the same part."""
    if not isinstance(ref, SetRef):
        return {}
    found = {}
    for part, slot in stream.slots.items():
        of_part = [one for one in ref.parts if one.part == part]
        here = [one for one in of_part if one.slot == slot] or of_part
        if here:
            found[part] = here[0].engine
    return found
