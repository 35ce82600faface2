"""What is known of each device: what it said last, and what is wanted of it. No waiting for the broker here.

Handlers run on the dispatcher thread, with whatever anybody may publish. :attr:`Devices.lock` is theirs, too,
so whoever takes it must not wait for the network while he has it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from edgectl.core.errors import ProtocolError, TrustError, UsageError
from edgectl.core.schema import parse_json
from edgectl.core.wire import MAX_GEN, MAX_MESSAGE_BYTES, Conn, Desired, Reported, Telemetry, Topics
from edgectl.fleet.broker.publisher import Publisher
from edgectl.fleet.broker.retained import Arrival
from edgectl.fleet.control.commands import SequenceNumbers
from edgectl.fleet.control.device_views import DeviceViews
from edgectl.fleet.control.presence import Claim, Claims, is_news
from edgectl.fleet.control.telemetry_view import LatencyBook
from edgectl.fleet.keys.trust import Director
from edgectl.fleet.rollouts.groups import DeviceGroup
from edgectl.fleet.rollouts.planner import DeviceView
from edgectl.fleet.store.inventory import Device, Inventory

__all__ = ["BELIEVED_GEN", "Devices"]

log = logging.getLogger(__name__)

BELIEVED_GEN = MAX_GEN // 2
"""Generations that a device claims to have seen count up to here."""


class Devices:
    def __init__(
        self,
        inventory: Inventory,
        latency: LatencyBook,
        director: Director,
        numbers: SequenceNumbers,
        publisher: Publisher,
        wake: threading.Event,
        topics: Topics,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        retained: Callable[[], bool] = lambda: False,
    ) -> None:
        """Begins with what the inventory remembers. ``latency`` is written under the lock; ``wake`` is set
        when there is something to do; ``clock``: monotonic seconds; ``now``: Unix time of the deadlines of
        rollouts (:class:`edgectl.core.clock.SteadyWall`); ``retained``: whether the message that is being
        handled lay on the broker when we connected."""
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
        self._topics = topics
        self._clock = clock
        self._now = now
        self._retained = retained
        self._seen: dict[str, float] = {}
        """Device → when it was heard last, in the time that deadlines are in."""
        self._views = DeviceViews(inventory)
        self._claims: dict[str, Claims] = {}
        self._contested: set[str] = set()
        self._silent: dict[str, str | None] = {}
        """Device that is away because nothing was heard → its instance."""
        for d in self._known.values():
            if d.conn is not None and d.conn.online:
                self._claims_of(d.name).birth(d.conn, 0.0)
        self._revoked = inventory.revoked()
        self._removed = {a.device.name for a in inventory.archived()} - self._known.keys()
        self._told_of: set[str] = set()
        """Devices that were removed and still speak."""

    def __getitem__(self, device: str) -> Device:
        return self._known[device]

    def get(self, device: str) -> Device | None:
        return self._known.get(device)

    def all(self) -> list[Device]:
        """By name."""
        with self.lock:
            return sorted(self._known.values(), key=lambda d: d.name)

    def enroll(self, device: str, *, again: bool = False) -> bool:
        """Make a device known before it says anything; True if it was not. Whatever was said of it when it
        was removed or revoked is over.

        Raises :class:`UsageError` for one that is known, unless it is to be enrolled ``again``;
        :class:`StorageError`.
        """
        with self.lock:
            known = self._known.get(device)
            if known is not None and device not in self._revoked and not again:
                raise UsageError(
                    f"{device} is in the fleet already",
                    hint="--again writes its files once more; two machines with one identity mislead everybody",
                )
            self._decide(
                self._forget_start(known)
                if known is not None and device in self._revoked
                else known or self._once_more(device)
            )
            self._inventory.mark_revoked(device, False)
            self._revoked.discard(device)
            self._removed.discard(device)
            self._told_of.discard(device)
            return known is None

    def remove(self, device: str, *, purge: bool) -> None:
        """Take a device out of the fleet, and have the broker keep nothing of it. From then on nobody listens
        to it.

        Raises :class:`UsageError` for one that nobody knows, :class:`StorageError`.
        """
        with self.lock:
            known = self._known.get(device)
            if known is None:
                raise UsageError(f"there is no device {device}", hint="`edgectl fleet devices` lists them")
            self._inventory.archive(known, purge=purge)
            for of_devices in (
                self._known,
                self._claims,
                self._former,
                self._seen,
                self._silent,
            ):
                of_devices.pop(device, None)
            self._views.forget(device)
            self._contested.discard(device)
            self._revoked.discard(device)
            self._removed.add(device)
            self._latency.remove(device)
            self._publisher.clear(device)

    def revoke(self, device: str) -> None:
        """Its certificate was taken away: no rollout counts on it any more. Raises :class:`UsageError`,
        :class:`StorageError`."""
        with self.lock:
            if device not in self._known:
                raise UsageError(f"there is no device {device}", hint="`edgectl fleet devices` lists them")
            self._inventory.mark_revoked(device, True)
            self._revoked.add(device)

    def is_revoked(self, device: str) -> bool:
        return device in self._revoked

    def rivals(self, device: str) -> list[Claim]:
        """The machines that claim to be this device, where they are several; the one that counts first."""
        with self.lock:
            claims = self._claims.get(device)
            return claims.rivals if claims else []

    @property
    def contested(self) -> frozenset[str]:
        """Devices that several machines claim to be."""
        with self.lock:
            return frozenset(self._contested)

    def look(self, hears: tuple[float, float] | None) -> None:
        """Who was silent for too long is away. ``hears``: as :attr:`edgectl.link.mqtt.Link.hears`; while
        we hear nobody, nobody is."""
        if hears is None:
            return
        with self.lock:
            for device, claims in self._claims.items():
                lost = claims.silence(*hears)
                if lost is not None:
                    self._lost(self._known[device], claims)
                if lost is not None or device in self._contested:
                    self._tell_of_rivals(device, claims)

    def views(self) -> dict[str, DeviceView]:
        """Devices that were ever there and can come back, as the planner sees them."""
        with self.lock:
            return self._views.of(self._known.values(), self._seen, self._revoked)

    @property
    def groups(self) -> dict[str, DeviceGroup]:
        """By name, sorted."""
        with self.lock:
            return self._views.groups

    def set_group(self, group: DeviceGroup) -> None:
        """Raises :class:`UsageError` for one too many."""
        with self.lock:
            self._views.set_group(group)

    def drop_group(self, name: str) -> None:
        """Raises :class:`UsageError` if there is none."""
        with self.lock:
            self._views.drop_group(name)

    # ---- from the broker (dispatcher thread)

    def on_conn(self, device: str, payload: bytes) -> None:
        """Birth, heartbeat or death."""
        conn = parse_json(Conn, payload, max_bytes=MAX_MESSAGE_BYTES, what="birth or death")
        with self.lock:
            if self._is_removed(device):
                return
            d = self._known.get(device) or Device(device)
            claims = self._claims_of(device)
            if conn.online:
                self._born(d, claims, conn)
            else:
                self._died(d, claims, conn)
            self._tell_of_rivals(device, claims)

    def on_reported(self, device: str, payload: bytes) -> None:
        reported = parse_json(Reported, payload, max_bytes=MAX_MESSAGE_BYTES, what="report")
        with self.lock:
            if self._is_removed(device):
                return
            d = self._known.get(device) or Device(device)
            claims = self._claims_of(device)
            claims.sign(self._clock())
            if reported.instance is not None and (other := claims.aside(reported.instance)) is not None:
                other.reported = reported
                return
            if not is_news(reported, d.reported, d.conn) or self._is_former(d, reported.epoch):
                return
            if self._numbers.heard(reported.heard, time.time()):
                self._inventory.log(
                    "trust", device, f"has seen number {reported.heard}, above ours: numbers go on there"
                )
                self._publisher.state_changed()
            before = {slot: r.state for slot, r in d.reported.slots.items()} if d.reported else {}
            same = d.reported is not None and d.reported.model_copy(update={"seq": reported.seq}) == reported
            d.reported = reported
            self._saw(d)
            self._go_above(d, reported)
            if not same:  # else it was only said again
                self._keep(d)
            for slot, r in reported.slots.items():
                if r.state is not before.get(slot):
                    detail = f": {r.error.detail or r.error.code}" if r.error else ""
                    self._inventory.log(
                        "state", f"{device}/{slot}", f"{r.release or '-'} {r.state.value}{detail}"
                    )
        self._wake.set()

    def on_telemetry(self, device: str, payload: bytes) -> None:
        telemetry = parse_json(Telemetry, payload, max_bytes=MAX_MESSAGE_BYTES, what="telemetry")
        with self.lock:
            d = self._known.get(device)
            if d is None:
                return  # its birth comes first
            self._claims_of(device).sign(self._clock())
            if self._latency.add(device, telemetry):
                self._inventory.note_telemetry(
                    device,
                    telemetry,
                    profile=(d.conn.profile if d.conn else None) or "",
                    trusted=d.reported is None or d.reported.clock is None,
                )
                self._latency.metrics.add(device, telemetry)
                self._latency.alerts.add(device, telemetry, self._now())
                if not telemetry.replay:
                    self._latency.blocks.add(device, telemetry, self._now())
                    self._saw(d)

    def on_reply(self, device: str) -> None:
        """It has answered a command: a sign of life."""
        with self.lock:
            if device in self._known:
                self._claims_of(device).sign(self._clock())

    def on_desired(self, device: str, payload: bytes) -> None:
        """Our own word, retained: after a lost database this is where the generation goes on."""
        arrival = self._publisher.arrival_of(self._topics.desired(device), payload)
        if arrival is Arrival.OURS:
            return
        if not payload:
            if arrival is Arrival.OTHER:
                self._tell_of_loss(device, "its desired document was deleted at the broker, and is put back")
            return
        try:
            desired = self._director.open(device, payload)
        except (TrustError, ProtocolError) as e:
            if arrival is Arrival.OVERTAKEN:
                return
            self._tell_of_loss(
                device,
                f"a desired state that is not ours was on the broker, and ours is put back: {e.message}",
            )
            if arrival is Arrival.EARLY and (d := self.get(device)):
                self._publisher.tell(device, d.desired)
            raise
        with self.lock:
            if device in self._removed:
                self._publisher.clear(device)
                return
            d = self._known.get(device) or Device(device)
            if desired.gen > d.desired.gen:
                d.desired = desired
                self._keep(d)
                # we may have written an older one over it meanwhile
                self._publisher.tell(device, desired)
                return
            if arrival is Arrival.OTHER and desired != d.desired:
                self._tell_of_loss(
                    device,
                    f"generation {desired.gen} was put over its desired document at the broker, and ours is put back",
                )
            elif desired.gen < d.desired.gen and arrival is not Arrival.OVERTAKEN:
                # Ours, but not what we want now: a device that asks the broker must not get it.
                self._publisher.tell(device, d.desired)

    # ---- under the lock

    def _born(self, d: Device, claims: Claims, conn: Conn) -> None:
        if self._retained() and conn.instance is not None and self._is_stale(d, claims, conn):
            return
        heard_before = claims.of(conn.instance) is not None
        if not claims.birth(conn, self._clock()):
            return  # another machine counts
        if d.conn is not None and conn.epoch < d.conn.epoch:
            # It counts its starts anew: another disk, or an old image of this one. What it said before is
            # over.
            self._former[d.name] = d.conn.epoch
            self._latency.forget(d.name)
            self._inventory.forget_start(d.name)
            if conn.instance is None or not heard_before:
                self._inventory.log(
                    "presence",
                    d.name,
                    f"start {conn.epoch} after start {d.conn.epoch}: its state was replaced",
                )
        self._saw(d)
        self._silent.pop(d.name, None)
        if conn != d.conn:
            d.conn = conn
            self._keep(d)
            self._wake.set()

    def _died(self, d: Device, claims: Claims, conn: Conn) -> None:
        born = d.conn.epoch if d.conn is not None else -1
        known = claims.of(conn.instance)
        if known is not None:
            if conn.epoch < known.conn.epoch or (conn.instance is None and self._is_former(d, conn.epoch)):
                return  # the death of an earlier start
            if not claims.death(conn.instance):
                return  # another one has taken its place
            if claims.current is not None:
                self._takes_over(d, claims.current)
                return
        elif (
            conn.epoch < born
            or (conn.epoch == born and conn.instance is not None)
            or self._is_former(d, conn.epoch)
        ):
            # we never heard of this start, or it is long over
            return
        else:
            self._claims.pop(d.name, None)
        if d.conn is not None:
            conn = d.conn.model_copy(
                update={"online": False, "clean": conn.clean, "epoch": conn.epoch, "instance": conn.instance}
            )
        if conn != d.conn:
            d.conn = conn
            self._saw(d)
            self._keep(d)

    def _lost(self, d: Device, claims: Claims) -> None:
        """Who counted is gone."""
        assert d.conn is not None
        if claims.current is not None:
            self._takes_over(d, claims.current)
        elif d.conn.online:
            last = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(d.seen_s))
            self._inventory.log(
                "presence",
                d.name,
                f"away: nothing was heard of it since {last}, and its broker has not said that it left",
            )
            log.warning("%s is away: nothing was heard of it since %s", d.name, last)
            self._silent[d.name] = d.conn.instance
            d.conn = d.conn.model_copy(update={"online": False, "clean": False})
            self._keep(d)
            self._wake.set()

    def _is_stale(self, d: Device, claims: Claims, kept: Conn) -> bool:
        """A birth that the broker had kept, and may have from before a crash of its own, is no sign of
        life."""
        current = claims.current
        if current is not None:  # unless it tells of a start that we have missed
            return kept.instance != current.conn.instance and kept.epoch <= current.conn.epoch
        return self._silent.get(d.name) == kept.instance  # if it lives after all, it says so

    def _takes_over(self, d: Device, claim: Claim) -> None:
        """Who counted is gone, and another machine that claims to be the same device is there."""
        assert d.conn is not None
        self._former[d.name] = d.conn.epoch
        self._latency.forget(d.name)
        d.conn, d.reported = claim.conn, claim.reported or d.reported
        self._saw(d)
        self._keep(d)
        self._inventory.log("presence", d.name, f"what {claim.description} says counts from now on")
        self._wake.set()

    def _tell_of_rivals(self, device: str, claims: Claims) -> None:
        rivals = claims.rivals
        if rivals and device not in self._contested:
            self._contested.add(device)
            text = f"{len(rivals)} machines claim to be {device}: {'; '.join(c.description for c in rivals)}"
            self._inventory.log("presence", device, text)
            log.warning("%s; was its disk copied?", text)
        elif not rivals and device in self._contested:
            self._contested.discard(device)
            who = f": {claims.current.description}" if claims.current else ""
            self._inventory.log("presence", device, f"only one machine claims to be {device} now{who}")

    def _tell_of_loss(self, device: str, what: str) -> None:
        with self.lock:
            if device in self._known:
                self._inventory.log("broker", device, what)
                log.warning("%s: %s", device, what)
                self._wake.set()

    def _is_removed(self, device: str) -> bool:
        if device not in self._removed:
            return False
        self._publisher.clear(device)
        self._wake.set()
        if device not in self._told_of:
            self._told_of.add(device)
            what = "was removed, and the broker still has messages of it: is its certificate revoked, and its agent stopped?"
            self._inventory.log("presence", device, what)
            log.warning("%s %s", device, what)
        return True

    def _go_above(self, d: Device, reported: Reported) -> None:
        """A device that refuses what is wanted, because it has seen a later generation, is told again above
        that.

        It was removed and enrolled again with the disk that it had, or the database here is an older one. A
        kept report proves nothing: what it refused may be long over, and the document that it saw, later than
        ours, may be the next message to come.
        """
        refused = reported.error is not None and reported.error.code == "desired" and not self._retained()
        if refused and 0 < d.desired.gen < reported.gen < BELIEVED_GEN:
            self._inventory.log(
                "trust", d.name, f"has seen generation {reported.gen}, above ours: generations go on there"
            )
            d.desired = d.desired.model_copy(update={"gen": reported.gen + 1})
            self._decide(d)
            self._publisher.tell(d.name, d.desired)

    def _once_more(self, device: str) -> Device:
        """A device that is enrolled, maybe with the disk of one that was removed: what is wanted of it
        goes on above the generations that disk has seen, and until it speaks it has what it said last."""
        before = next(
            (a.device for a in reversed(self._inventory.archived()) if a.device.name == device), None
        )
        if before is None:
            return Device(device)
        return self._forget_start(
            Device(device, reported=before.reported, desired=Desired(gen=before.desired.gen))
        )

    @staticmethod
    def _forget_start(d: Device) -> Device:
        """Whatever it reports next is news: it may be on another disk, and count anew."""
        if d.reported is None:
            return d
        return replace(d, reported=d.reported.model_copy(update={"epoch": 0, "seq": 0}))

    def _saw(self, d: Device) -> None:
        d.seen_s = time.time()  # for people
        self._seen[d.name] = self._now()

    def _claims_of(self, device: str) -> Claims:
        return self._claims.setdefault(device, Claims())

    def _is_former(self, d: Device, epoch: int) -> bool:
        """Of a start from before the device began to count anew."""
        return d.conn is not None and d.conn.epoch < epoch <= self._former.get(d.name, -1)

    def _keep(self, d: Device) -> None:
        """What it said; the broker has it, too."""
        self._known[d.name] = d
        self._inventory.note_device(d)

    def _decide(self, d: Device) -> None:
        """What is wanted of it: on the disk before anybody is told."""
        self._known[d.name] = d
        self._inventory.save_device(d)
