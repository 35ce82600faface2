"""What the controller remembers, in SQL (SQLite by default, PostgreSQL by URL).

Devices could be rebuilt from retained messages; releases, desired documents and rollouts could not, so they
are written before anything is published. No rules here: :class:`Inventory` is the front of this wing, and each
table's statements are in the module that is named after it.

Events are of two kinds. What operators did is kept for ever. What devices and the broker said (:data:`SAID`)
is as much as a fleet has to say, and is pruned by time: it never crowds out an act.

What is decided is on the disk when its method returns (:meth:`Inventory.save_rollouts`, …). What devices said
(:meth:`Inventory.note_device`, entries of :data:`SAID`) waits for :meth:`Inventory.flush`, once a tick, or for
whatever else is written or read before that: it is in the same transaction, so that nobody sees an order that
was not so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection

from edgectl.core.errors import StorageError
from edgectl.core.histogram import Histogram
from edgectl.core.wire import Telemetry
from edgectl.fleet.alerts.book import Alert
from edgectl.fleet.config import TelemetryRetention
from edgectl.fleet.rollouts.groups import DeviceGroup
from edgectl.fleet.rollouts.values import RolloutProgress, RolloutSpec
from edgectl.fleet.store import alerts as alert_rows
from edgectl.fleet.store import devices as device_rows
from edgectl.fleet.store import groups as group_rows
from edgectl.fleet.store import heard, history, numbers, telemetry, totals
from edgectl.fleet.store import releases as release_rows
from edgectl.fleet.store.database import Database, size_of
from edgectl.fleet.store.devices import Archived, Device
from edgectl.fleet.store.history import SAID, HistoryEntry
from edgectl.fleet.store.releases import Release
from edgectl.fleet.store.rollouts import Rollouts
from edgectl.fleet.store.rollup import LatencyClass
from edgectl.fleet.store.said import Batch, SaidBuffer
from edgectl.fleet.store.telemetry import Measurement
from edgectl.fleet.store.totals import Total, TotalsQuery

__all__ = ["SAID", "Archived", "Device", "HistoryEntry", "Inventory", "Release"]

log = logging.getLogger(__name__)

T = TypeVar("T")


class Inventory:
    """Thread-safe; each method is one transaction. Raises :class:`StorageError`."""

    def __init__(
        self, state_dir: Path, url: str | None = None, retention: TelemetryRetention | None = None
    ) -> None:
        """``url``: of SQLAlchemy; None: SQLite in ``state_dir``. ``retention``: of telemetry."""
        self._retention = retention or TelemetryRetention()
        self._telemetry_bytes: int | None = None
        """About; None: to be counted."""
        self._db = Database(state_dir, url)
        self._said = SaidBuffer()
        self._rollouts = Rollouts()
        self._one_writer = threading.RLock()
        """Held while a batch is on its way: what could not be written goes back before anybody writes more."""

    def close(self) -> None:
        try:
            self.flush()
        except StorageError as e:
            log.warning("what devices said last is not written: %s", e.message)
        finally:
            self._db.close()

    def flush(self) -> None:
        """Write what waits. It survives the end of the process then; a power cut may take the last of it, which
        the broker retains. Raises :class:`StorageError`; it waits on then."""
        if self._said:
            self._write(lambda _: None, durable=False)
        if dropped := self._said.dropped():
            log.warning(
                "%d entries of what devices said were dropped: the database did not take them", dropped
            )

    # ---- devices

    def devices(self) -> dict[str, Device]:
        return self._read(device_rows.load)

    def note_device(self, d: Device) -> None:
        """What a device said last. It waits for :meth:`flush`, which a kill may be faster than: it says so
        again, or the broker does."""
        self._said.note_device(d)

    def save_device(self, d: Device) -> None:
        self.save_devices([d])

    def save_devices(self, devices: Iterable[Device]) -> None:
        self._write(lambda db: device_rows.save(db, devices))

    def archive(self, d: Device, *, purge: bool = False) -> None:
        """Take a device out of the fleet. What is known of it is kept, with all events; ``purge``: only
        its name is, and what operators did."""

        def work(db: Connection) -> None:
            device_rows.archive(db, d, purge=purge)
            if purge:
                history.forget(db, d.name)
                telemetry.forget(db, d.name)

        self._write(work)

    def archived(self) -> list[Archived]:
        """Devices that were removed, oldest first; one that was enrolled again and removed again is there
        twice."""
        return self._db.read(device_rows.archived)

    def revoked(self) -> set[str]:
        """Devices whose certificate was revoked."""
        return self._db.read(device_rows.revoked)

    def mark_revoked(self, device: str, revoked: bool) -> None:
        self._write(partial(device_rows.mark_revoked, device=device, revoked=revoked))

    # ---- releases

    def releases(self) -> dict[str, Release]:
        """Oldest first."""
        return self._db.read(release_rows.load)

    def save_release(self, r: Release) -> None:
        self._write(lambda db: release_rows.save(db, r))

    def drop_release(self, release: str) -> None:
        """Forget a release that was withdrawn."""
        self._write(lambda db: release_rows.drop(db, release))

    # ---- groups

    def groups(self) -> dict[str, DeviceGroup]:
        """By name, sorted."""
        return self._db.read(group_rows.load)

    def save_group(self, group: DeviceGroup) -> None:
        self._write(lambda db: group_rows.save(db, group))

    def drop_group(self, name: str) -> None:
        self._write(lambda db: group_rows.drop(db, name))

    # ---- rollouts

    def rollouts(self, *, active: bool = False) -> dict[str, tuple[RolloutSpec, RolloutProgress]]:
        """Rollout id → spec and progress, oldest first. ``active``: only those with a device that has to
        be looked after."""
        with self._one_writer:
            return self._db.read(partial(self._rollouts.load, active=active))

    def rollout(self, rollout: str) -> tuple[RolloutSpec, RolloutProgress] | None:
        """One of them; None if there is none of that name."""
        with self._one_writer:
            return self._db.read(partial(self._rollouts.find, rollout=rollout))

    def rollouts_of(self, device: str) -> dict[str, tuple[RolloutSpec, RolloutProgress]]:
        """Those that a device is a member of, oldest first."""
        with self._one_writer:
            return self._db.read(partial(self._rollouts.of_device, device=device))

    def save_rollout(
        self, spec: RolloutSpec, progress: RolloutProgress, devices: Iterable[Device] = ()
    ) -> None:
        """``devices``: those whose desired document changes with this step, all in one transaction."""
        self.save_rollouts([(spec, progress)], devices)

    def save_rollouts(
        self, rollouts: Iterable[tuple[RolloutSpec, RolloutProgress]], devices: Iterable[Device] = ()
    ) -> None:
        """All in one transaction. Of a rollout that was saved before, what changed."""
        changed, told = list(rollouts), list(devices)

        def work(db: Connection) -> None:
            self._rollouts.failed()  # where the server went away in the middle, it is done again
            for spec, progress in changed:
                self._rollouts.save(db, spec, progress)
            device_rows.tell(db, told)

        with self._one_writer:
            try:
                self._write(work)
            except BaseException:
                self._rollouts.failed()
                raise
            self._rollouts.committed()

    # ---- numbers

    def number(self, name: str) -> int:
        """A number that was kept; 0 if there is none."""
        return self._db.read(partial(numbers.kept, name=name))

    def keep_number(self, name: str, value: int) -> None:
        self._write(partial(numbers.keep, name=name, value=value))

    # ---- history

    def log(self, kind: str, subject: str, text: str) -> None:
        """Append to the audit log. ``kind``: one of :data:`SAID` waits for :meth:`flush`, and is pruned some
        day; all else is kept, at once and for ever."""
        entry = history.event(kind, subject, text)
        if kind in SAID:
            self._said.note_event(entry)
        else:
            self._write(lambda db: history.append(db, [entry]))

    def prune(self, before_s: float) -> int:
        """Forget what devices and broker said before ``before_s`` (Unix time); returns how much that was."""
        self._telemetry_bytes = None  # duplicates were counted, too
        self._write(lambda db: heard.forget_old(db, time.time()), durable=False)
        return self._write(partial(history.prune, before_s=before_s), durable=False)

    def events(
        self,
        limit: int = 200,
        *,
        about: str | None = None,
        since_s: float | None = None,
        before: int | None = None,
        acts: bool = False,
    ) -> list[HistoryEntry]:
        """The newest that fit, oldest of them first. ``about``: of this device and its slots, this rollout,
        release or fleet; ``since_s``: Unix time; ``before``: the id of the oldest event of the page before;
        ``acts``: only what operators did.
        """
        return self._read(
            lambda db: history.events(db, limit, about=about, since_s=since_s, before=before, acts=acts)
        )

    # ---- alerts

    def firing(self) -> list[Alert]:
        """Alerts that fired when they were saved last."""
        return self._db.read(alert_rows.firing)

    def save_alerts(self, firing: Iterable[Alert], notice: str | None, now_s: float) -> None:
        """All that fire now, and what is to be told of that: both are on the disk, or neither."""
        alerts = list(firing)
        self._write(lambda db: alert_rows.save(db, alerts, notice, now_s))

    def oldest_notice(self) -> tuple[int, str] | None:
        """What nobody has taken yet: its number and text."""
        return self._db.read(alert_rows.oldest_notice)

    def drop_notice(self, number: int) -> None:
        self._write(partial(alert_rows.drop_notice, number=number))

    # ---- telemetry

    def note_telemetry(
        self, device: str, message: Telemetry, *, profile: str = "", trusted: bool = True
    ) -> None:
        """A message of a device. It waits for :meth:`flush`; one that was kept before counts once. ``profile``: the
        device's; ``trusted``: it does not say that its clock is wrong. Raises :class:`ProtocolError` for numbers
        that no database holds."""
        row = telemetry.message(
            device, message, time.time(), self._retention, profile=profile, trusted=trusted
        )
        self._said.note_telemetry(row)
        if self._telemetry_bytes is not None:
            self._telemetry_bytes += row["bytes"]

    def count_telemetry(self) -> dict[LatencyClass, Histogram] | None:
        """Add a piece of what devices measured to the totals of the fleet. Returns what that was; None: nothing is
        left to be added. What this costs is bounded: it is called often."""
        return self._write(totals.count, durable=False)

    def totals(self, query: TotalsQuery, limit: int, after: int = 0) -> dict[LatencyClass, list[Total]]:
        """What the fleet measured: ``limit`` classes, without the first ``after``."""
        return self._read(lambda db: totals.classes(db, query, limit, after))

    def waiting(self) -> dict[str, int]:
        """How much of what devices said is not written yet, by what it is."""
        return self._said.waiting()

    def database_bytes(self) -> int:
        """Of the whole database, with room that is free inside."""
        return self._db.read(size_of)

    def forget_start(self, device: str) -> None:
        """A device counts its starts anew: what it sends is not what it sent before under the same numbers. It waits
        for :meth:`flush`."""
        self._said.note_anew(device)

    def retain(self, now_s: float) -> bool:
        """Merge a piece of the telemetry that is old by now (Unix time) into histograms of hours and days, or
        forget it; True: there is more to do. What this costs is bounded: it is called often."""
        if self._telemetry_bytes is None:
            self._telemetry_bytes = self._read(telemetry.size)
        work = partial(
            telemetry.retain, now_s=now_s, retention=self._retention, bytes_now=self._telemetry_bytes
        )
        freed = self._write(work, durable=False)
        self._telemetry_bytes -= freed
        return freed != 0

    def measurements(self, device: str, since_s: float = 0.0) -> list[Measurement]:
        """What a device measured since then (Unix time), by time: its messages as they came, before that hours,
        before that days."""
        return self._read(partial(telemetry.series, device=device, since_s=since_s))

    # ---- transactions

    def _read(self, work: Callable[[Connection], T]) -> T:
        """Of tables that hold what devices said: what waits is written first."""
        return self._write(work, durable=False) if self._said else self._db.read(work)

    def _write(self, work: Callable[[Connection], T], *, durable: bool = True) -> T:
        """``work`` in one transaction, behind what waits."""
        with self._one_writer:
            batch = Batch()

            def all_of_it(db: Connection) -> T:
                nonlocal batch
                batch = batch or self._said.take()
                device_rows.save(db, batch.devices.values())
                history.append(db, batch.events)
                for device in batch.anew:
                    heard.forget(db, device)
                telemetry.append(db, batch.telemetry)
                return work(db)

            try:
                return self._db.write(all_of_it, durable=durable)
            except BaseException:
                self._said.give_back(batch)
                raise
