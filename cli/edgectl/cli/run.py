"""``edgectl run``: one pipeline on one source, here and now."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from edgectl.cli._live import LivePage
from edgectl.cli._options import Prefer
from edgectl.cli._printer import Printer, plain
from edgectl.pipelines.kinds import KINDS

__all__ = ["run"]


STREAM = "run"
MAX_RECORDS = 10_000
"""Events that ``--json`` gives back; the rest are in ``--out``'s ``events.jsonl``, and counted."""


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
            "--bundle",
            "-b",
            help="Bundle with the engine; repeat it for a pipeline with several parts (vad, keyword).",
        ),
    ],
    source: Annotated[
        str,
        typer.Option(
            "--source",
            "-s",
            envvar="EDGECTL_SOURCE",
            show_envvar=False,
            help="A file, a folder, or an rtsp://, v4l2://, mic:// or synth:// URI. With a password in it, set EDGECTL_SOURCE instead: the shell's history keeps what you type here.",
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
    mqtt: Annotated[
        str | None,
        typer.Option(
            "--mqtt",
            envvar="EDGECTL_MQTT",
            show_envvar=False,
            help="Send events to this broker, too: mqtt://host or mqtts://host. With a password in it, set EDGECTL_MQTT instead.",
        ),
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", help="Log every step to stderr, with tracebacks.")
    ] = False,
    *,
    page: LivePage,
    output: Printer,
) -> None:
    """Run a pipeline on a camera, a file or a microphone and print its events. With --json: one object
    at the end, with the first 10,000 events. Ctrl-C ends it in good order: the summary comes, and the exit code is
    130."""
    from edgectl.cli._signals import StopRequest
    from edgectl.cli.views.run import LiveTable, describe, event_line, summary_view
    from edgectl.core.bundle import Bundle
    from edgectl.core.wire import StreamStats
    from edgectl.device_profiles.machine import probe
    from edgectl.pipelines.host.config import load_config, parse_config
    from edgectl.pipelines.host.live import has_pictures, shape_editor
    from edgectl.pipelines.host.run import run_stream

    if debug:
        from edgectl.cli._logging import log_inside

        log_inside()
    events: list[dict[str, Any]] = []
    to_terminal = output.stdout.is_terminal

    def show(event: dict[str, Any]) -> None:
        if output.as_json:
            if len(events) < MAX_RECORDS:
                events.append(event)
        elif not (event["type"] == "tracked_object" and event.get("phase") == "update"):
            if to_terminal:
                output.stdout.print(
                    event_line(event, several=False), soft_wrap=False, no_wrap=True, overflow="ellipsis"
                )
            else:
                output.stdout.print(describe(event))

    settings = load_config(kind, config) if config else parse_config(kind, None)
    if mqtt is not None:
        settings = settings.with_sink("mqtt", url=mqtt)
    machine = probe()
    machine.require_runtime()
    table = LiveTable()
    with page.open(output) as view, output.live(table) as say, StopRequest() as stop:
        taps = (
            ()
            if view is None
            else view.add(
                STREAM,
                kind,
                source,
                pictures=has_pictures(kind),
                editor=shape_editor(kind, settings, config),
            )
        )

        def heard(event: dict[str, Any]) -> None:
            if view is not None:
                view.heard(event)
            show(event)

        def moving(stats: StreamStats, share: float | None) -> None:
            stop.arm()
            table.update(STREAM, stats, share, time.monotonic())
            if view is not None:
                view.update(STREAM, stats)
            say(f"{stats.frames.processed:,} frames, {stats.fps:.1f} fps")

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
            stream=STREAM,
            sinks=taps,
            stop=stop.event,
        )

    value = plain(summary) | {
        "records": events,
        "records_left_out": sum(summary.events.values()) - len(events),
    }
    output.result(value, lambda: summary_view(summary))
    if stop.number is not None:
        raise typer.Exit(128 + stop.number)
