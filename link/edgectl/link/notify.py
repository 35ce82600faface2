"""Tell systemd how we are (``sd_notify``). Without ``$NOTIFY_SOCKET`` nothing happens: then nobody asked."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

__all__ = ["Watchdog", "notify", "watchdog_interval_s"]


def notify(*lines: str) -> None:
    """Send e.g. ``READY=1``, ``STATUS=…``, ``WATCHDOG=1`` or ``STOPPING=1``."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    if path.startswith("@"):
        path = "\0" + path[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
        s.connect(path)
        s.sendall("\n".join(lines).encode())


def watchdog_interval_s() -> float | None:
    """Half of what systemd allows between two ``WATCHDOG=1``; None if it does not watch."""
    us = os.environ.get("WATCHDOG_USEC", "")
    return int(us) / 2e6 if us.isdigit() and int(us) else None


class Watchdog:
    """Tells systemd that there is progress, as often as it wants to hear it. Not thread-safe: one loop
    feeds it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._every_s = watchdog_interval_s()
        self._next_s = clock()

    def feed(self) -> None:
        """There was progress."""
        now = self._clock()
        if self._every_s is not None and now >= self._next_s:
            self._next_s = now + self._every_s
            notify("WATCHDOG=1")
