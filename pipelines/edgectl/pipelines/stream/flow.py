"""The hand-over from the capture thread to the engine thread: latest wins for cameras, everybody waits for
files."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Generic, Literal, Protocol, TypeVar

from pydantic import Field

from edgectl.core.schema import Config

__all__ = ["Fifo", "FlowConfig", "Handover", "LatestSlot"]

T = TypeVar("T")


class FlowConfig(Config):
    mode: Literal["auto", "latest", "every"] = "auto"
    """``auto``: cameras and paced sources latest, files every frame."""
    max_age_ms: float | None = Field(default=None, gt=0, le=600_000)
    """A frame older than this when it is taken is dropped (``stale``)."""
    target_fps: float | None = Field(default=None, gt=0, le=1000)
    """Frames beyond that are dropped (``gated``); None: none are."""


class Handover(Protocol[T]):
    def put(self, item: T) -> T | None:
        """Hand an item over. Returns the item that will now never be taken: the one it displaced, or
        itself once closed."""
        ...

    def take(self, timeout_s: float) -> T | None:
        """The next item, or None after ``timeout_s`` or when closed and empty."""
        ...

    def close(self) -> None:
        """No more items; what is inside may still be taken. Wakes everybody."""
        ...

    @property
    def finished(self) -> bool:
        """Closed and empty."""
        ...


class LatestSlot(Generic[T]):
    """Room for one: a new item displaces the old one. ``put`` never blocks."""

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._item: T | None = None
        self._closed = False

    def put(self, item: T) -> T | None:
        with self._ready:
            if self._closed:
                return item
            displaced, self._item = self._item, item
            self._ready.notify()
            return displaced

    def take(self, timeout_s: float) -> T | None:
        with self._ready:
            self._ready.wait_for(lambda: self._item is not None or self._closed, timeout_s)
            item, self._item = self._item, None
            return item

    def close(self) -> None:
        with self._ready:
            self._closed = True
            self._ready.notify_all()

    @property
    def finished(self) -> bool:
        with self._ready:
            return self._closed and self._item is None


class Fifo(Generic[T]):
    """Room for ``size`` items, in order; ``put`` waits for room."""

    def __init__(self, size: int = 2) -> None:
        self._change = threading.Condition()
        self._items: deque[T] = deque()
        self._size = size
        self._closed = False

    def put(self, item: T) -> T | None:
        with self._change:
            self._change.wait_for(lambda: len(self._items) < self._size or self._closed)
            if self._closed:
                return item
            self._items.append(item)
            self._change.notify_all()
            return None

    def take(self, timeout_s: float) -> T | None:
        deadline = time.monotonic() + timeout_s
        with self._change:
            self._change.wait_for(lambda: self._items or self._closed, max(0.0, deadline - time.monotonic()))
            if not self._items:
                return None
            item = self._items.popleft()
            self._change.notify_all()
            return item

    def close(self) -> None:
        with self._change:
            self._closed = True
            self._change.notify_all()

    @property
    def finished(self) -> bool:
        with self._change:
            return self._closed and not self._items
