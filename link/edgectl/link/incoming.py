"""What a connection received and nobody has handled yet, bounded in messages and in bytes."""

from __future__ import annotations

import queue
from dataclasses import dataclass

__all__ = ["Incoming", "IncomingQueue"]


@dataclass(frozen=True)
class Incoming:
    """A message that came, or a new connection: no topic."""

    topic: str
    payload: bytes
    came_s: float
    """Monotonic."""
    retained: bool = False


class IncomingQueue(queue.Queue[Incoming | None]):
    """At most ``size`` messages, and about ``size_bytes`` of payload: a large one takes the places of
    several."""

    def __init__(self, size: int, size_bytes: int) -> None:
        self._places = 0
        self._place_bytes = max(1, size_bytes // size)
        super().__init__(size)

    def _qsize(self) -> int:
        return self._places

    def _put(self, item: Incoming | None) -> None:
        self._places += self._cost(item)
        super()._put(item)

    def _get(self) -> Incoming | None:
        item: Incoming | None = super()._get()
        self._places -= self._cost(item)
        return item

    def _cost(self, item: Incoming | None) -> int:
        return 1 + (len(item.payload) // self._place_bytes if item is not None else 0)
