"""``edgectl replay``: what other rules would have said of recorded tracks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgectl.cli._printer import Printer

__all__ = ["replay"]


def replay(
    tracks: Annotated[
        Path,
        typer.Argument(metavar="TRACKS", help="A track log (tracks.jsonl), or the folder that a run wrote."),
    ],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", help="Other zones and rules, YAML. Default: those that were recorded."
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="What to compare with, YAML. Default: the zones and rules that were recorded."),
    ] = None,
    within_s: Annotated[
        float,
        typer.Option("--within", min=0, max=3600, help="Seconds by which two events may differ and be one."),
    ] = 1.0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File for all events that --config gives, JSON lines.")
    ] = None,
    *,
    output: Printer,
) -> None:
    """Run zones and rules on recorded tracks and say which events would come, go, or move. No model runs: the
    settings of detector and tracker have no effect."""
    import json

    from edgectl.cli.views.replay import replay_view
    from edgectl.core.errors import UsageError
    from edgectl.core.files import atomic_write
    from edgectl.pipelines.host.config import load_config
    from edgectl.pipelines.host.event_diff import compare
    from edgectl.pipelines.host.replay import open_track_log, recorded_config
    from edgectl.pipelines.host.replay import replay as run

    with open_track_log(tracks) as log:
        recorded_config(log.header)
        kind = log.header.kind
        before = load_config(kind, against) if against else None
        now = load_config(kind, config) if config else None
        length, (old, new) = run(log, (before, now))
    if not length.frames:
        raise UsageError(f"{tracks} holds no frame", hint="let the run see something first")
    diff = compare(old.events, new.events, within_s=within_s)
    if out is not None:
        atomic_write(out, "".join(json.dumps(record) + "\n" for record in new.records).encode())
    record_of = {id(e): r for said in (old, new) for e, r in zip(said.events, said.records, strict=True)}
    gone = [record_of[id(event)] for event in diff.gone]
    new_records = [record_of[id(event)] for event in diff.new]
    stream = log.header.stream
    value = {
        "stream": stream,
        "frames": length.frames,
        "seconds": round(length.seconds, 6),
        "rules_changed_s": list(length.switched_s),
        "both": len(diff.both),
        "gone": gone,
        "new": new_records,
    }
    output.result(value, lambda: replay_view(stream, length, diff, gone, new_records, out))
