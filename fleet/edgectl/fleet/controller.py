"""The controller: follows what devices report, moves rollouts on, keeps the signed metadata fresh, seeds blobs.

:class:`Controller` is what the API talks to; every public method is thread-safe. Rules are in :mod:`edgectl.fleet.rollout`.
What cannot be rebuilt is written to the database before it is published.

Threads: the one of :meth:`Controller.run` ticks and hands messages to the broker; API calls come on any other; what devices say comes on
the dispatcher thread of the link (:mod:`edgectl.fleet.devices`). Locks: what is decided about devices and rollouts is decided under
``Devices.lock``. Trust, inventory and numbers have locks of their own, which may be taken under it and never the other way round. Nobody
waits for the broker under any of these (:mod:`edgectl.fleet.publisher`): the dispatcher thread would wait with him.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from edgectl.core.clock import SteadyWall, clock_says
from edgectl.core.errors import EdgectlError, LinkError, RolloutError, TrustError, UsageError
from edgectl.core.files import atomic_write, storage
from edgectl.core.histogram import Histogram
from edgectl.core.transfer import DeltaOffer
from edgectl.core.trust import release_name
from edgectl.core.wire import MAX_GEN, ClearSlot, ControllerState, Desired, Reply, Topics
from edgectl.fleet.blobs import BlobStore
from edgectl.fleet.clearing import Cleared, ClearRequest, clear, cleared
from edgectl.fleet.collect import Collector
from edgectl.fleet.commands import Commander, CommandRequest, Numbers
from edgectl.fleet.config import ControllerConfig
from edgectl.fleet.countersign import Countersignatures
from edgectl.fleet.devices import Devices, from_device
from edgectl.fleet.inventory import Device, Inventory, Release
from edgectl.fleet.keeper import Keeper
from edgectl.fleet.keyring import KeyRing
from edgectl.fleet.presence import Claim
from edgectl.fleet.publisher import Publisher
from edgectl.fleet.rollout import (
    ACTIVE,
    DeviceView,
    Evidence,
    Progress,
    RolloutRequest,
    RolloutSpec,
    RolloutState,
    SetSlot,
    pause,
    resume,
)
from edgectl.fleet.takeback import abort, advance, busy, leave, needs, rollback, skip
from edgectl.fleet.trust import Director, OnlineTrust
from edgectl.fleet.watch import LatencyBook, Row, rows
from edgectl.link.mqtt import Link
from edgectl.link.notify import Watchdog
from edgectl.link.seeder import BlobSeeder

__all__ = ["Controller"]

log = logging.getLogger(__name__)

_KEEPALIVE_S = 5
"""The controller has to know that it hears: who is silent is away."""
_PRUNE_S = 3600.0
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
        self.blobs = BlobStore(config.state_dir / "blobs")
        self.trust = OnlineTrust(
            config.state_dir / "trust", config.keys, lifetime=timedelta(days=config.metadata_days), ring=ring
        )
        self.director = Director(config.fleet, self.trust, config.director or (config.keys,), ring)
        self.trust.check_root = self.director.check
        self.latency = LatencyBook()
        self.seeder = BlobSeeder(config.broker.options(), self.topics, self.blobs, rates=config.transfer.rates())
        self.watchdog = Watchdog()
        self._epoch = int(time.time())
        self._time = SteadyWall()
        self._freeze_file = config.state_dir / "freeze"
        self._frozen = _freeze_in(self._freeze_file)
        self._warned_s = 0.0
        self._wake = threading.Event()
        self._republish = False
        """The broker may have lost everything, or other keys have to sign it."""
        # It says nothing about the freeze: whoever reads it later cannot know whether it is still so.
        self._death = ControllerState(epoch=self._epoch, online=False, peers=config.transfer.peers)
        will = (self.topics.ctl, self._death.encode())
        self._link = Link(
            config.broker.options(), "controller", will=will, queue_size=65536, keepalive_s=_KEEPALIVE_S, max_backoff_s=5.0
        )
        self._prune_s = time.monotonic()
        self.inventory = Inventory(config.state_dir, config.database)  # last of what may fail: it has to be closed
        self._numbers = Numbers(self.inventory)
        self._commander = Commander(self.topics, self.director, self._numbers, self.inventory, self._link)
        self._countersignatures = Countersignatures(config.state_dir / "approved", self.director, self.inventory)
        self._publisher = Publisher(
            self._link,
            self.topics,
            state=self._state,
            trust=self.trust.message,
            desired=self._countersignatures.seal,
            pages=self.seeder.publish_pages,
        )
        self._collector = Collector(self.blobs, self.inventory, self.trust, self._publisher, self.topics)
        self._devices = Devices(
            self.inventory,
            self.latency,
            self.director,
            self._numbers,
            self._publisher,
            self._wake,
            self.topics,
            now=self._time,
            retained=lambda: self._link.is_kept,
        )
        self._keeper = Keeper(self.topics, self._publisher, self._devices, self.director, self.inventory, self._wake, self.blobs)

    # ---- life

    def start(self) -> None:
        t = self.topics
        for topic, handle in (
            (t.any_conn, self._devices.on_conn),
            (t.any_reported, self._devices.on_reported),
            (t.any_telemetry, self._devices.on_telemetry),
            (t.any_reply, self._on_reply),
        ):
            self._link.subscribe(topic, from_device(t, handle))
        self._link.subscribe(f"{t.root}/d/+/desired", from_device(t, self._devices.on_desired, empty=True))
        self._link.subscribe(t.ctl, self._keeper.on_own)
        self._link.subscribe(t.trust, self._keeper.on_own)
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
                self.tick(self._time())
            except EdgectlError as e:
                log.error("%s", e.message)
                stop_event.wait(1.0)
            self.watchdog.feed()

    def close(self) -> None:
        if self._link.is_up:
            try:
                self._link.publish(self.topics.ctl, self._death.encode(), retain=True, timeout_s=10.0)
            except LinkError as e:
                log.warning("devices are not told that the controller ends: %s", e.message)
        self.seeder.close()
        self._link.close()
        self.inventory.close()

    def tick(self, now_s: float) -> None:
        """Publish again what a broker may have lost, renew metadata, move every rollout one step."""
        if self._republish and self._link.is_up:
            self._mark_all()
        self._devices.look(self._link.hears)
        self._keeper.put_back()
        self._prune(now_s)
        self._publisher.publish(self.watchdog.feed)
        if self.trust.renew():
            self._publisher.trust_changed()
        self._warn_of_expiry(now_s)
        with self._devices.lock:
            for spec, progress in self.inventory.rollouts(active=True).values():
                new, actions = advance(spec, progress, self._views(), now_s, self._evidence(spec, progress))
                self._advance(spec, progress, new, actions)
        self._publisher.publish(self.watchdog.feed)
        if self._collector.is_due(now_s):
            self._collector.collect()

    def _on_reply(self, device: str, payload: bytes) -> None:
        self._devices.on_reply(device)
        self._commander.on_reply(device, payload)

    def _prune(self, now_s: float) -> None:
        if time.monotonic() >= self._prune_s:
            self._prune_s = time.monotonic() + _PRUNE_S
            self.inventory.prune(now_s - self.config.states_days * 86400)

    def _on_up(self) -> None:
        self._publisher.connected()
        self._republish = True
        self._wake.set()

    def _mark_all(self) -> None:
        """Have everything published again. A release that is not whole here holds up nothing else."""
        self._republish = False
        try:
            self._publisher.state_changed()
            self._publisher.trust_changed()
            with self._devices.lock:
                for d in self._devices.all():
                    self._publisher.tell(d.name, d.desired)
            for release in self.inventory.releases().values():
                self.watchdog.feed()  # a large fleet takes its time
                try:
                    self._publisher.offer(self.blobs.offered(release.digest))
                except EdgectlError as e:
                    log.error("release %s cannot be offered: %s", release.release, e.message)
            self._publisher.offer(filter(self.blobs.has, self.trust.plans()))
        except EdgectlError:
            self._republish = True
            raise

    def _state(self) -> bytes:
        """What devices are told of us, with the next number."""
        state = ControllerState(
            epoch=self._epoch,
            online=True,
            peers=self.config.transfer.peers,
            freeze=self._frozen,
            seq=self._numbers.next(time.time()),
        )
        return self.director.seal_state(state)

    def _warn_of_expiry(self, now_s: float) -> None:
        """Once a day: root, targets and delegations are renewed by people, who want to know early."""
        if now_s < self._warned_s + 86400:
            return
        self._warned_s = now_s
        for e in self.trust.expiries(now_s):
            if e.expires_s <= now_s:
                log.error(
                    "%s, and by it the %s metadata are expired: devices install nothing; set the clock if it is wrong, else "
                    "`edgectl keys renew %s`", clock_says(now_s), e.role, e.role,
                )  # fmt: skip
            elif e.due:
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
        with self._collector.naming:
            return self._add_release(release, digest, files, delta_from)

    def _add_release(self, release: str, digest: str, files: Mapping[str, bytes], delta_from: str | None) -> Release:
        if not self.blobs.has(digest):
            raise UsageError(f"the index of {release} was not uploaded", hint="upload blobs first")
        closure = self.blobs.closure(digest)
        new = {n: data for n, data in files.items() if data != self.trust.files().get(n)}
        if new:
            self.trust.accept(new)
        self._publisher.trust_changed()
        named = [profiles for d, profiles in self.trust.names(release).values() if d == digest]
        if not named:
            raise TrustError(f"the signed targets do not name {release} with this digest", hint="sign the release first")
        known = self.inventory.releases().get(release)
        created = known.created_s if known else time.time()
        found = Release(release, digest, named[0], created)
        deltas = self._make_deltas(found, delta_from)
        offered = self.blobs.offered(digest)
        for blob in offered:
            self.blobs.hashes(blob)  # remembered: on this thread nobody waits for a large one
        self.inventory.save_release(found)
        self.blobs.arrived(offered)
        self.inventory.log("release", release, f"published, {len(closure) + 1} blobs, {len(deltas)} differences")
        self._publisher.offer(offered)
        self._wake.set()
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

    def accept_trust(self, files: Mapping[str, bytes], withdraw: Iterable[str] = (), *, stop_rollouts: bool = False) -> None:
        """Take newer roots, targets and delegations, e.g. after a key ceremony, and tell every device.

        ``withdraw``: releases that the new targets no longer name; no device installs them from then on, and what only they needed of the
        blobs here is removed. Raises :class:`TrustError`, and :class:`RolloutError` where a rollout is under way that needs one of them:
        nothing is done unless ``stop_rollouts`` says that it be aborted.
        """
        gone = tuple(withdraw)
        self._collector.expect(gone)
        with self._devices.lock:
            self._check_unused(gone, stop_rollouts)
            new = {n: data for n, data in files.items() if data != self.trust.files().get(n)}
            if new:
                self.trust.accept(new, withdraw=gone)
                self.director.refresh()
                self.inventory.log("trust", self.config.fleet, f"accepted {', '.join(sorted(new))}")
            for release in gone:
                if not self.trust.names(release):
                    self.inventory.drop_release(release)
                    self.inventory.log("release", release, "withdrawn")
                    self._abort_all_of(release)
        self._republish = True
        self._wake.set()
        if gone:
            self._collector.collect()

    def _check_unused(self, releases: tuple[str, ...], stop_rollouts: bool) -> None:
        for spec, progress in self.inventory.rollouts(active=True).values() if releases and not stop_rollouts else ():
            for release in releases:
                if why := needs(spec, progress, release):
                    raise RolloutError(
                        f"{release} is not withdrawn: {why}",
                        hint=f"`edgectl release withdraw {release} --yes` withdraws it and stops what is under way",
                    )

    def _abort_all_of(self, release: str) -> None:
        for spec, progress in self.inventory.rollouts(active=True).values():
            if spec.release == release and progress.state in (RolloutState.RUNNING, RolloutState.PAUSED):
                new, actions = abort(spec, progress, self._views(), f"{release} was withdrawn")
                self._advance(spec, progress, new, actions)

    def start_rollout(self, request: RolloutRequest) -> RolloutSpec:
        """Begin. Raises :class:`RolloutError` if the slot is busy with another one, :class:`UsageError` for an unknown release."""
        with self._devices.lock:
            release = self.inventory.releases().get(request.release)
            if release is None:
                raise UsageError(f"there is no release {request.release}", hint="`edgectl release publish DIR` publishes one")
            known = self.inventory.rollouts()
            for spec, progress in known.values():
                if spec.slot == request.slot and progress.state in ACTIVE:
                    raise busy(spec, progress)
            asked = [
                s.attempt + max((m.tries for m in p.members.values()), default=0)
                for s, p in known.values()
                if s.slot == request.slot and s.digest == release.digest
            ]
            wishes = (d.desired.slots.get(request.slot) for d in self._devices.all())
            asked += [w.attempt for w in wishes if w is not None and w.digest == release.digest]
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
        """``pause``, ``resume``, ``abort`` (which takes the release back), or ``rollback`` (which does so in any state).

        Raises :class:`RolloutError`.
        """
        with self._devices.lock:
            spec, progress = self.rollout(rollout)
            actions: list[SetSlot] = []
            if op == "abort":
                new, actions = abort(spec, progress, self._views())
            elif op == "rollback":
                new, actions = rollback(spec, progress, self._views(), self.inventory.rollouts().values())
            else:
                new = {"pause": pause, "resume": resume}[op](progress)
            self.inventory.log("rollout", rollout, f"{op} by the operator")
            self._advance(spec, progress, new, actions)
        self._wake.set()
        return new

    def skip_device(self, rollout: str, device: str) -> Progress:
        """Have a rollout go on without a device. Raises :class:`RolloutError`."""
        with self._devices.lock:
            spec, progress = self.rollout(rollout)
            new, actions = skip(spec, progress, device, self._views().get(device))
            self.inventory.log("rollout", rollout, f"{device} skipped by the operator")
            self._advance(spec, progress, new, actions)
        self._wake.set()
        return new

    def clear_slot(self, slot: str, request: ClearRequest) -> list[Cleared]:
        """Have a slot empty on devices. Raises :class:`UsageError` for devices that cannot be meant, :class:`RolloutError` for those that
        a rollout is at work with."""
        with self._devices.lock:
            seen = self._views()
            views = {d.name: seen.get(d.name) for d in self._devices.all()}
            actions = clear(slot, request, views, self.inventory.rollouts(active=True).values())
            changed = [replace(d, desired=_wish(d, a)) for a in actions for d in (self._devices[a.device],)]
            self.inventory.save_devices(changed)
            for d in changed:
                self._devices[d.name].desired = d.desired
                self._publisher.tell(d.name, d.desired)
                self.inventory.log("device", d.name, f"slot {slot} is to be empty, by the operator")
            told = [cleared(slot, self._devices[a.device]) for a in actions]
        self._wake.set()
        return told

    def waiting(self) -> dict[str, bytes]:
        """Device → its desired document, which needs the signature of more of the director's keys."""
        return self._countersignatures.waiting()

    def approve(self, documents: Mapping[str, bytes]) -> list[str]:
        """Take documents back that operators have signed, to be published. Returns the devices.

        Raises :class:`TrustError` for the first that lacks a signature or is not what is wanted now.
        """
        with self._devices.lock:
            wanted: dict[str, Desired] = {}
            for device, payload in documents.items():
                d = self._devices.get(device)
                if d is None or self.director.open(device, payload) != d.desired:
                    raise TrustError(f"this is not what is wanted of {device} now", hint="approve again")
                wanted[device] = d.desired
            for device, desired in wanted.items():
                self._countersignatures.take(device, documents[device], desired.gen)
                self._publisher.tell(device, desired)
        self._wake.set()
        return sorted(wanted)

    def rollout(self, rollout: str) -> tuple[RolloutSpec, Progress]:
        found = self.inventory.rollouts().get(rollout)
        if found is None:
            raise RolloutError(f"there is no rollout {rollout}", hint="`edgectl rollout status` lists them")
        return found

    @property
    def frozen(self) -> bool | None:
        """As it was ordered last; None where nobody knows."""
        return self._frozen

    @property
    def connected(self) -> bool:
        """Whether the broker hears us now. While it does not, what is known of devices is from before."""
        return self._link.is_up

    def freeze(self, frozen: bool) -> None:
        """The kill switch: while it is set, no device of the fleet activates anything. It outlives a restart; what a broker that is away
        does not take is sent when it is back (:attr:`connected`)."""
        with self._devices.lock:
            atomic_write(self._freeze_file, b"on" if frozen else b"off")
            self._frozen = frozen
            self._publisher.state_changed()
            self.inventory.log("fleet", self.config.fleet, "frozen" if frozen else "released")
        self._publisher.publish_state()  # at once: a tick may be at work on much else

    def command(self, device: str, request: CommandRequest) -> Reply:
        """Ask a device to do something now, and wait for its answer; what it refuses is an answer, too.

        Raises :class:`UsageError` for a device that nobody knows, :class:`LinkError` for one that is away or does not answer in time.
        """
        with self._devices.lock:
            known = self._devices.get(device)
            if known is None:
                raise UsageError(f"there is no device {device}", hint="`edgectl fleet devices` lists them")
            if known.conn is None or not known.conn.online:
                raise LinkError(
                    f"{device} is not connected{_since(known.seen_s)}", hint="commands are not kept for later: try again"
                )
        return self._commander.send(device, request)

    def enroll(self, device: str, *, again: bool = False) -> dict[str, Any]:
        """Make a device known. Returns what its ``agent.toml`` needs besides its pipelines, and whether it is ``new``.

        Raises :class:`UsageError` for one that is known, unless it is to be enrolled ``again``.
        """
        new = self._devices.enroll(device, again=again)
        self.inventory.log("device", device, "enrolled" if new else "enrolled again")
        broker = self.config.broker
        return {
            "new": new,
            "fleet": self.config.fleet,
            "broker": {"host": broker.host, "port": broker.port, "tls": broker.tls},
            "root": self.trust.root_bytes.decode(),
        }

    def remove(self, device: str, *, purge: bool = False) -> list[str]:
        """Take a device out of the fleet. Returns the rollouts that no longer count it. Raises :class:`UsageError`."""
        with self._devices.lock:
            self._devices.remove(device, purge=purge)
            left = self._leave_rollouts(device)
            self.inventory.log("device", device, "removed, and what was known of it purged" if purge else "removed")
        self._countersignatures.forget(device)
        self._wake.set()
        return left

    def revoke(self, device: str) -> list[str]:
        """The certificate of a device was revoked. Returns the rollouts that no longer count it. Raises :class:`UsageError`."""
        with self._devices.lock:
            self._devices.revoke(device)
            left = self._leave_rollouts(device)
            self.inventory.log("device", device, "its certificate was revoked: no rollout counts on it any more")
        self._wake.set()
        return left

    def devices(self) -> list[Device]:
        return self._devices.all()

    def rivals(self, device: str) -> list[Claim]:
        """The machines that claim to be this device, where they are several."""
        return self._devices.rivals(device)

    def is_revoked(self, device: str) -> bool:
        return self._devices.is_revoked(device)

    def rows(self) -> list[Row]:
        with self._devices.lock:
            return rows({d.name: (d.conn, d.reported) for d in self._devices.all()}, self.latency)

    def engines(self) -> dict[tuple[str, str], Histogram]:
        """(slot, digest) → latency over the fleet."""
        with self._devices.lock:
            return self.latency.engines()

    # ---- under the lock

    def _views(self) -> dict[str, DeviceView]:
        views = self._devices.views()
        for name in self._countersignatures.waiting().keys() & views.keys():
            views[name] = replace(views[name], unsigned=True)
        return views

    def _leave_rollouts(self, device: str) -> list[str]:
        """Nobody waits for it, and no gate counts it, in rollouts that are not over."""
        left = []
        for spec, progress in self.inventory.rollouts(active=True).values():
            if (without := leave(progress, device)) is not progress:
                self.inventory.save_rollout(spec, without)
                self.inventory.log("rollout", spec.id, f"{device} has left the fleet, and this rollout")
                left.append(spec.id)
        return left

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
        changed = []
        for action in actions:
            d = self._devices[action.device]
            if (wish := _wish(d, action)) != d.desired:
                changed.append(replace(d, desired=wish))
        if new != old or changed:
            self.inventory.save_rollout(spec, new, changed)
        for d in changed:
            self._devices[d.name].desired = d.desired
        for action in actions:
            self._publisher.tell(action.device, self._devices[action.device].desired)
        if new.state is not old.state:
            self.inventory.log("rollout", spec.id, f"{new.state.value}{f': {new.reason}' if new.reason else ''}")
            log.info("rollout %s is %s %s", spec.id, new.state.value, new.reason or "")


