"""What a device answers, as it must look to be believed."""

from __future__ import annotations

from pydantic import JsonValue

from edgectl.core.schema import Message

__all__ = ["HealthAnswer", "LeaseAnswer", "LogsAnswer", "ProbeAnswer", "SlotsAnswer"]


class ProbeAnswer(Message):
    facts: tuple[str, ...]
    runtimes: tuple[str, ...]


class LogsAnswer(Message):
    events: tuple[dict[str, JsonValue], ...]
    audit: tuple[tuple[float, str], ...]


class HealthAnswer(Message):
    health: dict[str, float]


class LeaseAnswer(Message):
    owner: str
    ttl_s: float


class SlotsAnswer(Message):
    slots: tuple[str, ...]
