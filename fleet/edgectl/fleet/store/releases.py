"""The table of releases: what was published and not withdrawn."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, select

from edgectl.fleet.store.database import upsert
from edgectl.fleet.store.schema import RELEASES

__all__ = ["Release", "drop", "load", "save"]


@dataclass(frozen=True)
class Release:
    release: str
    digest: str
    profiles: tuple[str, ...]
    created_s: float


def load(db: Connection) -> dict[str, Release]:
    """Oldest first."""
    return {
        r.release: Release(r.release, r.digest, tuple(filter(None, r.profiles.split(","))), r.created_s)
        for r in db.execute(select(RELEASES).order_by(RELEASES.c.created_s))
    }


def save(db: Connection, r: Release) -> None:
    row = {
        "release": r.release,
        "digest": r.digest,
        "profiles": ",".join(r.profiles),
        "created_s": r.created_s,
    }
    upsert(db, RELEASES, [row])


def drop(db: Connection, release: str) -> None:
    db.execute(delete(RELEASES).where(RELEASES.c.release == release))
