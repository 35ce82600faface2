"""The table of groups of devices."""

from __future__ import annotations

from sqlalchemy import Connection, delete, select

from edgectl.fleet.rollouts.groups import DeviceGroup
from edgectl.fleet.store.database import upsert
from edgectl.fleet.store.schema import GROUPS

__all__ = ["drop", "load", "save"]


def load(db: Connection) -> dict[str, DeviceGroup]:
    """By name, sorted."""
    rows = db.execute(select(GROUPS).order_by(GROUPS.c.name))
    return {row.name: DeviceGroup.model_validate_json(row.terms) for row in rows}


def save(db: Connection, group: DeviceGroup) -> None:
    upsert(db, GROUPS, [{"name": group.name, "terms": group.model_dump_json()}])


def drop(db: Connection, name: str) -> None:
    db.execute(delete(GROUPS).where(GROUPS.c.name == name))
