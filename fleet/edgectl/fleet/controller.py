"""The controller: follows what devices report, moves rollouts on, keeps the signed metadata fresh, seeds blobs.

:class:`Controller` is what the API talks to; every public method is thread-safe. Rules are in :mod:`edgectl.fleet.rollout`.
What cannot be rebuilt is written to the database before it is published.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from edgectl.core.errors import EdgectlError, LinkError, RolloutError, TrustError, UsageError
from edgectl.core.files import atomic_write, check_name, storage
from edgectl.core.schema import parse_json
from edgectl.core.transfer import DeltaOffer
from edgectl.core.trust import release_name
from edgectl.core.wire import (
    MAX_GEN,
    MAX_MESSAGE_BYTES,
    Conn,
    ControllerState,
    Desired,
    Reply,
    Reported,
    Telemetry,
    Topics,
)
from edgectl.fleet.blobs import BlobStore
from edgectl.fleet.commands import Commander, CommandRequest, Numbers
from edgectl.fleet.config import ControllerConfig
from edgectl.fleet.inventory import Device, Inventory, Release
from edgectl.fleet.keyring import KeyRing
from edgectl.fleet.rollout import (
    ACTIVE,
    DeviceView,
    Evidence,
    Progress,
    RolloutRequest,
    RolloutSpec,
    SetSlot,
    pause,
    plan,
    resume,
    stop,
)
from edgectl.fleet.trust import Director, OnlineTrust
from edgectl.fleet.watch import LatencyBook, Row, rows
from edgectl.link.mqtt import Link
from edgectl.link.notify import Watchdog
from edgectl.link.seeder import BlobSeeder

__all__ = ["Controller"]

log = logging.getLogger(__name__)

_BELIEVED_GEN = MAX_GEN // 2
"""Generations that a device claims to have seen count up to here."""


class Controller:
    def __init__(self, config: ControllerConfig, ring: KeyRing | None = None) -> None:
        """Open database, blobs and keys; ``ring`` opens those that have a passphrase.

        Raises :class:`StorageError`, :class:`TrustError`, :class:`LinkError` (TLS files).
        """
        config.broker.options().check()
        self.config = config
        self.topics = Topics(config.fleet)
        self.inventory = Inventory(config.state_dir, config.database)
        self.blobs = BlobStore(config.state_dir / "blobs")
        self.trust = OnlineTrust(
            config.state_dir / "trust", config.keys, lifetime=timedelta(days=config.metadata_days), ring=ring
        )
        self.director = Director(config.fleet, self.trust, config.director or (config.keys,), ring)
        self.trust.check_root = self.director.check
        self.latency = LatencyBook()
        self.seeder = BlobSeeder(config.broker.options(), self.topics, self.blobs, rates=config.transfer.rates())
        self._lock = threading.RLock()
        self._devices = self.inventory.devices()
        self._epoch = int(time.time())
        self._freeze_file = config.state_dir / "freeze"
        self._frozen = _freeze_in(self._freeze_file)
        self._republish = False
        self._warned_s = 0.0
        self._waiting: dict[str, bytes] = {}  # desired documents that operators have to sign, too
        self._approved_folder = config.state_dir / "approved"
        self._unsent: set[str] = set()  # devices whose desired document the broker has not, or has from somebody else
        self._trust_unsent = False
        self._former: dict[str, int] = {}  # devices that count their starts anew: how far they had come before
        self._wake = threading.Event()
        self.watchdog = Watchdog()
        # It says nothing about the freeze: whoever reads it later cannot know whether it is still so.
        self._death = ControllerState(epoch=self._epoch, online=False, peers=config.transfer.peers)
        self._link = Link(config.broker.options(), "controller", will=(self.topics.ctl, self._death.encode()), queue_size=65536)
        self._numbers = Numbers(self.inventory)
        self._behind = False
        """The last state that was published is not the newest, or below a number that a device has seen."""
        self._commander = Commander(self.topics, self.director, self._numbers, self.inventory, self._link)

    # ---- life

    def start(self) -> None:
        t = self.topics
        for topic, handler in (
            (t.any_conn, self._on_conn),
            (t.any_reported, self._on_reported),
            (t.any_telemetry, self._on_telemetry),
            (f"{t.root}/d/+/desired", self._on_desired),
            (t.any_reply, self._commander.on_reply),
        ):
            self._link.subscribe(topic, self._guarded(handler))
        self._link.on_up = self._on_up
        self._link.start()
        self.seeder.start()

    def run(self, stop_event: threading.Event) -> None:
        while not stop_event.is_set():
            self._wake.wait(self.config.tick_s)
            self._wake.clear()
            if not self.seeder.alive:
                raise EdgectlError(
                    "the thread that sends chunks has ended unexpectedly", hint="see the log; start the controller again"
                )
            try:
                self.tick(time.time())
            except EdgectlError as e:
                log.error("%s", e.message)
                stop_event.wait(1.0)
            self.watchdog.feed()

    def close(self) -> None:
        if self._link.is_up:
            self._link.publish(self.topics.ctl, self._death.encode(), retain=True, timeout_s=10.0)
        self.seeder.close()
        self._link.close()
        self.inventory.close()

    def tick(self, now_s: float) -> None:
        """Publish again what a broker may have lost, renew metadata, move every rollout one step."""
        if self._republish and self._link.is_up:
            self._republish = False
            try:
                self._publish_all()
            except EdgectlError:
                self._republish = True  # from the start: what came out of it nobody knows
                raise
        self._trust_unsent |= self.trust.renew()
        if self._trust_unsent and self._link.is_up:
            self._publish_trust()
        if self._behind and self._link.is_up:
            self._publish_state()
        self._warn_of_expiry(now_s)
        self._publish_unsent()
        with self._lock:
            for spec, progress in self.inventory.rollouts(active=True).values():
                new, actions = plan(spec, progress, self._views(), now_s, self._evidence(spec, progress))
                self._advance(spec, progress, new, actions)
        self._publish_unsent()

    def _warn_of_expiry(self, now_s: float) -> None:
        """Once a day: root, targets and delegations are renewed by people, who want to know early."""
        if now_s < self._warned_s + 86400:
            return
        self._warned_s = now_s
        for e in self.trust.expiries(now_s):
            if e.due:
                log.warning(
                    "%s metadata end in %.0f days: `edgectl keys renew %s`", e.role, (e.expires_s - now_s) / 86400, e.role
                )

    # ---- for the API

    def add_release(self, release: str, digest: str, files: Mapping[str, bytes], delta_from: str | None = None) -> Release:
        """Take a release whose blobs are here and whose signed targets (or delegation) among ``files`` name it. For devices
        that have the release ``delta_from`` (None: the one of this name before it; "": none), make differences to its engines.

        Raises :class:`TrustError`, :class:`BundleError`, :class:`IntegrityError`.
        """
        name, _, version = release.partition("@")
        release_name(name, version)
        if not self.blobs.has(digest):
            raise UsageError(f"the index of {release} was not uploaded", hint="upload blobs first")
        closure = self.blobs.closure(digest)
        new = {n: data for n, data in files.items() if data != self.trust.files().get(n)}
        if new:
            self.trust.accept(new)
        named = [profiles for d, profiles in self.trust.names(release).values() if d == digest]
        if not named:
            raise TrustError(f"the signed targets do not name {release} with this digest", hint="sign the release first")
        known = self.inventory.releases().get(release)
        created = known.created_s if known else time.time()
        found = Release(release, digest, named[0], created)
        deltas = self._make_deltas(found, delta_from)
        self.inventory.save_release(found)
        self.inventory.log("release", release, f"published, {len(closure) + 1} blobs, {len(deltas)} differences")
        self._publish_trust()
        for blob in (digest, *(d.digest for d in closure), *(d.digest for d in deltas)):
            self.seeder.publish_pages(blob)
        return found

    def _make_deltas(self, new: Release, delta_from: str | None) -> list[DeltaOffer]:
        releases = self.inventory.releases()
        if delta_from:
            if delta_from not in releases:
                raise UsageError(f"there is no release {delta_from}", hint="`edgectl release list` lists them")
            return self.blobs.make_deltas(new.digest, releases[delta_from].digest)
        name = new.release.partition("@")[0]
        before = [r for r in releases.values() if r.release.partition("@")[0] == name and r.created_s < new.created_s]
        if delta_from == "" or not before:
            return []
        return self.blobs.make_deltas(new.digest, max(before, key=lambda r: r.created_s).digest)

    def accept_trust(self, files: Mapping[str, bytes], withdraw: Iterable[str] = ()) -> None:
        """Take newer roots, targets and delegations, e.g. after a key ceremony, and tell every device.

        ``withdraw``: releases that the new targets no longer name; no device installs them from then on. Raises :class:`TrustError`.
        """
        gone = tuple(withdraw)
        with self._lock:
            new = {n: data for n, data in files.items() if data != self.trust.files().get(n)}
            if new:
                self.trust.accept(new, withdraw=gone)
                self.director.refresh()
                self.inventory.log("trust", self.config.fleet, f"accepted {', '.join(sorted(new))}")
            for release in gone:
                if not self.trust.names(release):
                    self.inventory.drop_release(release)
                    self.inventory.log("release", release, "withdrawn")
        self._republish = True
        self._wake.set()

    def start_rollout(self, request: RolloutRequest) -> RolloutSpec:
        """Begin. Raises :class:`RolloutError` if the slot is busy with another one, :class:`UsageError` for an unknown release."""
        with self._lock:
            release = self.inventory.releases().get(request.release)
            if release is None:
                raise UsageError(f"there is no release {request.release}", hint="`edgectl release publish DIR` publishes one")
            known = self.inventory.rollouts()
            for spec, progress in known.values():
                if spec.slot == request.slot and progress.state in ACTIVE:
                    raise RolloutError(
                        f"rollout {spec.id} of {spec.release} is still {progress.state.value} in slot {spec.slot}",
                        hint=f"wait for it, or `edgectl rollout abort {spec.id}`",
                    )
            asked = [
                s.attempt + max((m.tries for m in p.members.values()), default=0)
                for s, p in known.values()
                if s.slot == request.slot and s.digest == release.digest
            ]
            spec = RolloutSpec(
                id=f"{request.slot}-{len(known) + 1}",
                digest=release.digest,
                attempt=1 + max(asked, default=0),
                **request.model_dump(),
            )
            self.inventory.save_rollout(spec, Progress())
            self.inventory.log("rollout", spec.id, f"{spec.release} to slot {spec.slot} began")
        self._wake.set()
        return spec

    def change_rollout(self, rollout: str, op: str) -> Progress:
        """``pause``, ``resume`` or ``abort`` (which takes the release back). Raises :class:`RolloutError`."""
        with self._lock:
            spec, progress = self.rollout(rollout)
            actions: list[SetSlot] = []
            if op == "abort":
                new, actions = stop(spec, progress, "aborted by the operator")
            else:
                new = {"pause": pause, "resume": resume}[op](progress)
            self.inventory.log("rollout", rollout, f"{op} by the operator")
            self._advance(spec, progress, new, actions)
        self._wake.set()
        return new

    def waiting(self) -> dict[str, bytes]:
        """Device → its desired document, which needs the signature of more of the director's keys."""
        with self._lock:
            return dict(self._waiting)

    def approve(self, documents: Mapping[str, bytes]) -> list[str]:
        """Take documents back that operators have signed, and publish them. Returns the devices.

        Raises :class:`TrustError` for the first that lacks a signature or is not what is wanted now.
        """
        with self._lock:
            for device, payload in documents.items():
                d = self._devices.get(device)
                if d is None or self.director.open(device, payload) != d.desired:
                    raise TrustError(f"this is not what is wanted of {device} now", hint="approve again")
            for device, payload in documents.items():
                atomic_write(self._approved_folder / f"{device}.json", payload)
                self.inventory.log("trust", device, f"generation {self._devices[device].desired.gen} is approved")
                self._publish_desired(self._devices[device])
            return sorted(documents)

    def rollout(self, rollout: str) -> tuple[RolloutSpec, Progress]:
        found = self.inventory.rollouts().get(rollout)
        if found is None:
            raise RolloutError(f"there is no rollout {rollout}", hint="`edgectl rollout status` lists them")
        return found

    def freeze(self, frozen: bool) -> None:
        """The kill switch: while it is set, no device of the fleet activates anything. It outlives a restart."""
        with self._lock:
            atomic_write(self._freeze_file, b"on" if frozen else b"off")
            self._frozen = frozen
            self.inventory.log("fleet", self.config.fleet, "frozen" if frozen else "released")
            self._publish_state()

    def command(self, device: str, request: CommandRequest) -> Reply:
        """Ask a device to do something now, and wait for its answer; what it refuses is an answer, too.

        Raises :class:`UsageError` for a device that nobody knows, :class:`LinkError` for one that is away or does not answer in time.
        """
        with self._lock:
            known = self._devices.get(device)
            if known is None:
                raise UsageError(f"there is no device {device}", hint="`edgectl fleet devices` lists them")
            if known.conn is None or not known.conn.online:
                raise LinkError(
                    f"{device} is not connected{_since(known.seen_s)}", hint="commands are not kept for later: try again"
                )
        return self._commander.send(device, request)

    def enroll(self, device: str) -> dict[str, Any]:
        """Make a device known. Returns what its ``agent.toml`` needs besides its pipelines."""
        with self._lock:
            known = self._devices.setdefault(device, Device(device))
            self.inventory.save_device(known)
            self.inventory.log("device", device, "enrolled")
        broker = self.config.broker
        return {
            "fleet": self.config.fleet,
            "broker": {"host": broker.host, "port": broker.port, "tls": broker.tls},
            "root": self.trust.root_bytes.decode(),
        }

    def devices(self) -> list[Device]:
        with self._lock:
            return sorted(self._devices.values(), key=lambda d: d.name)

    def rows(self) -> list[Row]:
        with self._lock:
            return rows({d.name: (d.conn, d.reported) for d in self._devices.values()}, self.latency)

    # ---- from the broker (dispatcher thread)

    def _on_up(self) -> None:
        self._republish = True
        self._wake.set()

    def _on_conn(self, device: str, payload: bytes) -> None:
        conn = parse_json(Conn, payload, max_bytes=MAX_MESSAGE_BYTES, what="birth or death")
        d = self._devices.get(device) or Device(device)
        if d.conn is not None and conn.epoch < d.conn.epoch:
            if not conn.online:
                return  # the death of an earlier start
            # It counts its starts anew: another disk, or an old image of this one. What it said before is over.
            self._former[device] = d.conn.epoch
            self.latency.forget(device)
            self.inventory.log("device", device, f"start {conn.epoch} after start {d.conn.epoch}: its state was replaced")
        if not conn.online and self._is_former(d, conn.epoch):
            return
        if not conn.online and d.conn is not None:
            conn = d.conn.model_copy(update={"online": False, "clean": conn.clean, "epoch": conn.epoch})
        if conn != d.conn:
            d.conn, d.seen_s = conn, time.time()
            self._keep(d)

    def _on_reported(self, device: str, payload: bytes) -> None:
        reported = parse_json(Reported, payload, max_bytes=MAX_MESSAGE_BYTES, what="report")
        d = self._devices.get(device) or Device(device)
        if d.reported is not None and (reported.epoch, reported.seq) <= (d.reported.epoch, d.reported.seq):
            born = d.conn.epoch if d.conn is not None else None
            if not (reported.epoch == born != d.reported.epoch):
                return
        if self._is_former(d, reported.epoch):
            return
        if self._numbers.heard(reported.heard, time.time()):
            self.inventory.log("trust", device, f"has seen number {reported.heard}, above ours: numbers go on there")
            self._behind = True
        before = {slot: r.state for slot, r in d.reported.slots.items()} if d.reported else {}
        d.reported, d.seen_s = reported, time.time()
        self._keep(d)
        for slot, r in reported.slots.items():
            if r.state is not before.get(slot):
                detail = f": {r.error.detail or r.error.code}" if r.error else ""
                self.inventory.log("state", f"{device}/{slot}", f"{r.release or '-'} {r.state.value}{detail}")
        self._wake.set()

    def _is_former(self, d: Device, epoch: int) -> bool:
        """Of a start from before the device began to count anew."""
        return d.conn is not None and d.conn.epoch < epoch <= self._former.get(d.name, -1)

    def _on_telemetry(self, device: str, payload: bytes) -> None:
        telemetry = parse_json(Telemetry, payload, max_bytes=MAX_MESSAGE_BYTES, what="telemetry")
        if device not in self._devices:
            return  # its birth comes first
        if self.latency.add(device, telemetry) and not telemetry.replay:
            self._devices[device].seen_s = time.time()

    def _on_desired(self, device: str, payload: bytes) -> None:
        """Our own word, retained: after a lost database this is where the generation goes on."""
        try:
            desired = self.director.open(device, payload)
        except TrustError as e:
            if device in self._devices:
                self.inventory.log("trust", device, f"a desired state that is not ours was on the broker: {e.message}")
                self._unsent.add(device)
                self._wake.set()
            raise
        d = self._devices.get(device) or Device(device)
        if desired.gen > d.desired.gen:
            d.desired = desired
            self._keep(d)
            self._unsent.add(device)  # we may have written an older one over it meanwhile
        elif desired.gen < d.desired.gen:
            self._unsent.add(device)  # ours, but not what we want now: a device that asks the broker must not get it

    def _guarded(self, handler: Callable[[str, bytes], None]) -> Callable[[str, bytes], None]:
        def handle(topic: str, payload: bytes) -> None:
            levels = self.topics.parse(topic)
            if levels is None or not payload:
                return
            try:
                device = check_name(levels[1])  # who is called otherwise could not be answered: names become topics
                with self._lock:
                    handler(device, payload)
            except ValueError as e:
                log.warning("%s: %s", topic, e)
            except EdgectlError as e:
                log.warning("%s: %s", topic, e.message)

        return handle

    # ---- under the lock

    def _keep(self, d: Device) -> None:
        self._devices[d.name] = d
        self.inventory.save_device(d)

    def _views(self) -> dict[str, DeviceView]:
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
            )
            for d in self._devices.values()
            if d.conn is not None
        }

    def _evidence(self, spec: RolloutSpec, progress: Progress) -> Evidence | None:
        """Latency before and after, over the same devices; None while nobody had another engine before."""
        members = {n: m.before for n, m in progress.members.items() if m.admitted_s is not None and m.before is not None}
        digests = {b.digest for b in members.values() if b is not None}
        if len(digests) != 1:
            return None
        devices = frozenset(members)
        return Evidence(
            before=self.latency.engine(spec.slot, digests.pop(), devices),
            after=self.latency.engine(spec.slot, spec.digest, devices),
        )

    def _advance(self, spec: RolloutSpec, old: Progress, new: Progress, actions: list[SetSlot]) -> None:
        """Written down in one transaction with the wishes that follow from it: a step is taken whole or not at all. They are published
        until the broker has them."""
        wishes: dict[str, Desired] = {}
        for action in actions:
            d = self._devices[action.device]
            if (wish := self._wish(d, action)) != d.desired:
                wishes[d.name] = wish
        if new != old or wishes:
            self.inventory.save_rollout(spec, new, [replace(self._devices[name], desired=wish) for name, wish in wishes.items()])
        for name, wish in wishes.items():
            self._devices[name].desired = wish
        self._unsent.update(action.device for action in actions)
        if new.state is not old.state:
            self.inventory.log("rollout", spec.id, f"{new.state.value}{f': {new.reason}' if new.reason else ''}")
            log.info("rollout %s is %s %s", spec.id, new.state.value, new.reason or "")

    def _wish(self, d: Device, action: SetSlot) -> Desired:
        """What is wanted of a device after this action."""
        slots = dict(d.desired.slots)
        if action.desired is None:
            slots.pop(action.slot, None)
        else:
            slots[action.slot] = action.desired
        if slots == d.desired.slots:
            return d.desired
        # A device that has seen more is believed, up to a bound that no fleet reaches: it may lie, or a director's key was stolen (it forgets
        # that with the key). At the very last generation a document may still change: devices take the same one again.
        known = d.reported.gen if d.reported and d.reported.gen < _BELIEVED_GEN else 0
        return d.desired.model_copy(update={"gen": min(MAX_GEN, max(d.desired.gen, known) + 1), "slots": slots})

    def _publish_all(self) -> None:
        """What devices need to go on first, then what there is to fetch. A release that is not whole here holds up nothing else."""
        self._publish_state()
        self.trust.renew()
        self._publish_trust()
        for d in self.devices():
            self.watchdog.feed()
            if d.desired.gen:
                self._publish_desired(d)
        for release in self.inventory.releases().values():
            self.watchdog.feed()  # a large fleet takes its time
            try:
                for blob in (release.digest, *(d.digest for d in self.blobs.closure(release.digest))):
                    for digest in (blob, *(offer.digest for offer in self.blobs.deltas(blob))):
                        self.seeder.publish_pages(digest)
            except LinkError:
                raise
            except EdgectlError as e:
                log.error("release %s cannot be offered: %s", release.release, e.message)
        for digest in filter(self.blobs.has, self.trust.plans()):
            self.seeder.publish_pages(digest)

    def _publish_unsent(self) -> None:
        """Desired documents that the broker has not taken yet."""
        with self._lock:
            waiting = [self._devices[name] for name in sorted(self._unsent & self._devices.keys())]
        for d in waiting:
            if not self._link.is_up:
                return  # once it is, everything is published
            self._unsent.discard(d.name)
            try:
                if d.desired.gen:
                    self._publish_desired(d)
            except EdgectlError:
                self._unsent.add(d.name)
                raise

    def _publish_trust(self) -> None:
        self._trust_unsent = True
        self._link.publish(self.topics.trust, self.trust.message(), retain=True, timeout_s=10.0)
        self._trust_unsent = False

    def _publish_desired(self, d: Device) -> None:
        """With every signature that it needs; without them it waits for :meth:`approve`, and the device for it."""
        sealed = self.director.seal(d.name, d.desired)
        payload = sealed.payload
        if sealed.missing:
            approved = self._approved(d)
            if approved is None:
                if self._waiting.get(d.name) != payload:
                    self.inventory.log("trust", d.name, f"generation {d.desired.gen} waits for {sealed.missing} more signatures")
                self._waiting[d.name] = payload
                return
            payload = approved
        self._waiting.pop(d.name, None)
        self._link.publish(self.topics.desired(d.name), payload, retain=True, timeout_s=10.0)

    def _approved(self, d: Device) -> bytes | None:
        """What operators have signed of what is wanted now."""
        path = self._approved_folder / f"{d.name}.json"
        try:
            payload = path.read_bytes()
            return payload if self.director.open(d.name, payload) == d.desired else None
        except (OSError, EdgectlError):
            return None

    def _publish_state(self) -> None:
        """Under the lock: the number rises in the order in which states are published."""
        with self._lock:
            self._behind = True  # until it is handed over: the next tick tries again
            number = self._numbers.next(time.time())
            state = ControllerState(
                epoch=self._epoch, online=True, peers=self.config.transfer.peers, freeze=self._frozen, seq=number
            )
            self._link.publish(self.topics.ctl, self.director.seal_state(state), retain=True, timeout_s=10.0)
            self._behind = False


def _freeze_in(path: Path) -> bool | None:
    """What was ordered last; None where nobody knows: then the controller does not say, and devices stay as they are."""
    with storage(str(path)):
        return {b"on": True, b"off": False}.get(path.read_bytes()) if path.is_file() else None


def _since(seen_s: float) -> str:
    return f"; its last word came {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(seen_s))}" if seen_s else " and never was"
