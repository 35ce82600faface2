"""Tables of what devices measured: raw messages for a while, then histograms of hours, then of days.

A message counts once: it is known by (device, epoch, seq) for as long as it is raw, and after that
(:mod:`edgectl.fleet.store.heard`). Hours are merged when all that
came in them is old enough, and a device at a time, so that a histogram is read and written once for sixty messages.
The fleet's own sums are beside them (:mod:`edgectl.fleet.store.totals`).
The whole is bounded in bytes: where there is too much, the oldest moves on before its time, and the oldest days go.
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from edgectl.core.errors import ProtocolError
from edgectl.core.histogram import Histogram
from edgectl.core.wire import MAX_GEN, Telemetry
from edgectl.fleet.config import TelemetryRetention
from edgectl.fleet.store import heard, totals
from edgectl.fleet.store.database import upsert
from edgectl.fleet.store.rollup import (
    DAY_S,
    HOUR_S,
    Key,
    Totals,
    measured,
    merge,
    packed,
    start_of,
    stored,
    unpacked,
)
from edgectl.fleet.store.schema import TELEMETRY_MERGED as MERGED
from edgectl.fleet.store.schema import TELEMETRY_RAW as RAW
from edgectl.fleet.store.schema import TELEMETRY_TOTALS as TOTALS

__all__ = ["ARRIVAL", "DEVICE", "Measurement", "append", "forget", "message", "retain", "series", "size"]

DEVICE, ARRIVAL = "device", "arrival"
"""Whose clock says when a message was measured: the device's, or ours when it came."""
_OFF_S = 300.0
"""A device's clock may be ahead of ours, or behind in what it measured just now; one that is further off is not
believed."""
_PIECE = 200
"""Messages, or histograms, that one call merges at most, give or take those of one device and hour."""
_MOST_OF_ONE = 5000
"""Raw messages of one device that are merged at once."""
_KEYS = 256
"""Histograms of one device and span: whoever makes names up crowds out nobody but himself."""


@dataclass(frozen=True)
class Measurement:
    """One histogram of a device, of ``span_s`` seconds (a message's own: 0) from ``start_s`` (Unix time)."""

    key: Key
    span_s: int
    start_s: float
    histogram: Histogram


def message(
    device: str,
    t: Telemetry,
    now_s: float,
    retention: TelemetryRetention,
    *,
    profile: str = "",
    trusted: bool = True,
) -> dict[str, Any]:
    """A row for :func:`append`. ``profile``: the device's; ``trusted``: it does not say that its clock is wrong.
    Raises :class:`ProtocolError` for numbers that no database holds."""
    if max(t.epoch, t.seq) > MAX_GEN:
        raise ProtocolError(f"telemetry of {device} has a number above {MAX_GEN}")
    # What waited in a spool may be old; what is said to be of now was measured now.
    oldest_s = now_s - (retention.daily_days * DAY_S if t.replay else _OFF_S)
    believed = trusted and t.wall_s is not None and oldest_s <= t.wall_s <= now_s + _OFF_S
    data = zlib.compress(t.encode(), 1)
    return {
        "device": device,
        "epoch": t.epoch,
        "seq": t.seq,
        "kept_s": now_s,
        "wall_s": t.wall_s if believed else now_s,
        "bytes": len(data),
        "message": data,
        "profile": stored(profile, 64),
        "clock": DEVICE if believed else ARRIVAL,
        "counted": 0,
    }


def append(db: Connection, rows: list[dict[str, Any]]) -> None:
    """What is there already, or was, is not counted twice."""
    known = heard.of(db, {r["device"] for r in rows})
    if rows := [r for r in rows if r["seq"] not in known.get((r["device"], r["epoch"]), ())]:
        make = sqlite.insert if db.dialect.name == "sqlite" else postgresql.insert
        db.execute(make(RAW).on_conflict_do_nothing(), rows)


def size(db: Connection) -> int:
    """Bytes of messages and histograms, without what the database adds to each row."""
    total = 0
    for table in (RAW, MERGED, TOTALS):
        total += int(db.execute(select(func.coalesce(func.sum(table.c.bytes), 0))).scalar_one())
    return total


def forget(db: Connection, device: str) -> None:
    for table in (RAW, MERGED):
        db.execute(delete(table).where(table.c.device == device))
    heard.forget(db, device)
    totals.disown(db, device)


def retain(db: Connection, now_s: float, retention: TelemetryRetention, bytes_now: int) -> int:
    """Merge or forget a piece of what is old, and of the oldest while there are too many bytes. Returns by how
    many bytes there are fewer; 0: there is nothing to do."""
    raw_s, hours_s = now_s - retention.raw_hours * HOUR_S, now_s - retention.hourly_days * DAY_S
    freed = (
        _merge_raw(db, start_of(raw_s, HOUR_S), now_s)
        or _merge_hours(db, start_of(hours_s, DAY_S))
        or totals.merge_hours(db, start_of(hours_s, DAY_S))
        or _forget_days(db, now_s - retention.daily_days * DAY_S)
        or totals.forget_days(db, now_s - retention.daily_days * DAY_S)
    )
    if freed or bytes_now <= retention.telemetry_mb * 1_000_000:
        return freed
    today_s, ever_s = start_of(now_s, DAY_S), now_s + DAY_S
    return (
        _merge_raw(db, start_of(now_s, HOUR_S), now_s)
        or _merge_hours(db, today_s)
        or _forget_days(db, today_s)
        or _merge_raw(db, ever_s, now_s)
        or _merge_hours(db, ever_s)
        or _forget_days(db, ever_s)
        or totals.merge_hours(db, ever_s)
        or totals.forget_days(db, ever_s)
    )


