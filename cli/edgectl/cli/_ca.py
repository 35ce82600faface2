"""Where the certificate authority of the fleet lies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["CA", "CaFolder"]

CaFolder = Annotated[Path, typer.Option(help="Folder that `edgectl broker ca` made.")]
CA = Path("ca")
