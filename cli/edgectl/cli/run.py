"""``edgectl run``: one pipeline on one source, here and now."""

from __future__ import annotations

import enum
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from edgectl.cli._output import Json, Output, plain, table
from edgectl.pipelines.kinds import KINDS

if TYPE_CHECKING:
    from edgectl.pipelines.host.run import RunSummary

__all__ = ["Prefer", "describe", "run", "summary_view"]


MAX_RECORDS = 10_000
"""Events that ``--json`` gives back; the rest are in ``--out``'s ``events.jsonl``, and counted."""


class Prefer(str, enum.Enum):
    fast = "fast"
    accurate = "accurate"
    low_power = "low-power"
    small_input = "small-input"


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise typer.BadParameter(
            f"there is no kind of pipeline {kind!r}: there are {', '.join(KINDS.names())}"
        )
    return kind


def run(
    kind: Annotated[
        str,
        typer.Argument(
            callback=_known,
            help=f"Which kind of pipeline: {', '.join(KINDS.own)}, or one of another package.",
        ),
    ],
    bundle: Annotated[
        list[Path],
        typer.Option(
            "--bundle", "-b", help="Bundle of the engine; several for several parts (vad, keyword)."
        ),
    ],
    source: Annotated[
        str,
        typer.Option(
            "--source",
            "-s",
            envvar="EDGECTL_SOURCE",
            show_envvar=False,
            help="A file, rtsp://, v4l2://, mic:// or synth:// URI. One with a password: set EDGECTL_SOURCE instead, which no shell keeps.",
        ),
    ],
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Pipeline configuration, YAML: zones, lines, rules, flow."),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="Stop after so many seconds of the source.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for events, snapshots and the annotated video.")
    ] = None,
    prefer: Annotated[
        Prefer | None, typer.Option(help="Which variant of the bundles: the fast one unless said otherwise.")
    ] = None,
    json: Json = False,
) -> None:
    """Run a pipeline on a source and print its events as they come; --json gives the first 10,000 of them
    at the end."""
    output = Output(json)
    from edgectl.core.bundle import Bundle
    from edgectl.core.wire import StreamStats
    from edgectl.device_profiles.probe import probe
    from edgectl.pipelines.host.config import load_config, parse_config
    from edgectl.pipelines.host.run import run_stream

    events: list[dict[str, Any]] = []

    def heard(event: dict[str, Any]) -> None:
        if json:
            if len(events) < MAX_RECORDS:
                events.append(event)
        elif not (event["type"] == "tracked_object" and event.get("phase") == "update"):
            output.stdout.print(describe(event))

    settings = load_config(kind, config) if config else parse_config(kind, None)
    machine = probe()
    machine.require_runtime()
    with output.progress() as update:

        def moving(stats: StreamStats, share: float | None) -> None:
            update(f"{stats.frames.processed:,} frames, {stats.fps:.1f} fps", share)

        summary = run_stream(
            kind,
            [Bundle(b) for b in bundle],
            source,
            settings,
            seconds=seconds,
            out=out,
            on_event=heard,
            on_progress=moving,
            facts=machine.facts,
            runtimes=tuple(machine.runtimes),
            prefer=None if prefer is None else prefer.value,
        )

    value = plain(summary) | {
        "records": events,
        "records_left_out": sum(summary.events.values()) - len(events),
    }
    output.result(value, lambda: summary_view(summary))


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
