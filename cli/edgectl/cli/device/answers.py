"""What a device answers, as it must look to be believed."""

from __future__ import annotations

from pydantic import JsonValue

from edgectl.core.schema import Message

__all__ = ["Health", "LeaseAnswer", "Logs", "Probe", "Slots"]


class Probe(Message):
    facts: tuple[str, ...]
    runtimes: tuple[str, ...]


class Logs(Message):
    events: tuple[dict[str, JsonValue], ...]
    audit: tuple[tuple[float, str], ...]


class Health(Message):
    health: dict[str, float]


class LeaseAnswer(Message):
    owner: str
    ttl_s: float


class Slots(Message):
    slots: tuple[str, ...]
