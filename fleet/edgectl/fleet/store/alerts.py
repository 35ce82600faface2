"""Tables of alerts: those that fire, and notices that nobody has taken yet."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, delete, func, insert, select

from edgectl.fleet.alerts.book import Alert
from edgectl.fleet.store.schema import ALERT_NOTICES as NOTICES
from edgectl.fleet.store.schema import ALERTS

__all__ = ["NOTICES_KEPT", "drop_notice", "firing", "oldest_notice", "save"]

NOTICES_KEPT = 1000
"""That wait: with one more, the oldest goes."""


def firing(db: Connection) -> list[Alert]:
    return [Alert.model_validate_json(r.alert) for r in db.execute(select(ALERTS))]


def save(db: Connection, alerts: Iterable[Alert], notice: str | None, wall_s: float) -> None:
    """``alerts``: all that fire now; ``notice``: what is to be told; None: nobody wants to be."""
    db.execute(delete(ALERTS))
    rows = [{"rule": a.rule, "site": a.site, "alert": a.encode().decode()} for a in alerts]
    if rows:
        db.execute(insert(ALERTS), rows)
    if notice is not None:
        db.execute(insert(NOTICES).values(wall_s=wall_s, notice=notice))
        newest = db.execute(select(func.max(NOTICES.c.id))).scalar_one()
        db.execute(delete(NOTICES).where(NOTICES.c.id <= newest - NOTICES_KEPT))


def oldest_notice(db: Connection) -> tuple[int, str] | None:
    """Its number, and what it says."""
    row = db.execute(select(NOTICES).order_by(NOTICES.c.id).limit(1)).first()
    return None if row is None else (row.id, row.notice)


def drop_notice(db: Connection, number: int) -> None:
    db.execute(delete(NOTICES).where(NOTICES.c.id == number))
