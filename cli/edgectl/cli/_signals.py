"""SIGINT and SIGTERM as an event: services stop in good order. And a service that ends with the process
that started it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

__all__ = ["DIE_WITH_PARENT", "StopRequest", "follow_parent", "stop_event"]

DIE_WITH_PARENT = "EDGECTL_DIE_WITH_PARENT"
"""Environment variable: process id of the parent whose end ends this process, too."""
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


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


class StopRequest:
    """Turns the first SIGINT or SIGTERM within the block into an event. Before :meth:`arm`, and the second time, a signal
    does what it did outside: what is only beginning is not worth a good order.

    SIGHUP is another event, :attr:`reload`, unless it says that the terminal is gone."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.reload = threading.Event()
        """Somebody wants the configuration read again."""
        self._had_terminal = _has_terminal()
        self.number: int | None = None
        """Of the signal that came."""
        self._armed = False
        self._before: dict[int, Any] = {}

    def arm(self) -> None:
        self._armed = True

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        hung_up = number == signal.SIGHUP and self._had_terminal and not _has_terminal()
        if number == signal.SIGHUP and self._armed and not hung_up:
            self.reload.set()
            return
        if not self._armed or self.event.is_set():
            before = self._before[number]
            if callable(before):
                before(number, frame)
            elif number == signal.SIGHUP:
                self.event.set()
            return
        self.number = number
        self.event.set()


def _has_terminal() -> bool:
    """Whether there is one that signals come from."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def follow_parent() -> None:
    """Where :data:`DIE_WITH_PARENT` asks for it: SIGTERM from the kernel when the parent ends, even by a
    crash or SIGKILL."""
    parent = os.environ.pop(DIE_WITH_PARENT, None)
    if parent is None:
        return
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it ended before we asked
        sys.exit(128 + signal.SIGTERM)
