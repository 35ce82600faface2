"""What is known of each device: what it said last, and what is wanted of it. No waiting for the broker here.

Handlers run on the dispatcher thread, with whatever anybody may publish. :attr:`Devices.lock` is theirs, too, so whoever takes it must not
wait for the network while he has it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from edgectl.core.errors import EdgectlError, ProtocolError, TrustError
from edgectl.core.files import check_name
from edgectl.core.schema import parse_json
from edgectl.core.wire import MAX_MESSAGE_BYTES, Conn, Reported, Telemetry, Topics
from edgectl.fleet.commands import Numbers
from edgectl.fleet.inventory import Device, Inventory
from edgectl.fleet.publisher import Publisher
from edgectl.fleet.rollout import DeviceView
from edgectl.fleet.trust import Director
from edgectl.fleet.watch import LatencyBook
from edgectl.link.mqtt import Handler

__all__ = ["Devices", "from_device"]

log = logging.getLogger(__name__)


def from_device(topics: Topics, handle: Callable[[str, bytes], None]) -> Handler:
    """A handler for topics of devices that calls ``handle(device, payload)``, and logs the :class:`EdgectlError` of what makes no sense."""

    def handler(topic: str, payload: bytes) -> None:
        levels = topics.parse(topic)
        if levels is None or not payload:
            return
        try:
            handle(check_name(levels[1]), payload)  # who is called otherwise could not be answered: names become topics
        except ValueError as e:
            log.warning("%s: %s", topic, e)
        except EdgectlError as e:
            log.warning("%s: %s", topic, e.message)

    return handler


class Devices:
    def __init__(
        self,
        inventory: Inventory,
        latency: LatencyBook,
        director: Director,
        numbers: Numbers,
        publisher: Publisher,
        wake: threading.Event,
    ) -> None:
        """Begins with what the inventory remembers. ``latency`` is written under the lock; ``wake`` is set when there is something to do."""
        self.lock = threading.RLock()
        """Guards every device here, and what is decided from them: a step of a rollout is taken under it."""
        self._inventory = inventory
        self._latency = latency
        self._director = director
        self._numbers = numbers
        self._publisher = publisher
        self._wake = wake
        self._known = inventory.devices()
        self._former: dict[str, int] = {}
        """Devices that count their starts anew: how far they had come before."""

    def __getitem__(self, device: str) -> Device:
        return self._known[device]

    def get(self, device: str) -> Device | None:
        return self._known.get(device)

    def all(self) -> list[Device]:
        """By name."""
        with self.lock:
            return sorted(self._known.values(), key=lambda d: d.name)

    def enroll(self, device: str) -> None:
        """Make a device known before it says anything. Raises :class:`StorageError`."""
        with self.lock:
            self._keep(self._known.get(device) or Device(device))

    def views(self) -> dict[str, DeviceView]:
        """Devices that were ever there, as the planner sees them."""
        with self.lock:
            return {
                d.name: DeviceView(
                    name=d.name,
                    online=d.conn.online,
                    seen_s=d.seen_s,
                    slots=frozenset(d.conn.slots),
                    labels=d.conn.labels,
                    desired=d.desired.slots,
                    reported=d.reported.slots if d.reported else {},
                    gen=d.desired.gen,
                    clear=d.desired.clear,
                )
                for d in self._known.values()
                if d.conn is not None
            }

    # ---- from the broker (dispatcher thread)

    def on_conn(self, device: str, payload: bytes) -> None:
        """Birth or death."""
        conn = parse_json(Conn, payload, max_bytes=MAX_MESSAGE_BYTES, what="birth or death")
        with self.lock:
            d = self._known.get(device) or Device(device)
            if d.conn is not None and conn.epoch < d.conn.epoch:
                if not conn.online:
                    return  # the death of an earlier start
                # It counts its starts anew: another disk, or an old image of this one. What it said before is over.
                self._former[device] = d.conn.epoch
                self._latency.forget(device)
                self._inventory.log("device", device, f"start {conn.epoch} after start {d.conn.epoch}: its state was replaced")
            if not conn.online and self._is_former(d, conn.epoch):
                return
            if not conn.online and d.conn is not None:
                conn = d.conn.model_copy(update={"online": False, "clean": conn.clean, "epoch": conn.epoch})
            if conn != d.conn:
                d.conn, d.seen_s = conn, time.time()
                self._keep(d)

    def on_reported(self, device: str, payload: bytes) -> None:
        reported = parse_json(Reported, payload, max_bytes=MAX_MESSAGE_BYTES, what="report")
        with self.lock:
            d = self._known.get(device) or Device(device)
            if d.reported is not None and (reported.epoch, reported.seq) <= (d.reported.epoch, d.reported.seq):
                born = d.conn.epoch if d.conn is not None else None
                if not (reported.epoch == born != d.reported.epoch):
                    return
            if self._is_former(d, reported.epoch):
                return
            if self._numbers.heard(reported.heard, time.time()):
                self._inventory.log("trust", device, f"has seen number {reported.heard}, above ours: numbers go on there")
                self._publisher.state_changed()
            before = {slot: r.state for slot, r in d.reported.slots.items()} if d.reported else {}
            d.reported, d.seen_s = reported, time.time()
            self._keep(d)
            for slot, r in reported.slots.items():
                if r.state is not before.get(slot):
                    detail = f": {r.error.detail or r.error.code}" if r.error else ""
                    self._inventory.log("state", f"{device}/{slot}", f"{r.release or '-'} {r.state.value}{detail}")
        self._wake.set()

    def on_telemetry(self, device: str, payload: bytes) -> None:
        telemetry = parse_json(Telemetry, payload, max_bytes=MAX_MESSAGE_BYTES, what="telemetry")
        with self.lock:
            d = self._known.get(device)
            if d is None:
                return  # its birth comes first
            if self._latency.add(device, telemetry) and not telemetry.replay:
                d.seen_s = time.time()

    def on_desired(self, device: str, payload: bytes) -> None:
        """Our own word, retained: after a lost database this is where the generation goes on."""
        try:
            desired = self._director.open(device, payload)
        except (TrustError, ProtocolError) as e:
            with self.lock:
                if d := self._known.get(device):
                    self._inventory.log("trust", device, f"a desired state that is not ours was on the broker: {e.message}")
                    self._publisher.tell(device, d.desired)
                    self._wake.set()
            raise
        with self.lock:
            d = self._known.get(device) or Device(device)
            if desired.gen > d.desired.gen:
                d.desired = desired
                self._keep(d)
                self._publisher.tell(device, desired)  # we may have written an older one over it meanwhile
            elif desired.gen < d.desired.gen:
                # Ours, but not what we want now: a device that asks the broker must not get it.
                self._publisher.tell(device, d.desired)

    def _is_former(self, d: Device, epoch: int) -> bool:
        """Of a start from before the device began to count anew."""
        return d.conn is not None and d.conn.epoch < epoch <= self._former.get(d.name, -1)

    def _keep(self, d: Device) -> None:
        self._known[d.name] = d
        self._inventory.save_device(d)
