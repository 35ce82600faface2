"""``edgectl demo``: the whole product on this machine, with synthetic cameras and microphones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgectl.cli._output import Json, Output

__all__ = ["app"]

app = typer.Typer(
    name="demo",
    help="The whole product on this machine, with synthetic cameras and microphones.",
    invoke_without_command=True,
)

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for bundles, logs and videos.")]


@app.callback()
def demo(ctx: typer.Context, out: Out = Path("edgectl-demo"), json: Json = False) -> None:
    """Build, deliver, run, roll out, and roll back what is bad: five devices, about two minutes, no
    network."""
    if ctx.invoked_subcommand is not None:
        return
    output = Output(json)
    from edgectl.cli.demo.whole import run_demo, summary

    result = run_demo(out, output)
    output.result(result, lambda: summary(result))


@app.command("surveillance")
def surveillance(
    out: Out = Path("edgectl-demo-surveillance"), seconds: float = 20.0, json: Json = False
) -> None:
    """One gate camera: people and vehicles, a line, a zone."""
    _single("surveillance", out, seconds, json)


@app.command("driving")
def driving(out: Out = Path("edgectl-demo-driving"), seconds: float = 20.0, json: Json = False) -> None:
    """One dash camera: lanes, vehicles, warnings."""
    _single("driving", out, seconds, json)


@app.command("speech")
def speech(out: Out = Path("edgectl-demo-speech"), seconds: float = 30.0, json: Json = False) -> None:
    """One voice kiosk: keywords."""
    _single("speech", out, seconds, json)


def _single(kind: str, out: Path, seconds: float, json: bool) -> None:
    output = Output(json)
    from edgectl.cli.demo.single import run_single

    run_single(kind, out, seconds, output)
