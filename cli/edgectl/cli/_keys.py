"""How a command finds the keys that it signs with: a folder, and keys on other media. Passphrases are
asked for where they are needed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgectl.fleet.keys.keyring import KeyRing

__all__ = ["KEYS", "Keys", "More", "NewPassphrase", "key_ring"]

Keys = Annotated[Path, typer.Option(help="Folder that `edgectl keys init` made.")]
More = Annotated[
    list[Path] | None,
    typer.Option("--key", help="A private key, or a folder of them, on another medium; may be repeated."),
]
NewPassphrase = Annotated[
    bool,
    typer.Option(
        "--passphrase",
        help="Write new private keys with a passphrase, which is asked for (EDGECTL_PASSPHRASE_FILE).",
    ),
]
KEYS = Path("keys")


def key_ring(more: Iterable[Path] | None) -> KeyRing:
    """The keys on other media, and who is asked for passphrases."""
    from edgectl.cli._passphrase import ask
    from edgectl.fleet.keys.keyring import KeyRing

    return KeyRing(more or (), ask)
