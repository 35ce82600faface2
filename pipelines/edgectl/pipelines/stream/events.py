"""What a stream says: an event, and the JSON record it becomes on its way out.

Rules make :class:`Event` values from capture time alone, so that the same tracks give the same events. Wall
time, latency and ids are added here, at the edge.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgectl.core.uri import redact_values
from edgectl.pipelines.stream.frame import Stamp

__all__ = ["SCHEMA", "Event", "EventWriter", "is_update"]

SCHEMA = "edgectl.event/1"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. ``phase``: ``new``/``update``/``end``, ``enter``/``leave``,
    ``start``/``end``, a warning level."""

    type: str
    """``line_crossing``, ``zone``, ``capability`` …: what rules and pipelines call it."""
    t_s: float
    """Capture time, seconds."""
    phase: str | None = None
    rule: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    """JSON values; becomes part of the record's top level."""


class EventWriter:
    """Numbers the events of one stream and adds what only the edge knows. Usable from several threads."""

    def __init__(self, stream: str, *, releases: Mapping[str, str] | None = None) -> None:
        self._stream = stream
        self._count = itertools.count()
        self._lock = threading.Lock()
        self.releases = dict(releases or {})
        """Slot → release that made the events."""

    def record(self, event: Event, stamp: Stamp, *, now_ns: int | None = None) -> dict[str, Any]:
        """The JSON object of an event that was found in the frame (or stretch of audio) of ``stamp``.

        ``id`` sorts by time; ``time`` is Unix seconds, or null for a file; ``latency_ms`` counts from the
        moment the decoded frame was available to ``now_ns``.
        """
        with self._lock:
            number = next(self._count)
        offset = stamp.wall_offset_ns
        wall = None if offset is None else event.t_s + offset / 1e9
        record: dict[str, Any] = {
            "schema": SCHEMA,
            "id": f"{event.t_s if wall is None else wall:017.6f}-{number:06d}",
            "type": event.type,
            "stream": self._stream,
            "seq": stamp.seq,
            "t_s": round(event.t_s, 6),
            "time": None if wall is None else round(wall, 6),
            "clock": stamp.quality,
        }
        if event.phase is not None:
            record["phase"] = event.phase
        if event.rule is not None:
            record["rule"] = event.rule
        if now_ns is not None:
            record["latency_ms"] = round((now_ns - stamp.avail_ns) / 1e6, 3)
        if self.releases:
            record["releases"] = dict(self.releases)
        data: dict[str, Any] = redact_values(event.data)
        return {**record, **data}


def is_update(record: Mapping[str, Any]) -> bool:
    """Whether later events say again what this one says: it may be lost first, where something must."""
    return record.get("type") == "tracked_object" and record.get("phase") == "update"
