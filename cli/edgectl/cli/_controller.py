"""How a command finds its controller: ``--controller`` and ``--token-file``, or the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli._options import OptionGroup

if TYPE_CHECKING:
    from edgectl.fleet.client.client import FleetClient

__all__ = ["ControllerOptions", "client"]


@dataclass(frozen=True)
class ControllerOptions(OptionGroup):
    """Which controller is asked, and as whom."""

    url: Annotated[
        str, typer.Option("--controller", envvar="EDGECTL_CONTROLLER", help="URL of the controller's API.")
    ] = "http://127.0.0.1:8765"
    token_file: Annotated[
        Path,
        typer.Option(
            "--token-file",
            envvar="EDGECTL_TOKEN_FILE",
            help="The API token that the controller wrote into its state folder.",
        ),
    ] = Path("controller/token")

    def client(self) -> FleetClient:
        """Raises :class:`UsageError` without a token."""
        return client(self.url, self.token_file)


def client(url: str, token_file: Path) -> FleetClient:
    """A client for the controller; ``EDGECTL_TOKEN`` goes before the file. Raises :class:`UsageError`
    without a token."""
    from edgectl.fleet.client.client import FleetClient

    token = os.environ.get("EDGECTL_TOKEN")
    return FleetClient(url, token) if token else FleetClient.of(url, token_file)
