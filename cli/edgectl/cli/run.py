"""``edgectl run``: a pipeline on one source or several, here and now."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgectl.cli._live import LivePage
from edgectl.cli._options import Prefer
from edgectl.cli._printer import Printer, plain
from edgectl.core.errors import EdgectlError, EngineError, UsageError
from edgectl.pipelines.kinds import KINDS

if TYPE_CHECKING:
    from edgectl.core.config_file import ConfigFile
    from edgectl.pipelines.kinds.base import Pipeline
    from edgectl.pipelines.kinds.config import PipelineConfig
    from edgectl.pipelines.sinks.base import Sink

__all__ = ["run"]


MAX_RECORDS = 10_000
"""Events that ``--json`` gives back; the rest are in ``--out``'s ``events.jsonl``, and counted."""


def _known(kind: str) -> str:
    if kind not in KINDS:
        from edgectl.core.nearest import did_you_mean

        raise typer.BadParameter(
            f"there is no kind of pipeline {kind!r}: {did_you_mean(kind, KINDS.names())}"
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
        list[str],
        typer.Option(
            "--bundle",
            "-b",
            help="Bundle with the engine; repeat it for a pipeline with several parts (vad, keyword). PART=FOLDER: for that part, which second_stage or scene in the configuration names.",
        ),
    ],
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--source",
            "-s",
            help="A file, a folder, or an rtsp://, v4l2://, mic:// or synth:// URI; repeat it for several streams, NAME=URI names one. With a password in it, set EDGECTL_SOURCE instead: the shell's history keeps what you type here.",
        ),
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(
            "--config",
            "-c",
            help="Pipeline configuration, YAML: zones, lines, rules, flow. NAME=FILE: of that stream alone.",
        ),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="Stop after so many seconds of the source.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for events, snapshots and the annotated video; of several streams a folder each in it.",
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Write there what each thread did in the last minute, frame by frame, for Perfetto (ui.perfetto.dev)."
        ),
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
    """Run a pipeline on a camera, a file or a microphone and print its events. Several sources run side by side
    and share the engine; one that fails does not stop the others. A camera that is off is waited for, at the start, too;
    with --seconds, one that never comes is an error. With --json: one object at the end, with the
    first 10,000 events. Ctrl-C ends it in good order: the summary comes, and the exit code is 130. SIGHUP reads the
    configuration files again: the streams go on with them between two frames."""
    from edgectl.cli._signals import StopRequest
    from edgectl.cli.views.run import LiveTable, describe, event_line, summaries_view
    from edgectl.core.bundle import Bundle
    from edgectl.core.wire import StreamStats
    from edgectl.device_profiles.fitting import UnfitHere
    from edgectl.device_profiles.machine import probe
    from edgectl.pipelines.host.config import parse_config, read_config
    from edgectl.pipelines.host.live import has_pictures, shape_editor
    from edgectl.pipelines.host.live_config import LiveConfig
    from edgectl.pipelines.host.place_check import check_places
    from edgectl.pipelines.host.run import StreamResult, StreamToRun, run_streams
    from edgectl.pipelines.stream.threads import prepare_process

    if debug:
        from edgectl.cli._logging import log_inside

        log_inside()
    sources = named_sources(source or [])
    several = len(sources) > 1
    events: list[dict[str, Any]] = []

    to_terminal = output.stdout.is_terminal

    def show(event: dict[str, Any]) -> None:
        if output.as_json:
            if len(events) < MAX_RECORDS:
                events.append(event)
        elif not (event["type"] == "tracked_object" and event.get("phase") == "update"):
            if to_terminal:
                output.stdout.print(
                    event_line(event, several=several), soft_wrap=False, no_wrap=True, overflow="ellipsis"
                )
            else:
                output.stdout.print(describe(event, several=several))

    configs = named_configs(config or [], sources)
    plain_bundles, bundles = named_bundles(bundle)

    files: dict[str, ConfigFile] = {}
    in_force: dict[str, PipelineConfig] = {}

    def adjusted(chosen: PipelineConfig) -> PipelineConfig:
        for sink in ("mqtt", "frigate"):
            if mqtt is not None and (sink == "mqtt" or chosen.sinks.get(sink)):
                chosen = chosen.with_sink(sink, url=mqtt)
        return chosen

    paths = {name: configs.get(name, configs.get("")) for name in sources}
    live = {name: LiveConfig(kind, path, adjusted) for name, path in paths.items()}

    def settings(name: str) -> PipelineConfig:
        path = paths[name]
        if path is None:
            chosen = parse_config(kind, None)
        else:
            chosen, files[name] = read_config(kind, path)
        in_force[name] = adjusted(chosen)
        return in_force[name]

    def draw(name: str, text: str, file: str) -> str:
        """Into the streams that were started with this file."""
        same = [n for n, path in paths.items() if n != name and path == paths[name]]
        return live[name].draw(text, file) + "".join(f" {n}: {live[n].draw(text, file)}" for n in same)

    def reload() -> None:
        written = sorted(n for n, path in paths.items() if path is not None)
        fresh: dict[str, PipelineConfig] = {}
        for name in written:
            # what is wrong with one is told below
            with contextlib.suppress(EdgectlError):
                fresh[name] = live[name].read()
        try:
            check_places({**in_force, **fresh}, {})
        except UsageError as e:
            output.stderr.print(f"the configurations before stay: {e.message}", soft_wrap=True, markup=False)
            return
        for name in written:
            try:
                told = live[name].reload()
                in_force[name] = fresh.get(name, in_force[name])
            except EdgectlError as e:
                told = f"the configuration before stays: {sentence(e)}"
            output.stderr.print(f"{name}: {told}", soft_wrap=True, markup=False)

    machine = probe()
    machine.require_runtime()
    prepare_process()
    table = LiveTable()
    with page.open(output) as view, output.live(table) as say, StopRequest() as stop:

        def stream(name: str, uri: str) -> StreamToRun:
            chosen = settings(name)
            taps: tuple[Sink, ...] = ()
            if view is not None:
                editor = shape_editor(kind, chosen, paths[name], partial(draw, name))
                taps = view.add(name, kind, uri, pictures=has_pictures(kind), editor=editor)
            return StreamToRun(name, uri, chosen, out / name if out is not None and several else out, taps)

        def heard(event: dict[str, Any]) -> None:
            if view is not None:
                view.heard(event)
            show(event)

        def moving(stats: dict[str, StreamStats], share: float | None) -> None:
            stop.arm()
            if stop.reload.is_set():
                stop.reload.clear()
                threading.Thread(target=reload, name="reload", daemon=True).start()
            now = time.monotonic()
            for name, of in stats.items():
                table.update(name, of, share, now)
                if view is not None:
                    view.update(name, of)
            frames = sum(of.frames.processed for of in stats.values())
            say(f"{frames:,} frames, {sum(of.fps for of in stats.values()):.1f} fps")

        def running(pipelines: Mapping[str, Pipeline]) -> None:
            for name, pipeline in pipelines.items():
                live[name].runs(pipeline)

        def lost(name: str, error: EdgectlError) -> None:
            table.mark(name, kind, "failed")
            if several:
                output.stderr.print(f"{name} failed: {sentence(error)}", soft_wrap=True, markup=False)
            if view is not None:
                view.mark(name, "failed", error.message)

        wrong: dict[str, EdgectlError] = {}
        ready: list[StreamToRun] = []
        for name, uri in sources.items():
            try:
                ready.append(stream(name, uri))
            except UsageError as e:
                # the others run
                wrong[name] = e
                lost(name, e)
        if not ready:
            raise next(iter(wrong.values()))

        results = run_streams(
            kind,
            [Bundle(path) for path in plain_bundles],
            ready,
            seconds=seconds,
            on_event=heard,
            on_progress=moving,
            facts=machine.facts,
            runtimes=tuple(machine.runtimes),
            parts={part: Bundle(path) for part, path in bundles.items()},
            prefer=None if prefer is None else prefer.value,
            unfit=UnfitHere(
                lambda told: output.stderr.print(told, soft_wrap=True, markup=False),
                unified=machine.jetson is not None,
            ),
            # of a microphone that is not there, the name is wrong
            patient=has_pictures(kind),
            trace=trace,
            stop=stop.event,
            started=running,
            on_failure=lost,
        )
        results += [StreamResult(name, None, error) for name, error in wrong.items()]
    failed = {r.name: located(r.error, files.get(r.name)) for r in results if r.error is not None}
    if failed and not several:
        raise next(iter(failed.values()))
    told = sum(sum(r.summary.events.values()) for r in results if r.summary is not None)
    heard_of = {"records": events, "records_left_out": max(0, told - len(events))}
    if several:
        each = {r.name: {} if r.summary is None else plain(r.summary) for r in results}
        for name, error in failed.items():
            each[name]["error"] = {"code": error.code, "message": error.message, "hint": error.hint}
        output.result({"streams": each, **heard_of}, lambda: summaries_view(results))
    else:
        output.result(plain(results[0].summary) | heard_of, lambda: summaries_view(results))
    if failed:
        raise EngineError(
            f"{len(failed)} of {len(results)} streams failed: {', '.join(failed)}",
            hint=f"{next(iter(failed))}: {next(iter(failed.values())).message}",
        )
    if stop.number is not None:
        raise typer.Exit(128 + stop.number)


