"""Events and the summary of a pipeline that ran."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgectl.cli._printer import table
from edgectl.pipelines.view.rolling import LiveStats, RollingStats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console, ConsoleOptions, RenderResult

    from edgectl.core.wire import StreamStats
    from edgectl.pipelines.host.run import RunSummary, StreamResult

__all__ = ["LiveTable", "describe", "event_line", "summaries_view", "summary_view"]


_KNOWN = frozenset(
    {
        "schema",
        "id",
        "type",
        "stream",
        "seq",
        "t_s",
        "start_s",
        "time",
        "clock",
        "phase",
        "rule",
        "latency_ms",
        "releases",
    }
)
"""What has a place of its own in a line, or none."""
_FOR_PROGRAMS = frozenset({"box", "keypoints", "frame_size", "snapshot", "anchor", "top_score"})


def summary_view(summary: RunSummary) -> RenderableType:
    """Latency by stage, the ledger, counts and files."""
    f = summary.frames
    stages = table("stage", ">n", ">p50 ms", ">p90 ms", ">p99 ms", ">max ms", title="latency")
    for stage, row in summary.stages.items():
        cells = ["-" if row[p] is None else f"{row[p]:.2f}" for p in ("p50", "p90", "p99", "max")]
        stages.add_row(stage, f"{row['n']:,}", *cells)
    dropped = ", ".join(f"{n} {cause}" for cause, n in f.dropped.items()) or "none"
    lines = [
        f"frames: {f.captured} captured, {f.processed} processed, dropped: {dropped}; {summary.fps:.1f} fps"
    ]
    for part, crops in summary.crops.items():
        lost = ", ".join(f"{n} {cause}" for cause, n in crops.dropped.items()) or "none"
        lines.append(
            f"crops for {part}: {crops.captured} taken, {crops.processed} looked at, dropped: {lost}"
        )
    lines += [f"{what}: {n}" for what, n in summary.events.items()]
    lines += [f"{line}: {_short(counts)}" for line, counts in summary.last_counts.items()]
    lines += [f"wrote {p}" for p in summary.outputs]
    # of a camera that never came there is nothing to measure
    return Group("", *((stages, "") if f.captured else ()), "\n".join(lines))


def summaries_view(results: list[StreamResult]) -> RenderableType:
    """One summary, or one of each stream under its name."""
    if len(results) == 1 and results[0].summary is not None:
        return summary_view(results[0].summary)
    parts: list[RenderableType] = []
    for result in results:
        parts.append(Text(f"\n{result.name}", style="bold"))
        if result.summary is not None:
            parts.append(summary_view(result.summary))
        if result.error is not None:
            parts.append(Text(f"failed: {result.error}", style="red"))
    return Group(*parts)


def describe(event: dict[str, Any], *, several: bool = False) -> Text:
    """One line of text for an event. ``several``: there is more than one stream, and it is named."""
    rest = {k: v for k, v in event.items() if k not in _KNOWN}
    if "keypoints" in rest:
        # one line must stay one line
        rest["keypoints"] = len(rest["keypoints"])
    details = "  ".join(f"{k}={_short(v)}" for k, v in rest.items())
    what = " ".join(str(event[k]) for k in ("type", "rule", "phase") if k in event)
    of = f"{event['stream']}  " if several else ""
    return Text.assemble((f"{_when(event)}  ", "dim"), (of, "cyan"), (what, "bold"), "  ", details)


def event_line(event: dict[str, Any], *, several: bool) -> Text:
    """An event for a terminal: its clock time, what it is and what a person wants to know.
    ``several``: there is more than one stream, and it is named."""
    when = _when(event)
    time = when if event.get("time") is None else when.partition(" ")[2]
    rest = {k: v for k, v in event.items() if k not in _KNOWN | _FOR_PROGRAMS and v not in (None, [], {}, ())}
    rest |= {part: found["value"] for part, found in rest.pop("attributes", {}).items() if part not in rest}
    what = " ".join(str(event[k]) for k in ("type", "rule", "phase") if k in event)
    if event["type"] == "capability":
        name, there = rest.pop("name", ""), rest.pop("available", None)
        gone = {"start": "is away", "end": "is back"}.get(str(event.get("phase")), "")
        what = f"{name} {gone if there == (gone == 'is back') else ''}".strip()
    last = sorted(rest.items(), key=lambda item: item[0] == "because")
    details = "  ".join(
        f"because {_reason(v)}" if k == "because" and isinstance(v, dict) else f"{k}={_short(v)}"
        for k, v in last
    )
    of = f"{event['stream']}  " if several else ""
    return Text.assemble((f"{time}  ", "dim"), (of, "cyan"), (what, "bold"), "  ", details)


_DROPPED, _DROPPED_WIDE = 14, 40
"""Columns that the causes of drops may need before names and states are cut."""
_LEAST = 8


class LiveTable:
    """A row a stream: what it does now, as wide as the terminal. Percentiles are of the last two minutes, in ms, from the
    exposure of a frame (where the source knows it) to its events."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[RollingStats, float | None]] = {}

    def update(self, stream: str, stats: StreamStats, share: float | None, t_s: float) -> None:
        """``share``: how much of the source is done, 0..1, if that is known."""
        rolling, _ = self._rows.get(stream, (RollingStats(), None))
        rolling.add(stats, t_s)
        self._rows[stream] = rolling, share

    def mark(self, stream: str, kind: str, state: str) -> None:
        """It does not run; ``state``: what it does instead."""
        self._rows.setdefault(stream, (RollingStats(), None))[0].mark(kind, state, None)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # A terminal writes ^C behind the last line: there must be room for it.
        width = max(20, options.max_width - 4)
        wide = width >= 106
        rows = [
            self._cells(name, now, share, wide=wide)
            for name, (rolling, share) in self._rows.items()
            if (now := rolling.now()) is not None
        ]
        heads = [
            "stream",
            "state",
            "fps",
            "p50",
            "p95",
            "p99",
            *(["engine"] if wide else []),
            "frames",
            "dropped",
        ]
        widths = _shared(width, heads, rows, _DROPPED_WIDE if wide else _DROPPED)
        t = Table(box=None, width=width, padding=(0, 1), header_style="dim", show_edge=False)
        for head, most in zip(heads, widths, strict=False):
            t.add_column(head, no_wrap=True, overflow="ellipsis", max_width=most)
        for head in heads[2:-1]:
            t.add_column(head, justify="right", no_wrap=True)
        t.add_column(heads[-1], no_wrap=True, overflow="ellipsis", ratio=1)
        for row in rows:
            t.add_row(*row)
        yield t

    def _cells(self, name: str, now: LiveStats, share: float | None, *, wide: bool) -> list[Text]:
        by_name = {times.stage: times for times in now.stages}
        total = by_name.get("glass_to_event") or by_name.get("avail_to_event")
        engine = next((times for stage, times in by_name.items() if stage.startswith("engine")), None)
        colour = {"running": "green", "ended": "dim"}.get(now.state, "bold red")
        state = now.state if now.reason is None else f"{now.state}: {now.reason}"
        if share is not None and now.state == "running":
            state = f"{min(1.0, share):.0%}"
        causes = sorted(now.frames.dropped.items(), key=lambda item: -item[1])
        dropped = ", ".join(f"{n:,} {cause}" for cause, n in causes) or "none"
        cells = [Text(name), Text(state, colour), Text(f"{now.fps:.1f}")]
        cells += [Text(_ms(None if total is None else getattr(total, p))) for p in ("p50", "p95", "p99")]
        if wide:
            cells.append(Text(_ms(None if engine is None else engine.p50)))
        return [*cells, Text(f"{now.frames.processed:,}"), Text(dropped, "yellow" if causes else "dim")]


