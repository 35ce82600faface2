"""Guards the controller's retained messages: one that somebody deletes or overwrites is reported and put back.

Whether a message is ours, and when to put it back: :mod:`edgectl.fleet.broker.retained`. Desired documents
come in at :meth:`edgectl.fleet.control.devices.Devices.on_desired`, because a newer one may be ours from
before the database was lost.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from edgectl.core.errors import EdgectlError
from edgectl.core.wire import ControllerState, Topics
from edgectl.fleet.broker.publisher import Publisher
from edgectl.fleet.broker.retained import Arrival
from edgectl.fleet.control.blobs import BlobStore
from edgectl.fleet.control.devices import Devices
from edgectl.fleet.keys.trust import Director
from edgectl.fleet.store.inventory import Inventory

__all__ = ["RetainedGuard"]

log = logging.getLogger(__name__)

_PAGES_S = 60.0


class RetainedGuard:
    def __init__(
        self,
        topics: Topics,
        publisher: Publisher,
        devices: Devices,
        director: Director,
        inventory: Inventory,
        wake: threading.Event,
        blobs: BlobStore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``wake`` is set when there is something for :meth:`put_back`; ``clock``: monotonic seconds."""
        self._topics = topics
        self._publisher = publisher
        self._devices = devices
        self._director = director
        self._inventory = inventory
        self._wake = wake
        self._blobs = blobs
        self._clock = clock
        self._pages_s = clock() + _PAGES_S

    def on_own(self, topic: str, payload: bytes) -> None:
        """From the broker: our state, or the signed metadata, as it has them now."""
        if self._publisher.arrival_of(topic, payload) is not Arrival.OTHER:
            return
        self._wake.set()
        change = "overwritten" if payload else "deleted"
        if topic == self._topics.trust:
            self._tell(f"the signed metadata were {change} at the broker, and are put back")
            return
        other = self._state_in(payload)
        if other is not None and not other.online:
            log.info("the will of a controller that is gone took the place of our state, which is put back")
        elif other is not None:
            began = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(other.epoch))
            self._tell(
                f"another controller speaks for this fleet, too (it began at {began}): stop one of the two"
            )
        else:
            self._tell(f"the state of the controller was {change} at the broker, and is put back")

    def put_back(self) -> None:
        """Have published again what the broker no longer keeps, as far as it is time to."""
        for topic in self._publisher.lost():
            levels = self._topics.parse(topic) or ()
            if topic == self._topics.ctl:
                self._publisher.state_changed()
            elif topic == self._topics.trust:
                self._publisher.trust_changed()
            elif len(levels) > 1 and (d := self._devices.get(levels[1])) is not None:
                self._publisher.tell(d.name, d.desired)
        if self._clock() >= self._pages_s:
            self._pages_s = self._clock() + _PAGES_S
            self._offer_again()

    def _offer_again(self) -> None:
        """Manifest pages of what is being fetched. They are too many to listen to, and a device that finds
        none asks the broker, not us."""
        for spec, _ in self._inventory.rollouts(active=True).values():
            try:
                self._publisher.offer(self._blobs.offered(spec.digest))
            except EdgectlError as e:
                # it was told of when it was offered first
                log.debug("%s is not offered again: %s", spec.release, e.message)

    def _state_in(self, payload: bytes) -> ControllerState | None:
        """A state that devices would believe, or a will."""
        try:
            return self._director.open_state(payload)
        except EdgectlError:
            return None

    def _tell(self, what: str) -> None:
        self._inventory.log("broker", self._topics.fleet, what)
        log.warning("%s", what)
