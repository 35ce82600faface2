"""What the controller remembers, in SQL (SQLite by default, any SQLAlchemy URL).

Devices could be rebuilt from retained messages; releases, desired documents and rollouts could not, so they
are written before anything is published. No rules here.

Events are of two kinds. What operators did is kept for ever. What devices and the broker said (:data:`SAID`)
is as much as a fleet has to say, and is pruned by time: it never crowds out an act.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    Row,
    Select,
    String,
    Table,
    Text,
    create_engine,
    delete,
    func,
    insert,
    or_,
    select,
)
from sqlalchemy.exc import SQLAlchemyError

from edgectl.core.errors import StorageError
from edgectl.core.files import keep_private
from edgectl.core.wire import Conn, Desired, Reported
from edgectl.fleet.rollouts.planner import ACTIVE, RolloutProgress, RolloutSpec

__all__ = ["SAID", "Archived", "Device", "HistoryEntry", "Inventory", "Release"]

SAID = ("state", "presence", "broker")
"""Kinds of events that no operator caused: states of devices, who is there, what the broker had."""

_meta = MetaData()
_devices = Table(
    "devices",
    _meta,
    Column("name", String(64), primary_key=True),
    Column("conn", Text),
    Column("reported", Text),
    Column("desired", Text),
    Column("seen_s", Float, nullable=False),
)
_releases = Table(
    "releases",
    _meta,
    Column("release", String(200), primary_key=True),
    Column("digest", String(80), nullable=False),
    Column("profiles", Text, nullable=False),
    Column("created_s", Float, nullable=False),
)
_rollouts = Table(
    "rollouts",
    _meta,
    Column("id", String(64), primary_key=True),
    Column("spec", Text, nullable=False),
    Column("progress", Text, nullable=False),
    Column("state", String(32), nullable=False),
    Column("created_s", Float, nullable=False),
)
_events = Table(
    "events",
    _meta,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("wall_s", Float, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("subject", String(200), nullable=False),
    Column("text", Text, nullable=False),
    Index("events_by_subject", "subject", "id"),
    Index("events_by_kind", "kind", "wall_s"),
)
_archive = Table(
    "archive",
    _meta,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("name", String(64), nullable=False),
    Column("removed_s", Float, nullable=False),
    Column("conn", Text),
    Column("reported", Text),
    Column("desired", Text),
    Column("seen_s", Float, nullable=False),
)
_revoked = Table(
    "revoked", _meta, Column("name", String(64), primary_key=True), Column("wall_s", Float, nullable=False)
)
_numbers = Table(
    "numbers",
    _meta,
    Column("name", String(32), primary_key=True),
    Column("value", BigInteger, nullable=False),
)
_SAID_OF_ONE = 5_000
"""The newest of one subject that are kept however new they are: a device that says something new all day
fills nobody's disk."""
_STRAGGLERS = "stragglers"
"""In the column ``state``: a rollout that is done, and some device has not come back yet."""


@dataclass
class Device:
    name: str
    conn: Conn | None = None
    reported: Reported | None = None
    desired: Desired = field(default_factory=lambda: Desired(gen=0))
    seen_s: float = 0.0
    """Unix time of its last word."""


@dataclass(frozen=True)
class Archived:
    """A device that was removed, as it was then. ``device.conn``, ``reported`` and ``desired`` are empty
    where it was purged."""

    device: Device
    removed_s: float


@dataclass(frozen=True)
class Release:
    release: str
    digest: str
    profiles: tuple[str, ...]
    created_s: float


@dataclass(frozen=True)
class HistoryEntry:
    wall_s: float
    kind: str
    subject: str
    text: str
    id: int = 0
    """Rises; what happened later has a higher one, whatever the clock said."""


