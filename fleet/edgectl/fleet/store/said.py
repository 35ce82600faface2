"""What devices said and is not written yet: one batch a tick, instead of a transaction for every word. No IO.

Bounded: of each device its newest row, whatever it said before; the newest :data:`EVENTS` events, and the newest
:data:`MESSAGES` messages of telemetry. Where the database takes nothing for so long that more come, the oldest are
dropped and counted: who listens to devices waits for no disk.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field, replace

from edgectl.fleet.store.devices import Device

__all__ = ["EVENTS", "MESSAGES", "Batch", "SaidBuffer"]

EVENTS = 65_536
"""Events that wait at most."""
MESSAGES = 16_384
"""Messages of telemetry; packed, they take about 1 KB each."""


@dataclass
class Batch:
    """What is to be written together. Rows of devices are as they were when they were noted."""

    devices: dict[str, Device] = field(default_factory=dict)
    events: list[dict[str, object]] = field(default_factory=list)
    telemetry: list[dict[str, object]] = field(default_factory=list)
    anew: set[str] = field(default_factory=set)
    """Devices that count their starts anew."""

    def __bool__(self) -> bool:
        return bool(self.devices or self.events or self.telemetry or self.anew)


class SaidBuffer:
    """Thread-safe; nobody waits here."""

    def __init__(self, events: int = EVENTS, messages: int = MESSAGES) -> None:
        self._lock = threading.Lock()
        self._devices: dict[str, Device] = {}
        self._events = _Newest(events)
        self._telemetry = _Newest(messages)
        self._anew: set[str] = set()

    def note_device(self, d: Device) -> None:
        """In place of what was noted of it before. A later change of ``d`` changes nothing here."""
        with self._lock:
            self._devices[d.name] = replace(d)

    def note_event(self, row: dict[str, object]) -> None:
        with self._lock:
            self._events.add(row)

    def note_telemetry(self, row: dict[str, object]) -> None:
        with self._lock:
            self._telemetry.add(row)

    def note_anew(self, device: str) -> None:
        """What it sends from now on is not what it sent before under the same numbers."""
        with self._lock:
            self._anew.add(device)

    def __bool__(self) -> bool:
        return bool(self._devices or self._events.rows or self._telemetry.rows or self._anew)

    def take(self) -> Batch:
        """All of it. Whoever cannot write it gives it back."""
        with self._lock:
            batch = Batch(self._devices, self._events.take(), self._telemetry.take(), self._anew)
            self._devices, self._anew = {}, set()
            return batch

    def give_back(self, batch: Batch) -> None:
        """It was not written. What was noted since is newer."""
        with self._lock:
            self._devices = {**batch.devices, **self._devices}
            self._events.give_back(batch.events)
            self._telemetry.give_back(batch.telemetry)
            self._anew |= batch.anew

    def waiting(self) -> dict[str, int]:
        """How many rows there are, by what they are."""
        return {
            "devices": len(self._devices),
            "events": len(self._events.rows),
            "telemetry": len(self._telemetry.rows),
        }

    def dropped(self) -> int:
        """How many events and messages were dropped since this was asked last."""
        with self._lock:
            return self._events.count_dropped() + self._telemetry.count_dropped()


class _Newest:
    """Rows in order, at most so many."""

    def __init__(self, bound: int) -> None:
        self.rows: deque[dict[str, object]] = deque()
        self._bound = bound
        self._dropped = 0

    def add(self, row: dict[str, object]) -> None:
        self.rows.append(row)
        self._drop()

    def take(self) -> list[dict[str, object]]:
        taken, self.rows = list(self.rows), deque()
        return taken

    def give_back(self, rows: list[dict[str, object]]) -> None:
        self.rows.extendleft(reversed(rows))
        self._drop()

    def count_dropped(self) -> int:
        dropped, self._dropped = self._dropped, 0
        return dropped

    def _drop(self) -> None:
        while len(self.rows) > self._bound:
            self.rows.popleft()
            self._dropped += 1
