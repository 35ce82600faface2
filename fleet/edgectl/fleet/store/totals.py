"""What the fleet measured, merged over devices by class and hour, later by day.

Each message of telemetry counts once, and in the hour in which it was measured however late it came: in the
transaction that counts it, its row is marked. Whose clock says which hour that was, the device's or (where that
cannot be believed) ours at its arrival, is part of the key.

Bounded: one device brings at most :data:`BROUGHT` classes into an hour that nobody else had, and an hour holds
:data:`CLASSES`. What is beyond is left out, and said.
"""

from __future__ import annotations

import logging
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, delete, func, select, update

from edgectl.core.histogram import Histogram
from edgectl.core.wire import Telemetry
from edgectl.fleet.store.database import upsert
from edgectl.fleet.store.rollup import DAY_S, HOUR_S, LatencyClass, by_class, packed, start_of, unpacked
from edgectl.fleet.store.schema import TELEMETRY_RAW as RAW
from edgectl.fleet.store.schema import TELEMETRY_TOTALS as TOTALS

__all__ = [
    "BROUGHT",
    "CLASSES",
    "Total",
    "TotalsQuery",
    "classes",
    "count",
    "disown",
    "forget_days",
    "merge_hours",
]

log = logging.getLogger(__name__)

BROUGHT = 256
CLASSES = 16_384
_PIECE = 400
"""Messages that one call counts at most."""
_CALLS = 1 << 32
"""Of one class in one message: more are left out, or one device's numbers leave no room for those of others."""
_SPANS = 20_000
"""Rows that one call reads at most of one class: 400 days of it are 1 120."""
_OF_CLASS = (
    TOTALS.c.slot,
    TOTALS.c.digest,
    TOTALS.c.profile,
    TOTALS.c.stage,
    TOTALS.c.preference,
    TOTALS.c.power_mode,
    TOTALS.c.throttled,
)


@dataclass(frozen=True)
class Total:
    """One class in one hour or day."""

    of: LatencyClass
    clock: str
    """``device``: it said when this was; ``arrival``: it did not know, and that is when the message came."""
    span_s: int
    start_s: int
    """Unix time."""
    histogram: Histogram


@dataclass(frozen=True)
class TotalsQuery:
    """Which totals. None: any."""

    digest: str | None = None
    slot: str | None = None
    profile: str | None = None
    stage: str | None = None
    preference: str | None = None
    power_mode: str | None = None
    throttled: bool | None = None
    since_s: float = 0.0
    """Spans that end after that, and begin"""
    until_s: float | None = None
    """before that (Unix time)."""

    def wanted(self) -> Iterator[ColumnElement[bool]]:
        for name in ("digest", "slot", "profile", "stage", "preference", "power_mode"):
            value = getattr(self, name)
            if value is not None:
                yield TOTALS.c[name] == value
        if self.throttled is not None:
            yield TOTALS.c.throttled == int(self.throttled)
        if self.since_s:
            yield TOTALS.c.start_s + TOTALS.c.span_s > self.since_s
        if self.until_s is not None:
            yield TOTALS.c.start_s < self.until_s


_Span = tuple[LatencyClass, str, int]
"""Class, clock, start."""


@dataclass
class _Sum:
    histogram: Histogram
    founder: str


def count(db: Connection) -> dict[LatencyClass, Histogram] | None:
    """Add a piece of the messages that do not count yet. Returns what that was; None: there is none."""
    messages = (RAW.c.device, RAW.c.epoch, RAW.c.seq, RAW.c.wall_s, RAW.c.clock, RAW.c.profile, RAW.c.message)
    rows = db.execute(select(*messages).where(RAW.c.counted == 0).order_by(RAW.c.kept_s).limit(_PIECE)).all()
    if not rows:
        return None
    sums: dict[_Span, _Sum] = {}
    for r in rows:
        t = Telemetry.model_validate_json(zlib.decompress(r.message))
        start_s = start_of(r.wall_s, HOUR_S)
        for of, histogram in by_class(t, r.profile):
            if histogram.n > _CALLS:
                log.warning("%s: %d calls of %s in one message are left out", r.device, histogram.n, of.stage)
                continue
            sums.setdefault((of, r.clock, start_s), _Sum(Histogram(), r.device)).histogram.merge(histogram)
    added = _add(db, HOUR_S, sums)
    mark = (
        update(RAW)
        .where(RAW.c.device == bindparam("d"), RAW.c.epoch == bindparam("e"), RAW.c.seq == bindparam("s"))
        .values(counted=1)
    )
    db.execute(mark, [{"d": r.device, "e": r.epoch, "s": r.seq} for r in rows])
    total: dict[LatencyClass, Histogram] = {}
    for of, _, _ in added:
        total[of] = Histogram.merged(s.histogram for (c, _, _), s in added.items() if c == of)
    return total


