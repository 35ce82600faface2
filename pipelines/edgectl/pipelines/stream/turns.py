"""Which frame an engine takes next, of the streams that share it: earliest deadline first.

No thread and no clock in here. A stream's turn is due at the deadline of the frame that waited first; a newer
frame that takes its place takes over the turn, too. Else a stream of long deadlines and many frames would never
have its turn beside one of short deadlines (Liu and Layland, 1973, say nothing of jobs that replace each other).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Seat", "Turns"]

T = TypeVar("T")


class Seat(Generic[T]):
    """The frames of one stream that wait for an engine, oldest first."""

    __slots__ = ("due_ns", "items", "ready", "since_ns", "size")

    def __init__(self, size: int, ready: Callable[[], bool]) -> None:
        self.size = size
        self.ready = ready
        """Whether the stream can take another result."""
        self.items: deque[tuple[T, int]] = deque()
        """Frames and their deadlines."""
        self.due_ns = 0
        """Of its turn."""
        self.since_ns = 0
        """Since when it waits for its turn."""


class Turns(Generic[T]):
    def __init__(self) -> None:
        self.seats: list[Seat[T]] = []

    def offer(self, seat: Seat[T], item: T, due_ns: int, now_ns: int) -> T | None:
        """Let a frame wait. Returns the one that has to go for it: the oldest of a full seat."""
        if not seat.items:
            seat.due_ns, seat.since_ns = due_ns, now_ns
        displaced = seat.items.popleft()[0] if len(seat.items) >= seat.size else None
        seat.items.append((item, due_ns))
        return displaced

    def take(self, now_ns: int) -> tuple[Seat[T], T] | None:
        """The next frame, and whose it is; None if no stream has one that it could take the result of. Of two
        turns due at once the one that waits longer is first."""
        best: Seat[T] | None = None
        for seat in self.seats:
            if (
                seat.items
                and seat.ready()
                and (best is None or (seat.due_ns, seat.since_ns) < (best.due_ns, best.since_ns))
            ):
                best = seat
        if best is None:
            return None
        item = best.items.popleft()[0]
        if best.items:
            best.due_ns, best.since_ns = best.items[0][1], now_ns
        return best, item