def sentence(error: EdgectlError) -> str:
    return error.message if error.hint is None else f"{error.message} ({error.hint})"


def located(error: EdgectlError, file: ConfigFile | None) -> EdgectlError:
    """With file and line, where it is a setting that is wrong."""
    return error if file is None or not isinstance(error, UsageError) else file.locate(error)


def named_sources(given: list[str]) -> dict[str, str]:
    """Name → URI. What has no name is ``run``, or ``run-1``, ``run-2`` … among several. Raises
    :class:`UsageError`."""
    if not given and (alone := os.environ.get("EDGECTL_SOURCE")):
        given = [alone]
    if not given:
        raise UsageError(
            "there is no source to run on",
            hint="edgectl run --help: --source clip.mp4, or the address of a camera",
        )
    named: dict[str, str] = {}
    for i, text in enumerate(given, 1):
        name, uri = _named(text)
        name = name or ("run" if len(given) == 1 else f"run-{i}")
        if name in named:
            raise UsageError(f"two sources are called {name!r}", hint="give each a name of its own: NAME=URI")
        named[name] = uri
    return named


def named_configs(given: list[str], sources: dict[str, str]) -> dict[str, Path]:
    """Stream → file; "" is for those that have none of their own. Raises :class:`UsageError`."""
    found: dict[str, Path] = {}
    for text in given:
        name, path = _named(text)
        if name and name not in sources:
            from edgectl.core.nearest import did_you_mean

            raise UsageError(
                f"--config names the stream {name!r}, which has no source",
                hint=did_you_mean(name, sources, there_are="the streams are "),
            )
        if name in found:
            whose = f"the stream {name!r}" if name else "all streams"
            raise UsageError(f"there are two configurations for {whose}", hint="give one")
        found[name] = Path(path)
    return found


def named_bundles(given: list[str]) -> tuple[list[Path], dict[str, Path]]:
    """Folders whose bundle says what it is for, and part → folder. Raises :class:`UsageError`."""
    plain: list[Path] = []
    found: dict[str, Path] = {}
    for text in given:
        part, path = _named(text)
        if part in found:
            raise UsageError(f"two bundles are both for the part {part!r}", hint="give one bundle per part")
        if part:
            found[part] = Path(path)
        else:
            plain.append(Path(path))
    return plain, found


def _named(text: str) -> tuple[str, str]:
    """``NAME=REST``; a file that is called so is a file."""
    match = re.fullmatch(r"([a-z0-9](?:[a-z0-9_-]{0,62}[a-z0-9])?)=(.+)", text, re.DOTALL)
    if match is None or Path(text).exists():
        return "", text
    return match[1], match[2]
