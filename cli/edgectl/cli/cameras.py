"""``edgectl cameras``: which cameras the local network has, and the addresses of their streams."""

from __future__ import annotations

import os
import sys
from getpass import getpass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgectl.cli._nouns import Noun
from edgectl.cli._printer import Printer, printable, table
from edgectl.core.errors import SourceError, UsageError

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["app"]

_PASSWORD = "EDGECTL_CAMERA_PASSWORD"  # noqa: S105  the name of a variable

app = Noun("cameras")


@app.command("discover")
def discover(
    wait: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds to wait for answers.")] = 3.0,
    interface: Annotated[
        str | None, typer.Option(help="Address of this machine in the cameras' network, if it has several.")
    ] = None,
    user: Annotated[
        str | None,
        typer.Option(
            help=f"Ask each camera for its streams as this user; the password comes from {_PASSWORD}."
        ),
    ] = None,
    *,
    out: Printer,
) -> None:
    """Ask the local network for cameras (ONVIF), and with `--user` each of them for its RTSP addresses.

    Cameras that allow it only after a WS-Security login, and those with ONVIF turned off, tell no streams.
    """
    from edgectl.pipelines.sources.media.onvif import discover, stream_uris

    password = None if user is None else _password()
    found: list[dict[str, Any]] = []
    for camera in discover(wait, interface=interface):
        row: dict[str, Any] = {"host": camera.host, "name": camera.name, "service": camera.service}
        if user is not None:
            try:
                row["streams"] = stream_uris(camera, user, password)
            except SourceError as e:
                row["error"] = e.message
        found.append(row)

    def shown() -> Table:
        t = table("camera", "name", "streams" if user is not None else "service")
        for row in found:
            told = (
                "\n".join(row.get("streams", ())) or row.get("error") or ("none" if user else row["service"])
            )
            t.add_row(row["host"], printable(row["name"]), printable(told))
        return t

    out.result({"cameras": found}, shown if found else "no camera answered")


def _password() -> str:
    given = os.environ.get(_PASSWORD)
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise UsageError("--user needs a password", hint=f"put it into the environment as {_PASSWORD}")
    return getpass("Password of the cameras: ")
