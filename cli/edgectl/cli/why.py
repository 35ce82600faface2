"""``edgectl why``: why a rule told something, or did not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgectl.cli._printer import Printer

__all__ = ["why"]


def why(
    tracks: Annotated[
        Path,
        typer.Argument(
            metavar="TRACKS", help="The folder that a run wrote, or its track log (tracks.jsonl)."
        ),
    ],
    when: Annotated[
        str,
        typer.Argument(
            metavar="EVENT|TIME",
            help="The id of an event, a clock time of the site (14:03:22), or seconds of capture time.",
        ),
    ],
    rule: Annotated[
        str | None, typer.Option("--rule", "-r", help="Only this rule or zone. Default: all.")
    ] = None,
    track: Annotated[int | None, typer.Option("--track", help="Only this object. Default: all.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", help="Other zones and rules, YAML. Default: those that were recorded."
        ),
    ] = None,
    within_s: Annotated[
        float,
        typer.Option("--within", min=0, max=3600, help="Seconds around a time that are looked at."),
    ] = 2.0,
    *,
    output: Printer,
) -> None:
    """Say what each rule asked at that moment, with the value and the limit of each predicate, and which failed first.
    Needs the track log of the run (`tracklog: true`)."""
    from edgectl.cli.views.why import why_value, why_view
    from edgectl.pipelines.host.config import load_config
    from edgectl.pipelines.host.replay import open_track_log, recorded_config
    from edgectl.pipelines.host.why import find_moment
    from edgectl.pipelines.host.why import why as ask

    with open_track_log(tracks) as log:
        recorded_config(log.header)
        chosen = load_config(log.header.kind, config) if config else None
        moment = find_moment(tracks, when, within_s=within_s, config=chosen)
        answer = ask(log, chosen, moment, rule=rule, track=track)
    output.result(why_value(answer), lambda: why_view(answer))