def _wish(d: Device, action: SetSlot) -> Desired:
    """What is wanted of a device after this action."""
    slots, empty = dict(d.desired.slots), dict(d.desired.clear)
    if isinstance(action.desired, ClearSlot):
        slots.pop(action.slot, None)
        asked = empty.get(action.slot)
        empty[action.slot] = asked if asked is not None and asked.number >= action.desired.number else action.desired
    else:
        empty.pop(action.slot, None)
        slots[action.slot] = action.desired
    if (slots, empty) == (d.desired.slots, d.desired.clear):
        return d.desired
    # A device that has seen more is believed, up to a bound that no fleet reaches: it may lie, or a director's key was stolen (it forgets
    # that with the key). At the very last generation a document may still change: devices take the same one again.
    known = d.reported.gen if d.reported and d.reported.gen < _BELIEVED_GEN else 0
    gen = min(MAX_GEN, max(d.desired.gen, known) + 1)
    return d.desired.model_copy(update={"gen": gen, "slots": slots, "clear": empty})


def _freeze_in(path: Path) -> bool | None:
    """What was ordered last; None where nobody knows: then the controller does not say, and devices stay as they are."""
    with storage(str(path)):
        return {b"on": True, b"off": False}.get(path.read_bytes()) if path.is_file() else None


def _since(seen_s: float) -> str:
    return f"; its last word came {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(seen_s))}" if seen_s else " and never was"
