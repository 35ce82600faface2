"""Looks at all devices for the rules of alerts, a piece with every tick: no tick takes longer for it than a piece does."""

from __future__ import annotations

from collections import deque

from edgectl.fleet.alerts.facts import DeviceFacts
from edgectl.fleet.control.alert_watch import AlertWatch
from edgectl.fleet.control.devices import Devices

__all__ = ["AlertRound"]

_PIECE = 5000
"""Devices of one tick, under their lock: a tenth of a second at most."""


class AlertRound:
    def __init__(self, devices: Devices, watch: AlertWatch) -> None:
        self._devices = devices
        self._watch = watch
        self._to_look: deque[str] = deque()
        self._found: list[DeviceFacts] = []

    def look(self, now_s: float, hears_since_s: float) -> tuple[DeviceFacts, ...] | None:
        """Look at the next ones. Returns what was found of all once the last was looked at; the next call begins
        again. None: there are more."""
        with self._devices.lock:
            if not self._to_look:
                self._to_look, self._found = deque(d.name for d in self._devices.all()), []
            for _ in range(min(_PIECE, len(self._to_look))):
                d = self._devices.get(self._to_look.popleft())
                if d is not None and d.conn is not None and not self._devices.is_revoked(d.name):
                    self._found.append(self._watch.facts(d, now_s, hears_since_s))
        return None if self._to_look else tuple(self._found)