def series(db: Connection, device: str, since_s: float) -> list[Measurement]:
    """What a device measured since then, by time; a span that began before counts with its end."""
    mine = select(RAW).where(RAW.c.device == device, RAW.c.wall_s >= since_s)
    found = [
        Measurement(k, 0, r.wall_s, h) for r in db.execute(mine) for k, h in measured(_telemetry(r)).items()
    ]
    merged = select(MERGED).where(MERGED.c.device == device, MERGED.c.start_s + MERGED.c.span_s > since_s)
    found += [Measurement(_key(r), r.span_s, r.start_s, unpacked(r.histogram)) for r in db.execute(merged)]
    return sorted(found, key=lambda m: (m.start_s, m.key))


def _merge_raw(db: Connection, before_s: float, now_s: float) -> int:
    """Messages that came before then, and count in the fleet's totals → hours, of some devices."""
    freed = merged = 0
    before = (RAW.c.counted == 1, RAW.c.kept_s < before_s)
    while merged < _PIECE:
        device = db.execute(select(RAW.c.device).where(*before).order_by(RAW.c.kept_s).limit(1)).scalar()
        if device is None:
            break
        old = (RAW.c.device == device, *before)
        rows = db.execute(select(RAW).where(*old).order_by(RAW.c.epoch, RAW.c.seq).limit(_MOST_OF_ONE)).all()
        merged_now: Totals = {}
        gone = defaultdict[int, list[int]](list)
        for r in rows:
            start_s = start_of(r.wall_s, HOUR_S)
            merge(merged_now, ((k, start_s, h) for k, h in measured(_telemetry(r)).items()))
            gone[r.epoch].append(r.seq)
        freed += sum(r.bytes for r in rows) - _add(db, device, HOUR_S, merged_now)
        heard.note(db, device, gone, now_s)
        up_to = (RAW.c.epoch, RAW.c.seq)
        last = rows[-1]
        db.execute(
            delete(RAW).where(
                *old, (up_to[0] < last.epoch) | ((up_to[0] == last.epoch) & (up_to[1] <= last.seq))
            )
        )
        merged += len(rows)
    return freed or merged


def _merge_hours(db: Connection, before_s: float) -> int:
    """Hours that began before then → days, of some devices."""
    freed = merged = 0
    while merged < _PIECE:
        hours = (MERGED.c.span_s == HOUR_S, MERGED.c.start_s < before_s)
        device = db.execute(
            select(MERGED.c.device).where(*hours).order_by(MERGED.c.start_s).limit(1)
        ).scalar()
        if device is None:
            break
        mine = (*hours, MERGED.c.device == device)
        rows = db.execute(select(MERGED).where(*mine)).all()
        merged_now: Totals = {}
        merge(merged_now, ((_key(r), start_of(r.start_s, DAY_S), unpacked(r.histogram)) for r in rows))
        freed += sum(r.bytes for r in rows) - _add(db, device, DAY_S, merged_now)
        db.execute(delete(MERGED).where(*mine))
        merged += len(rows)
    return freed or merged


def _forget_days(db: Connection, before_s: float) -> int:
    """The oldest day that began before then."""
    days = MERGED.c.span_s == DAY_S
    oldest = db.execute(select(func.min(MERGED.c.start_s)).where(days, MERGED.c.start_s < before_s)).scalar()
    if oldest is None:
        return 0
    gone = (days, MERGED.c.start_s == oldest)
    freed = int(db.execute(select(func.sum(MERGED.c.bytes)).where(*gone)).scalar_one())
    db.execute(delete(MERGED).where(*gone))
    return freed


def _add(db: Connection, device: str, span_s: int, new: Totals) -> int:
    """Merge into what there is. Returns by how many bytes there are more."""
    starts = sorted({start_s for _, start_s in new})
    mine = (MERGED.c.device == device, MERGED.c.span_s == span_s, MERGED.c.start_s.in_(starts))
    before = {(_key(r), r.start_s): r for r in db.execute(select(MERGED).where(*mine))}
    rows, more, kept = list[dict[str, Any]](), 0, Counter(start_s for _, start_s in before)
    for (key, start_s), histogram in new.items():
        was = before.get((key, start_s))
        if was is None and kept[start_s] >= _KEYS:
            continue
        data = packed(Histogram.merged([histogram, *([unpacked(was.histogram)] if was else [])]))
        kept[start_s] += was is None
        more += len(data) - (was.bytes if was else 0)
        rows.append(_row(device, key, span_s, start_s, data))
    upsert(db, MERGED, rows)
    return more


def _row(device: str, key: Key, span_s: int, start_s: int, data: bytes) -> dict[str, Any]:
    return {
        "device": device,
        "slot": key.slot,
        "digest": key.digest,
        "stage": key.stage,
        "span_s": span_s,
        "start_s": start_s,
        "bytes": len(data),
        "histogram": data,
    }


def _key(r: Row[Any]) -> Key:
    return Key(r.slot, r.digest, r.stage)


def _telemetry(r: Row[Any]) -> Telemetry:
    return Telemetry.model_validate_json(zlib.decompress(r.message))
