"""Two configurations on one track log, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from edgectl.cli._printer import table
from edgectl.cli.views.run import describe

if TYPE_CHECKING:
    from edgectl.pipelines.host.event_diff import EventDiff
    from edgectl.pipelines.host.replay import LogLength
    from edgectl.pipelines.stream.events import Event

__all__ = ["replay_view"]

_MOST = 40
"""Events that are listed of each list; ``--json`` has all of them."""


def replay_view(
    stream: str,
    length: LogLength,
    diff: EventDiff,
    gone: Sequence[dict[str, Any]],
    new: Sequence[dict[str, Any]],
    out: Path | None,
) -> RenderableType:
    """How many events of each kind there were and would be, then those that only one of the two has."""
    before = Counter(_name(event) for event, _ in diff.both) + Counter(map(_name, diff.gone))
    now = Counter(_name(event) for _, event in diff.both) + Counter(map(_name, diff.new))
    lost, added = Counter(map(_name, diff.gone)), Counter(map(_name, diff.new))
    counts = table("rule", "event", ">before", ">now", ">gone", ">new", title=f"stream {stream}")
    for name in sorted({*before, *now}):
        cells = (f"{n[name]:,}" if n[name] else "-" for n in (before, now, lost, added))
        counts.add_row(name[0] or "-", name[1], *cells)
    minutes, seconds = divmod(length.seconds, 60)
    parts: list[RenderableType] = [
        "",
        counts,
        "",
        f"{length.frames:,} frames, {minutes:.0f}:{seconds:06.3f} of tracks",
    ]
    if length.switched_s:
        times = ", ".join(f"{t:.3f} s" for t in length.switched_s[:5])
        more = len(length.switched_s) - 5
        parts.append(f"the run's own rules changed at {times}{f' and {more} times more' if more > 0 else ''}")
    if not diff.gone and not diff.new:
        parts.append("the same events")
    parts += _listed("gone", gone) + _listed("new", new)
    if out is not None:
        parts.append(f"wrote {out}")
    return Group(*parts)


def _listed(what: str, records: Sequence[dict[str, Any]]) -> list[Text]:
    lines = [Text.assemble((f"{what:<5}", "bold"), describe(record)) for record in records[:_MOST]]
    if len(records) > _MOST:
        lines.append(Text(f"{what:<5}… and {len(records) - _MOST:,} more: --json lists all"))
    return lines


def _name(event: Event) -> tuple[str, str]:
    return event.rule or "", " ".join(filter(None, (event.type, event.phase)))
