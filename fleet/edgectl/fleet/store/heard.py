"""Which messages of a device counted already, for longer than the messages themselves are kept.

A device sends again what it was not answered, maybe after days without a network. Of each of its starts (epoch) the
sequence numbers are kept as ranges, ``1-1440 1442-1500``; where there are more gaps than :data:`RANGES`, the oldest is
closed: what would have come there is lost, and nothing counts twice.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from sqlalchemy import Connection, delete, select

from edgectl.fleet.store.database import upsert
from edgectl.fleet.store.schema import TELEMETRY_HEARD as HEARD

__all__ = ["KEPT_S", "RANGES", "SeqRanges", "forget", "forget_old", "note", "of"]

KEPT_S = 30 * 86400.0
"""How long a start that nothing more came of is remembered. A device's spool keeps two days."""
RANGES = 128
_EPOCHS = 32
"""Starts of one device, the newest: one that makes them up forgets its own."""
_AT_ONCE = 500
"""Devices in one statement."""


class SeqRanges:
    """A set of sequence numbers, as ranges without overlap."""

    def __init__(self, text: str = "") -> None:
        pairs = [part.partition("-") for part in text.split()]
        self._low = [int(low) for low, _, _ in pairs]
        self._high = [int(high or low) for low, _, high in pairs]

    def __str__(self) -> str:
        both = zip(self._low, self._high, strict=True)
        return " ".join(f"{low}-{high}" if high > low else str(low) for low, high in both)

    def __contains__(self, seq: int) -> bool:
        i = bisect_right(self._low, seq) - 1
        return i >= 0 and seq <= self._high[i]

    def add(self, seq: int) -> None:
        i = bisect_right(self._low, seq)
        if i and seq <= self._high[i - 1]:
            return
        self._low.insert(i, seq)
        self._high.insert(i, seq)
        for right in (i + 1, i):
            if 0 < right < len(self._low) and self._low[right] == self._high[right - 1] + 1:
                self._close_gap(right)
        if len(self._low) > RANGES:
            self._close_gap(1)

    def _close_gap(self, right: int) -> None:
        """Before this range."""
        del self._low[right], self._high[right - 1]


def of(db: Connection, devices: Iterable[str]) -> dict[tuple[str, int], SeqRanges]:
    """(device, epoch) → what counted."""
    found, names = {}, iter(sorted(devices))
    while some := list(islice(names, _AT_ONCE)):
        for r in db.execute(select(HEARD).where(HEARD.c.device.in_(some))):
            found[r.device, r.epoch] = SeqRanges(r.seqs)
    return found


def note(db: Connection, device: str, counted: Mapping[int, Iterable[int]], now_s: float) -> None:
    """Epoch → sequence numbers that are not kept as messages any more."""
    known = of(db, [device])
    rows: list[dict[str, Any]] = []
    for epoch, seqs in counted.items():
        ranges = known.setdefault((device, epoch), SeqRanges())
        for seq in sorted(seqs):
            ranges.add(seq)
        rows.append({"device": device, "epoch": epoch, "seqs": str(ranges), "until_s": now_s})
    upsert(db, HEARD, rows)
    if len(known) > _EPOCHS:
        oldest = sorted(epoch for _, epoch in known)[: len(known) - _EPOCHS]
        db.execute(delete(HEARD).where(HEARD.c.device == device, HEARD.c.epoch.in_(oldest)))


def forget(db: Connection, device: str) -> None:
    db.execute(delete(HEARD).where(HEARD.c.device == device))


def forget_old(db: Connection, now_s: float) -> None:
    db.execute(delete(HEARD).where(HEARD.c.until_s < now_s - KEPT_S))
