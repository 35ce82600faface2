"""Desired documents that operators have to sign, too: what waits for them, and what they have signed.
Thread-safe."""

from __future__ import annotations

from pathlib import Path

from edgectl.core.errors import EdgectlError
from edgectl.core.files import atomic_write, storage
from edgectl.core.wire import Desired
from edgectl.fleet.keys.trust import Director
from edgectl.fleet.store.inventory import Inventory

__all__ = ["Countersignatures"]


class Countersignatures:
    def __init__(self, folder: Path, director: Director, inventory: Inventory) -> None:
        """``folder`` keeps what operators have signed last, for each device."""
        self._folder = folder
        self._director = director
        self._inventory = inventory
        self._waiting: dict[str, bytes] = {}

    def waiting(self) -> dict[str, bytes]:
        """Device → its document, with the signatures of the controller."""
        return dict(self._waiting)

    def seal(self, device: str, desired: Desired) -> bytes | None:
        """The document with every signature that it needs. None: it waits for :meth:`take`, and the device
        for it."""
        sealed = self._director.seal(device, desired)
        payload = self._taken(device, desired) if sealed.missing else sealed.payload
        if payload is not None:
            self._waiting.pop(device, None)
        elif self._waiting.get(device) != sealed.payload:
            self._inventory.log(
                "trust", device, f"generation {desired.gen} waits for {sealed.missing} more signatures"
            )
            self._waiting[device] = sealed.payload
        return payload

    def take(self, device: str, payload: bytes, gen: int) -> None:
        """Keep what operators have signed; the caller has opened it. Raises :class:`StorageError`."""
        atomic_write(self._folder / f"{device}.json", payload, mode=0o600)
        self._waiting.pop(device, None)
        self._inventory.log("trust", device, f"generation {gen} is approved")

    def forget(self, device: str) -> None:
        """It has left the fleet."""
        self._waiting.pop(device, None)
        with storage(str(self._folder)):
            (self._folder / f"{device}.json").unlink(missing_ok=True)

    def _taken(self, device: str, desired: Desired) -> bytes | None:
        """What operators have signed of what is wanted now."""
        try:
            payload = (self._folder / f"{device}.json").read_bytes()
            return payload if self._director.open(device, payload) == desired else None
        except (OSError, EdgectlError):
            return None
