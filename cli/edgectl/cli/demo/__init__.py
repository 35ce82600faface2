"""``edgectl demo``: the whole product on this machine, with synthetic cameras and microphones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgectl.cli._nouns import Noun
from edgectl.cli._printer import Printer

__all__ = ["app"]


app = Noun("demo", default="whole")

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for bundles, logs and videos.")]
Seconds = Annotated[float, typer.Option(help="Seconds of the scene.")]


@app.command("whole")
def everything(
    out: Out = Path("edgectl-demo"),
    stay: Annotated[
        bool, typer.Option("--stay", help="Go on at the end, with the live page, until Ctrl-C.")
    ] = False,
    *,
    output: Printer,
) -> None:
    """Build engines, start five devices, roll out good releases and a bad one: about two minutes, no
    network. The default."""
    from edgectl.cli.demo.whole import run_demo, summary

    result = run_demo(out, output, stay=stay)
    output.result(result, lambda: summary(result))


@app.command("surveillance")
def surveillance(
    out: Out = Path("edgectl-demo-surveillance"), seconds: Seconds = 20.0, *, output: Printer
) -> None:
    """One gate camera: people and vehicles, a line, a zone."""
    _single("surveillance", out, seconds, output)


@app.command("driving")
def driving(out: Out = Path("edgectl-demo-driving"), seconds: Seconds = 20.0, *, output: Printer) -> None:
    """One dash camera: lanes, vehicles, warnings."""
    _single("driving", out, seconds, output)


@app.command("speech")
def speech(out: Out = Path("edgectl-demo-speech"), seconds: Seconds = 30.0, *, output: Printer) -> None:
    """One voice kiosk: keywords."""
    _single("speech", out, seconds, output)


def _single(kind: str, out: Path, seconds: float, output: Printer) -> None:
    from edgectl.cli.demo.single import run_single

    run_single(kind, out, seconds, output)
