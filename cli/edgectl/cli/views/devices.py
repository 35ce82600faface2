"""Devices with their streams, slots and latency."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from edgectl.cli._printer import table

__all__ = ["BAD", "rows_table"]

_COLOUR = {
    "committed": "green",
    "probation": "yellow",
    "rolled_back": "red",
    "failed": "red",
    "rejected": "red",
    "degraded": "red",
    "expired": "red",
    "canceled": "yellow",
    "deferred": "yellow",
}
BAD = frozenset(state for state, colour in _COLOUR.items() if colour == "red")
"""States of a slot that somebody has to look at."""


def rows_table(rows: list[dict[str, Any]]) -> Table:
    """Rows of :class:`edgectl.fleet.control.telemetry_view.StreamRow` as dictionaries. A percentile without enough samples is a
    dash."""
    t = table(
        "device",
        "stream",
        "kind",
        "stream state",
        "slot",
        "release",
        ">fps",
        ">p50 ms",
        ">p90",
        ">p95",
        ">p99",
        ">frames",
        ">dropped",
        "note",
    )
    for r in rows:
        state = r["slot_state"]
        cells = ["-" if r[p] is None else f"{r[p]:.2f}" for p in ("p50_ms", "p90_ms", "p95_ms", "p99_ms")]
        t.add_row(
            r["device"],
            r["stream"],
            r["kind"],
            Text(r["state"]) if r["online"] else Text("offline", "red"),
            Text(state, _COLOUR.get(state, "")),
            r["release"] or "-",
            f"{r['fps']:.1f}",
            *cells,
            f"{r['processed']:,}",
            f"{r['dropped']:,}",
            r["error"] or "",
        )
    return t
