"""Tables of devices: what each said last and what is wanted of it, who was removed, who was revoked."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from edgectl.core.wire import Conn, Desired, Reported
from edgectl.fleet.store.database import upsert
from edgectl.fleet.store.schema import ARCHIVE, DEVICES, REVOKED

__all__ = ["Archived", "Device", "archive", "archived", "load", "mark_revoked", "revoked", "save", "tell"]


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


def load(db: Connection) -> dict[str, Device]:
    return {row.name: _device(row) for row in db.execute(select(DEVICES))}


def save(db: Connection, devices: Iterable[Device]) -> None:
    upsert(db, DEVICES, [_values(d) for d in devices])


def tell(db: Connection, devices: Sequence[Device]) -> None:
    """What is wanted of them now. What they said last is written already, or with them."""
    rows = [{"device": d.name, "wish": d.desired.encode().decode()} for d in devices]
    if not rows:
        return
    wish = update(DEVICES).where(DEVICES.c.name == bindparam("device")).values(desired=bindparam("wish"))
    if db.execute(wish, rows).rowcount != len(rows):  # one that has never said anything
        save(db, devices)


def archive(db: Connection, d: Device, *, purge: bool) -> None:
    """Move it to the archive. ``purge``: its name only, there and in what was archived of it before."""
    row = {**_values(d), "removed_s": time.time()}
    db.execute(delete(DEVICES).where(DEVICES.c.name == d.name))
    db.execute(delete(REVOKED).where(REVOKED.c.name == d.name))
    if purge:
        row |= {"conn": None, "reported": None, "desired": None}
        db.execute(delete(ARCHIVE).where(ARCHIVE.c.name == d.name))
    db.execute(insert(ARCHIVE).values(**row))


def archived(db: Connection) -> list[Archived]:
    return [
        Archived(_device(row), row.removed_s) for row in db.execute(select(ARCHIVE).order_by(ARCHIVE.c.id))
    ]


def revoked(db: Connection) -> set[str]:
    return set(db.execute(select(REVOKED.c.name)).scalars())


def mark_revoked(db: Connection, device: str, *, revoked: bool) -> None:
    db.execute(delete(REVOKED).where(REVOKED.c.name == device))
    if revoked:
        db.execute(insert(REVOKED).values(name=device, wall_s=time.time()))


def _device(row: Row[Any]) -> Device:
    return Device(
        row.name,
        Conn.model_validate_json(row.conn) if row.conn else None,
        Reported.model_validate_json(row.reported) if row.reported else None,
        Desired.model_validate_json(row.desired) if row.desired else Desired(gen=0),
        row.seen_s,
    )


def _values(d: Device) -> dict[str, object]:
    return {
        "name": d.name,
        "conn": d.conn.encode().decode() if d.conn else None,
        "reported": d.reported.encode().decode() if d.reported else None,
        "desired": d.desired.encode().decode(),
        "seen_s": d.seen_s,
    }
