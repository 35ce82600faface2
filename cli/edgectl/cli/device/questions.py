"""Ask a device what it is, what happened on it, and how it is."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from edgectl.cli._printer import Printer, printable, table
from edgectl.cli.device.asking import AskOptions, Name

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["health", "logs", "probe"]

_NOT_SHOWN = frozenset(
    {
        "wall_s",
        "time",
        "t_s",
        "stream",
        "type",
        "epoch",
        "schema",
        "id",
        "seq",
        "clock",
        "latency_ms",
        "releases",
        "box",
        "keypoints",
        "frame_size",
    }
)
"""Of an event in a table; ``--json`` has all of it."""


def probe(name: Name, *, device: AskOptions, out: Printer) -> None:
    """Ask a device what it is: facts about the machine, and its runtimes."""
    from edgectl.cli.device.answers import ProbeAnswer

    found = device.ask(name, "probe", ProbeAnswer)

    def shown() -> Table:
        t = table("fact")
        for fact in dict.fromkeys((*found.facts, *(f"runtime:{r}" for r in found.runtimes))):
            t.add_row(printable(fact))
        return t

    out.result({"device": name, **found.model_dump()}, shown)


def logs(name: Name, *, device: AskOptions, out: Printer) -> None:
    """Show who did what on a device by hand, and the last events of its streams."""
    from edgectl.cli.device.answers import LogsAnswer

    found = device.ask(name, "logs", LogsAnswer)

    def shown() -> RenderableType:
        from rich.console import Group

        by_hand = table("when", "by hand")
        for at_s, what in found.audit:
            by_hand.add_row(_when(at_s), printable(what))
        events = table("when", "stream", "event", "more")
        for event in found.events:
            rest = {k: v for k, v in event.items() if k not in _NOT_SHOWN}
            cells = (
                event.get("stream", "-"),
                event.get("type", "-"),
                json.dumps(rest, ensure_ascii=False)[1:-1] if rest else "",
            )
            events.add_row(_when(event.get("wall_s")), *(printable(str(c)) for c in cells))
        return Group(
            by_hand if found.audit else "nothing was done by hand",
            "",
            events if found.events else "no events yet",
        )

    out.result({"device": name, **found.model_dump()}, shown)


def health(name: Name, *, device: AskOptions, out: Printer) -> None:
    """Measure how a device is now: load, memory, disk, temperature."""
    from edgectl.cli.device.answers import HealthAnswer

    found = device.ask(name, "health", HealthAnswer)

    def shown() -> Table:
        t = table("figure", ">now")
        for figure, value in found.health.items():
            t.add_row(printable(figure), f"{value:,.1f}")
        return t

    out.result({"device": name, **found.model_dump()}, shown)


def _when(at_s: object) -> str:
    if not isinstance(at_s, (int, float)) or not 0 < at_s < 1 << 40:
        return "?"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s))
