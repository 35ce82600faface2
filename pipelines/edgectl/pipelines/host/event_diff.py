"""What two configurations said of the same tracks: which events both told, and which only one. Pure."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass

from edgectl.pipelines.stream.events import Event

__all__ = ["EventDiff", "compare"]


@dataclass(frozen=True)
class EventDiff:
    """Events in order of their time."""

    both: tuple[tuple[Event, Event], ...]
    """Before and now; their times and data may differ."""
    gone: tuple[Event, ...]
    """Only before."""
    new: tuple[Event, ...]
    """Only now."""


def compare(before: Iterable[Event], now: Iterable[Event], *, within_s: float) -> EventDiff:
    """Events are the same where they have one type, phase, rule and object, and are at most ``within_s`` apart;
    each has one partner at most, the earliest that is left."""
    waiting: dict[tuple[object, ...], deque[Event]] = defaultdict(deque)
    gone: list[Event] = []
    for event in sorted(before, key=lambda e: e.t_s):
        waiting[_key(event)].append(event)
    both: list[tuple[Event, Event]] = []
    new: list[Event] = []
    for event in sorted(now, key=lambda e: e.t_s):
        partners = waiting[_key(event)]
        while partners and partners[0].t_s < event.t_s - within_s:
            gone.append(partners.popleft())
        if partners and partners[0].t_s <= event.t_s + within_s:
            both.append((partners.popleft(), event))
        else:
            new.append(event)
    gone += [event for partners in waiting.values() for event in partners]
    return EventDiff(tuple(both), tuple(sorted(gone, key=lambda e: e.t_s)), tuple(new))


def _key(event: Event) -> tuple[object, ...]:
    return event.type, event.phase, event.rule, event.data.get("track"), event.data.get("direction")
