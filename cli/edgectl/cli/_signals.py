"""SIGINT and SIGTERM as an event: services stop in good order."""

from __future__ import annotations

import signal
import threading

__all__ = ["stop_event"]


def stop_event() -> threading.Event:
    """An event that the first SIGINT or SIGTERM sets; a second SIGINT interrupts at once."""
    event = threading.Event()

    def stop(number: int, frame: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    return event
