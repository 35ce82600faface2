"""Results in the order in which their frames came, however long each of them takes and wherever it is made."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

__all__ = ["InOrder", "Place"]

T = TypeVar("T")


class Place(Generic[T]):
    """A place in the order. It is settled, or given up, once."""

    __slots__ = ("item", "open")

    def __init__(self) -> None:
        self.open = True
        self.item: T | None = None


class InOrder(Generic[T]):
    """One thread takes places, any thread settles them, one thread takes the items: always the first place's
    item first. A place that is given up is passed over."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._places: deque[Place[T]] = deque()
        self._ended = self._aborted = False

    def place(self) -> Place[T]:
        """The next place: behind all before."""
        place: Place[T] = Place()
        with self._change:
            if not self._aborted:
                self._places.append(place)
        return place

    def settle(self, place: Place[T], item: T) -> bool:
        """Fill a place. False: nobody takes items any more."""
        with self._change:
            if self._aborted:
                return False
            place.open, place.item = False, item
            if self._first() is place:
                self._change.notify_all()
            return True

    def give_up(self, place: Place[T]) -> None:
        """Nothing comes in this place."""
        with self._change:
            place.open = False
            if self._first() is not None or self.finished:
                self._change.notify_all()

    def take(self, timeout_s: float) -> T | None:
        """The item of the first place. None after ``timeout_s``, or when :attr:`finished`."""
        with self._change:
            self._change.wait_for(lambda: self._first() is not None or self.finished, timeout_s)
            place = self._first()
            if place is None:
                return None
            self._places.popleft()
            return place.item

    def ready(self, most: int) -> int:
        """How many items could be taken one after the other, counted up to ``most``."""
        with self._change:
            self._first()
            n = 0
            for place in self._places:
                if place.open or n == most:
                    break
                n += place.item is not None
            return n

    def end(self) -> None:
        """No more places; what was begun is still waited for."""
        with self._change:
            self._ended = True
            self._change.notify_all()

    def abort(self) -> list[T]:
        """Nobody takes items any more. Returns those that are left."""
        with self._change:
            left = [place.item for place in self._places if place.item is not None]
            self._places.clear()
            self._ended = self._aborted = True
            self._change.notify_all()
            return left

    @property
    def finished(self) -> bool:
        """Ended, and nothing is left or on its way."""
        with self._change:
            self._first()
            return self._ended and not self._places

    def _first(self) -> Place[T] | None:
        """The first place, if it is settled."""
        while self._places and not self._places[0].open and self._places[0].item is None:
            self._places.popleft()
        return self._places[0] if self._places and not self._places[0].open else None