def _shared(
    width: int, heads: Sequence[str], rows: Sequence[Sequence[Text]], dropped: int
) -> tuple[int, int]:
    """Columns for names and for states: what they need where there is room beside the numbers and ``dropped`` columns for
    the causes of drops; else a state goes before a name."""
    needs = [
        max(len(text) for text in (head, *(row[i].plain for row in rows))) for i, head in enumerate(heads)
    ]
    room = width - 2 * len(heads) - sum(needs[2:-1]) - min(needs[-1], dropped)
    names = max(_LEAST, min(needs[0], room - needs[1]))
    return names, max(_LEAST, min(needs[1], room - names))


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if value < 1000 else f"{value:,.0f}"


def _when(event: dict[str, Any]) -> str:
    """Local date and time of something live; the place in the recording, h:mm:ss.mmm, of something that
    has no time of day."""
    if event.get("time") is not None:
        return (
            datetime.fromtimestamp(event["time"])
            .astimezone()
            .isoformat(sep=" ", timespec="milliseconds")[:23]
        )
    ms = max(0, round(event["t_s"] * 1000))
    return f"{ms // 3_600_000}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}.{ms % 1000:03}"


def _reason(because: dict[str, Any]) -> str:
    """``stayed 7.09 s (limit 4 s)``."""
    value, limit, unit = because.get("value"), because.get("limit"), str(because.get("unit") or "")
    told = str(because.get("what"))
    if value is not None:
        told += f" {_short(value)} {unit}".rstrip()
    if value is not None and limit is not None:
        told += f" (limit {f'{_short(limit)} {unit}'.rstrip()})"
    return told


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_short(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "(" + ", ".join(_short(v) for v in value) + ")"
    return str(value)
