"""The table of events: what operators did, for ever, and what devices and the broker said, for a while."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, delete, func, insert, or_, select

from edgectl.fleet.store.schema import EVENTS

__all__ = ["SAID", "HistoryEntry", "append", "event", "events", "forget", "prune"]

SAID = ("state", "presence", "broker", "alert")
"""Kinds of events that no operator caused: states of devices, who is there, what the broker had,
alerts."""

_SAID_OF_ONE = 5_000
"""The newest of one subject that are kept however new they are: a device that says something new all day
fills nobody's disk."""
_TEXT = 2000
"""Characters of one entry."""


@dataclass(frozen=True)
class HistoryEntry:
    wall_s: float
    kind: str
    subject: str
    text: str
    id: int = 0
    """Rises; what happened later has a higher one, whatever the clock said."""


def event(kind: str, subject: str, text: str) -> dict[str, object]:
    """A row for :func:`append`, of now. PostgreSQL stores no NUL, which a device may say."""
    return {"wall_s": time.time(), "kind": kind, "subject": subject, "text": text[:_TEXT].replace("\0", "�")}


def append(db: Connection, rows: list[dict[str, object]]) -> None:
    if rows:
        db.execute(insert(EVENTS), rows)


def events(
    db: Connection,
    limit: int,
    *,
    about: str | None = None,
    since_s: float | None = None,
    before: int | None = None,
    acts: bool = False,
) -> list[HistoryEntry]:
    """The newest that fit, oldest of them first."""
    query = select(EVENTS)
    if about is not None:
        query = query.where(_about(about))
    if since_s is not None:
        query = query.where(EVENTS.c.wall_s >= since_s)
    if before is not None:
        query = query.where(EVENTS.c.id < before)
    if acts:
        query = query.where(EVENTS.c.kind.not_in(SAID))
    rows = db.execute(query.order_by(EVENTS.c.id.desc()).limit(limit)).all()
    return [HistoryEntry(r.wall_s, r.kind, r.subject, r.text, r.id) for r in reversed(rows)]


def prune(db: Connection, before_s: float) -> int:
    """Forget what devices and broker said before ``before_s`` (Unix time), and the oldest of who says too
    much; returns how much that was."""
    said = EVENTS.c.kind.in_(SAID)
    gone = db.execute(delete(EVENTS).where(said, EVENTS.c.wall_s < before_s)).rowcount
    crowded = (
        select(EVENTS.c.subject).where(said).group_by(EVENTS.c.subject).having(func.count() > _SAID_OF_ONE)
    )
    for subject in db.execute(crowded).scalars().all():
        mine = (said, EVENTS.c.subject == subject)
        newest = (
            select(EVENTS.c.id).where(*mine).order_by(EVENTS.c.id.desc()).offset(_SAID_OF_ONE - 1).limit(1)
        )
        gone += db.execute(
            delete(EVENTS).where(*mine, EVENTS.c.id < db.execute(newest).scalar_one())
        ).rowcount
    return gone


def forget(db: Connection, subject: str) -> None:
    """What a device said, and what was said of its parts."""
    db.execute(delete(EVENTS).where(_about(subject), EVENTS.c.kind.in_(SAID)))


def _about(subject: str) -> ColumnElement[bool]:
    """Of it, or of a part of it (``gate-1/detector``)."""
    return or_(EVENTS.c.subject == subject, EVENTS.c.subject.startswith(subject + "/", autoescape=True))