def classes(
    db: Connection, query: TotalsQuery, limit: int, after: int = 0
) -> dict[LatencyClass, list[Total]]:
    """The totals of ``limit`` classes, in the order of their names, without the first ``after``."""
    wanted = list(query.wanted())
    page = db.execute(
        select(*_OF_CLASS).where(*wanted).distinct().order_by(*_OF_CLASS).offset(after).limit(limit)
    ).all()
    found: dict[LatencyClass, list[Total]] = {}
    for r in page:
        mine = [column == value for column, value in zip(_OF_CLASS, r, strict=True)]
        spans = select(TOTALS).where(*wanted, *mine).order_by(TOTALS.c.start_s, TOTALS.c.span_s).limit(_SPANS)
        found[_class(r)] = [
            Total(_class(x), x.clock, x.span_s, x.start_s, unpacked(x.histogram)) for x in db.execute(spans)
        ]
    return found


def merge_hours(db: Connection, before_s: float) -> int:
    """The oldest hour that began before then → its day. Returns by how many bytes there are fewer, at least 1 where
    there was one."""
    hours = (TOTALS.c.span_s == HOUR_S, TOTALS.c.start_s < before_s)
    oldest = db.execute(select(func.min(TOTALS.c.start_s)).where(*hours)).scalar()
    if oldest is None:
        return 0
    mine = (TOTALS.c.span_s == HOUR_S, TOTALS.c.start_s == oldest)
    rows = db.execute(select(TOTALS).where(*mine)).all()
    sums = {
        (_class(r), r.clock, start_of(r.start_s, DAY_S)): _Sum(unpacked(r.histogram), r.founder) for r in rows
    }
    before = _bytes(db)
    _add(db, DAY_S, sums)
    db.execute(delete(TOTALS).where(*mine))
    return max(before - _bytes(db), 1)


def forget_days(db: Connection, before_s: float) -> int:
    """The oldest day that began before then. Returns its bytes."""
    days = TOTALS.c.span_s == DAY_S
    oldest = db.execute(select(func.min(TOTALS.c.start_s)).where(days, TOTALS.c.start_s < before_s)).scalar()
    if oldest is None:
        return 0
    gone = (days, TOTALS.c.start_s == oldest)
    freed = int(db.execute(select(func.sum(TOTALS.c.bytes)).where(*gone)).scalar_one())
    db.execute(delete(TOTALS).where(*gone))
    return freed


def disown(db: Connection, device: str) -> None:
    """A device is purged: its name goes. What it measured is in sums that nobody can take apart."""
    db.execute(update(TOTALS).where(TOTALS.c.founder == device).values(founder=""))


def _add(db: Connection, span_s: int, sums: Mapping[_Span, _Sum]) -> dict[_Span, _Sum]:
    """Merge into what there is. Returns what was not left out."""
    starts = sorted({start_s for _, _, start_s in sums})
    digests = sorted({of.digest for of, _, _ in sums})
    spans = (TOTALS.c.span_s == span_s, TOTALS.c.start_s.in_(starts))
    before = {
        (_class(r), r.clock, r.start_s): r
        for r in db.execute(select(TOTALS).where(*spans, TOTALS.c.digest.in_(digests)))
    }
    brought, held = _held(db, spans) if sums.keys() - before.keys() else (Counter(), Counter())
    rows, added, left_out = list[dict[str, Any]](), dict[_Span, _Sum](), Counter[str]()
    for span, new in sums.items():
        _, _, start_s = span
        was = before.get(span)
        if was is None:
            if brought[start_s, new.founder] >= BROUGHT or held[start_s] >= CLASSES:
                left_out[new.founder] += 1
                continue
            brought[start_s, new.founder] += 1
            held[start_s] += 1
        data = packed(Histogram.merged([new.histogram, *([unpacked(was.histogram)] if was else [])]))
        added[span] = new
        rows.append(_row(span, span_s, was.founder if was else new.founder, data))
    upsert(db, TOTALS, rows)
    for device, n in left_out.items():
        log.warning("%s: %d classes of latency are left out: too many names", device, n)
    return added


def _held(
    db: Connection, spans: Iterable[ColumnElement[bool]]
) -> tuple[Counter[tuple[int, str]], Counter[int]]:
    """Classes by (start, who brought them), and by start."""
    asked = select(TOTALS.c.start_s, TOTALS.c.founder, func.count()).where(*spans)
    brought, held = Counter[tuple[int, str]](), Counter[int]()
    for start_s, founder, n in db.execute(asked.group_by(TOTALS.c.start_s, TOTALS.c.founder)):
        brought[start_s, founder] = n
        held[start_s] += n
    return brought, held


def _bytes(db: Connection) -> int:
    return int(db.execute(select(func.coalesce(func.sum(TOTALS.c.bytes), 0))).scalar_one())


def _row(span: _Span, span_s: int, founder: str, data: bytes) -> dict[str, Any]:
    of, clock, start_s = span
    return {
        "slot": of.slot,
        "digest": of.digest,
        "profile": of.profile,
        "stage": of.stage,
        "preference": of.preference,
        "power_mode": of.power_mode,
        "throttled": int(of.throttled),
        "clock": clock,
        "span_s": span_s,
        "start_s": start_s,
        "founder": founder,
        "bytes": len(data),
        "histogram": data,
    }


def _class(r: Any) -> LatencyClass:
    return LatencyClass(r.slot, r.digest, r.profile, r.stage, r.preference, r.power_mode, bool(r.throttled))