class Inventory:
    """Thread-safe; each method is one transaction. Raises :class:`StorageError`."""

    def __init__(self, state_dir: Path, url: str | None = None) -> None:
        self._lock = threading.RLock()
        try:
            state_dir.mkdir(parents=True, exist_ok=True)
            if url is None:
                keep_private(state_dir / "fleet.db")
            self._engine = create_engine(url or f"sqlite:///{state_dir / 'fleet.db'}")
            _meta.create_all(self._engine)
            # a table that was there already has got none by the line above
            for index in _events.indexes:
                index.create(self._engine, checkfirst=True)
        except (SQLAlchemyError, OSError) as e:
            raise StorageError(f"the fleet database cannot be opened: {e}") from e

    def close(self) -> None:
        self._engine.dispose()

    def devices(self) -> dict[str, Device]:
        return {row.name: _device(row) for row in self._all(select(_devices))}

    def save_device(self, d: Device) -> None:
        with self._transaction() as db:
            _replace(db, _devices, "name", _device_values(d))

    def save_devices(self, devices: Iterable[Device]) -> None:
        with self._transaction() as db:
            for d in devices:
                _replace(db, _devices, "name", _device_values(d))

    def archive(self, d: Device, *, purge: bool = False) -> None:
        """Take a device out of the fleet. What is known of it is kept, with all events; ``purge``: only
        its name is, and what operators did."""
        row = {**_device_values(d), "removed_s": time.time()}
        if purge:
            row |= {"conn": None, "reported": None, "desired": None}
        with self._transaction() as db:
            db.execute(delete(_devices).where(_devices.c.name == d.name))
            db.execute(delete(_revoked).where(_revoked.c.name == d.name))
            if purge:
                db.execute(delete(_archive).where(_archive.c.name == d.name))
                db.execute(delete(_events).where(_about(d.name), _events.c.kind.in_(SAID)))
            db.execute(insert(_archive).values(**row))

    def archived(self) -> list[Archived]:
        """Devices that were removed, oldest first; one that was enrolled again and removed again is there
        twice."""
        return [
            Archived(_device(row), row.removed_s)
            for row in self._all(select(_archive).order_by(_archive.c.id))
        ]

    def revoked(self) -> set[str]:
        """Devices whose certificate was revoked."""
        return {row.name for row in self._all(select(_revoked.c.name))}

    def mark_revoked(self, device: str, revoked: bool) -> None:
        with self._transaction() as db:
            db.execute(delete(_revoked).where(_revoked.c.name == device))
            if revoked:
                db.execute(insert(_revoked).values(name=device, wall_s=time.time()))

    def releases(self) -> dict[str, Release]:
        rows = self._all(select(_releases).order_by(_releases.c.created_s))
        return {
            r.release: Release(r.release, r.digest, tuple(filter(None, r.profiles.split(","))), r.created_s)
            for r in rows
        }

    def save_release(self, r: Release) -> None:
        values = {
            "release": r.release,
            "digest": r.digest,
            "profiles": ",".join(r.profiles),
            "created_s": r.created_s,
        }
        with self._transaction() as db:
            _replace(db, _releases, "release", values)

    def drop_release(self, release: str) -> None:
        """Forget a release that was withdrawn."""
        with self._transaction() as db:
            db.execute(delete(_releases).where(_releases.c.release == release))

    def rollouts(self, *, active: bool = False) -> dict[str, tuple[RolloutSpec, RolloutProgress]]:
        """Rollout id → spec and progress, oldest first. ``active``: only those with a device that has to
        be looked after."""
        query = select(_rollouts).order_by(_rollouts.c.created_s)
        if active:
            query = query.where(_rollouts.c.state.in_([*(s.value for s in ACTIVE), _STRAGGLERS]))
        return {
            r.id: (RolloutSpec.model_validate_json(r.spec), RolloutProgress.model_validate_json(r.progress))
            for r in self._all(query)
        }

    def save_rollout(
        self, spec: RolloutSpec, progress: RolloutProgress, devices: Iterable[Device] = ()
    ) -> None:
        """``devices``: those whose desired document changes with this step, all in one transaction."""
        self.save_rollouts([(spec, progress)], devices)

    def save_rollouts(
        self, rollouts: Iterable[tuple[RolloutSpec, RolloutProgress]], devices: Iterable[Device] = ()
    ) -> None:
        """All in one transaction."""
        with self._transaction() as db:
            for spec, progress in rollouts:
                created = db.execute(select(_rollouts.c.created_s).where(_rollouts.c.id == spec.id)).scalar()
                _replace(
                    db,
                    _rollouts,
                    "id",
                    _rollout_values(spec, progress, time.time() if created is None else created),
                )
            for d in devices:
                _replace(db, _devices, "name", _device_values(d))

    def number(self, name: str) -> int:
        """A number that was kept; 0 if there is none."""
        found = self._all(select(_numbers.c.value).where(_numbers.c.name == name))
        return int(found[0].value) if found else 0

    def keep_number(self, name: str, value: int) -> None:
        with self._transaction() as db:
            _replace(db, _numbers, "name", {"name": name, "value": value})

    def log(self, kind: str, subject: str, text: str) -> None:
        """Append to the audit log. ``kind``: one of :data:`SAID` is pruned some day, all else is kept."""
        with self._transaction() as db:
            db.execute(
                insert(_events).values(wall_s=time.time(), kind=kind, subject=subject, text=text[:2000])
            )

    def prune(self, before_s: float) -> int:
        """Forget what devices and broker said before ``before_s`` (Unix time); returns how much that was."""
        said = _events.c.kind.in_(SAID)
        count = func.count()
        with self._transaction() as db:
            gone = db.execute(delete(_events).where(said, _events.c.wall_s < before_s)).rowcount
            crowded = db.execute(
                select(_events.c.subject).where(said).group_by(_events.c.subject).having(count > _SAID_OF_ONE)
            ).scalars()
            for subject in list(crowded):
                mine = (said, _events.c.subject == subject)
                newest = (
                    select(_events.c.id)
                    .where(*mine)
                    .order_by(_events.c.id.desc())
                    .offset(_SAID_OF_ONE - 1)
                    .limit(1)
                )
                gone += db.execute(
                    delete(_events).where(*mine, _events.c.id < db.execute(newest).scalar_one())
                ).rowcount
        return gone

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
        query = select(_events)
        if about is not None:
            query = query.where(_about(about))
        if since_s is not None:
            query = query.where(_events.c.wall_s >= since_s)
        if before is not None:
            query = query.where(_events.c.id < before)
        if acts:
            query = query.where(_events.c.kind.not_in(SAID))
        rows = self._all(query.order_by(_events.c.id.desc()).limit(limit))
        return [HistoryEntry(r.wall_s, r.kind, r.subject, r.text, r.id) for r in reversed(rows)]

    def _all(self, query: Select[Any]) -> Sequence[Row[Any]]:
        with self._transaction() as db:
            return db.execute(query).all()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._lock:
            try:
                with self._engine.begin() as db:
                    yield db
            except SQLAlchemyError as e:
                raise StorageError(f"the fleet database cannot be used: {e}") from e


