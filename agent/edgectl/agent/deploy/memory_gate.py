"""What the slots of this device may take of its memory: one gate for all of them, so that two that are deployed at the
same time do not count on the same bytes. What fits is decided in :mod:`edgectl.device_profiles.admission`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

from edgectl.core.memory import MIB
from edgectl.device_profiles.admission import RESERVE_MB, Admission, Demand, MemoryRoom, admit

__all__ = ["MemoryGate"]


class MemoryGate:
    """Thread-safe. ``room`` reads what is free, with the GPU's if that is asked for; as it is, nothing is known and
    nothing refused."""

    def __init__(
        self, room: Callable[[bool], MemoryRoom] = lambda gpu: MemoryRoom(), reserve_mb: int = RESERVE_MB
    ) -> None:
        self._room = room
        self._reserve = reserve_mb * MIB
        self._lock = threading.Lock()
        self._promised: dict[str, Demand] = {}
        self._borrowers: dict[str, Callable[[], None]] = {}
        self._drops = 0
        """How often something was taken that had been promised."""

    def look(self, slot: str, demand: Demand) -> Admission:
        """Whether it fits now; nothing is promised."""
        return self._judge(slot, demand, promise=False)

    def claim(self, slot: str, demand: Demand) -> Admission:
        """The same; unless it is refused it is promised to the slot, in place of what was, until :meth:`drop`."""
        return self._judge(slot, demand, promise=True)

    def lend(self, borrower: str, demand: Demand, give_back: Callable[[], None]) -> Admission:
        """The same for somebody who has to go as soon as a slot asks: ``give_back`` is called then, on the slot's thread,
        and the memory is free when it returns."""
        found = self._judge(borrower, demand, promise=True)
        if found.fits is not False:
            with self._lock:
                self._borrowers[borrower] = give_back
        return found

    def promised_besides(self, slots: Collection[str]) -> bool:
        """Whether others than these slots were promised something that they have not taken yet."""
        with self._lock:
            return any(slot not in slots for slot in self._promised)

    def drop(self, slot: str) -> None:
        """The slot has taken what it was promised, so that it shows in what is free; or does not want it any more."""
        with self._lock:
            self._borrowers.pop(slot, None)
            self._drops += self._promised.pop(slot, None) is not None

    def _judge(self, slot: str, demand: Demand, *, promise: bool) -> Admission:
        with self._lock:
            borrowers = [give_back for name, give_back in self._borrowers.items() if name != slot]
        for give_back in borrowers:
            give_back()
        while True:
            drops = self._drops
            # without the lock: the driver of a GPU may take seconds to answer, and no other slot is to wait for that
            room = self._room(demand.device is not None)
            with self._lock:
                if drops != self._drops:
                    continue  # what was read may be from before it was taken
                others = [d for name, d in self._promised.items() if name != slot]
                found = admit(demand, room, self._reserve, others)
                if promise and found.fits is False:
                    self._promised.pop(slot, None)
                elif promise:
                    self._promised[slot] = demand
                return found
