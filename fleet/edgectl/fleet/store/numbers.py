"""The table of numbers that must not be used twice."""

from __future__ import annotations

from sqlalchemy import Connection, select

from edgectl.fleet.store.database import upsert
from edgectl.fleet.store.schema import NUMBERS

__all__ = ["keep", "kept"]


def kept(db: Connection, name: str) -> int:
    """0 if there is none."""
    return int(db.execute(select(NUMBERS.c.value).where(NUMBERS.c.name == name)).scalar() or 0)


def keep(db: Connection, name: str, value: int) -> None:
    upsert(db, NUMBERS, [{"name": name, "value": value}])
