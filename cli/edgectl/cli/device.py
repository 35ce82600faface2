"""``edgectl device``: devices join the fleet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgectl.cli import _controller
from edgectl.cli._output import Json, Output
from edgectl.core.errors import UsageError

app = typer.Typer(name="device", help="Devices join the fleet.", no_args_is_help=True)


@app.command("enroll")
def enroll(
    name: Annotated[str, typer.Argument(help="Name of the device: a-z, 0-9, '.', '_' and '-'.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for agent.toml and root.json; default: NAME.")] = None,
    stream: Annotated[
        list[str] | None,
        typer.Option(
            help="A stream to run: KIND=SOURCE, e.g. surveillance=rtsp://cam7/sub. Its slot is named after the release you roll out."
        ),
    ] = None,
    slot: Annotated[
        list[str] | None,
        typer.Option(help="Slot of each --stream's engine, in order: ROLE=SLOT; default detector=STREAM-detector."),
    ] = None,
    profile: Annotated[str, typer.Option(help="Device profile; auto: the probe of the device decides.")] = "auto",
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, for selecting devices in a rollout.")] = None,
    url: _controller.Url = _controller.URL,
    token_file: _controller.TokenFile = _controller.TOKEN_FILE,
    json: Json = False,
) -> None:
    """Make a device known to the controller and write the two files that it needs."""
    output = Output(json)
    from edgectl.fleet.enroll import write_enrolment

    with _controller.client(url, token_file) as fleet:
        granted = fleet.enroll(name)
    config = write_enrolment(
        out or Path(name),
        name,
        root=granted["root"].encode(),
        fleet=granted["fleet"],
        broker=granted["broker"],
        pipelines=_pipelines(stream or [], slot or []),
        profile=profile,
        labels=dict(_pair(item, "--label") for item in label or []),
    )
    output.result({"device": name, "config": config}, f"{config}\nnext, on the device: edgectl agent run --config {config.name}")


def _pipelines(streams: list[str], slots: list[str]) -> dict[str, dict[str, Any]]:
    """``KIND=SOURCE`` → a pipeline named after its kind (``surveillance``, ``surveillance-2`` …)."""
    if len(slots) > len(streams):
        raise UsageError("there are more --slot than --stream")
    found: dict[str, dict[str, Any]] = {}
    for i, text in enumerate(streams):
        kind, source = _pair(text, "--stream")
        if kind not in ("surveillance", "driving", "speech"):
            raise UsageError(f"--stream {text!r}: the kind is surveillance, driving or speech")
        name = kind if kind not in found else f"{kind}-{i + 1}"
        role = "keyword" if kind == "speech" else "detector"
        role, slot = _pair(slots[i], "--slot") if i < len(slots) else (role, f"{name}-{role}")
        found[name] = {"kind": kind, "source": source, "slots": {role: slot}}
    return found


def _pair(text: str, option: str) -> tuple[str, str]:
    key, sep, value = text.partition("=")
    if not (sep and key and value):
        raise UsageError(f"{option} {text!r} is not KEY=VALUE")
    return key, value
