"""The controller: follows what devices report, moves rollouts on, keeps the signed metadata fresh, seeds
blobs.

:class:`Controller` is what the API talks to; every public method is thread-safe. It lives and ticks here.
What it is made of: what operators ask, and rollouts do, with devices (:mod:`edgectl.fleet.control.steering`);
what devices say (:mod:`edgectl.fleet.control.devices`); what there is to be installed
(:mod:`edgectl.fleet.control.release_registry`); what the broker has to keep
(:mod:`edgectl.fleet.broker.publisher`, :mod:`edgectl.fleet.control.retained_guard`). What cannot be rebuilt
is written to the database before it is published.

Threads: the one of :meth:`Controller.run` ticks and hands messages to the broker; API calls come on any
other; what devices say comes on the dispatcher thread of the link (:mod:`edgectl.fleet.control.devices`).
Locks: what is decided about devices and rollouts is decided under ``Devices.lock``. Trust, inventory and
numbers have locks of their own, which may be taken under it and never the other way round. Nobody waits for
the broker under any of these (:mod:`edgectl.fleet.broker.publisher`): the dispatcher thread would wait with
him.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from edgectl.core.bundle import Variant
from edgectl.core.bundle.config_release import ConfigDocument
from edgectl.core.clock import SteadyWall, clock_says
from edgectl.core.errors import BundleError, EdgectlError, LinkError, StorageError, UsageError
from edgectl.core.files import atomic_write, storage
from edgectl.core.histogram import Histogram
from edgectl.core.licence import LicencePolicy
from edgectl.core.task import TaskSpec
from edgectl.core.wire import ControllerState, Reply, Telemetry, Topics
from edgectl.fleet.alerts.book import Alert
from edgectl.fleet.alerts.facts import AlertFacts
from edgectl.fleet.broker.publisher import Publisher
from edgectl.fleet.config import ControllerConfig
from edgectl.fleet.control.alert_round import AlertRound
from edgectl.fleet.control.alerting import Alerting
from edgectl.fleet.control.blobs import BlobStore, ReleaseType
from edgectl.fleet.control.certificate_dates import CertificateDates
from edgectl.fleet.control.clearing import Cleared, ClearRequest
from edgectl.fleet.control.commands import Commander, CommandRequest, SequenceNumbers
from edgectl.fleet.control.countersign import Countersignatures
from edgectl.fleet.control.device_handler import from_device
from edgectl.fleet.control.devices import Devices
from edgectl.fleet.control.garbage_collector import GarbageCollector
from edgectl.fleet.control.licences import check_licences
from edgectl.fleet.control.metrics_book import MetricsBook
from edgectl.fleet.control.presence import Claim
from edgectl.fleet.control.release_registry import ReleaseRegistry
from edgectl.fleet.control.retained_guard import RetainedGuard
from edgectl.fleet.control.steering import Steering
from edgectl.fleet.control.telemetry_view import LatencyBook, StreamRow, rows
from edgectl.fleet.control.totals_view import RegressionRow, regression_rows
from edgectl.fleet.keys.keyring import KeyRing
from edgectl.fleet.keys.trust import Director, OnlineTrust
from edgectl.fleet.rollouts.groups import DeviceGroup
from edgectl.fleet.rollouts.planner import RolloutProgress, RolloutRequest, RolloutSpec
from edgectl.fleet.rollouts.preview import Preview
from edgectl.fleet.store.inventory import Device, Inventory, Release
from edgectl.fleet.store.rollup import LatencyClass
from edgectl.fleet.store.totals import TotalsQuery
from edgectl.link.mqtt import Link
from edgectl.link.notify import Watchdog
from edgectl.link.seeder import BlobSeeder

__all__ = ["Controller"]

log = logging.getLogger(__name__)

_KEEPALIVE_S = 5
"""The controller has to know that it hears: who is silent is away."""
_BACKOFF_S = 2.0
"""Between two tries to connect. Who is away is known 1.5 heartbeats after the controller hears again: at
10 s, 5 s more would be too late."""
_PRUNE_S = 3600.0
_RETAIN_S = 60.0
_COUNT_S = 5.0
_COMPARED = 500
"""Classes of one release: more have to be asked for by slot, profile or stage."""


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
        self.seeder = BlobSeeder(
            config.broker.options(), self.topics, self.blobs, rates=config.transfer.rates()
        )
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
            config.broker.options(),
            "controller",
            will=will,
            queue_size=65536,
            keepalive_s=_KEEPALIVE_S,
            max_backoff_s=_BACKOFF_S,
        )
        self._complained: str | None = None
        self._prune_s = time.monotonic()
        self._retain_s = 0.0
        self._count_s = 0.0
        # last of what may fail: it has to be closed
        self.inventory = Inventory(config.state_dir, config.database, config.retention)
        self._numbers = SequenceNumbers(self.inventory)
        self._commander = Commander(self.topics, self.director, self._numbers, self.inventory, self._link)
        self._countersignatures = Countersignatures(
            config.state_dir / "approved", self.director, self.inventory
        )
        self._publisher = Publisher(
            self._link,
            self.topics,
            state=self._state,
            trust=self.trust.message,
            desired=self._countersignatures.seal,
            pages=self.seeder.publish_pages,
        )
        self._collector = GarbageCollector(
            self.blobs, self.inventory, self.trust, self._publisher, self.topics
        )
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
        self._steering = Steering(
            self.inventory,
            self._devices,
            self.latency,
            self.director,
            self._countersignatures,
            self._publisher,
            self._wake,
        )
        self._registry = ReleaseRegistry(
            config.fleet,
            self.blobs,
            self.trust,
            self.director,
            self.inventory,
            self._devices,
            self._steering,
            self._publisher,
            self._collector,
            config.licences,
        )
        self._alerting = Alerting(config.alerts, self.topics, self.inventory, self._link, config.fleet)
        self._certificates = CertificateDates(config.broker)
        self._up_s: float | None = None
        self._alert_round = AlertRound(self._devices, self.latency.alerts)
        """Since when the broker is there, in the time of alerts."""
        self._retained_guard = RetainedGuard(
            self.topics, self._publisher, self._devices, self.director, self.inventory, self._wake, self.blobs
        )

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
        self._link.subscribe(t.ctl, self._retained_guard.on_own)
        self._link.subscribe(t.trust, self._retained_guard.on_own)
        self._link.subscribe(t.any_alert, self._alerting.on_retained)
        self._link.on_up = self._on_up
        self._link.start()
        self.seeder.start()
        self._alerting.start()

    def run(self, stop_event: threading.Event) -> None:
        while not stop_event.is_set():
            self._wake.wait(self.config.tick_s)
            self._wake.clear()
            if not self.seeder.alive:
                raise EdgectlError(
                    "the thread that sends chunks has ended unexpectedly",
                    hint="see the log; start the controller again",
                )
            began_s = time.monotonic()
            try:
                self.tick(self._time())
                with self.reading_metrics() as book:
                    book.ticks.record((time.monotonic() - began_s) * 1e6)
                self._complained = None
            except EdgectlError as e:
                self._complain(e.message)
                stop_event.wait(1.0)
            self.watchdog.feed()
            # However much devices have to say, they are listened to for as long as was written and decided.
            stop_event.wait(min(time.monotonic() - began_s, self.config.tick_s))

    def close(self) -> None:
        if self._link.is_up:
            try:
                self._link.publish(self.topics.ctl, self._death.encode(), retain=True, timeout_s=10.0)
            except LinkError as e:
                log.warning("devices are not told that the controller ends: %s", e.message)
        self._alerting.close()
        self.seeder.close()
        self._link.close()
        self.inventory.close()

    def tick(self, now_s: float) -> None:
        """Publish again what a broker may have lost, renew metadata, move every rollout one step."""
        self._write_said()
        if self._republish and self._link.is_up:
            self._mark_all()
        self._devices.look(self._link.hears)
        self._retained_guard.put_back()
        self._count_telemetry()
        self._prune(now_s)
        self._publisher.publish(self.watchdog.feed)
        if self.trust.renew():
            self._publisher.trust_changed()
        self._warn_of_expiry(now_s)
        self._steering.step(now_s)
        self._publisher.publish(self.watchdog.feed)
        self._alerting.tick(now_s, self._alert_facts)
        if self._collector.is_due(now_s):
            self._collector.collect()

    def _on_reply(self, device: str, payload: bytes) -> None:
        self._devices.on_reply(device)
        self._commander.on_reply(device, payload)

    def _complain(self, message: str) -> None:
        """Once, and not with every tick in which it is still so."""
        if message != self._complained:
            self._complained = message
            log.error("%s", message)

    def _write_said(self) -> None:
        """What devices said since the last tick, in one transaction. Where it fails, nothing else waits for
        it: what was decided before is published."""
        try:
            self.inventory.flush()
        except StorageError as e:
            self._complain(e.message)

    def _count_telemetry(self) -> None:
        """A piece with every tick while there are more messages, then not before some have come together."""
        if time.monotonic() >= self._count_s:
            counted = self.inventory.count_telemetry()
            with self.reading_metrics() as book:
                book.count(counted or {})
            self._count_s = 0.0 if counted is not None else time.monotonic() + _COUNT_S

    def _alert_facts(self, now_s: float) -> AlertFacts | None:
        """``now_s``: in the time that devices are watched in. None: not all devices were looked at yet."""
        if not self._link.is_up:
            self._up_s = None
        elif self._up_s is None:
            self._up_s = now_s
        since_s = now_s if self._up_s is None else self._up_s
        devices = self._alert_round.look(now_s, since_s)
        if devices is None:
            return None
        return AlertFacts(
            now_s,
            self._up_s is not None,
            devices,
            {e.role: e.expires_s for e in self.trust.expiries(now_s) if e.due},
            self._certificates.ends(),
        )

    def _prune(self, now_s: float) -> None:
        if time.monotonic() >= self._prune_s:
            self._prune_s = time.monotonic() + _PRUNE_S
            self.inventory.prune(now_s - self.config.states_days * 86400)
            self._retain_s = 0.0
        if time.monotonic() >= self._retain_s:
            # A piece with every tick while there is something to do, then not before a minute is over.
            more = self.inventory.retain(time.time())
            self._retain_s = 0.0 if more else time.monotonic() + _RETAIN_S

    def _on_up(self) -> None:
        self._publisher.connected()
        self._republish = True
        self._wake.set()

    def _mark_all(self) -> None:
        """Have everything published again."""
        self._republish = False
        try:
            self._alerting.connected()
            self._publisher.state_changed()
            self._publisher.trust_changed()
            with self._devices.lock:
                for d in self._devices.all():
                    self._publisher.tell(d.name, d.desired)
            self._registry.offer_all(self.watchdog.feed)  # a large fleet takes its time
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
                    "`edgectl keys renew %s`",
                    clock_says(now_s),
                    e.role,
                    e.role,
                )
            elif e.due:
                log.warning(
                    "%s metadata end in %.0f days: `edgectl keys renew %s`",
                    e.role,
                    (e.expires_s - now_s) / 86400,
                    e.role,
                )

    # ---- for the API

    def add_release(
        self, release: str, digest: str, files: Mapping[str, bytes], delta_from: str | None = None
    ) -> Release:
        """Take a release whose blobs are here and whose signed targets (or delegation) among ``files`` name
        it. For devices that have the release ``delta_from`` (None: the one of this name before it; "": none),
        make differences to its engines.

        Raises :class:`TrustError`, :class:`BundleError`, :class:`IntegrityError`.
        """
        found = self._registry.add(release, digest, files, delta_from)
        self._wake.set()
        return found

    def accept_trust(
        self, files: Mapping[str, bytes], withdraw: Iterable[str] = (), *, stop_rollouts: bool = False
    ) -> None:
        """Take newer roots, targets and delegations, e.g. after a key ceremony, and tell every device.

        ``withdraw``: releases that the new targets no longer name; no device installs them from then on, and
        what only they needed of the blobs here is removed. Raises :class:`TrustError`, and
        :class:`RolloutError` where a rollout is under way that needs one of them: nothing is done unless
        ``stop_rollouts`` says that it be aborted.
        """
        gone = tuple(withdraw)
        self._registry.accept_trust(files, gone, stop_rollouts=stop_rollouts)
        self._republish = True
        self._wake.set()
        if gone:
            self._collector.collect()

    def start_rollout(self, request: RolloutRequest) -> RolloutSpec:
        """Begin. Raises :class:`RolloutError` if the slot is busy with another one, :class:`UsageError`
        for an unknown release, or one whose licence the fleet does not take by now."""
        release = self.inventory.releases().get(request.release)
        if release is not None and self.config.licences != LicencePolicy():
            for digest in (release.digest, *self._parts_of(release.digest).values()):
                check_licences(self.config.licences, self.blobs.configs(digest))
        if any(request.wave(n).soak_inferences for n in range(request.last_wave + 1)) and (
            release is not None and self.blobs.configuration(release.digest) is not None
        ):
            raise UsageError(
                f"{release.release} is a configuration and makes no inferences: let it soak by time",
                hint="leave soak_inferences out",
            )
        return self._steering.start(request)

    def configuration(self, release: str) -> ConfigDocument:
        """A published configuration. Raises :class:`UsageError` where there is none of that name,
        :class:`BundleError` / :class:`IntegrityError` where its blobs are not whole."""
        known = self.inventory.releases().get(release)
        document = None if known is None else self.blobs.configuration(known.digest)
        if document is None:
            what = "a bundle of engines" if known is not None else "not published"
            raise UsageError(f"{release} is {what}", hint="`edgectl release list` lists releases")
        return document

    def preview_rollout(self, request: RolloutRequest) -> Preview:
        """What it would do if it began now. Raises :class:`UsageError` for an unknown release,
        :class:`BundleError` / :class:`IntegrityError` where its blobs are not whole."""
        release = self.inventory.releases().get(request.release)
        if release is None:
            return self._steering.preview(request, (), self.config.transfer.rates(), {})
        artifacts = self.blobs.configuration(release.digest) or self.blobs.variants(release.digest)
        parts = {part: self.blobs.variants(digest) for part, digest in self._parts_of(release.digest).items()}
        return self._steering.preview(
            request, artifacts, self.config.transfer.rates(), parts, self._variants_if_there
        )

    def _variants_if_there(self, digest: str) -> list[Variant]:
        """None of a configuration, of a release that was withdrawn, or one whose blobs are not whole."""
        known = any(r.digest == digest for r in self.inventory.releases().values())
        try:
            return self.blobs.variants(digest) if known else []
        except BundleError as e:
            log.warning("%s cannot be compared with what it declares: %s", digest[:19], e.message)
            return []

    def _parts_of(self, digest: str) -> dict[str, str]:
        """Part → digest, of a set."""
        return {part: one.digest for part, one in self.blobs.type_of(digest).parts.items()}

    def releases(self) -> list[tuple[Release, ReleaseType | None]]:
        """With what each is; None where its blobs cannot be read."""
        found: list[tuple[Release, ReleaseType | None]] = []
        for release in self.inventory.releases().values():
            try:
                found.append((release, self.blobs.type_of(release.digest)))
            except EdgectlError as e:
                log.warning("blobs of %s: %s", release.release, e.message)
                found.append((release, None))
        return found

    def tasks(self, release: str) -> list[TaskSpec]:
        """What the engines of a release do, each task once. Raises :class:`UsageError` for a release that is not
        published, :class:`BundleError` / :class:`IntegrityError` where its blobs are not whole."""
        known = self.inventory.releases().get(release)
        if known is None:
            raise UsageError(f"{release} is not published", hint="`edgectl release list` lists releases")
        found: list[TaskSpec] = []
        for config in self.blobs.configs(known.digest):
            if config.task not in found:
                found.append(config.task)
        return found

    def change_rollout(self, rollout: str, op: str) -> RolloutProgress:
        """``pause``, ``resume``, ``approve`` (the next wave), ``abort`` (which takes the release back), ``halt`` (which
        does not), or ``rollback`` (which does so in any state).

        Raises :class:`RolloutError`.
        """
        return self._steering.change(rollout, op)

    def skip_device(self, rollout: str, device: str) -> RolloutProgress:
        """Have a rollout go on without a device. Raises :class:`RolloutError`."""
        return self._steering.skip(rollout, device)

    def clear_slot(self, slot: str, request: ClearRequest) -> list[Cleared]:
        """Have a slot empty on devices. Raises :class:`UsageError` for devices that cannot be meant,
        :class:`RolloutError` for those that a rollout is at work with."""
        return self._steering.clear_slot(slot, request)

    def groups(self) -> dict[str, DeviceGroup]:
        return self._devices.groups

    def set_group(self, group: DeviceGroup) -> list[str]:
        """Raises :class:`UsageError` for one too many."""
        return self._steering.set_group(group)

    def drop_group(self, name: str) -> None:
        """Raises :class:`UsageError`, :class:`RolloutError`."""
        self._steering.drop_group(name)

    def group_members(self) -> dict[str, list[str]]:
        """Group → devices that are there and in it, sorted."""
        found: dict[str, list[str]] = {name: [] for name in self._devices.groups}
        for device, view in sorted(self._devices.views().items()):
            for group in view.groups & found.keys():
                found[group].append(device)
        return found

    def waiting(self) -> dict[str, bytes]:
        """Device → its desired document, which needs the signature of more of the director's keys."""
        return self._countersignatures.waiting()

    def approve(self, documents: Mapping[str, bytes]) -> list[str]:
        """Take documents back that operators have signed, to be published. Returns the devices.

        Raises :class:`TrustError` for the first that lacks a signature or is not what is wanted now.
        """
        return self._steering.approve(documents)

    def rollout(self, rollout: str) -> tuple[RolloutSpec, RolloutProgress]:
        """Raises :class:`RolloutError` if there is none."""
        return self._steering.find(rollout)

    @property
    def frozen(self) -> bool | None:
        """As it was ordered last; None where nobody knows."""
        return self._frozen

    @property
    def connected(self) -> bool:
        """Whether the broker hears us now. While it does not, what is known of devices is from before."""
        return self._link.is_up

    def freeze(self, frozen: bool) -> None:
        """The kill switch: while it is set, no device of the fleet activates anything. It outlives a
        restart; what a broker that is away does not take is sent when it is back (:attr:`connected`)."""
        with self._devices.lock:
            atomic_write(self._freeze_file, b"on" if frozen else b"off")
            self._frozen = frozen
            self._publisher.state_changed()
            self.inventory.log("fleet", self.config.fleet, "frozen" if frozen else "released")
        self._publisher.publish_state()  # at once: a tick may be at work on much else

    def command(self, device: str, request: CommandRequest) -> Reply:
        """Ask a device to do something now, and wait for its answer; what it refuses is an answer, too.

        Raises :class:`UsageError` for a device that nobody knows, :class:`LinkError` for one that is away or
        does not answer in time.
        """
        with self._devices.lock:
            known = self._devices.get(device)
            if known is None:
                raise UsageError(f"there is no device {device}", hint="`edgectl fleet devices` lists them")
            if known.conn is None or not known.conn.online:
                raise LinkError(
                    f"{device} is not connected{_since(known.seen_s)}",
                    hint="commands are not kept for later: try again",
                )
        return self._commander.send(device, request)

    def drop_blobs(self, digests: Iterable[str]) -> None:
        """Forget files that came for devices to measure; what a release names stays."""
        self._collector.drop(digests)
        self._wake.set()

    def enroll(self, device: str, *, again: bool = False) -> dict[str, Any]:
        """Make a device known. Returns what its ``agent.toml`` needs besides its pipelines, and whether it is
        ``new``.

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
        """Take a device out of the fleet. Returns the rollouts that no longer count it. Raises
        :class:`UsageError`."""
        with self._devices.lock:
            self._devices.remove(device, purge=purge)
            left = self._steering.leave(device)
            self.inventory.log(
                "device", device, "removed, and what was known of it purged" if purge else "removed"
            )
        self._countersignatures.forget(device)
        self._wake.set()
        return left

    def revoke(self, device: str) -> list[str]:
        """The certificate of a device was revoked. Returns the rollouts that no longer count it. Raises
        :class:`UsageError`."""
        with self._devices.lock:
            self._devices.revoke(device)
            left = self._steering.leave(device)
            self.inventory.log(
                "device", device, "its certificate was revoked: no rollout counts on it any more"
            )
        self._wake.set()
        return left

    def alerts(self) -> list[Alert]:
        """Those that fire, the longest first."""
        return self._alerting.firing()

    def devices(self) -> list[Device]:
        return self._devices.all()

    def rivals(self, device: str) -> list[Claim]:
        """The machines that claim to be this device, where they are several."""
        return self._devices.rivals(device)

    def contested(self) -> frozenset[str]:
        """Devices that several machines claim to be: :meth:`rivals` names them."""
        return self._devices.contested

    def is_revoked(self, device: str) -> bool:
        return self._devices.is_revoked(device)

    def rows(self) -> list[StreamRow]:
        with self._devices.lock:
            return rows({d.name: (d.conn, d.reported) for d in self._devices.all()}, self.latency)

    def device(self, device: str) -> Device:
        """Raises :class:`UsageError` for one that nobody knows."""
        found = self._devices.get(device)
        if found is None:
            raise UsageError(f"there is no device {device}", hint="`edgectl fleet devices` lists them")
        return found

    def rows_of(self, devices: Iterable[str]) -> list[StreamRow]:
        """The same of some devices; those that nobody knows are left out."""
        with self._devices.lock:
            known = [d for name in devices if (d := self._devices.get(name)) is not None]
            return rows({d.name: (d.conn, d.reported) for d in known}, self.latency)

    def telemetry(self, device: str) -> Telemetry | None:
        """The last window that it told of; None: it never has."""
        with self._devices.lock:
            return self.latency.latest.get(device)

    def stream_latency(self, device: str, stream: str) -> Histogram:
        """Engine latency over the last windows of the engine that serves now."""
        with self._devices.lock:
            return self.latency.stream(device, stream)

    @contextmanager
    def reading_metrics(self) -> Iterator[MetricsBook]:
        """What was counted of the fleet since the controller began; nobody counts meanwhile."""
        with self._devices.lock:
            yield self.latency.metrics

    def queues(self) -> dict[str, int]:
        """How much waits: messages of devices, and what they said that is not written yet."""
        return {"inbox": self._link.waiting, **self.inventory.waiting()}

    def digest_of(self, release: str) -> str:
        """Of ``name@version``, or a digest as it is. Raises :class:`UsageError` for a release that nobody knows."""
        if release.startswith("sha256:"):
            return release
        known = self.inventory.releases().get(release)
        if known is None:
            raise UsageError(f"{release} is not published", hint="`edgectl release list` lists releases")
        return known.digest

    def regressions(self, query: TotalsQuery, against: str) -> tuple[list[RegressionRow], list[LatencyClass]]:
        """What the query asks for against the same of the release ``against``; and what only one of them has.
        Raises :class:`UsageError`."""
        if query.digest is None:
            raise UsageError(
                "one release is compared with another", hint="name both: --release and --against"
            )
        digest = self.digest_of(against)
        after, before = (
            self.inventory.totals(q, _COMPARED + 1) for q in (query, replace(query, digest=digest))
        )
        if max(len(after), len(before)) > _COMPARED:
            raise UsageError(
                f"more than {_COMPARED} classes of latency would be compared",
                hint="choose a slot, profile or stage",
            )
        return regression_rows(after, before, digest)

    def engine_latency(self, slot: str, digest: str, devices: frozenset[str] | None = None) -> Histogram:
        """Of one bundle in one slot, over all (or these) devices."""
        with self._devices.lock:
            return self.latency.engine(slot, digest, devices)

    def engines(self) -> dict[tuple[str, str], Histogram]:
        """(slot, digest) → latency over the fleet."""
        with self._devices.lock:
            return self.latency.engines()


def _freeze_in(path: Path) -> bool | None:
    """What was ordered last; None where nobody knows: then the controller does not say, and devices stay
    as they are."""
    with storage(str(path)):
        return {b"on": True, b"off": False}.get(path.read_bytes()) if path.is_file() else None


def _since(seen_s: float) -> str:
    return (
        f"; its last word came {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(seen_s))}"
        if seen_s
        else " and never was"
    )