def _about(subject: str) -> ColumnElement[bool]:
    """Of it, or of a part of it (``gate-1/detector``)."""
    return or_(_events.c.subject == subject, _events.c.subject.startswith(subject + "/", autoescape=True))


def _device(row: Row[Any]) -> Device:
    return Device(
        row.name,
        Conn.model_validate_json(row.conn) if row.conn else None,
        Reported.model_validate_json(row.reported) if row.reported else None,
        Desired.model_validate_json(row.desired) if row.desired else Desired(gen=0),
        row.seen_s,
    )


def _replace(db: Connection, table: Table, key: str, values: Mapping[str, object]) -> None:
    db.execute(delete(table).where(table.c[key] == values[key]))
    db.execute(insert(table).values(**values))


def _rollout_values(spec: RolloutSpec, progress: RolloutProgress, created_s: float) -> dict[str, object]:
    return {
        "id": spec.id,
        "spec": spec.encode().decode(),
        "progress": progress.encode().decode(),
        "state": _STRAGGLERS
        if progress.unfinished and progress.state not in ACTIVE
        else progress.state.value,
        "created_s": created_s,
    }


def _device_values(d: Device) -> dict[str, object]:
    return {
        "name": d.name,
        "conn": d.conn.encode().decode() if d.conn else None,
        "reported": d.reported.encode().decode() if d.reported else None,
        "desired": d.desired.encode().decode(),
        "seen_s": d.seen_s,
    }
