"""Events and the summary of a pipeline that ran."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from edgectl.cli._printer import table

if TYPE_CHECKING:
    from edgectl.pipelines.host.run import RunSummary

__all__ = ["describe", "summary_view"]


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


def describe(event: dict[str, Any]) -> Text:
    """One line of text for an event."""
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
    return Text.assemble((f"{_when(event)}  ", "dim"), (what, "bold"), "  ", details)


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
