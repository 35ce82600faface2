"""How a command finds the keys that it signs with: a folder, and keys on other media."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["KEYS", "Keys", "More"]

Keys = Annotated[Path, typer.Option(help="Folder that `edgectl keys init` made.")]
More = Annotated[
    list[Path] | None, typer.Option("--key", help="A private key, or a folder of them, on another medium; may be repeated.")
]
KEYS = Path("keys")
