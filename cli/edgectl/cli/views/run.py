"""Events and the summary of a pipeline that ran."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from edgectl.cli._printer import table

if TYPE_CHECKING:
    from edgectl.pipelines.host.run import RunSummary, StreamResult

__all__ = ["describe", "summaries_view", "summary_view"]


def summary_view(summary: RunSummary) -> RenderableType:
    """Latency by stage, the ledger, counts and files."""
    stages = table("stage", ">n", ">p50 ms", ">p90 ms", ">p99 ms", ">max ms", title="latency")
    for stage, row in summary.stages.items():
        cells = ["-" if row[p] is None else f"{row[p]:.2f}" for p in ("p50", "p90", "p99", "max")]
        stages.add_row(stage, f"{row['n']:,}", *cells)
    f = summary.frames
    dropped = ", ".join(f"{n} {cause}" for cause, n in f.dropped.items()) or "none"
    lines = [
        f"frames: {f.captured} captured, {f.processed} processed, dropped: {dropped}; {summary.fps:.1f} fps"
    ]
    lines += [f"{what}: {n}" for what, n in summary.events.items()]
    lines += [f"{line}: {_short(counts)}" for line, counts in summary.last_counts.items()]
    lines += [f"wrote {p}" for p in summary.outputs]
    return Group("", stages, "", "\n".join(lines))


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


def describe(event: dict[str, Any], *, stream: bool = False) -> Text:
    """One line of text for an event. ``stream``: with the name of its stream."""
    known = {
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
    rest = {k: v for k, v in event.items() if k not in known}
    details = "  ".join(f"{k}={_short(v)}" for k, v in rest.items())
    what = " ".join(str(event[k]) for k in ("type", "rule", "phase") if k in event)
    whose = f"{event['stream']}  " if stream else ""
    return Text.assemble((f"{_when(event)}  ", "dim"), (whose, "cyan"), (what, "bold"), "  ", details)


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


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_short(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "(" + ", ".join(_short(v) for v in value) + ")"
    return str(value)
