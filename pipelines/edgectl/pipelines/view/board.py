"""What the page shows beside the pictures: each stream's numbers and its last events with their pictures."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from edgectl.core.errors import BusyError
from edgectl.core.uri import redact
from edgectl.core.wire import StreamStats
from edgectl.pipelines.view.absence import absence
from edgectl.pipelines.view.rolling import RollingStats

if TYPE_CHECKING:
    from edgectl.pipelines.sinks.base import Record

__all__ = ["MAX_EVENTS", "Board"]

MAX_EVENTS = 50
"""Of each stream: of tracked objects, and others."""
_MAX_LISTENERS = 32
_LEFT_OUT = frozenset({"schema", "releases", "box", "keypoints", "frame_size", "start_s"})
"""Of an event: what a person does not read on the page."""


@dataclass(slots=True)
class _Shown:
    kind: str
    source: str
    pictures: bool
    stats: RollingStats = field(default_factory=RollingStats)
    updated_s: float = 0.0
    """On the monotonic clock."""
    events: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MAX_EVENTS))
    objects: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MAX_EVENTS))
    """Events of tracked objects: there are many, and what a rule says must not go for them."""
    snapshots: OrderedDict[str, bytes] = field(default_factory=OrderedDict)


class Board:
    """Safe for any thread. Whoever listens is rung when an event or its picture is new."""

    def __init__(self) -> None:
        self._entries: dict[str, _Shown] = {}
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []
        self._numbers = 0
        self.over = False

    def add(self, stream: str, kind: str, source: str, *, pictures: bool) -> None:
        """A stream, in the order in which the page shows them. ``source``: its URI."""
        with self._lock:
            self._entries[stream] = _Shown(kind, redact(source), pictures)

    @property
    def streams(self) -> tuple[str, ...]:
        return tuple(self._entries)

    def __contains__(self, stream: object) -> bool:
        return stream in self._entries

    # -- from the streams ---------------------------------------------------------------------------------------------

    def update(self, stream: str, stats: StreamStats) -> None:
        """A window of numbers."""
        with self._lock:
            entry = self._entries[stream]
            entry.updated_s = time.monotonic()
            entry.stats.add(stats, entry.updated_s)

    def mark(self, stream: str, state: str, reason: str | None) -> None:
        """It does not run; ``state``: what it does instead."""
        with self._lock:
            entry = self._entries[stream]
            entry.stats.mark(entry.kind, state, reason)

    def heard(self, record: Record) -> None:
        """An event. Updates of tracked objects are left out: there are too many for a person."""
        if record["type"] == "tracked_object" and record.get("phase") == "update":
            return
        with self._lock:
            entry = self._entries[record["stream"]]
            self._numbers += 1
            shown = {key: value for key, value in record.items() if key not in _LEFT_OUT}
            among = entry.objects if record["type"] == "tracked_object" else entry.events
            among.append({**shown, "number": self._numbers, "snapshot": record["id"] in entry.snapshots})
        self._ring()

    def keep(self, stream: str, ids: Sequence[str], jpeg: bytes) -> None:
        """The picture of some events."""
        with self._lock:
            entry = self._entries[stream]
            for about in ids:
                entry.snapshots[about] = jpeg
            while len(entry.snapshots) > 2 * MAX_EVENTS:
                entry.snapshots.popitem(last=False)
            self._numbers += 1
            for event in (*entry.events, *entry.objects):
                if event["id"] in ids:
                    event |= {"number": self._numbers, "snapshot": True}
        self._ring()

    # -- for the page -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def listen(self, ring: Callable[[], None]) -> Iterator[None]:
        """``ring`` is called, from any thread, when there is something new. Raises :class:`BusyError` when too many
        listen."""
        with self._lock:
            if len(self._listeners) >= _MAX_LISTENERS:
                raise BusyError(f"{_MAX_LISTENERS} pages are open already", hint="close one of them")
            self._listeners.append(ring)
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(ring)

    def close(self) -> None:
        """Whoever listens is told that nothing comes any more."""
        self.over = True
        self._ring()

    def about(self) -> list[dict[str, Any]]:
        """Each stream with its numbers, and why there is no picture, where there is none; JSON values."""
        with self._lock:
            found = []
            for name, entry in self._entries.items():
                now = entry.stats.now()
                about = {"name": name, "kind": entry.kind, "source": entry.source, "pictures": entry.pictures}
                live = None if now is None else _json(now)
                if live is not None and live["retry_s"] is not None:
                    live["retry_s"] = max(0.0, live["retry_s"] - (time.monotonic() - entry.updated_s))
                found.append(about | {"live": live, "absence": absence(live)})
            return found

    def events(self, since: int = 0) -> list[dict[str, Any]]:
        """Of all streams, those whose ``number`` is above ``since``, in the order in which they happened. An event
        that gets its picture has a new number, and comes again."""
        with self._lock:
            found = [
                dict(e)
                for entry in self._entries.values()
                for e in (*entry.events, *entry.objects)
                if e["number"] > since
            ]
        return sorted(found, key=lambda event: (event["id"], event["number"]))

    def snapshot(self, stream: str, event: str) -> bytes | None:
        """The JPEG of an event, or None if it has none (any more)."""
        entry = self._entries.get(stream)
        return None if entry is None else entry.snapshots.get(event)

    def _ring(self) -> None:
        for ring in list(self._listeners):
            ring()


def _json(now: Any) -> dict[str, Any]:
    return {**asdict(now), "frames": now.frames.model_dump(mode="json")}
